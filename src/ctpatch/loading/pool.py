"""Memory for batches that is used again, and only once nobody holds a batch, or anything made of it, any more."""

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.files.memory import empty_buffer


class Pool:
    """Makes arrays; the memory of one is used again when the array, and every view of it, is gone.

    Views are what NumPy and torch make without a copy: slices, `torch.from_numpy`, `.numpy()`, `.detach()`, DLPack,
    what autograd keeps for the backward pass. Each of them keeps the array alive. Safe between threads.

    Args:
        kept: how many pieces of memory of one size wait to be used again; others go back to the system.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._free: dict[int, deque[NDArray[np.uint8]]] = {}

    def __reduce__(self) -> tuple[type["Pool"], tuple[int]]:
        return Pool, (self._kept,)

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array in C order, not yet filled."""
        size = math.prod(shape) * dtype.itemsize
        free = self._free.setdefault(size, deque(maxlen=self._kept))
        try:
            room = free.pop()  # the last one that came back: it is the likeliest to be in the processor's caches
        except IndexError:
            room = empty_buffer((size,), np.dtype(np.uint8))
        # What a view refers to is the first array on its way down that lies on no other array. `room.data` is not an
        # array, so that is `owner`: it lives as long as any view of it.
        owner = np.frombuffer(room.data, dtype)
        # Arrays take no part in the search for cycles: this runs when the last reference goes, and never earlier.
        weakref.finalize(owner, free.append, room).atexit = False
        return owner.reshape(shape)
