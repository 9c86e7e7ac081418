"""DICOM files."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ctpatch.prepare.readers.base import RawFormat, Reader

GroupBy = Literal["patient", "study", "series", "folder", "top-folder"]


@dataclass(frozen=True)
class Dicom(RawFormat):
    """CT slices in a tree of DICOM files.

    Attributes:
        group_by: What no two splits share; where it is blank, the next of these.
        keep_orientation: Leave slices as they are stored, not upright.
        allow_deflated: Read deflated files, which could be bombs, within bounds.
        assume_hu: Take a missing RescaleSlope for 1 and a missing RescaleIntercept for 0, so that stored values are HU.
        keep_reformats: Prepare reformats and projections too, which were made from slices.
    """

    name: ClassVar = "dicom"
    title: ClassVar = "CT slices in any tree of DICOM files"
    packages: ClassVar = (
        "pydicom",
        "pylibjpeg",
        "pylibjpeg-openjpeg",
        "pylibjpeg-libjpeg",
        "pylibjpeg-rle",
        "pillow",  # pydicom decodes with these two as well where they are installed
        "python-gdcm",
    )

    group_by: Annotated[GroupBy, "Splits"] = "patient"
    keep_orientation: Annotated[bool, "Values and size"] = False
    allow_deflated: bool = False
    assume_hu: Annotated[bool, "Values and size"] = False
    keep_reformats: bool = False

    def reader(self, array: str, workers: int) -> Reader:
        """A reader that leaves the padding of masks as it is."""
        from ctpatch.prepare.readers.dicom.reader import DicomReader  # noqa: PLC0415

        labels = array == "mask"
        return DicomReader(
            self.group_by,
            self.allow_deflated,
            self.keep_orientation,
            labels=labels,
            workers=workers,
            assume_hu=self.assume_hu,
            keep_reformats=self.keep_reformats,
            follow_links=self.follow_links,
        )

    def recorded(self) -> dict[str, Any]:
        """All but what makes no difference to a slice that is read; sets of earlier versions lack the last two."""
        later = {"assume_hu": self.assume_hu, "keep_reformats": self.keep_reformats}
        return {"group_by": self.group_by, "keep_orientation": self.keep_orientation} | {
            name: value for name, value in later.items() if value
        }
