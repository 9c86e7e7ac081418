"""A NIfTI file as a stream, compressed or not, and whether it holds just what its header promises."""

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.volume.stream import DEFLATE_RATIO, GZIP, open_regular, stated_size

Stream = io.BufferedReader | gzip.GzipFile

_STEP = 2**20


@contextmanager
def open_nifti(path: str | os.PathLike[str], name: str) -> Iterator[Stream]:
    """Open a file, through gzip where it begins like that; SliceError where it cannot be read or is damaged."""
    with open_regular(path, name) as raw:
        packed = raw.read(2) == GZIP
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            yield stream


def check_size(path: Path, stream: Stream, wanted: int, name: str) -> None:
    """Raise SliceError for a file that does not hold just what its header promises, with nothing large read for it."""
    size = path.stat().st_size
    if not isinstance(stream, gzip.GzipFile):
        found = size
    elif wanted > size * DEFLATE_RATIO:
        raise SliceError(
            f"{name} is {size} bytes, compressed; its header promises {wanted}, which cannot be in it; copy it again"
        )
    else:
        found = _unpacked_size(path, stream, wanted)
    if found != wanted:
        stated = f"more than {wanted}" if found > wanted else str(found)
        raise SliceError(f"{name} holds {stated} bytes, uncompressed; its header promises {wanted}; copy it again")


def _unpacked_size(path: Path, stream: Stream, wanted: int) -> int:
    """Size of what is compressed, counted no further than one byte more than is wanted."""
    if stated_size(path) == wanted % 2**32:
        return wanted
    stream.seek(0)
    found = 0
    while found <= wanted and (step := len(stream.read(min(_STEP, wanted + 1 - found)))):
        found += step
    return found
