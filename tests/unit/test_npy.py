"""Strict reading of .npy files: what numpy.save writes is read to the bit, all else is refused."""

import io
import os
import pickle
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ctpatch.errors import NpyError
from ctpatch.files.npy import (
    PAGE_BYTES,
    NpyHeader,
    SliceBuffer,
    check_slice_header,
    header_bytes,
    open_npy,
    read_exactly,
    read_header,
    slice_header,
)
from helpers import refusal

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
needs_modes = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user"
)


def raw(
    descr: Any, shape: Any, data: bytes = b"", *, fortran: bool = False, version: tuple[int, int] = (1, 0)
) -> bytes:
    """A .npy file put together by hand."""
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + data


def saved(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def header_of(path: Path) -> NpyHeader:
    fd = open_npy(str(path))
    try:
        return read_header(fd, path.name)
    finally:
        os.close(fd)


def slice_file(folder: Path, content: bytes) -> Path:
    path = folder / "slice.npy"
    path.write_bytes(content)
    return path


def refused(path: Path, *, integers_allowed: bool = False) -> str:
    """The message with which the header and the pixels are refused, one and the same."""
    said = refusal(NpyError, lambda: slice_header(str(path), "train/slice.npy", integers_allowed=integers_allowed))
    also = refusal(
        NpyError, lambda: SliceBuffer().read(str(path), "train/slice.npy", integers_allowed=integers_allowed)
    )
    assert said.startswith("train/slice.npy")
    assert said.split(";", maxsplit=1)[0] == also.split(";", maxsplit=1)[0]
    return said


ZEROS = np.zeros((4, 5), np.float32)


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, image=ZEROS)
    return stream.getvalue()


