"""Pixels of a DICOM file as HU, decoded only where the compressed image is as large as the header says."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import UsageError
from ctpatch.prepare.readers.base import SliceRemark
from ctpatch.prepare.readers.dicom.bits import Bits, BitsError, check_stream, values_of
from ctpatch.prepare.readers.dicom.file import (
    NATIVE_SYNTAXES,
    PIXEL_TAGS,
    FileProblemError,
    has_frames,
    import_pydicom,
    open_ct,
    refuse_large_slice,
    tags_of,
)
from ctpatch.prepare.readers.dicom.frames import FrameFile
from ctpatch.prepare.readers.dicom.header import HEADER_TAGS, Axes, header_of
from ctpatch.prepare.readers.dicom.stream import StreamHeader, j2k_header, jpeg_header
from ctpatch.prepare.values import AIR_HU

_MAX_RLE_GAIN = 64
"""Two bytes of PackBits become at most 128."""

_MAX_DECODED_BYTES = 256 * 1024 * 1024
_RLE = "1.2.840.10008.1.2.5"
_J2K_PREFIXES = ("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")
_SIGNED_PREFIXES = (*_J2K_PREFIXES, "1.2.840.10008.1.2.4.8")
"""JPEG 2000 and JPEG-LS: pydicom sets the sign of their values and leaves unused bits as they are."""


@dataclass(frozen=True, slots=True)
class SlicePixels:
    """The pixels of a CT slice as they lie in its file.

    Attributes:
        hu: `(H, W)` float32 in HU, padding as air.
        axes: direction of the columns' and of the rows' numbers; None where they are not said.
        padding, padding_hu, remarks: as `Observed` has them.
    """

    hu: NDArray[np.float32]
    axes: Axes | None
    padding: NDArray[np.bool_] | None
    padding_hu: tuple[float, float] | None
    remarks: tuple[SliceRemark, ...]


def read_pixels(
    root: str,
    file: str,
    frames: Iterable[int],
    *,
    allow_deflated: bool,
    raw: bool = False,
    follow_links: bool = False,
) -> Iterator[SlicePixels]:
    """Read the pixels of CT slices of a file, which is opened once; one slice after the other is in memory.

    Args:
        root: the source folder.
        file: relative to it.
        frames: which frames, from 1; 0 is the one slice of a file without frames.
        allow_deflated: read deflated files, within bounds.
        raw: leave padding as it is, for masks.
        follow_links: follow a link that leaves the source folder.

    Raises:
        FileProblemError: the file is damaged, lies about its size or its bits, or no decoder is there for it.
    """
    with open_ct(root, file, allow_deflated=allow_deflated, follow_links=follow_links) as ct:
        many: FrameFile | None = None
        for frame in frames:
            if frame:
                many = many or FrameFile(ct, file)
                dataset, header = many.dataset(frame)
                axes = header.axes
            else:
                refuse_large_slice(ct)
                dataset = tags_of(ct, HEADER_TAGS + PIXEL_TAGS)
                if has_frames(dataset):
                    raise FileProblemError("multi-frame", "it has frames, when it was found it had none")
                axes = header_of(file, dataset).axes
            yield _as_hu(dataset, axes, raw=raw)


def _as_hu(dataset: Any, axes: Axes | None, *, raw: bool) -> SlicePixels:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = _pixels(dataset, axes, raw=raw)
        except (FileProblemError, UsageError, MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BitsError as error:
            raise FileProblemError("bits", str(error)) from None
        except BaseException as error:  # noqa: BLE001 - many kinds, quoting values; a decoder in Rust panics by its own
            raise FileProblemError("damaged", f"its pixels cannot be decoded ({type(error).__name__})") from None
    if not np.isfinite(pixels.hu).all():
        raise FileProblemError("damaged", "its values are not finite")
    return pixels


def _pixels(dataset: Any, axes: Axes | None, *, raw: bool) -> SlicePixels:
    bits = Bits.of(dataset)
    cells, stream = _decode(dataset, bits)
    declared = None if raw else _padding(dataset, bits)
    # Padding can need more bits than the image has: it is looked for before unused bits are taken out, and after.
    padding = np.zeros(cells.shape, np.bool_) if declared is None else _within(cells, declared)
    stored, remarks = values_of(cells, bits, stream, padding)
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    hu = stored.astype(np.float64)
    hu *= slope
    hu += intercept
    padding_hu = None
    if declared is not None:
        padding |= _within(stored, declared)
        hu[padding] = AIR_HU
        low, high = sorted(each * slope + intercept for each in declared)
        padding_hu = (low, high)
    with np.errstate(over="ignore"):
        image = hu.astype(np.float32)
    return SlicePixels(image, axes, None if declared is None else padding, padding_hu, remarks)


def _within(values: NDArray[Any], ends: tuple[int, int]) -> NDArray[np.bool_]:
    return (values >= ends[0]) & (values <= ends[1])


def _decode(dataset: Any, bits: Bits) -> tuple[NDArray[Any], StreamHeader | None]:
    """The pixels with their unused bits, and what their compressed image says of itself."""
    pydicom = import_pydicom()
    stream = None
    shape = (int(dataset.Rows), int(dataset.Columns))
    frame_bytes = shape[0] * shape[1] * bits.allocated // 8
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
        stream = _checked_stream(pydicom, dataset, syntax, shape, frame_bytes)
        if stream is not None:
            check_stream(bits, stream)
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
    keeping = {} if syntax.startswith(_SIGNED_PREFIXES) else {"correct_unused_bits": False}
    pixels, _ = decoder.as_array(dataset, index=0, raw=False, **keeping)
    image: NDArray[Any] = np.asarray(pixels)
    if image.shape != shape or image.dtype.kind not in "iu":
        raise FileProblemError("damaged", f"its pixels are {image.shape}, its header says {shape}")
    return image, stream


def _checked_stream(
    pydicom: Any, dataset: Any, syntax: str, shape: tuple[int, int], frame_bytes: int
) -> StreamHeader | None:
    """Look into the compressed image before a decoder reserves memory for what it says.

    Raises:
        FileProblemError: it is larger than the header says.
    """
    frame = pydicom.encaps.get_frame(bytes(dataset.PixelData), 0, number_of_frames=1)
    if syntax == _RLE:
        if len(frame) * _MAX_RLE_GAIN > _MAX_DECODED_BYTES and _unpacked_bytes(frame) > frame_bytes + len(frame):
            raise FileProblemError("too-large", "its RLE image unpacks to more than its header says")
        return None
    stream = j2k_header(frame) if syntax.startswith(_J2K_PREFIXES) else jpeg_header(frame)
    if stream is None:
        raise FileProblemError("damaged", "its compressed image has no readable header")
    if (stream.rows, stream.cols, stream.values) != (*shape, 1):
        raise FileProblemError(
            "damaged",
            f"its header says {shape[0]}x{shape[1]} pixels of one value, its compressed image "
            f"{stream.rows}x{stream.cols} of {stream.values}",
        )
    return stream


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


def _padding(dataset: Any, bits: Bits) -> tuple[int, int] | None:
    """The range of stored values that are no tissue, as the pixels hold them.

    The value can stand as unsigned 63536 where the pixels are signed and hold -2000.
    """
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    values = (value, value if limit in {None, ""} else limit)
    ends = sorted(_as_stored(int(each), bits.allocated, signed=bits.signed) for each in values)
    return ends[0], ends[1]


def _as_stored(value: int, bits: int, *, signed: bool) -> int:
    value %= 1 << bits
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value
