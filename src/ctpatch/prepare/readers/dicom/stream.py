"""What a compressed image says of itself, read from its first bytes before any decoder sees it."""

from dataclasses import dataclass

_J2K_START = b"\xff\x4f\xff\x51"
_J2K_FIXED_BYTES = 38
_SIGNED = 0x80
_SOF_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
_FILL = 0xFF


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The header of a compressed image.

    Attributes:
        rows, cols: size in pixels.
        values: how many values a pixel has.
        precision: bits of a value.
        signed: whether values have a sign. JPEG and JPEG-LS cannot say so: theirs have none.
    """

    rows: int
    cols: int
    values: int
    precision: int
    signed: bool = False


def j2k_header(frame: bytes) -> StreamHeader | None:
    """Read the header of a JPEG 2000 codestream, also inside a JP2 file (ISO 15444-1, A.5.1); None without one."""
    at = frame.find(_J2K_START)
    size = frame[at + 4 : at + 4 + _J2K_FIXED_BYTES + 1] if at >= 0 else b""
    if len(size) <= _J2K_FIXED_BYTES:
        return None
    width, height, left, top = (int.from_bytes(size[4 + 4 * k : 8 + 4 * k], "big") for k in range(4))
    values, sample = int.from_bytes(size[36:38], "big"), size[_J2K_FIXED_BYTES]
    return StreamHeader(height - top, width - left, values, (sample & ~_SIGNED) + 1, signed=bool(sample & _SIGNED))


def jpeg_header(frame: bytes) -> StreamHeader | None:
    """Read the frame header of a JPEG or JPEG-LS image (ISO 10918-1, B.2.2); None where there is none."""
    at = 2
    while at + 10 <= len(frame) and frame[at] == _FILL:
        marker = frame[at + 1]
        if marker == _FILL:
            at += 1
            continue
        if marker in _SOF_MARKERS:
            rows, cols = (int.from_bytes(frame[at + k : at + k + 2], "big") for k in (5, 7))
            return StreamHeader(rows, cols, frame[at + 9], frame[at + 4])
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
