"""MetaImage volumes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ctpatch.prepare.readers.base import Reader
from ctpatch.prepare.readers.volume import GroupBy, VolumeFormat


@dataclass(frozen=True)
class Metaimage(VolumeFormat):
    """Axial slices of MetaImage volumes.

    Attributes:
        group_by: What no two splits share, where no name such as sub-01 tells the patient.
    """

    name: ClassVar = "metaimage"
    title: ClassVar = "Axial slices of MetaImage volumes in HU (.mhd, .mha), LUNA16 among them"
    packages: ClassVar = ("nibabel",)

    group_by: Annotated[GroupBy, "Splits"] = "folder"

    def reader(self, array: str, workers: int) -> Reader:  # noqa: ARG002 - images and masks are read the same way
        """One reader for all arrays."""
        from ctpatch.prepare.readers.metaimage.reader import MetaimageReader  # noqa: PLC0415

        return MetaimageReader(self.group_by, self.follow_links)
