"""`hu_values.csv` of a prepared set: for each series how its values in HU are spread, before any window."""

import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ctpatch.errors import FormatError

HU_VALUES = "hu_values.csv"
LOW_HU, HIGH_HU, BIN_HU = -2400, 4100, 20
NUM_BINS = (HIGH_HU - LOW_HU) // BIN_HU
_SCHEMA = {
    "series": pl.String,
    "array": pl.String,
    "slices": pl.Int64,
    "pixels": pl.Int64,
    "padding": pl.Int64,
    "min_hu": pl.Float64,
    "max_hu": pl.Float64,
    "below": pl.Int64,
    "above": pl.Int64,
    "first_hu": pl.Int64,
    "counts": pl.String,
}
_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SeriesValues:
    """How the values of a series are spread.

    Attributes:
        series: its pseudonym, as in the manifests.
        array: of which array its slices are.
        slices: how many there are.
        pixels: of all slices, without padding.
        padding: pixels that the files declare to be no part of the image.
        min_hu, max_hu: lowest and highest value; None where all pixels are padding.
        below, above: pixels below and above the histogram.
        first_hu: where the first of `counts` begins.
        counts: pixels in bins of 20 HU, from the first that is not empty to the last.
    """

    series: str
    array: str
    slices: int
    pixels: int
    padding: int
    min_hu: float | None
    max_hu: float | None
    below: int
    above: int
    first_hu: int
    counts: tuple[int, ...]


def hu_values_csv(rows: list[SeriesValues]) -> bytes:
    """The file's content."""
    stream = io.BytesIO()
    values = [
        [" ".join(map(str, row.counts)) if name == "counts" else getattr(row, name) for name in _SCHEMA] for row in rows
    ]
    pl.DataFrame(values, _SCHEMA, orient="row").write_csv(stream)
    return stream.getvalue()


def read_hu_values(folder: Path) -> list[SeriesValues]:
    """Read the file of a prepared set; nothing where it has none, as sets of 0.1.0 and sets that are not in HU.

    Raises:
        FormatError: it is damaged.
    """
    path = folder / HU_VALUES
    try:
        if not path.is_file():
            return []
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{HU_VALUES} has more than {_MAX_BYTES} bytes; ctpatch did not write it")
        frame = pl.read_csv(path, schema_overrides=_SCHEMA).select(*_SCHEMA)
        rows = [
            SeriesValues(**{**row, "counts": tuple(int(each) for each in (row["counts"] or "").split())})
            for row in frame.iter_rows(named=True)
        ]
    except (OSError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise FormatError(f"{HU_VALUES} is not what ctpatch writes ({type(error).__name__}); is it damaged?") from None
    if not all(_is_possible(row) for row in rows):
        raise FormatError(f"{HU_VALUES} is not what ctpatch writes: a row has impossible numbers; is it damaged?")
    return rows


def _is_possible(row: SeriesValues) -> bool:
    numbers: list[int | None] = [row.slices, row.pixels, row.padding, row.below, row.above, row.first_hu]
    if not row.series or None in numbers:
        return False
    inside = row.first_hu >= LOW_HU and row.first_hu + BIN_HU * len(row.counts) <= HIGH_HU
    return inside and min(row.slices, row.pixels, row.padding, row.below, row.above, *row.counts) >= 0
