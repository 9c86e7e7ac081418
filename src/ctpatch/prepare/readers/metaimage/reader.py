"""MetaImage volumes to axial slices; LUNA16 is known by the names of its files."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import GroupKind, LeftOut
from ctpatch.prepare.readers.metaimage.header import HEADER_BYTES, LIST_BYTES, is_metaimage, parse_header
from ctpatch.prepare.readers.other import START_BYTES, other_kind
from ctpatch.prepare.readers.volume.groups import group_of
from ctpatch.prepare.readers.volume.reader import VolumeReader
from ctpatch.prepare.readers.volume.stream import open_regular
from ctpatch.prepare.readers.volume.volume import Volume

_NAMED_METAIMAGE = re.compile(r".*\.mh[ad]", re.IGNORECASE)
_LUNA16 = re.compile(r"(?:(?:.*/)?(?:subset\d+|seg-lungs-luna16)/)?([0-2](?:\.\d+){5,})\.mh[ad]", re.IGNORECASE)
"""`subset0/<SeriesInstanceUID>.mhd`, the lungs of LUNA16 beside it, or one of these folders alone."""


@dataclass(frozen=True, slots=True)
class MetaimageReader(VolumeReader):
    """Reads `.mhd` with its voxels beside it, and `.mha`; files are told by their content.

    In LUNA16 a file is named after its series, whose name is what must not be divided between splits.
    """

    name: ClassVar = "metaimage"

    def describe(self, folder: Path, name: str, *, first: bool) -> Volume | LeftOut:
        """Read the header, and, for the first time, look for the voxels and check their size."""
        with open_regular(folder / name, name) as raw:
            start = raw.read(START_BYTES)
            if not is_metaimage(start):
                other = other_kind(name, start)
                if _NAMED_METAIMAGE.fullmatch(name):
                    reason = other.reason if other else "copy it again"
                    raise SliceError(f"{name} is named like MetaImage and is none; {reason}")
                return other or LeftOut(name, "not-metaimage", "it is no MetaImage file")
            start += raw.read(HEADER_BYTES - len(start))
            raw.seek(0, 2)
            size = raw.tell()

            def rest(begin: int) -> bytes:
                if size - begin > LIST_BYTES:
                    raise SliceError(f"{name} has a list of files of {size - begin} bytes, wanted at most {LIST_BYTES}")
                raw.seek(begin)
                return raw.read(LIST_BYTES)

            volume = parse_header(start, name, size, rest)
        assert volume.stored is not None
        if first:
            volume.stored.check(self.voxel_files(folder, name, volume), name)
        return volume

    def grouped(self, name: str) -> tuple[str, GroupKind]:
        """The series where LUNA16 names it."""
        luna16 = _LUNA16.fullmatch(name)
        return (luna16[1], "series") if luna16 else group_of(name, self.group_by)

    def called(self, name: str) -> str:
        """The series where LUNA16 names it."""
        luna16 = _LUNA16.fullmatch(name)
        return luna16[1] if luna16 else name
