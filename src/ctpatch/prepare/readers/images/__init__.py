"""Stacks of TIFF and 16-bit PNG pictures."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.base import RawFormat, Reader

GroupBy = Literal["folder", "top-folder", "file"]
HuPreset = Literal["deeplesion"]

PRESETS = {"deeplesion": (1.0, -32768.0)}
"""Slope and intercept: DeepLesion stores HU + 32768 in 16 bits without a sign."""


@dataclass(frozen=True)
class Images(RawFormat):
    """Slices in TIFF and 16-bit PNG pictures, whose mapping to HU the user states, as such files do not say it.

    Attributes:
        group_by: What no two splits share, where no name tells the patient; file parts stacks of several pages.
        hu_preset: The mapping of a known data set, instead of hu-slope and hu-intercept.
        hu_slope: HU are the stored number times this. [1]
        hu_intercept: Plus this, such as -1024. Needed, or a preset.
        pixel_spacing: Millimetres between rows and between columns. [not known]
        slice_spacing: Millimetres between slices whose numbers follow each other. [not known]
    """

    name: ClassVar = "images"
    title: ClassVar = "Stacks of TIFF and 16-bit PNG pictures with a stated mapping to HU, DeepLesion among them"
    packages: ClassVar = ("pillow",)
    match_by: ClassVar = "path"

    group_by: Annotated[GroupBy, "Splits"] = "folder"
    hu_preset: Annotated[HuPreset | None, "Values and size"] = None
    hu_slope: Annotated[float | None, "Values and size"] = None
    hu_intercept: Annotated[float | None, "Values and size"] = None
    pixel_spacing: Annotated[tuple[float, float] | None, "Values and size"] = None
    slice_spacing: Annotated[float | None, "Values and size"] = None

    def mapping(self) -> tuple[float, float]:
        """Slope and intercept; ConfigError where they are not stated, or twice."""
        if self.hu_preset is not None:
            if self.hu_preset not in PRESETS:
                raise ConfigError(f"hu_preset: {self.hu_preset!r} is not known, wanted one of {', '.join(PRESETS)}")
            if self.hu_slope is not None or self.hu_intercept is not None:
                raise ConfigError("hu_preset: it is a slope and an intercept; leave hu_slope and hu_intercept out")
            return PRESETS[self.hu_preset]
        if self.hu_intercept is None:
            raise ConfigError(
                "hu_intercept: a picture does not say what HU its numbers stand for; state it, such as --hu-intercept "
                "-1024 for numbers that are HU + 1024, or --hu-preset deeplesion"
            )
        return 1.0 if self.hu_slope is None else float(self.hu_slope), float(self.hu_intercept)

    def reader(self, array: str, workers: int) -> Reader:  # noqa: ARG002 - headers are small
        """A reader that leaves the numbers of masks as they are."""
        from ctpatch.prepare.readers.images.reader import ImagesReader  # noqa: PLC0415

        slope, intercept = self.mapping()
        labels = array == "mask"
        return ImagesReader(
            1.0 if labels else slope,
            0.0 if labels else intercept,
            self.group_by,
            self.pixel_spacing,
            self.slice_spacing,
            labels=labels,
            follow_links=self.follow_links,
        )

    def recorded(self) -> dict[str, Any]:
        """What decides how the numbers of a picture become slices in HU."""
        slope, intercept = self.mapping()
        return {
            "group_by": self.group_by,
            "hu_slope": slope,
            "hu_intercept": intercept,
            "pixel_spacing": None if self.pixel_spacing is None else list(map(float, self.pixel_spacing)),
            "slice_spacing": self.slice_spacing,
        }
