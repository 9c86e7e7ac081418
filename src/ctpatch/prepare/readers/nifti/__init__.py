"""NIfTI volumes."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ctpatch.prepare.readers.base import RawFormat, Reader

GroupBy = Literal["folder", "file"]


@dataclass(frozen=True)
class Nifti(RawFormat):
    """Axial slices of NIfTI volumes.

    Attributes:
        group_by: What no two splits share, where no name such as sub-01 tells the patient.
    """

    name: ClassVar = "nifti"
    title: ClassVar = "Axial slices of NIfTI volumes in HU"
    packages: ClassVar = ("nibabel",)
    match_by: ClassVar = "path"

    group_by: Annotated[GroupBy, "Splits"] = "folder"

    def reader(self, array: str, workers: int) -> Reader:  # noqa: ARG002 - images and masks are read the same way
        """One reader for all arrays."""
        from ctpatch.prepare.readers.nifti.reader import NiftiReader  # noqa: PLC0415

        return NiftiReader(self.group_by, self.follow_links)

    def recorded(self) -> dict[str, Any]:
        """Who stays together."""
        return {"group_by": self.group_by}