HOSTILE: dict[str, tuple[bytes, list[str]]] = {
    "truncated": (
        saved(ZEROS)[:-1],
        ["is cut short", "shape 4x5 of float32", "208 bytes in all", "the file has 207", "write it again"],
    ),
    "no data": (saved(ZEROS)[:128], ["is cut short", "the file has 128"]),
    "trailing byte": (saved(ZEROS) + b"\0", ["has trailing bytes", "208 bytes in all", "the file has 209"]),
    "two arrays": (saved(ZEROS) * 2, ["has trailing bytes", "the file has 416"]),
    "3-D": (saved(np.zeros((1, 4, 5), np.float32)), ["has 3 dimensions (1, 4, 5), wanted 2 (row, col)"]),
    "1-D": (saved(np.zeros(4, np.float32)), ["has 1 dimensions (4,)"]),
    "0-D": (saved(np.array(1.0, np.float32)), ["has 0 dimensions ()"]),
    "object": (saved(np.array([[None]])), ["holds pickled objects", "nothing in it was loaded"]),
    "pickle": (pickle.dumps(ZEROS), ["is not a .npy file", "begins like a pickle, which is never loaded"]),
    "structured": (saved(np.zeros((4, 5), [("a", "<f4")])), ["holds a structured array"]),
    "subarray": (raw("(2,)<f4", (1, 2), bytes(16)), ["holds a structured array"]),
    "complex": (saved(np.zeros((4, 5), np.complex64)), ["has dtype complex64", "float16, float32 or float64"]),
    "text": (saved(np.array([["ab"]])), ["has dtype <U2"]),
    "bytes": (saved(np.array([[b"ab"]])), ["has dtype |S2"]),
    "time": (saved(np.zeros((2, 2), "<M8[s]")), ["has dtype datetime64[s]"]),
    "void": (raw("|V4", (1, 2), bytes(8)), ["has dtype |V4"]),
    "no bytes each": (raw("|S0", (4, 5)), ["has dtype |S0"]),
    "integers": (saved(np.zeros((4, 5), np.int16)), ["has dtype int16", "normalise the slice first"]),
    "booleans": (saved(np.zeros((4, 5), bool)), ["has dtype bool"]),
    "zip": (npz(), ["is not a .npy file", "is a zip archive"]),
    "empty": (b"", ["is not a .npy file", "it is empty"]),
    "magic alone": (b"\x93NUMPY", ["damaged .npy header"]),
    "text file": (b"0.1 0.2\n", ["is not a .npy file", "begins with b'0.1 0.'", "numpy.save"]),
    "2^40 each way": (raw("<f4", (2**40, 2**40), bytes(8)), ["is cut short", "1099511627776x1099511627776"]),
    "2^40 pixels": (raw("<f4", (2**20, 2**20), bytes(8)), ["is cut short", "shape 1048576x1048576"]),
    "nothing times 2^62": (raw("<f4", (0, 2**62, 2**62)), ["which no file holds"]),
    "too wide": (raw("<f2", (1, 16385), bytes(32770)), ["has 1x16385 pixels, wanted 1 to 16384 on each side"]),
    "too high": (raw("<f2", (16385, 1), bytes(32770)), ["has 16385x1 pixels"]),
    "no rows": (raw("<f4", (0, 5)), ["has 0x5 pixels"]),
    "negative": (raw("<f4", (-4, -5), bytes(80)), ["damaged .npy header (shape (-4, -5))"]),
    "boolean side": (raw("<f4", (True, 5), bytes(20)), ["damaged .npy header (shape (True, 5))"]),
    "70 dimensions": (raw("<f4", (1,) * 70, bytes(4)), ["damaged .npy header"]),
    "version 3": (raw("<f4", (1, 2), bytes(8), version=(3, 0)), ["damaged .npy header", "version 3.0"]),
    "version 9": (raw("<f4", (1, 2), bytes(8), version=(9, 9)), ["damaged .npy header"]),
    "header too long": (b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 65535, ["damaged .npy header"]),
    "header of 4 GB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{" * 99, ["damaged .npy header"]),
    "header cut short": (saved(ZEROS)[:60], ["damaged .npy header"]),
    "code": (b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').abort()".ljust(31) + b"\n", ["damaged .npy header"]),
    "key too many": (
        b"\x93NUMPY\x01\x00\x46\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), 'more': 1}".ljust(69)
        + b"\n"
        + bytes(4),
        ["damaged .npy header"],
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_with_what_they_are(tmp_path: Path, kind: str) -> None:
    content, said = HOSTILE[kind]
    message = refused(slice_file(tmp_path, content))
    for each in said:
        assert each in message


@pytest.mark.parametrize("kind", ["object", "structured", "complex", "text", "3-D", "trailing byte"])
def test_labels_are_no_excuse(tmp_path: Path, kind: str) -> None:
    content, said = HOSTILE[kind]
    assert said[0].split(",")[0] in refused(slice_file(tmp_path, content), integers_allowed=True)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.npy")
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    message = refused(folder)
    assert "is not a regular file" in message or "cannot be opened" in message


@needs_fifo
def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "slice.npy"
    os.mkfifo(path)
    assert "is not a regular file; a slice is a .npy file" in refused(path)


@needs_modes
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = slice_file(tmp_path, saved(ZEROS))
    path.chmod(0)
    assert "cannot be opened: Permission denied; check its permissions" in refused(path)


PIXELS = (np.arange(20).reshape(4, 5) / 32 - 0.25).astype(np.float32)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("fortran", [False, True])
def test_floats_of_any_width_and_order_become_float32_with_their_values(
    tmp_path: Path, dtype: str, *, fortran: bool
) -> None:
    array = np.asarray(PIXELS.astype(dtype), order="F" if fortran else "C")
    path = slice_file(tmp_path, saved(array))
    image, on_disk = SliceBuffer().read(str(path), "x")
    assert on_disk == np.dtype(dtype)
    assert image.dtype == np.float32
    assert image.dtype.isnative
    assert image.flags.c_contiguous
    assert image.tolist() == PIXELS.tolist()
    assert header_of(path) == NpyHeader((4, 5), np.dtype(dtype), fortran, 128)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", ">u2", "<i8", ">i4"])
@pytest.mark.parametrize("fortran", [False, True])
def test_labels_keep_their_dtype_and_values(tmp_path: Path, dtype: str, *, fortran: bool) -> None:
    array = np.asarray((np.arange(20).reshape(4, 5) % 3).astype(dtype), order="F" if fortran else "C")
    path = slice_file(tmp_path, saved(array))
    image, on_disk = SliceBuffer().read(str(path), "x", integers_allowed=True)
    assert on_disk == np.dtype(dtype)
    assert image.dtype == np.dtype(dtype).newbyteorder("=")
    assert image.dtype.isnative
    assert image.flags.c_contiguous
    assert image.tolist() == array.tolist()
    assert slice_header(str(path), "x", integers_allowed=True).shape == (4, 5)
    refused(path)


def test_a_float_too_large_for_float32_is_infinite_and_warns_nobody(tmp_path: Path) -> None:
    path = slice_file(tmp_path, saved(np.array([[1e300, -1e300, 1e-300, np.nan]])))
    image, _ = SliceBuffer().read(str(path), "x")
    assert image[0, :3].tolist() == [np.inf, -np.inf, 0.0]
    assert np.isnan(image[0, 3])


def test_long_doubles_are_refused(tmp_path: Path) -> None:
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is double here")
    assert "wanted float16, float32 or float64" in refused(slice_file(tmp_path, saved(ZEROS.astype(np.longdouble))))


def test_a_buffer_reads_many_shapes_and_dtypes_one_after_the_other(tmp_path: Path) -> None:
    buffer = SliceBuffer()
    rng = np.random.default_rng(5)
    for number in range(40):
        shape = (int(rng.integers(1, 7)), int(rng.integers(1, 7)))
        array = rng.random(shape).astype(["<f4", ">f4", "<f8"][number % 3])
        if number % 2:
            array = np.asfortranarray(array)
        path = slice_file(tmp_path, saved(array))
        image, _ = buffer.read(str(path), "x")
        np.testing.assert_array_equal(image, array.astype("<f4"))
        assert len(buffer._buffers) <= 9  # memory does not grow with the shapes seen
        again, _ = buffer.read(str(path), "x")
        np.testing.assert_array_equal(again, array.astype("<f4"))


OTHERS = {
    "the same kind": saved(PIXELS + 1),
    "another shape": saved(PIXELS[:2]),
    "transposed": saved(np.asfortranarray(PIXELS)),
    "another dtype": saved(PIXELS.astype("<f8")),
    "a longer header": header_bytes((4, 5), PIXELS.dtype, 3000) + PIXELS.tobytes(),
}
DAMAGED = {"cut short": saved(PIXELS)[:-1], "trailing bytes": saved(PIXELS) + b"x", "no .npy": b"x" * 300, "empty": b""}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_is_read_into_given_memory_whatever_was_read_before(tmp_path: Path, kind: str) -> None:
    buffer, out = SliceBuffer(), np.empty(PIXELS.shape, np.float32)
    for content in (saved(PIXELS), OTHERS[kind], saved(PIXELS)):
        path = slice_file(tmp_path, content)
        image, on_disk = buffer.read(str(path), "x", out=out)
        wanted = np.load(path)
        assert (image is out) is (wanted.shape == out.shape)
        assert image.dtype == np.float32
        assert on_disk == wanted.dtype
        np.testing.assert_array_equal(image, wanted)


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_was_read_before_excuses_no_damage(tmp_path: Path, kind: str) -> None:
    buffer, out = SliceBuffer(), np.empty(PIXELS.shape, np.float32)
    for _ in range(2):
        buffer.read(str(slice_file(tmp_path, saved(PIXELS))), "x", out=out)
    path = slice_file(tmp_path, DAMAGED[kind])
    assert refusal(NpyError, lambda: buffer.read(str(path), "train/slice.npy", out=out)) == refused(path)


def test_whole_numbers_that_came_before_do_not_let_them_pass(tmp_path: Path) -> None:
    buffer, out = SliceBuffer(), np.empty(PIXELS.shape, np.uint8)
    path = slice_file(tmp_path, saved(PIXELS.astype(np.uint8)))
    buffer.read(str(path), "x", integers_allowed=True, out=out)
    with pytest.raises(NpyError, match="has dtype uint8"):
        buffer.read(str(path), "x", out=out)


def test_version_2_is_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    npy_format.write_array(stream, PIXELS, version=(2, 0))
    image, _ = SliceBuffer().read(str(slice_file(tmp_path, stream.getvalue())), "x")
    assert image.tolist() == PIXELS.tolist()


def test_a_header_longer_than_the_first_read_is_read(tmp_path: Path) -> None:
    path = slice_file(tmp_path, header_bytes((4, 5), PIXELS.dtype, 3000) + PIXELS.tobytes())
    assert header_of(path).offset == 3000
    image, _ = SliceBuffer().read(str(path), "x")
    assert image.tolist() == PIXELS.tolist()


valid = st.builds(
    saved,
    st.builds(
        lambda shape, dtype, order: np.asarray(np.ones(shape, dtype), order=order),
        st.lists(st.integers(0, 4), min_size=0, max_size=3),
        st.sampled_from(["<f4", ">f8", "<f2", "u1", "?", "<c8", "<U2", "<M8[s]"]),
        st.sampled_from(["C", "F"]),
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content) - 1))
        match draw(st.sampled_from(["change", "insert", "cut", "digit"])):
            case "change":
                content[at] = draw(st.integers(0, 255))
            case "insert":
                content[at:at] = draw(st.binary(max_size=4))
            case "cut":
                del content[at + 1 :]
            case _:
                digits = [place for place, byte in enumerate(content[:128]) if chr(byte).isdigit()]
                if digits:
                    content[draw(st.sampled_from(digits))] = ord(draw(st.sampled_from("0123456789-TL,(")))
    return bytes(content)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(mutated(), valid, st.binary(max_size=300), st.binary(max_size=200).map(lambda b: b"\x93NUMPY\x01\0" + b))
)
@example(raw("<f4", (-1, -1), bytes(4)))
@example(raw("<f4", (1, 2), bytes(8)).replace(b"(1, 2)", b"(1L,2)"))
def test_a_header_is_refused_or_true(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.npy"
    path.write_bytes(content)
    try:
        header = header_of(path)
    except NpyError as error:
        assert str(error).startswith("fuzz.npy ")  # noqa: PT017 - refused, by name
        return
    assert header.offset + prod(header.shape) * header.dtype.itemsize == len(content)
    assert header.dtype.kind in "buifc"
    assert all(side >= 0 for side in header.shape)
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    assert (loaded.shape, loaded.dtype) == (header.shape, header.dtype)
    flat = np.frombuffer(content, header.dtype, offset=header.offset)
    shaped = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
    assert shaped.tobytes() == loaded.tobytes()


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 99999), min_size=1, max_size=4).map(tuple),
    st.sampled_from(["<f4", ">f4", "u1", "?", "<i8"]),
    st.sampled_from([None, 512, PAGE_BYTES]),
)
def test_headers_are_read_by_numpy(shape: tuple[int, ...], dtype: str, total: int | None) -> None:
    content = header_bytes(shape, np.dtype(dtype), total)
    assert len(content) % 64 == 0
    assert len(content) == (total or len(content))
    stream = io.BytesIO(content)
    assert npy_format.read_magic(stream) == (1, 0)
    little = np.dtype(dtype).newbyteorder("<")
    assert npy_format.read_array_header_1_0(stream) == (shape, False, little)
    assert stream.tell() == len(content)


