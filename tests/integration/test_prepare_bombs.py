"""Small files that unpack to large ones: read no further than their headers promise, in little memory."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import Reader
from ctpatch.prepare.readers.metaimage.reader import MetaimageReader
from ctpatch.prepare.readers.nrrd.reader import NrrdReader
from ctpatch.prepare.readers.numpy.reader import NumpyReader
from volume_files import write_mha, write_nrrd

BOMB_BYTES = 2**25
LIMIT_BYTES = 2**24
SIDES = (2, 64, 64)
STATED = " ".join(map(str, reversed(SIDES)))
ZEROS = np.zeros((BOMB_BYTES,), np.int8)


def write_mha_bomb(root: Path) -> Reader:
    write_mha(root / "v.mha", ZEROS.reshape(-1, 2048, 2048), (1, 1, 1), packed=True, DimSize=STATED)
    return MetaimageReader()


def write_nrrd_bomb(packing: str) -> Callable[[Path], Reader]:
    def write(root: Path) -> Reader:
        write_nrrd(root / "v.nrrd", ZEROS.reshape(-1, 2048, 2048), (1, 1, 1), packing, sizes=STATED)
        return NrrdReader()

    return write


def write_npz_bomb(root: Path) -> Reader:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|i1", "fortran_order": False, "shape": SIDES})
    with zipfile.ZipFile(root / "v.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ct.npy", head.getvalue() + ZEROS.tobytes())
    content = bytearray((root / "v.npz").read_bytes())
    # The list of the archive says what the header of the array promises.
    entry = content.rfind(b"PK\x01\x02")
    promised = len(head.getvalue()) + int(np.prod(SIDES))
    content[entry + 24 : entry + 28] = promised.to_bytes(4, "little")
    (root / "v.npz").write_bytes(content)
    return NumpyReader(axes="zyx", voxel_spacing=(1, 1, 1))


@pytest.mark.parametrize(
    "write",
    [write_mha_bomb, write_nrrd_bomb("gzip"), write_nrrd_bomb("bzip2"), write_npz_bomb],
    ids=["zlib", "gzip", "bzip2", "zip"],
)
def test_bombs_are_not_unpacked(tmp_path: Path, write: Callable[[Path], Reader]) -> None:
    reader = write(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < BOMB_BYTES / 500
    tracemalloc.start()
    try:
        found = reader.scan(tmp_path, lambda _: None)
        assert [each.shape for each in found.slices] == [SIDES[1:]] * 2
        with pytest.raises(SliceError, match=rf"^{path.name} (goes on after the last voxel|is damaged)"):
            list(reader.read(tmp_path, found.slices))
        assert tracemalloc.get_traced_memory()[1] < LIMIT_BYTES
    finally:
        tracemalloc.stop()
