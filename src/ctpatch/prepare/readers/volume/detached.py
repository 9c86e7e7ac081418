"""Files of voxels that a header in another file names: only below the folder of the header.

A header may come from anyone. A name in it never leads to another place, and no message repeats it.
"""

import re
from collections.abc import Sequence

from ctpatch.errors import SliceError
from ctpatch.files.paths import PathError, plain_path
from ctpatch.prepare.readers.volume.grid import MAX_SLICES

_NUMBERED = re.compile(r"(\S*%0?\d{0,2}d\S*)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+\d)?")
_NUMBER = re.compile(r"%0?\d{0,2}d")


def beside(name: str, said: str) -> str:
    """Where a file is that the header in `name` names, relative to the source folder.

    Raises:
        SliceError: the name is empty, absolute, or leads upwards.
    """
    slashed = said.strip().replace("\\", "/")
    if ".." in slashed.split("/"):
        fault = "leads to a folder above it"
    else:
        try:
            return plain_path(slashed, name.rpartition("/")[0])
        except PathError:
            fault = "is absolute" if slashed[:1] == "/" or slashed[1:2] == ":" else "is no plain path"
    raise SliceError(
        f"{name} keeps its voxels in another file whose path {fault}; put the file next to it and write its name alone"
    )


def numbered(name: str, said: str) -> list[str] | None:
    """The files that a pattern such as `slice%03d.raw 1 30 1` names, in order; None where it is no pattern."""
    found = _NUMBERED.fullmatch(said.strip())
    if found is None:
        return None
    first, last, step = (int(found[place]) for place in (2, 3, 4))
    if len(_NUMBER.findall(found[1])) != 1 or found[1].count("%") != 1 or step == 0:
        raise SliceError(f"{name} names its files of voxels by a pattern that is none; write its header again")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    return listed(name, [found[1] % number for number in numbers[: MAX_SLICES + 1]])


def listed(name: str, lines: Sequence[str]) -> list[str]:
    """The files that a list names, in order; blank lines are passed over."""
    files = [beside(name, line) for line in lines if line.strip()]
    if not files:
        raise SliceError(f"{name} lists no files of voxels; write its header again")
    if len(files) > MAX_SLICES:
        raise SliceError(f"{name} lists more than {MAX_SLICES} files of voxels")
    return files


def each_bytes(name: str, total: int, files: Sequence[str]) -> int:
    """How many bytes of voxels each file holds; SliceError where they do not share them evenly."""
    if total % len(files):
        raise SliceError(
            f"{name} spreads {total} bytes of voxels over {len(files)} files, which is no whole number each"
        )
    return total // len(files)
