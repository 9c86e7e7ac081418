"""Where the frames of a file lie, so that each is read alone: one after the other, or in compressed fragments."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ctpatch.prepare.readers.dicom.file import (
    BIG_ENDIAN,
    IMPLICIT,
    MAX_FILE_BYTES,
    NATIVE_SYNTAXES,
    CtFile,
    FileProblemError,
)

_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
_FRAGMENTS_PER_FRAME = 64
Piece = tuple[int, int]
"""Where bytes begin in the file, and how many they are."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the frames of a file lie.

    Attributes:
        frames: the pieces of each frame.
        vr: value representation of the pixels: `OB` or `OW`.
        compressed: whether a frame is a compressed image.
    """

    frames: tuple[tuple[Piece, ...], ...]
    vr: str
    compressed: bool

    def read(self, source: BinaryIO, number: int) -> bytes:
        """The bytes of a frame, from 1; FileProblemError where there are no more so many."""
        found = []
        for start, length in self.frames[number - 1]:
            source.seek(start)
            found.append(source.read(length))
            if len(found[-1]) < length:
                raise _damaged("its pixels are cut short")
        return b"".join(found)


def places_of(ct: CtFile, dataset: Any, count: int) -> Places:
    """Find the frames of a file whose header has just been read.

    Raises:
        FileProblemError: the pixels are not so many frames, or do not say which bytes are which frame.
    """
    vr, start, length = _pixel_element(ct)
    if ct.syntax in NATIVE_SYNTAXES:
        frame_bytes = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
        there = min(length, ct.size - start) if length != _UNDEFINED else 0
        if not 0 < count * frame_bytes <= there < (count + 1) * frame_bytes:
            raise _damaged(f"its header promises {count} frames of {frame_bytes} bytes, it holds {there} bytes")
        return Places(tuple(((start + k * frame_bytes, frame_bytes),) for k in range(count)), vr, compressed=False)
    if length != _UNDEFINED:
        raise _damaged("its compressed pixels do not lie in fragments")
    offsets, fragments = _fragments(ct, start, count)
    extended = dataset.get("ExtendedOffsetTable")
    if extended:
        offsets = tuple(each for (each,) in struct.iter_unpack("<Q", extended[: len(extended) // 8 * 8]))
    frames = tuple(tuple(each) for each in _by_frame(fragments, offsets, count))
    if any(sum(length for _, length in pieces) > MAX_FILE_BYTES for pieces in frames):
        raise FileProblemError("too-large", f"a compressed frame has more than {MAX_FILE_BYTES} bytes")
    return Places(frames, "OB", compressed=True)


def _pixel_element(ct: CtFile) -> tuple[str, int, int]:
    """Value representation, start and length of the pixels that the file stands at."""
    at = ct.source.tell()
    head = ct.source.read(12)
    order = ">" if ct.syntax == BIG_ENDIAN else "<"
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != _PIXEL_DATA:  # noqa: PLR2004 - tag and length
        raise FileProblemError("no-pixels", "it holds no pixels of whole numbers")
    if ct.syntax == IMPLICIT:
        return "OW", at + 8, struct.unpack("<L", head[4:8])[0]
    vr = head[4:6].decode("ascii", "replace")
    if vr not in {"OB", "OW"} or len(head) < 12:  # noqa: PLR2004
        raise _damaged("its pixels are no OB or OW")
    return vr, at + 12, struct.unpack(f"{order}L", head[8:12])[0]


def _fragments(ct: CtFile, start: int, count: int) -> tuple[tuple[int, ...], list[tuple[int, Piece]]]:
    """The basic offset table, and of each fragment its offset in terms of the table, and where it lies."""
    items = _items(ct, start, 1 + _FRAGMENTS_PER_FRAME * count)
    table_start, table_bytes = next(items, (0, 0))
    if table_bytes not in {0, 4 * count}:
        raise _damaged(f"its offset table has {table_bytes} bytes, wanted 4 for each of {count} frames")
    first = table_start + table_bytes
    fragments = [(at - 8 - first, (at, length)) for at, length in items]
    ct.source.seek(table_start)
    table = struct.unpack(f"<{table_bytes // 4}L", ct.source.read(table_bytes))
    return table, fragments


def _items(ct: CtFile, start: int, most: int) -> Iterator[Piece]:
    """Where the contents of items lie, up to the end of their sequence."""
    for _ in range(most + 1):
        ct.source.seek(start)
        head = ct.source.read(8)
        if head[:4] == _END:
            return
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != _ITEM or start + 8 + length > ct.size:
            raise _damaged("its compressed pixels are cut short, or are no fragments")
        yield start + 8, length
        start += 8 + length
    raise _damaged(f"its compressed pixels have more than {most} fragments")


def _by_frame(fragments: list[tuple[int, Piece]], offsets: tuple[int, ...], count: int) -> Iterator[list[Piece]]:
    """The fragments of each frame, by the offsets where there are some, else one for each frame."""
    if not offsets:
        if len(fragments) != count and (count > 1 or not fragments):
            raise _damaged(
                f"its compressed pixels are {len(fragments)} fragments of {count} frames, and no offset table says "
                "which are of which frame"
            )
        yield from ([[piece for _, piece in fragments]] if count == 1 else [[piece] for _, piece in fragments])
        return
    starts = dict.fromkeys(offsets)
    known = {offset for offset, _ in fragments}
    if list(offsets) != sorted(starts) or len(offsets) != count or offsets[0] != 0 or not known.issuperset(starts):
        raise _damaged(f"its offset table does not give {count} frames, one after the other, each at a fragment")
    frame: list[Piece] = []
    for offset, piece in fragments:
        if offset in starts and frame:
            yield frame
            frame = []
        frame.append(piece)
    yield frame


def _damaged(reason: str) -> FileProblemError:
    return FileProblemError("damaged", reason)
