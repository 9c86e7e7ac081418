"""MetaImage and NRRD, written byte by byte after the descriptions of the formats."""

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Numbers = NDArray[Any]
_MET = {"i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "f4": "FLOAT", "f8": "DOUBLE"}
_NRRD = {"i1": "int8", "u1": "uint8", "i2": "short", "u2": "ushort", "i4": "int", "f4": "float", "f8": "double"}


def met_header(volume: Numbers, spacing: tuple[float, ...], file: str = "LOCAL", **fields: Any) -> bytes:
    """The header of a volume whose last axis lies closest together; a field that is None is left out."""
    dims = volume.ndim
    turn = " ".join("1" if row == col else "0" for row in range(dims) for col in range(dims))
    usual: dict[str, Any] = {
        "ObjectType": "Image",
        "NDims": dims,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": volume.dtype.str[0] == ">",
        "CompressedData": False,
        "TransformMatrix": turn,
        "Offset": " ".join(["0"] * dims),
        "ElementSpacing": " ".join(map(str, spacing)),
        "DimSize": " ".join(map(str, volume.shape[::-1])),
        "ElementType": f"MET_{_MET[volume.dtype.str[1:]]}",
    }
    lines = [f"{key} = {value}\n" for key, value in (usual | fields).items() if value is not None]
    return "".join([*lines, f"ElementDataFile = {file}\n"]).encode()


def write_mha(path: Path, volume: Numbers, spacing: tuple[float, ...], *, packed: bool = False, **fields: Any) -> Path:
    """Header and voxels in one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = zlib.compress(volume.tobytes()) if packed else volume.tobytes()
    path.write_bytes(met_header(volume, spacing, **({"CompressedData": packed} | fields)) + content)
    return path


def write_mhd(path: Path, volume: Numbers, spacing: tuple[float, ...], file: str = "v.raw", **fields: Any) -> Path:
    """A header that names a file of voxels, and that file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(met_header(volume, spacing, file, **fields))
    (path.parent / file).write_bytes(volume.tobytes())
    return path


def nrrd_header(volume: Numbers, spacing: tuple[float, ...], **fields: Any) -> bytes:
    """The header of a volume whose last axis lies closest together, with a blank line at its end.

    An underscore in a keyword is a blank in the field; a field that is None is left out.
    """
    dims = volume.ndim
    steps = " ".join(f"({','.join(str(mm) if k == n else '0' for k in range(dims))})" for n, mm in enumerate(spacing))
    usual: dict[str, Any] = {
        "type": _NRRD[volume.dtype.str[1:]],
        "dimension": dims,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, volume.shape[::-1])),
        "space_directions": steps,
        "endian": "big" if volume.dtype.str[0] == ">" else "little",
        "encoding": "raw",
        "space_origin": f"({','.join(['0'] * dims)})",
    }
    lines = [f"{key.replace('_', ' ')}: {value}\n" for key, value in (usual | fields).items() if value is not None]
    return "".join(["NRRD0004\n# by a test\n", *lines, "\n"]).encode()


def write_nrrd(path: Path, volume: Numbers, spacing: tuple[float, ...], packing: str = "raw", **fields: Any) -> Path:
    """Header and voxels in one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packs: dict[str, Callable[[bytes], bytes]] = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}
    header = nrrd_header(volume, spacing, **({"encoding": packing} | fields))
    path.write_bytes(header + packs[packing](volume.tobytes()))
    return path


def write_nhdr(path: Path, volume: Numbers, spacing: tuple[float, ...], file: str = "v.raw", **fields: Any) -> Path:
    """A header that names a file of voxels, and that file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nrrd_header(volume, spacing, **(fields | {"data_file": file})))
    (path.parent / file).write_bytes(volume.tobytes())
    return path
