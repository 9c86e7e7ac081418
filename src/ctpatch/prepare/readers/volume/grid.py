"""How a volume lies: its voxels in the patient, and the axial slices in it.

The world of affines is that of NIfTI, in mm: +x is the patient's right, +y the front, +z the head. DICOM's points left
and back instead of right and front.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.extras import library

MAX_PLANE_PIXELS = 4096**2
"""Most pixels of a plane of the file, and of a slice."""

MAX_SLICES = 100_000
"""Most slices of a file."""

TO_DICOM = np.array([-1.0, -1.0, 1.0])
"""From NIfTI's world to DICOM's, and back."""

RIGHT, FRONT, HEAD = range(3)

_SMALLEST_VOLUME = 1e-3  # of a cell against that of a box with its edges; below, its axes lie in one plane
_SMALLEST_MM, _LARGEST_MM = 1e-4, 1e3

Affine = NDArray[np.float64]


def check_shape(shape: tuple[int, int, int], volumes: int, stated: str, name: str) -> None:
    """Raise SliceError for more voxels than any scan has; `stated` is how the header gives their number."""
    i, j, k = shape
    if max(i * j, i * k, j * k) > MAX_PLANE_PIXELS or max(shape) * volumes > MAX_SLICES:
        raise SliceError(
            f"{name} says it has {stated} voxels; wanted at most {MAX_PLANE_PIXELS} in a plane and {MAX_SLICES} slices"
        )


def check_affine(affine: Affine, name: str) -> None:
    """Raise SliceError for an affine `(4, 4)` in mm that places nothing."""
    if not np.isfinite(affine).all():
        raise SliceError(f"{name} does not say where its voxels lie: its affine is not finite; write its header again")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if edges.min() < _SMALLEST_MM or edges.max() > _LARGEST_MM:
        stated = " x ".join(f"{edge:g}" for edge in edges)
        raise SliceError(f"{name} has voxels of {stated} mm, wanted {_SMALLEST_MM} to {_LARGEST_MM:g} mm")
    if abs(np.linalg.det(affine[:3, :3] / edges)) < _SMALLEST_VOLUME:
        raise SliceError(f"{name} has axes that lie in one plane; write its header again")


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


def axial_grid(shape: tuple[int, int, int], affine: Affine) -> AxialGrid:
    """Find the axes of the file that come closest to back, left and head.

    Args:
        shape: voxels along the file's axes, `(i, j, k)`.
        affine: `(4, 4)`, from `(i, j, k)` to the world in mm.

    Raises:
        SliceError: no axes of the file come close to them.
        UsageError: nibabel is not installed.
    """
    nib = library("nibabel", "volumes need nibabel")
    found = nib.io_orientation(affine)
    if np.isnan(found).any():
        raise SliceError("its axes cannot be told apart; write its header again")
    axis_of = {int(world): (axis, direction > 0) for axis, (world, direction) in enumerate(found)}
    # Rows grow to the back and columns to the left, against the world's axes; slices to the head, along it.
    (rows, to_front), (cols, to_right), (planes, to_head) = axis_of[FRONT], axis_of[RIGHT], axis_of[HEAD]
    axes, turned = (rows, cols, planes), (to_front, to_right, not to_head)
    counts = (shape[rows], shape[cols], shape[planes])
    first = np.ones(4)
    first[list(axes)] = np.where(turned, np.subtract(counts, 1), 0)
    down, across, ahead = (affine[:3, list(axes)] * np.where(turned, -1.0, 1.0)).T * TO_DICOM
    # Headers hold float32: 0.9 mm is to read as 0.9.
    spacing = (round(float(np.linalg.norm(down)), 6), round(float(np.linalg.norm(across)), 6))
    down_unit, across_unit = down / np.linalg.norm(down), across / np.linalg.norm(across)
    normal = np.cross(across_unit, down_unit)
    tilt = math.degrees(math.acos(min(1.0, float(normal[2] / np.linalg.norm(normal)))))
    origin = (affine @ first)[:3] * TO_DICOM
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
