"""NIfTI volumes to axial slices; how slices lie, and how they are read, is the same for all volumes."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.nifti.header import HEADER_BYTES, NiftiHeader, kind_of, parse_header
from ctpatch.prepare.readers.nifti.voxels import check_size, open_nifti
from ctpatch.prepare.readers.other import other_kind
from ctpatch.prepare.readers.volume.reader import VolumeReader
from ctpatch.prepare.readers.volume.stream import Stream
from ctpatch.prepare.readers.volume.volume import Volume

_NAMED_NIFTI = re.compile(r".*\.nii(\.gz)?", re.IGNORECASE)
_LEFT_OUT = {
    "pair": ("pair-of-files", "its voxels lie in a second file (.hdr and .img); write both as one .nii"),
    None: ("not-nifti", "it is no NIfTI file"),
}


@dataclass(frozen=True, slots=True)
class NiftiReader(VolumeReader):
    """Reads `.nii` and `.nii.gz`, NIfTI-1 and NIfTI-2, 3-D and 4-D; files are told by their content."""

    name: ClassVar = "nifti"

    def describe(self, folder: Path, name: str, *, first: bool) -> Volume | LeftOut:
        """Read the header, and, for the first time, check the size."""
        path = folder / name
        with open_nifti(path, name) as stream:
            start = stream.read(HEADER_BYTES)
        kind = kind_of(start)
        other = other_kind(name, start) if kind is None else None
        if kind is None and _NAMED_NIFTI.fullmatch(name):
            raise SliceError(f"{name} is named like NIfTI and is none; {other.reason if other else 'copy it again'}")
        if kind in _LEFT_OUT:
            return other or LeftOut(name, *_LEFT_OUT[kind])
        header = parse_header(start, name)
        volume = Volume(
            header.shape,
            header.volumes,
            header.dtype,
            header.affine,
            offset=header.offset,
            slope=header.slope,
            inter=header.inter,
            notes=tuple(_notes(header)),
        )
        if first:
            with open_nifti(path, name) as stream:
                check_size(path, stream, volume.total_bytes, name)
        return volume

    def open(self, folder: Path, name: str, volume: Volume) -> AbstractContextManager[Stream]:  # noqa: ARG002 - of the file as a whole
        """The file as a whole, unpacked."""
        return open_nifti(folder / name, name)


def _notes(header: NiftiHeader) -> Iterator[tuple[str, str]]:
    if header.orientation == "none":
        yield (
            "no-orientation",
            "its header does not say how it lies; voxels are taken to run to the left, the front and the head",
        )
    if header.disagreements:
        message = f"its sform and qform disagree: {', '.join(header.disagreements)}; the sform is used, check it"
        yield "two-orientations", message
    if header.idle_intercept is not None:
        message = (
            f"its scl_inter is {header.idle_intercept:g} and its scl_slope 0, with which the format applies neither; "
            "write a slope of 1 if the intercept is meant"
        )
        yield "no-slope", message
