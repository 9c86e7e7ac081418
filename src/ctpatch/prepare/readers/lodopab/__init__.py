"""LoDoPaB-CT's HDF5 files."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.base import RawFormat, Reader

FilterName = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]


@dataclass(frozen=True)
class Lodopab(RawFormat):
    """LoDoPaB-CT, in the splits that it comes in.

    Attributes:
        pairs: Reconstruct the observations as image, with the ground truth as target.
        filter_name: Filter of the reconstruction.
        frequency_scaling: Share of the frequencies the filter lets pass, up to 1.
        keep_orientation: Leave slices as they are stored, not upright.
    """

    name: ClassVar = "lodopab"
    title: ClassVar = "LoDoPaB-CT's HDF5 files, in the splits they come in"
    packages: ClassVar = ("h5py",)
    match_by: ClassVar = "order"
    in_hu: ClassVar = False

    pairs: bool = False
    filter_name: Annotated[FilterName, "Values and size", "--filter"] = "hann"
    frequency_scaling: Annotated[float, "Values and size"] = 1.0
    keep_orientation: Annotated[bool, "Values and size"] = False

    def reader(self, array: str, workers: int) -> Reader:  # noqa: ARG002 - there are few files to look at
        """The reader of the observations for `image` of pairs, else that of the ground truth."""
        from ctpatch.prepare.readers.lodopab.reader import LodopabReader  # noqa: PLC0415

        if not self.pairs and (self.filter_name, self.frequency_scaling) != ("hann", 1.0):
            raise ConfigError("filter, frequency_scaling: these are for the reconstruction of pairs; add --pairs")
        if self.pairs and array == "image":
            return LodopabReader(
                "observation",
                self.keep_orientation,
                self.filter_name,
                self.frequency_scaling,
                follow_links=self.follow_links,
            )
        return LodopabReader("ground_truth", self.keep_orientation, follow_links=self.follow_links)

    def arrays(self) -> tuple[str, ...]:
        """The ground truth is the `target` of pairs."""
        return ("image", "target") if self.pairs else ("image",)

    def recorded(self) -> dict[str, Any]:
        """The filter is on record where there is one."""
        values: dict[str, Any] = {"pairs": self.pairs, "keep_orientation": self.keep_orientation}
        if self.pairs:
            values |= {"filter": self.filter_name, "frequency_scaling": float(self.frequency_scaling)}
        return values
