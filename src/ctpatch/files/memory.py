"""Memory for pixels: buffers that are quick to copy into, and room for whole sets.

Where the destination of a copy lies 1 to 31 bytes behind its source, modulo a page, `rep movsb` (what memcpy is for
sizes such as ours) takes five times as long on some processors. Shards begin at a page and numpy puts large arrays 16
bytes behind one: just that case. See docs/design/015-copying.md.
"""

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SystemFailureError
from ctpatch.files.forks import OwnLock

_SLAB_BYTES = 64 << 20
_ALIGNMENT = 64
PAGE = 4096
_BUFFER_OFFSET = 64
"""Where buffers begin in a page: neither where shards do (0) nor where kept pixels do."""
_KEPT_OFFSET = 128
"""Where kept pixels begin in a page: before no buffer of ours (64) or of numpy's (16)."""
_SLOW_DISTANCE = 32


def empty_buffer(shape: tuple[int, ...], dtype: np.dtype[Any], offset: int = _BUFFER_OFFSET) -> NDArray[Any]:
    """A new array in C order, not yet filled, that begins so many bytes behind a page."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 2 * PAGE, np.uint8)
    start = (offset - room.ctypes.data) % PAGE
    return room[start : start + size].view(dtype).reshape(shape)


def copies_slowly(out: NDArray[Any], source: NDArray[Any]) -> bool:
    """Whether items of `source`, copied as they lie to items of `out`, meet the slow case each time."""
    apart = (out.ctypes.data - source.ctypes.data) % PAGE
    return (
        0 < apart < _SLOW_DISTANCE
        and out.dtype == source.dtype
        and out[0].nbytes % PAGE == 0
        and out.flags.c_contiguous
        and source.flags.c_contiguous
    )


def copy_in_runs(slot: NDArray[Any], item: NDArray[Any]) -> None:
    """Copy an item whose size is whole pages, in runs that are too short for `rep movsb`."""
    run = PAGE // 2 // slot.dtype.itemsize
    there, here = slot.reshape(-1, 2 * run), item.reshape(-1, 2 * run)
    there[:, :run] = here[:, :run]
    there[:, run:] = here[:, run:]


class Slabs:
    """Hands out arrays from large pieces of memory; safe between threads."""

    def __init__(self) -> None:
        self._lock = OwnLock()
        self._slab: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A new array in C order, not yet filled."""
        size = math.prod(shape) * dtype.itemsize
        if size > _SLAB_BYTES // 4:
            return empty_buffer(shape, dtype, _KEPT_OFFSET)
        with self._lock:
            if self._used + size > len(self._slab):
                self._slab, self._used = empty_buffer((_SLAB_BYTES,), np.dtype(np.uint8), _KEPT_OFFSET), 0
            start = self._used
            self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
            return self._slab[start : start + size].view(dtype).reshape(shape)


def require_memory(wanted: int, name: str) -> None:
    """Refuse to fill more memory than the system can give, before it ends the process for it; says how much is free."""
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
