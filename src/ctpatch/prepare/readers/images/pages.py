"""The pages of a TIFF or PNG file: what they say of themselves, and their numbers, read with Pillow.

What a header promises is looked at before a pixel is read.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import CtPatchError, SliceError
from ctpatch.extras import library
from ctpatch.prepare.geometry import MAX_RAW_PIXELS
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.volume.grid import MAX_SLICES
from ctpatch.prepare.readers.volume.stream import open_regular

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE = 0, 1, 3
_PHOTOMETRIC, _BITS, _SAMPLES, _SAMPLE_FORMAT = 262, 258, 277, 339
_WITHOUT_SIGN = 1
_START_BYTES = 26  # of PNG, up to the kind of its colours
_COLOUR = ("colour", "it is a colour picture, which holds no HU; give the files that it was made from")
_EIGHT_BITS = ("8-bit", "it has 8 bits a pixel or fewer, which cannot hold HU; give the files that it was made from")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the numbers of a page are.

    Attributes:
        bits: of a number as stored.
        colour: whether a pixel has several numbers.
        white_is_zero: whether larger numbers are darker.
        palette: whether numbers stand for colours of a list.
        unsigned: whether a number of 32 bits has no sign.
    """

    bits: int
    colour: bool
    palette: bool = False
    white_is_zero: bool = False
    unsigned: bool = False


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of a file.

    Attributes:
        count: how many there are.
        shape: `(H, W)` of each, in pixels.
    """

    count: int
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """An open file.

    Attributes:
        name: what messages call it.
        start: its first bytes.
        opened: as Pillow has it.
    """

    name: str
    start: bytes
    opened: Any

    @property
    def is_png(self) -> bool:
        """Whether it is PNG; else it is TIFF."""
        return self.start.startswith(PNG)


@contextmanager
def open_pages(path: Path, name: str) -> Iterator[Picture]:
    """Open a picture with Pillow; SliceError for whatever turns out to be wrong with it."""
    image_module = library("PIL.Image", "pictures need Pillow")
    with open_regular(path, name) as raw, warnings.catch_warnings():
        # Sizes are looked at below, and what Pillow doubts about a tag it reads all the same.
        warnings.simplefilter("ignore")
        try:
            start = raw.read(_START_BYTES)
            raw.seek(0)
            with image_module.open(raw, formats=["PNG" if start.startswith(PNG) else "TIFF"]) as opened:
                yield Picture(name, start, opened)
        except CtPatchError:
            raise
        except Exception as error:  # Pillow raises many kinds on rubbish
            if isinstance(error, OSError) and error.errno is not None:
                raise
            kind = type(error).__name__
            if kind == "DecompressionBombError":
                raise SliceError(
                    f"{name} has more pixels than any slice, wanted at most {MAX_RAW_PIXELS} on a side"
                ) from None
            raise SliceError(
                f"{name} is damaged, or of a kind that Pillow does not read ({kind}); copy or save it again"
            ) from None


def look_at(path: Path, name: str, *, labels: bool) -> Pages | LeftOut:
    """Count the pages of a file, and check what they are; why it is left out where they cannot hold HU.

    Raises:
        SliceError: the file is damaged, or its pages cannot be one stack.
    """
    with open_pages(path, name) as picture:
        count, shape = 0, _shape(picture)
        while True:
            if _shape(picture) != shape:
                raise SliceError(f"{name} has pages of different sizes; save each stack in a file of its own")
            left = _left_out(_kind(picture), name, labels=labels)
            if left is not None:
                return left
            count += 1
            if count > MAX_SLICES:
                raise SliceError(f"{name} has more than {MAX_SLICES} pages")
            # Further pictures of a PNG are an animation.
            if picture.is_png or not _turn_to(picture, count):
                return Pages(count, shape)


def read_page(picture: Picture, number: int, *, labels: bool) -> NDArray[Any]:
    """Read a page of an open file: `(H, W)`, the numbers as they are stored."""
    kind = None
    if _turn_to(picture, number):
        _shape(picture)
        kind = _kind(picture)
    if kind is None or _left_out(kind, picture.name, labels=labels) is not None:
        raise SliceError(f"{picture.name} is no longer what it was when it was looked at; run the command again")
    numbers = np.asarray(picture.opened)
    return numbers.view(np.uint32) if kind.unsigned and numbers.dtype == np.int32 else numbers


def _turn_to(picture: Picture, number: int) -> bool:
    """Whether there is a page of that number."""
    try:
        picture.opened.seek(number)
    except EOFError:
        return False
    return True


def _shape(picture: Picture) -> tuple[int, int]:
    width, height = picture.opened.size
    if not 1 <= min(width, height) <= max(width, height) <= MAX_RAW_PIXELS:
        raise SliceError(
            f"{picture.name} says it has {height}x{width} pixels, wanted at most {MAX_RAW_PIXELS} on a side"
        )
    return height, width


def _kind(picture: Picture) -> Kind:
    if picture.is_png:
        # Pillow does not tell 4 bits from 8, and stretches the first.
        depth, colour_type = picture.start[24:26]
        return Kind(depth, colour=colour_type not in {0, 3}, palette=colour_type == 3)  # noqa: PLR2004
    tags = picture.opened.tag_v2
    bits = set(tags.get(_BITS, (1,)))
    samples = tags.get(_SAMPLES, 1)
    photometric = tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO)
    if len(bits) != 1:
        return Kind(bits=8, colour=True)
    (depth,) = bits
    unsigned = depth == 32 and set(tags.get(_SAMPLE_FORMAT, (_WITHOUT_SIGN,))) == {_WITHOUT_SIGN}  # noqa: PLR2004
    colour = samples != 1 or photometric not in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE}
    return Kind(depth, colour, photometric == _PALETTE, photometric == _WHITE_IS_ZERO, unsigned)


def _left_out(kind: Kind, name: str, *, labels: bool) -> LeftOut | None:
    """Why a page is no slice of numbers; None where it is one. SliceError where its numbers may mean two things."""
    if kind.colour:
        return LeftOut(name, *_COLOUR)
    if kind.white_is_zero:
        raise SliceError(f"{name} has white as 0, so its numbers may run either way; save it with black as 0")
    if labels:
        if kind.bits not in {1, 8, 16, 32, 64} and not kind.palette:
            raise SliceError(f"{name} has {kind.bits} bits a pixel, wanted 1, 8, 16 or 32 for labels; save it again")
        return None
    return None if kind.bits in {12, 16, 32, 64} else LeftOut(name, *_EIGHT_BITS)


def is_picture(start: bytes) -> bool:
    """Whether a file begins as PNG or TIFF does."""
    return start.startswith((PNG, *TIFF))
