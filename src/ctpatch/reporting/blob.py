"""Numbers for the browser: one block of bytes, compressed, in text."""

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GZIP = 31
"""zlib's name for its format with a gzip header, which holds no time when it is made this way."""


class Blob:
    """Collects arrays and says where each lies."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, values: NDArray[Any]) -> dict[str, Any]:
        """Add an array of uint8, uint16, uint32, int32 or float32; returns how the page finds it.

        The bytes of larger numbers are parted, all lowest bytes first: zlib finds more to save in them.
        """
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        size = little.dtype.itemsize
        data = little.view(np.uint8).reshape(-1, size).T.tobytes()
        place = {"offset": self._size, "count": little.size, "type": little.dtype.name}
        self._pieces.append(data)
        self._size += len(data)
        return place

    def text(self) -> str:
        """All arrays, by gzip and base64."""
        packer = zlib.compressobj(level=6, wbits=_GZIP)
        packed = [packer.compress(piece) for piece in self._pieces]
        return base64.b64encode(b"".join([*packed, packer.flush()])).decode()
