"""Memory of batches: used again when nothing refers to an array any more, and not a moment earlier."""

import ctypes
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.loading.pool import Pool

SHAPE, FLOAT = (3, 1, 4, 5), np.dtype(np.float32)

Held = Callable[[NDArray[Any]], object]

BY_NUMPY: dict[str, Held] = {
    "the array": lambda array: array,
    "a patch of it": lambda array: array[1, 0],
    "every second": lambda array: array[::2],
    "turned": lambda array: array.T,
    "flat": lambda array: array.ravel()[3:],
    "other type": lambda array: array.view(np.uint8),
    "a view of a view of a view": lambda array: array[1:].reshape(-1)[4:].view(np.uint32)[:2],
    "strided": lambda array: np.lib.stride_tricks.as_strided(array, (2, 2), (4, 8)),
    "broadcast": lambda array: np.broadcast_to(array[:1], SHAPE),
    "masked": lambda array: np.ma.MaskedArray(array, copy=False),
    "an iterator": lambda array: array.flat,
    "its buffer": lambda array: memoryview(array[0]),
    "an array of its buffer": lambda array: np.frombuffer(array, np.uint8),
    "ctypes": lambda array: ctypes.c_char.from_buffer(array.data),
    "DLPack": np.from_dlpack,
}


def _in_a_circle(array: NDArray[Any]) -> list[Any]:
    circle: list[Any] = [array[1]]
    circle.append(circle)
    return circle


BY_NUMPY["in a list that holds itself"] = _in_a_circle


def address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


def held_and_let_go(hold: Held) -> None:
    """While `hold`'s result lives, no new array lies where it does; then one does."""
    pool = Pool(8)
    first = pool(SHAPE, FLOAT)
    where = address(first)
    kept = hold(first)
    del first
    gc.collect()
    others = [pool(SHAPE, FLOAT) for _ in range(5)]
    assert where not in {address(other) for other in others}
    del kept
    gc.collect()
    assert address(pool(SHAPE, FLOAT)) == where


@pytest.mark.parametrize("hold", BY_NUMPY.values(), ids=BY_NUMPY)
def test_memory_that_numpy_holds_is_not_used_again(hold: Held) -> None:
    held_and_let_go(hold)


def by_torch() -> dict[str, Held]:
    import torch

    from_dlpack: Any = vars(torch)["from_dlpack"]
    one: Any = torch.nn.Parameter(torch.ones(1))
    return {
        "a tensor": torch.from_numpy,
        "a patch": lambda array: torch.from_numpy(array)[1, 0],
        "detached": lambda array: torch.from_numpy(array).detach(),
        "to the processor": lambda array: torch.from_numpy(array).to("cpu"),
        "float of floats": lambda array: torch.from_numpy(array).float(),
        "there and back": lambda array: torch.from_numpy(array[1:]).numpy(),
        "seen by NumPy": lambda array: np.asarray(torch.from_numpy(array))[0],
        "DLPack to torch": from_dlpack,
        "DLPack to NumPy": lambda array: np.from_dlpack(torch.from_numpy(array)),
        "a buffer": lambda array: torch.frombuffer(array, dtype=torch.float32),
        "storage": lambda array: torch.from_numpy(array).untyped_storage(),
        "a parameter": lambda array: torch.nn.Parameter(torch.from_numpy(array)),
        "a graph": lambda array: (torch.from_numpy(array) * one).sum(),
        "in a dict": lambda array: {"image": torch.from_numpy(array).unsqueeze(0)},
    }


def test_memory_that_torch_holds_is_not_used_again() -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    for hold in by_torch().values():
        held_and_let_go(hold)


def test_what_brings_a_batch_back_to_life_has_its_memory() -> None:
    """An object in a circle of garbage may save what it refers to when it is collected."""
    pool, saved = Pool(8), []

    class Saving:
        def __init__(self, array: NDArray[Any]) -> None:
            self.array, self.circle = array, self

        def __del__(self) -> None:
            saved.append(self.array)

    array = pool(SHAPE, FLOAT)
    array[...] = 7
    Saving(array)
    del array
    gc.collect()
    pool(SHAPE, FLOAT)[...] = 0
    assert len(saved) == 1
    assert saved[0].tolist() == np.full(SHAPE, 7).tolist()


def test_arrays_are_of_the_shape_and_type_asked() -> None:
    pool = Pool(2)
    for dtype in ("float32", "uint8", "bool", "int64", "float16", ">f4"):
        array = pool((2, 3), np.dtype(dtype))
        assert (array.shape, array.dtype) == ((2, 3), np.dtype(dtype))
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array[...] = 1
        assert array.sum() == 6


def test_no_more_memory_waits_than_is_worth_keeping() -> None:
    pool = Pool(3)
    many = [pool(SHAPE, FLOAT) for _ in range(10)]
    places = {address(array) for array in many}
    del many
    gc.collect()
    assert [len(free) for free in pool._free.values()] == [3]
    assert {room.ctypes.data for room in next(iter(pool._free.values()))} < places


def test_a_pool_that_is_gone_leaves_its_arrays() -> None:
    pool = Pool(3)
    array = pool(SHAPE, FLOAT)
    array[...] = 5
    del pool
    gc.collect()
    assert (array == 5).all()
    again: Pool = pickle.loads(pickle.dumps(Pool(3)))
    assert again(SHAPE, FLOAT).shape == SHAPE
