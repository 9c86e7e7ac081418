"""Digests that say whether two arrays, or two files, are the same to the bit.

The digest of an array is xxh3-128, in hex, of the ASCII text `<shape>;<dtype>;` (numbers joined by commas, NumPy's
dtype string in little-endian form) followed by the pixels, little-endian, row-major: `128,128;<f4;` and 65,536
bytes for a patch.
"""

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 20


@lru_cache(maxsize=1024)
def _preamble(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    dims = ",".join(str(side) for side in shape)
    return f"{dims};{dtype.newbyteorder('<').str};".encode("ascii")


def array_digest(array: NDArray[Any]) -> str:
    """Digest of an array's shape, dtype and pixels, whatever its byte order or layout in memory."""
    little = array.dtype.byteorder == "<" or (array.dtype.byteorder in "=|" and sys.byteorder == "little")
    if not little and array.dtype.itemsize > 1:
        array = array.astype(array.dtype.newbyteorder("<"))
    hasher = xxhash.xxh3_128(_preamble(array.shape, array.dtype))
    hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


def array_digests(stack: NDArray[Any]) -> list[str]:
    """The digest of each item of a stack, as `array_digest` gives it."""
    stack = np.ascontiguousarray(stack, stack.dtype.newbyteorder("<"))
    preamble = _preamble(stack.shape[1:], stack.dtype)
    digests = []
    for item in stack:
        hasher = xxhash.xxh3_128(preamble)
        hasher.update(item.data)
        digests.append(hasher.hexdigest())
    return digests


def file_digest(path: Path) -> str:
    """Digest of a file's bytes, read piece by piece."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def bytes_digest(content: bytes) -> str:
    """Digest of bytes."""
    return xxhash.xxh3_128_hexdigest(content)


def text_digest(text: str) -> str:
    """Digest of a text in UTF-8."""
    return bytes_digest(text.encode())


def json_digest(value: Any) -> str:
    """Digest of a JSON value, whatever the order of its keys."""
    return text_digest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False))
