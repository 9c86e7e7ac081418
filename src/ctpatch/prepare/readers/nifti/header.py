"""What a NIfTI file says of itself, checked before a pixel of it is read.

Formats: NIfTI-1 (nifti1.h, R. W. Cox et al., 2004) and NIfTI-2 (2011). World coordinates are those of NIfTI, in mm:
+x is the patient's right, +y the front, +z the head. DICOM's point left and back instead of right and front.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.extras import library
from ctpatch.prepare.readers.nifti.agreement import disagreements, idle_intercept

HEADER_BYTES = 540
"""Of NIfTI-2; NIfTI-1 takes 348."""

MAX_PLANE_PIXELS = 4096**2
"""Most pixels of a plane of the file, and of a slice."""

MAX_SLICES = 100_000
"""Most slices of a file."""

_MM_OF_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units & 7: not said, metre, millimetre, micrometre
_SMALLEST_VOLUME = 1e-3  # of a cell against that of a box with its edges; below, its axes lie in one plane
_SMALLEST_MM, _LARGEST_MM = 1e-4, 1e3

RIGHT, FRONT, HEAD = range(3)


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

    @property
    def total_bytes(self) -> int:
        """Size of the file, uncompressed."""
        return self.offset + math.prod(self.shape) * self.volumes * self.dtype.itemsize


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
            # Unchecked: nibabel's check mends some fields in silence.
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
    largest = max(i * j, i * k, j * k)
    if largest > MAX_PLANE_PIXELS or max(i, j, k) * volumes > MAX_SLICES:
        raise SliceError(
            f"{name} says it has {stated} voxels; wanted at most {MAX_PLANE_PIXELS} in a plane and {MAX_SLICES} slices"
        )
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
    if not np.isfinite(affine).all():
        raise SliceError(f"{name} does not say where its voxels lie: its affine is not finite; write its header again")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if edges.min() < _SMALLEST_MM or edges.max() > _LARGEST_MM:
        stated = " x ".join(f"{edge:g}" for edge in edges)
        raise SliceError(f"{name} has voxels of {stated} mm, wanted {_SMALLEST_MM} to {_LARGEST_MM:g} mm")
    if abs(np.linalg.det(affine[:3, :3] / edges)) < _SMALLEST_VOLUME:
        raise SliceError(f"{name} has axes that lie in one plane; write its header again")
    if sform is None:
        return affine, "none" if qform is None else "qform", ()
    return affine, "sform", tuple(disagreements(header, _MM_OF_UNIT[units]))


@dataclass(frozen=True, slots=True)
class AxialGrid:
    """How axial slices lie in a file: rows from front to back, columns from the patient's right, slices from the feet.

    That is how radiologists look at them, the front on top and the patient's right on the picture's left.

    Attributes:
        axes: the file's axis (0, 1, 2 for i, j, k) of rows, of columns, of slices.
        reversed_: whether that axis of the file runs the other way.
        counts: rows, columns, slices.
        spacing_mm: of pixel centres, `(row, col)`.
        origin_mm: centre of the first pixel of the first slice, in DICOM's world.
        step_mm: from slice to slice, in DICOM's world.
        cosines: direction of the columns' numbers, then of the rows', in DICOM's world.
        tilt_degrees: between the slices and the axial plane.
    """

    axes: tuple[int, int, int]
    reversed_: tuple[bool, bool, bool]
    counts: tuple[int, int, int]
    spacing_mm: tuple[float, float]
    origin_mm: tuple[float, float, float]
    step_mm: tuple[float, float, float]
    cosines: tuple[float, float, float, float, float, float]
    tilt_degrees: float

    def origin(self, number: int) -> tuple[float, float, float]:
        """Centre of the first pixel of a slice, in DICOM's world."""
        x, y, z = (start + number * step for start, step in zip(self.origin_mm, self.step_mm, strict=True))
        return x, y, z

    def position(self, number: int) -> float:
        """Place of a slice along the normal of the slices, growing towards the head."""
        normal = np.cross(self.cosines[:3], self.cosines[3:])
        return round(float(np.dot(self.origin(number), normal)), 6)


def axial_grid(header: NiftiHeader) -> AxialGrid:
    """Find the axes of the file that come closest to back, left and head; SliceError where none do."""
    import nibabel as nib  # noqa: PLC0415

    found = nib.io_orientation(header.affine)
    if np.isnan(found).any():
        raise SliceError("its axes cannot be told apart; write its header again")
    axis_of = {int(world): (axis, direction > 0) for axis, (world, direction) in enumerate(found)}
    # Rows grow to the back and columns to the left, against the world's axes; slices to the head, along it.
    (rows, to_front), (cols, to_right), (planes, to_head) = axis_of[FRONT], axis_of[RIGHT], axis_of[HEAD]
    axes, turned = (rows, cols, planes), (to_front, to_right, not to_head)
    counts = (header.shape[rows], header.shape[cols], header.shape[planes])
    first = np.ones(4)
    first[list(axes)] = np.where(turned, np.subtract(counts, 1), 0)
    to_dicom = np.array([-1.0, -1.0, 1.0])
    down, across, ahead = (header.affine[:3, list(axes)] * np.where(turned, -1.0, 1.0)).T * to_dicom
    # Headers hold float32: 0.9 mm is to read as 0.9.
    spacing = (round(float(np.linalg.norm(down)), 6), round(float(np.linalg.norm(across)), 6))
    down_unit, across_unit = down / np.linalg.norm(down), across / np.linalg.norm(across)
    normal = np.cross(across_unit, down_unit)
    tilt = math.degrees(math.acos(min(1.0, float(normal[2] / np.linalg.norm(normal)))))
    origin = (header.affine @ first)[:3] * to_dicom
    return AxialGrid(
        axes=axes,
        reversed_=turned,
        counts=counts,
        spacing_mm=spacing,
        origin_mm=_three(origin),
        step_mm=_three(ahead),
        cosines=(*_three(across_unit), *_three(down_unit)),
        tilt_degrees=tilt,
    )


def _three(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(each) + 0.0 for each in vector)  # + 0.0: no minus before zero
    return x, y, z
