"""Memory that holds the pixels of a set, where a user would rather spend memory than time.

Pages of files are small, and copying out of many of them costs several times what copying within large arrays costs;
arrays of some megabytes get large pages where the system has them.
"""

import math
import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SystemFailureError

_SLAB_BYTES = 64 << 20
_ALIGNMENT = 64


class Slabs:
    """Hands out arrays from large pieces of memory; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slab: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A new array in C order, not yet filled."""
        size = math.prod(shape) * dtype.itemsize
        if size > _SLAB_BYTES // 4:
            return np.empty(shape, dtype)
        with self._lock:
            if self._used + size > len(self._slab):
                self._slab, self._used = np.empty(_SLAB_BYTES, np.uint8), 0
            start = self._used
            self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
            return self._slab[start : start + size].view(dtype).reshape(shape)


def require_memory(wanted: int, name: str) -> None:
    """Refuse to fill more memory than the system can give, before it ends the process for it.

    Raises:
        SystemFailureError: there is less; says how much.
    """
    free = _free_memory()
    if free is not None and wanted > free:
        raise SystemFailureError(
            f"{name} has {wanted / 1e9:.1f} GB of pixels, the system has {free / 1e9:.1f} GB of memory to give; "
            "open it without in_memory, or keep it in the layout slices, which holds each pixel once"
        )


def _free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
