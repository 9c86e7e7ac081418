"""Pixels of one DICOM file as HU, decoded only where the compressed image is as large as its header says."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import UsageError
from ctpatch.prepare.readers.dicom.header import (
    HEADER_TAGS,
    NATIVE_SYNTAXES,
    PIXEL_TAGS,
    Axes,
    FileProblemError,
    header_of,
    import_pydicom,
    read_dataset,
)
from ctpatch.prepare.values import AIR_HU

_MAX_RLE_GAIN = 64
"""Two bytes of PackBits become at most 128."""

_MAX_DECODED_BYTES = 256 * 1024 * 1024
_J2K_START = b"\xff\x4f\xff\x51"
_SOF_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
_RLE = "1.2.840.10008.1.2.5"
_J2K_PREFIXES = ("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")


def read_hu(
    root: str, file: str, *, allow_deflated: bool, raw: bool = False
) -> tuple[NDArray[np.float32], Axes | None]:
    """The pixels of a CT slice as they lie in the file, `(H, W)` float32 in HU, padding as air; and its axes.

    Args:
        root: the source folder.
        file: relative to it.
        allow_deflated: read deflated files, within bounds.
        raw: leave padding as it is, for masks.

    Raises:
        FileProblemError: the file is damaged, lies about its size, or no decoder is there for it.
    """
    dataset = read_dataset(root, file, HEADER_TAGS + PIXEL_TAGS, allow_deflated=allow_deflated)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            axes = header_of(file, dataset).axes
            stored = _decode(dataset)
            padding = None if raw else _padding(dataset)
            hu = stored.astype(np.float64)
            hu *= float(dataset.RescaleSlope)
            hu += float(dataset.RescaleIntercept)
            if padding is not None:
                hu[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU
        except (FileProblemError, UsageError, MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - many kinds, quoting values; a decoder in Rust panics by its own
            raise FileProblemError("damaged", f"its pixels cannot be decoded ({type(error).__name__})") from None
    if not np.isfinite(hu).all():
        raise FileProblemError("damaged", "its values are not finite")
    return hu.astype(np.float32), axes


def _decode(dataset: Any) -> NDArray[Any]:
    pydicom = import_pydicom()
    shape = (int(dataset.Rows), int(dataset.Columns))
    frame_bytes = shape[0] * shape[1] * int(dataset.BitsAllocated) // 8
    syntax = dataset.ctpatch_syntax
    data = dataset.get("PixelData")
    if not isinstance(data, bytes | bytearray | memoryview) or not len(data):
        raise FileProblemError("no-pixels", "it holds no pixels")
    if syntax in NATIVE_SYNTAXES:
        if len(data) < frame_bytes:
            raise FileProblemError(
                "damaged", f"its header promises {frame_bytes} bytes of pixels, it holds {len(data)}"
            )
        if len(data) >= 2 * frame_bytes:
            raise FileProblemError(
                "damaged", f"its header promises one slice of {frame_bytes} bytes, it holds {len(data)}"
            )
    else:
        _refuse_lies(pydicom, dataset, syntax, shape, frame_bytes)
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise FileProblemError("unknown-syntax", "its transfer syntax is not known") from None
    if not decoder.is_available:
        missing = ", ".join(sorted({each.split(">")[0] for each in decoder.missing_dependencies if "pylib" in each}))
        raise UsageError(
            f"a DICOM file is in {decoder.UID.name}, and nothing to decode it is installed "
            f"({missing or 'pylibjpeg and its plugins'}); pip install 'ctpatch[prepare]'"
        )
    pixels, _ = decoder.as_array(dataset, index=0, raw=False)
    image: NDArray[Any] = np.asarray(pixels)
    if image.shape != shape or image.dtype.kind not in "iu":
        raise FileProblemError("damaged", f"its pixels are {image.shape}, its header says {shape}")
    return image


def _refuse_lies(pydicom: Any, dataset: Any, syntax: str, shape: tuple[int, int], frame_bytes: int) -> None:
    """Look into the compressed image before a decoder reserves memory for what it says.

    Raises:
        FileProblemError: it is larger than the header says.
    """
    frame = pydicom.encaps.get_frame(bytes(dataset.PixelData), 0, number_of_frames=1)
    if syntax == _RLE:
        if len(frame) * _MAX_RLE_GAIN > _MAX_DECODED_BYTES and _unpacked_bytes(frame) > frame_bytes + len(frame):
            raise FileProblemError("too-large", "its RLE image unpacks to more than its header says")
        return
    size = _j2k_size(frame) if syntax.startswith(_J2K_PREFIXES) else _jpeg_size(frame)
    if size is None:
        raise FileProblemError("damaged", "its compressed image has no readable header")
    if size != (*shape, 1):
        raise FileProblemError(
            "damaged",
            f"its header says {shape[0]}x{shape[1]} pixels of one value, its compressed image "
            f"{size[0]}x{size[1]} of {size[2]}",
        )


def _unpacked_bytes(frame: bytes) -> int:
    """Bytes that an RLE frame unpacks to (DICOM PS3.5, annex G): after a header of 64, runs and literals."""
    at, total = 64, 0
    while at < len(frame):
        control = frame[at]
        if control < 128:  # noqa: PLR2004 - a literal of control + 1 bytes
            at, total = at + control + 2, total + control + 1
        elif control > 128:  # noqa: PLR2004 - one byte, 257 - control times
            at, total = at + 2, total + 257 - control
        else:
            at += 1
    return total


def _j2k_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of a JPEG 2000 codestream (ISO 15444-1, A.5.1), also inside a JP2 file."""
    at = frame.find(_J2K_START)
    size = frame[at + 4 : at + 4 + 38] if at >= 0 else b""
    if len(size) < 38:  # noqa: PLR2004
        return None
    width, height, left, top = (int.from_bytes(size[4 + 4 * k : 8 + 4 * k], "big") for k in range(4))
    return height - top, width - left, int.from_bytes(size[36:38], "big")


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of a JPEG or JPEG-LS image, from its frame header (ISO 10918-1, B.2.2)."""
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:  # noqa: PLR2004
        marker = frame[at + 1]
        if marker == 0xFF:  # noqa: PLR2004 - fill
            at += 1
            continue
        if marker in _SOF_MARKERS:
            return (
                int.from_bytes(frame[at + 5 : at + 7], "big"),
                int.from_bytes(frame[at + 7 : at + 9], "big"),
                frame[at + 9],
            )
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _padding(dataset: Any) -> tuple[int, int] | None:
    """The range of stored values that are no tissue, as the pixels hold them.

    The value can stand as unsigned 63536 where the pixels are signed and hold -2000.
    """
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    bits, signed = int(dataset.BitsAllocated), int(dataset.PixelRepresentation) == 1
    values = (value, value if limit in {None, ""} else limit)
    ends = sorted(_as_stored(int(each), bits, signed=signed) for each in values)
    return ends[0], ends[1]


def _as_stored(value: int, bits: int, *, signed: bool) -> int:
    value %= 1 << bits
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value
