"""What a NIfTI file says of itself, checked before a pixel of it is read.

Formats: NIfTI-1 (nifti1.h, R. W. Cox et al., 2004) and NIfTI-2 (2011).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.extras import library
from ctpatch.prepare.readers.nifti.agreement import disagreements, idle_intercept
from ctpatch.prepare.readers.volume.grid import check_affine, check_shape

HEADER_BYTES = 540
"""Of NIfTI-2; NIfTI-1 takes 348."""

_MM_OF_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units & 7: not said, metre, millimetre, micrometre


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """A volume, or several.

    Attributes:
        shape: voxels along the file's axes, `(i, j, k)`, the first lying closest together in the file.
        volumes: how many volumes stand one behind the other; 1 unless 4-D.
        dtype: of the voxels as stored.
        offset: first byte of the voxels.
        slope, inter: what makes values of stored numbers, `stored * slope + inter`.
        affine: `(4, 4)`, from `(i, j, k)` to the world in mm.
        orientation: where the affine is from: `sform`, `qform`, or `none`: voxel sizes alone.
        disagreements: what sform and qform, or sform and voxel sizes, say differently.
        idle_intercept: an intercept that does nothing, for want of a slope.
    """

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: NDArray[np.float64]
    orientation: str
    disagreements: tuple[str, ...]
    idle_intercept: float | None


def kind_of(start: bytes) -> str | None:
    """`nifti-1`, `nifti-2`, `pair` (a header whose voxels lie in another file), or None, by the first 540 bytes."""
    if start[4:12] == b"n+2\0\r\n\x1a\n":
        return "nifti-2"
    if start[4:8] == b"ni2\0" or start[344:348] == b"ni1\0":
        return "pair"
    return "nifti-1" if start[344:348] == b"n+1\0" else None


def parse_header(start: bytes, name: str) -> NiftiHeader:
    """Read and check the header of a single-file NIfTI-1 or NIfTI-2 in its first 540 bytes.

    Raises:
        SliceError: a field makes no sense, the voxels are no real numbers, or there are too many of them.
        UsageError: nibabel is not installed.
    """
    nib = library("nibabel", "NIfTI needs nibabel")
    kind = nib.Nifti2Header if kind_of(start) == "nifti-2" else nib.Nifti1Header
    if len(start) < kind.sizeof_hdr:
        raise SliceError(f"{name} ends within its header; copy it again")
    try:
        with np.errstate(all="ignore"):
            # Unchecked: nibabel's check changes some fields without a warning.
            header = kind(start[: kind.sizeof_hdr], check=False)
            return _checked(header, kind.sizeof_hdr, name)
    except SliceError:
        raise
    except Exception as error:  # noqa: BLE001 - nibabel raises many kinds on rubbish
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise SliceError(f"{name} has a damaged header ({reason}); copy it again") from None


def _checked(header: Any, header_bytes: int, name: str) -> NiftiHeader:
    shape, volumes = _shape(header, name)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:  # noqa: PLR2004
        raise SliceError(f"{name} holds {_voxels(dtype)}, wanted whole numbers or float32 or float64")
    least = header_bytes + 4  # four bytes say whether extensions follow
    offset = float(header["vox_offset"]) or least
    if not math.isfinite(offset) or offset < least or offset != int(offset):
        raise SliceError(f"{name} says its voxels begin at byte {offset:g}, wanted {least} or more; copy it again")
    slope, inter = header.get_slope_inter()
    if slope is None:
        slope, inter = 1.0, 0.0
    return NiftiHeader(shape, volumes, dtype, int(offset), slope, inter, *_affine(header, name), idle_intercept(header))


def _shape(header: Any, name: str) -> tuple[tuple[int, int, int], int]:
    dim = [int(each) for each in header["dim"]]
    if not 1 <= dim[0] <= 7:  # noqa: PLR2004
        raise SliceError(f"{name} says it has {dim[0]} dimensions, wanted 2 to 4; copy it again")
    sides = dim[1 : 1 + dim[0]]
    stated = " x ".join(map(str, sides))
    if min(sides) < 1:
        raise SliceError(f"{name} says it has {stated} voxels; copy it again")
    if len(sides) < 2 or any(side > 1 for side in sides[4:]):  # noqa: PLR2004
        raise SliceError(f"{name} has {stated} voxels, wanted 2 to 4 dimensions")
    i, j, k, volumes = [*sides, 1, 1][:4]
    check_shape((i, j, k), volumes, stated, name)
    return (i, j, k), volumes


def _voxels(dtype: np.dtype[Any]) -> str:
    if dtype.fields is not None:
        return "colours"
    return "complex numbers" if dtype.kind == "c" else f"voxels of type {dtype}"


def _affine(header: Any, name: str) -> tuple[NDArray[np.float64], str, tuple[str, ...]]:
    """Return the affine in mm, where it is from, and what sform and qform say differently."""
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    units = int(header["xyzt_units"]) & 7
    if units not in _MM_OF_UNIT:
        raise SliceError(f"{name} gives lengths in an unknown unit ({units}); write its header again")
    affine[:3] *= _MM_OF_UNIT[units]
    check_affine(affine, name)
    if sform is None:
        return affine, "none" if qform is None else "qform", ()
    return affine, "sform", tuple(disagreements(header, _MM_OF_UNIT[units]))