def test_a_header_is_that_of_numpy_save_for_a_patch() -> None:
    patch = np.zeros((128, 128), np.float32)
    assert header_bytes(patch.shape, patch.dtype) + patch.tobytes() == saved(patch)


def test_a_header_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit into 64"):
        header_bytes((128, 128), np.dtype(np.float32), 64)


def test_check_slice_header_takes_the_largest_slice() -> None:
    header = NpyHeader((16384, 16384), np.dtype(np.float32), fortran_order=False, offset=128)
    assert check_slice_header(header, "x") is header
    assert header.data_bytes == 1 << 30


def test_reading_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = slice_file(tmp_path, b"abcdef")
    fd = open_npy(str(path))
    try:
        view = bytearray(4)
        read_exactly(fd, memoryview(view), 1, "train/slice.npy")
        assert view == b"bcde"
        message = refusal(NpyError, lambda: read_exactly(fd, memoryview(bytearray(8)), 2, "train/slice.npy"))
        assert "ends after 6 bytes, while it was being read; is it being written?" in message
    finally:
        os.close(fd)


def test_a_link_is_followed_only_where_it_may_be(tmp_path: Path) -> None:
    slice_file(tmp_path, saved(PIXELS))
    link = tmp_path / "link.npy"
    try:
        link.symlink_to("slice.npy")
    except (OSError, NotImplementedError):
        pytest.skip("this system, or this user, has no symbolic links")
    image, _ = SliceBuffer().read(str(link), "x")
    assert image.tolist() == PIXELS.tolist()
    if hasattr(os, "O_NOFOLLOW"):
        with pytest.raises(OSError, match=r"symbolic links|Too many"):
            open_npy(str(link), follow=False)


def test_a_zip_that_numpy_load_would_open_is_not_opened(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("image.npy", saved(ZEROS))
    path = slice_file(tmp_path, stream.getvalue())
    with np.load(path) as loaded:
        assert loaded["image"].shape == (4, 5)
    assert "is a zip archive" in refused(path)
