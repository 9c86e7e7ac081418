"""NRRD volumes to axial slices."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.nrrd.fields import header_bytes, read_fields
from ctpatch.prepare.readers.nrrd.header import parse_header
from ctpatch.prepare.readers.other import START_BYTES, other_kind
from ctpatch.prepare.readers.volume.reader import VolumeReader
from ctpatch.prepare.readers.volume.stream import open_regular
from ctpatch.prepare.readers.volume.volume import Volume

_NAMED_NRRD = re.compile(r".*\.(nrrd|nhdr)", re.IGNORECASE)
_MAGIC = b"NRRD000"


@dataclass(frozen=True, slots=True)
class NrrdReader(VolumeReader):
    """Reads `.nrrd`, and `.nhdr` with its voxels beside it; files are told by their content."""

    name: ClassVar = "nrrd"

    def describe(self, folder: Path, name: str, *, first: bool) -> Volume | LeftOut:
        """Read the header, and, for the first time, look for the voxels and check their size."""
        with open_regular(folder / name, name) as raw:
            start = raw.read(START_BYTES)
            if not start.startswith(_MAGIC):
                other = other_kind(name, start)
                if _NAMED_NRRD.fullmatch(name):
                    raise SliceError(
                        f"{name} is named like NRRD and is none; {other.reason if other else 'copy it again'}"
                    )
                return other or LeftOut(name, "not-nrrd", "it is no NRRD file")
            raw.seek(0)
            start = header_bytes(raw)
        volume = parse_header(read_fields(start, name), name)
        assert volume.stored is not None
        if first:
            volume.stored.check(self.voxel_files(folder, name, volume), name)
        return volume
