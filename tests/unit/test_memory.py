"""Buffers begin where they should, and every way of copying copies."""

import numpy as np
import pytest

from ctpatch.files.memory import PAGE, Slabs, copies_slowly, copy_in_runs, empty_buffer


@pytest.mark.parametrize("offset", [0, 16, 64, 128])
@pytest.mark.parametrize("dtype", ["f4", "u1", "f8", "?"])
@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 1), (0, 16, 16), (7,)])
def test_buffers_begin_behind_a_page(shape: tuple[int, ...], dtype: str, offset: int) -> None:
    buffer = empty_buffer(shape, np.dtype(dtype), offset)
    assert (buffer.shape, buffer.dtype) == (shape, np.dtype(dtype))
    assert not buffer.size or buffer.ctypes.data % PAGE == offset
    assert buffer.flags.c_contiguous
    assert buffer.flags.writeable


@pytest.mark.parametrize(("apart", "slow"), [(0, False), (1, True), (16, True), (31, True), (32, False), (-16, False)])
def test_the_slow_case_is_known(apart: int, slow: bool) -> None:
    source = empty_buffer((4, 128, 128), np.dtype(np.uint8), 128)
    out = empty_buffer((2, 128, 128), np.dtype(np.uint8), 128 + apart)
    assert copies_slowly(out, source) == slow


def test_what_is_no_whole_page_or_another_dtype_is_copied_as_it_is() -> None:
    def pair(shape: tuple[int, ...], dtype: str) -> bool:
        source = empty_buffer(shape, np.dtype("f4"), 0)
        return copies_slowly(empty_buffer(shape, np.dtype(dtype), 16), source)

    assert pair((2, 128, 128), "f4")
    assert not pair((2, 100, 100), "f4")
    assert not pair((2, 128, 128), "i4")
    whole = empty_buffer((4, 128, 128), np.dtype("f4"), 16)
    assert not copies_slowly(whole[::2], empty_buffer((2, 128, 128), np.dtype("f4"), 0))


@pytest.mark.parametrize("dtype", ["f4", "u1", "i2", "f8"])
@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (256, 512)])
def test_copying_in_runs_copies_every_pixel(shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    item = rng.integers(0, 200, shape).astype(dtype)
    slot = np.zeros(shape, dtype)
    copy_in_runs(slot, item)
    assert np.array_equal(slot, item)


def test_slabs_never_overlap() -> None:
    slabs = Slabs()
    made = [slabs.make((size,), np.dtype(np.int32)) for size in (1000, 1, 5_000_000, 3, 1000, 0, 4_000_000) * 3]
    for number, array in enumerate(made):
        array[...] = number
    for number, array in enumerate(made):
        assert (array == number).all()
        assert array.ctypes.data % 64 == 0 or array.size == 0
