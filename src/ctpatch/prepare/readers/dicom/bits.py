"""Bits of a pixel: what the header says of them, what is there, and the numbers that they stand for.

BitsAllocated, BitsStored, HighBit and PixelRepresentation are those of DICOM PS3.5, section 8.1.1. Unused bits can hold
anything, such as an overlay. Decoders leave them in compressed images, so they are taken out here for all syntaxes.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ctpatch.prepare.readers.base import SliceRemark
from ctpatch.prepare.readers.dicom.stream import StreamHeader

Pixels = NDArray[Any]
ALLOCATED = frozenset({8, 16, 32})


class BitsError(ValueError):
    """What a header says of bits does not fit together, or does not fit the pixels."""


@dataclass(frozen=True, slots=True)
class Bits:
    """What a header says of the bits of a pixel.

    Attributes:
        allocated: bits of a pixel's place in memory.
        stored: bits that are its value.
        high: number of the highest of these, from 0.
        signed: whether the highest of these is the sign.
    """

    allocated: int
    stored: int
    high: int
    signed: bool

    @classmethod
    def of(cls, dataset: Any) -> "Bits":
        """Read the header's fields; a HighBit that is missing is that of BitsStored.

        Raises:
            BitsError: a field is missing, or makes no sense beside another.
        """
        stored, signed = dataset.get("BitsStored"), dataset.get("PixelRepresentation")
        allocated = int(dataset.BitsAllocated)
        if stored in {None, ""} or not 1 <= int(stored) <= allocated:
            raise BitsError(f"its BitsStored is {_said(stored)}, wanted 1 to {allocated}, its BitsAllocated")
        if signed not in {0, 1}:
            raise BitsError(f"its PixelRepresentation is {_said(signed)}, wanted 0 (no sign) or 1 (sign)")
        high = dataset.get("HighBit")
        high = int(stored) - 1 if high in {None, ""} else int(high)
        if not 0 <= high < allocated:
            raise BitsError(f"its HighBit is {high}, wanted 0 to {allocated - 1}, as its BitsAllocated is {allocated}")
        return cls(allocated, int(stored), high, signed == 1)


def _said(value: Any) -> str:
    return "missing" if value in {None, ""} else str(int(value))


def check_stream(bits: Bits, stream: StreamHeader) -> None:
    """Refuse a compressed image whose values do not fit into a pixel.

    Raises:
        BitsError: it has more bits than BitsAllocated.
    """
    if not 1 <= stream.precision <= bits.allocated:
        raise BitsError(
            f"its compressed image has values of {stream.precision} bits, wanted 1 to {bits.allocated}, "
            "its BitsAllocated"
        )


def values_of(
    cells: Pixels, bits: Bits, stream: StreamHeader | None, padding: Pixels
) -> tuple[Pixels, tuple[SliceRemark, ...]]:
    """Take the numbers out of the pixels' bits.

    Args:
        cells: `(H, W)` integers as decoded, unused bits still in them; signed where the header says so.
        bits: what the header says.
        stream: what the compressed image says; None where it is not compressed.
        padding: `(H, W)` bool, pixels that are no part of the image: what their unused bits hold does not matter.

    Returns:
        The values, `(H, W)` integers, and what a user should know of them.

    Raises:
        BitsError: the header contradicts itself, and the pixels do not tell which of its fields is right.
    """
    remarks = () if stream is None else _sign_of_stream(cells, bits, stream)
    values = _lowest(cells, bits.stored)
    unused = (values != cells) & ~padding
    usual = bits.stored - 1
    if bits.high > usual:
        values, more = _in_upper_bits(cells, bits, values, unused, padding)
        return values, remarks + more
    if bits.high < usual and (_lowest(values, bits.high + 1) != values)[~padding].any():
        message = (
            f"HighBit is {bits.high}, BitsStored {bits.stored} says {usual}, and pixels use more than {bits.high + 1} "
            "bits; ctpatch followed BitsStored. Correct the wrong one of the two"
        )
        remarks += (SliceRemark("high-bit", message),)
    if unused.any():
        used = _bits_needed(cells[unused])
        message = (
            f"pixels have bits above BitsStored {bits.stored} set, up to bit {used} of {bits.allocated}; ctpatch takes "
            "these bits out, as the standard says. If the pixels need them, correct BitsStored"
        )
        remarks += (SliceRemark("unused-bits", message),)
    return values, remarks


def _sign_of_stream(cells: Pixels, bits: Bits, stream: StreamHeader) -> tuple[SliceRemark, ...]:
    """Refuse or remark upon a compressed image that differs from its header in whether values have a sign.

    What differs makes no difference where the highest bit of no value is set. pydicom has already followed the header.
    """
    if stream.signed == bits.signed or not ((cells >> (stream.precision - 1)) & 1).any():
        return ()
    if not bits.signed:
        message = (
            f"the compressed image has values of {stream.precision} bits with a sign, and PixelRepresentation says "
            "that there is none; ctpatch followed the header. If values below the air are missing, correct it"
        )
        return (SliceRemark("stream-sign", message),)
    if stream.precision >= bits.stored:
        return ()  # JPEG and JPEG-LS have no sign: the highest bit stored is the sign
    raise BitsError(
        f"its compressed image has values of {stream.precision} bits without a sign, its header says "
        f"{bits.stored} bits with a sign; correct BitsStored or PixelRepresentation"
    )


def _in_upper_bits(
    cells: Pixels, bits: Bits, values: Pixels, unused: Pixels, padding: Pixels
) -> tuple[Pixels, tuple[SliceRemark, ...]]:
    """The values of pixels whose header says that their lowest bits are the unused ones."""
    shift = bits.high + 1 - bits.stored
    if not (cells & ((1 << shift) - 1))[~padding].any():
        message = (
            f"HighBit is {bits.high} and BitsStored {bits.stored}: values lie in the upper bits of a pixel; ctpatch "
            f"shifted them down by {shift} bits"
        )
        remarks = (SliceRemark("left-justified", message),) if cells.any() else ()
        return _lowest(cells, bits.high + 1) >> shift, remarks
    if not unused.any():
        message = (
            f"HighBit is {bits.high}, BitsStored {bits.stored} says {bits.stored - 1}; the pixels lie in the lower "
            "bits, so ctpatch did not follow HighBit"
        )
        return values, (SliceRemark("high-bit", message),)
    raise BitsError(
        f"its HighBit is {bits.high}, its BitsStored {bits.stored} says {bits.stored - 1}, and its pixels use bits "
        "above and below; correct the wrong one of the two"
    )


def _lowest(cells: Pixels, count: int) -> Pixels:
    """The numbers in the lowest bits of each pixel; with a sign where the array has one."""
    unused = 8 * cells.dtype.itemsize - count
    return (cells << unused) >> unused if unused > 0 else cells


def _bits_needed(cells: Pixels) -> int:
    """Bits that the largest of some values takes, its sign among them."""
    low, high = int(cells.min()), int(cells.max())
    return max(high.bit_length() + (cells.dtype.kind == "i"), (~low).bit_length() + 1 if low < 0 else 0)
