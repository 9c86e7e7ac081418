"""HDF5 that would read other files, load code or fill the memory is refused by name."""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("h5py", reason="h5py is not installed")

import h5py

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.lodopab.hdf5_safety import open_array

SHAPE = (None, 6, 7)


def rows_of(path: Path) -> Any:
    with open_array(path, "f.hdf5", "data", SHAPE) as array:
        return array.rows(0, array.shape[0])


def made(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=np.arange(84, dtype=np.float32).reshape(2, 6, 7), **options)
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (1, 3, 7)}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"dtype": ">f8"}],
    ids=["contiguous", "chunks", "filters", "float64"],
)
def test_plain_arrays_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    values = rows_of(made(tmp_path / "f", **options))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.arange(84, dtype=np.float32).reshape(2, 6, 7))


def external_storage(file: Any, other: str) -> None:
    file.create_dataset("data", (2, 6, 7), np.float32, external=[(other, 0, 336)])


def external_link(file: Any, other: str) -> None:
    file["data"] = h5py.ExternalLink(other, "data")


def soft_link(file: Any, _: str) -> None:
    file["real"] = np.zeros((2, 6, 7), np.float32)
    file["data"] = h5py.SoftLink("/real")


def virtual(file: Any, other: str) -> None:
    layout = h5py.VirtualLayout((2, 6, 7), np.float32)
    layout[:] = h5py.VirtualSource(other, "data", (2, 6, 7))
    file.create_virtual_dataset("data", layout)


def virtual_without_end(file: Any, other: str) -> None:
    layout = h5py.VirtualLayout((2, 6, 7), np.float32, maxshape=(None, 6, 7))
    source = h5py.VirtualSource(other, "data", (2, 6, 7), maxshape=(None, 6, 7))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("data", layout)


def lzf(file: Any, _: str) -> None:
    file.create_dataset("data", (2, 6, 7), np.float32, compression="lzf")


def giant(file: Any, _: str) -> None:
    file.create_dataset("data", (2**20, 2**20, 2**20), np.float32, chunks=(1, 64, 64))


def many_rows(file: Any, _: str) -> None:
    file.create_dataset("data", (129, 6, 7), np.float32)


def giant_chunk(file: Any, _: str) -> None:
    file.create_dataset("data", (2, 6, 7), np.float32, maxshape=(None, None, None), chunks=(2**17, 32, 32))


def group(file: Any, _: str) -> None:
    file.create_group("data")


def words(file: Any, _: str) -> None:
    file.create_dataset("data", (2, 6, 7), h5py.string_dtype())


def counts(file: Any, _: str) -> None:
    file.create_dataset("data", (2, 6, 7), np.int16)


def nothing(_: Any, __: str) -> None:
    return


EVIL: dict[Callable[[Any, str], None], str] = {
    external_storage: "keeps its data in another file",
    external_link: r"is a link \(ExternalLink\)",
    soft_link: r"is a link \(SoftLink\)",
    virtual: "is a virtual data set",
    virtual_without_end: "is a virtual data set",
    lzf: r"filter 32000 \(lzf\)",
    giant: r"shape \(1048576, 1048576, 1048576\), wanted 1 to 128 x 6 x 7",
    many_rows: "wanted 1 to 128 x 6 x 7",
    giant_chunk: "chunks of 536870912 bytes",
    group: "is no array",
    words: "has dtype object",
    counts: "has dtype int16",
    nothing: "holds no 'data'",
}

_OPEN = """
import sys
from ctpatch.errors import SliceError
from ctpatch.prepare.readers.lodopab.hdf5_safety import open_array
try:
    with open_array(sys.argv[1], "f.hdf5", "data", (None, 6, 7)) as array:
        array.rows(0, 1)
except SliceError as error:
    print(error)
"""


@pytest.mark.parametrize("evil", EVIL, ids=lambda each: each.__name__)
def test_what_is_no_plain_array_is_refused(tmp_path: Path, evil: Callable[[Any, str], None]) -> None:
    path, other = tmp_path / "f", tmp_path / "other"
    with h5py.File(path, "w") as file:
        evil(file, str(other))
    made(other)
    with pytest.raises(SliceError, match=EVIL[evil]) as caught:
        rows_of(path)
    assert str(caught.value).startswith("f.hdf5")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are needed to see whether a file is opened")
@pytest.mark.parametrize("evil", [external_storage, external_link, virtual, virtual_without_end])
def test_nothing_else_is_opened(tmp_path: Path, evil: Callable[[Any, str], None]) -> None:
    """Whoever opens a pipe that nobody writes to waits for ever."""
    path, other = tmp_path / "f", tmp_path / "other"
    with h5py.File(path, "w") as file:
        evil(file, str(other))
    os.mkfifo(other)
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert "f.hdf5: 'data'" in done.stdout


def with_chunk(path: Path, stored: bytes, filters: tuple[str, ...] = ("gzip",), mask: int = 0) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data", (128, 6, 7), np.float32, chunks=(128, 6, 7), compression="gzip", shuffle="shuffle" in filters
        )
        data.id.write_direct_chunk((0, 0, 0), stored, mask)
    return path


def test_chunks_that_inflate_too_far_are_refused(tmp_path: Path) -> None:
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    assert len(zeros) > 300_000
    with pytest.raises(SliceError, match=r"has a chunk of 30\d+ bytes on disk that should hold 21504"):
        rows_of(with_chunk(tmp_path / "f", zeros))
    # A large chunk passes that check, and is inflated on trial.
    path = tmp_path / "g"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (128, 100, 100), np.float32, chunks=(128, 100, 100), compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), zeros)
    with (
        pytest.raises(SliceError, match="inflates to more than the 5120004 bytes"),
        open_array(path, "f.hdf5", "data", (None, 100, 100)),
    ):
        pass


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    good = made(tmp_path / "f", chunks=(1, 6, 7), compression="gzip", fletcher32=True).read_bytes()
    for content in (b"", b"PK\x03\x04", good[:200], good[: len(good) // 2]):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(SliceError, match=r"^f\.hdf5 "):
            rows_of(tmp_path / "f")
    (tmp_path / "f").unlink()
    with pytest.raises(SliceError, match="is not an HDF5 file"):
        rows_of(tmp_path / "f")
    with pytest.raises(SliceError, match=r"^f\.hdf5 cannot be read as HDF5") as caught:
        rows_of(with_chunk(tmp_path / "g", struct.pack("<q", 7) * 9))
    assert "/" not in str(caught.value)
