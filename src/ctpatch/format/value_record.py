"""The block `values` of `patch_meta.json`: how the pixels of each array are spread, over patches and whole slices."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Count = Annotated[int, Field(ge=0, le=2**62)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spread(_Record):
    """How some pixels of an array are spread; numbers are None where no pixel was looked at.

    Attributes:
        count: all pixels; one that lies in several patches counts several times.
        sampled: those in the sampled rows.
        mean, std, min, max: population standard deviation.
        percentiles: for each of the record's `percents`, from the sampled rows.
    """

    count: Count
    sampled: Count
    mean: FiniteFloat | None
    std: Annotated[FiniteFloat, Field(ge=0)] | None
    min: FiniteFloat | None
    max: FiniteFloat | None
    percentiles: tuple[FiniteFloat, ...] | None

    @model_validator(mode="after")
    def _says_all_or_nothing(self) -> Self:
        said = {number is None for number in (self.mean, self.std, self.min, self.max)}
        if len(said) > 1:
            raise ValueError("mean, std, min and max: wanted all of them, or none")
        return self


class ArrayValues(_Record):
    """An array's pixels: in kept patches, padding included, and in whole slices that were cut."""

    patches: Spread
    slices: Spread


class BinsRecord(_Record):
    """The bins of the histogram that percentiles come from: `number` of the same width."""

    low: FiniteFloat
    high: FiniteFloat
    number: Count


class ValueRecord(_Record):
    """The whole block.

    Attributes:
        every: row `r` of slice `i` is sampled where `(r + i) % every == 0`; 1 samples every pixel.
        bins: of the histogram.
        percents: which percentiles are on record.
        arrays: each array that holds no labels.
    """

    every: Annotated[int, Field(ge=1, le=2**62)]
    bins: BinsRecord
    percents: tuple[FiniteFloat, ...]
    arrays: dict[str, ArrayValues]
