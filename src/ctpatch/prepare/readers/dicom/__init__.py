"""DICOM files."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.base import RawFormat, Reader

GroupBy = Literal["patient", "study", "series", "folder", "top-folder"]

Planes = Literal["axial", "coronal", "sagittal", "oblique", "all"]

_LATER = ("assume_hu", "keep_reformats", "planes", "kernel", "thickness")


@dataclass(frozen=True)
class Dicom(RawFormat):
    """CT slices in a tree of DICOM files.

    Attributes:
        group_by: What no two splits share; where it is blank, the next of these.
        keep_orientation: Leave slices as they are stored, not upright.
        allow_deflated: Read deflated files, which could be bombs, within bounds.
        assume_hu: Take a missing RescaleSlope for 1 and a missing RescaleIntercept for 0, so that stored values are HU.
        keep_reformats: Prepare reformats and projections too, which were made from slices.
        planes: Take slices of this plane alone, or of all. Without it, other planes than axial are left out where a
            study has axial slices too; with --keep-reformats all are taken.
        kernel: Take slices whose ConvolutionKernel fits this pattern alone, such as B4* or Br40.
        thickness: Take slices of this SliceThickness alone, in mm, such as 0..3.
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
    planes: Planes | None = None
    kernel: str | None = None
    thickness: str | None = None

    def reader(self, array: str, workers: int) -> Reader:
        """A reader that leaves the padding of masks as it is, and takes all of them: their images are chosen."""
        from ctpatch.prepare.readers.dicom.choices import Choices, thickness_range  # noqa: PLC0415
        from ctpatch.prepare.readers.dicom.reader import DicomReader  # noqa: PLC0415

        labels = array == "mask"
        thickness = None if self.thickness is None else thickness_range(self.thickness)
        if self.planes is not None and self.planes not in get_args(Planes):
            raise ConfigError(f"planes: {self.planes!r}, wanted one of {', '.join(get_args(Planes))}")
        # Who asks for reformats asks for their planes.
        planes = self.planes or ("all" if self.keep_reformats else None)
        choices = Choices("all") if labels else Choices(planes, self.kernel, thickness)
        return DicomReader(
            self.group_by,
            self.allow_deflated,
            self.keep_orientation,
            labels=labels,
            workers=workers,
            assume_hu=self.assume_hu,
            keep_reformats=self.keep_reformats,
            follow_links=self.follow_links,
            choices=choices,
        )

    def recorded(self) -> dict[str, Any]:
        """All but what makes no difference to a slice that is read; sets of earlier versions lack the later ones."""
        later: dict[str, Any] = {name: getattr(self, name) for name in _LATER}
        return {"group_by": self.group_by, "keep_orientation": self.keep_orientation} | {
            name: value for name, value in later.items() if value
        }
