"""NIfTI volumes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ctpatch.prepare.readers.base import Reader
from ctpatch.prepare.readers.volume import GroupBy, VolumeFormat


@dataclass(frozen=True)
class Nifti(VolumeFormat):
    """Axial slices of NIfTI volumes.

    Attributes:
        group_by: What no two splits share, where no name such as sub-01 tells the patient.
    """

    name: ClassVar = "nifti"
    title: ClassVar = "Axial slices of NIfTI volumes in HU"
    packages: ClassVar = ("nibabel",)

    group_by: Annotated[GroupBy, "Splits"] = "folder"

    def reader(self, array: str, workers: int) -> Reader:  # noqa: ARG002 - images and masks are read the same way
        """One reader for all arrays."""
        from ctpatch.prepare.readers.nifti.reader import NiftiReader  # noqa: PLC0415

        return NiftiReader(self.group_by, self.follow_links)
