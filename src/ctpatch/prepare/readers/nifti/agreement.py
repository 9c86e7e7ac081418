"""Whether what a NIfTI header says twice agrees: sform, qform and voxel sizes; slope and intercept.

The sform is used, whatever else a header says, as nibabel and most tools do.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH_TOLERANCE = 1e-3
"""Of a voxel's edge: over 512 voxels that is half a voxel, and sizes written with four digits still pass."""
_ANGLE_TOLERANCE_DEG = 0.1
"""Over 400 mm that is 0.7 mm, less than a voxel; the float32 numbers of a quaternion are good for 0.03."""
_PLACE_TOLERANCE_MM = 0.1
"""What slices of two series may be apart to be partners; places written with one digit still pass."""

Affine = NDArray[np.float64]


def disagreements(header: Any, mm: float) -> Iterator[str]:
    """What sform and qform, or sform and voxel sizes, say differently, as ends of a sentence.

    Args:
        header: a nibabel header that has an sform.
        mm: millimetres in its unit of length.
    """
    sform, _ = header.get_sform(coded=True)
    qform, _ = header.get_qform(coded=True)
    if sform is None:
        return
    shape = [int(each) for each in header["dim"][1:4]]
    sizes = np.array([float(each) for each in header["pixdim"][1:4]])
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    # An axis with one voxel has no steps, and some tools leave its size 0.
    meant = [axis for axis in range(3) if shape[axis] > 1 and math.isfinite(sizes[axis]) and sizes[axis] > 0]
    if any(abs(sizes[axis] / edges[axis] - 1) > _LENGTH_TOLERANCE for axis in meant):
        yield f"voxels of {_sizes(edges * mm)} mm against {_sizes(sizes * mm)} mm (pixdim)"
    if qform is None or not np.isfinite(qform).all():
        return
    angle = _largest_angle(sform, qform)
    if angle > _ANGLE_TOLERANCE_DEG:
        yield f"axes that differ by {angle:.1f} degrees"
    apart = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3])) * mm
    if apart > _PLACE_TOLERANCE_MM:
        yield f"first voxels that lie {apart:.1f} mm apart"


def _sizes(edges: NDArray[np.float64]) -> str:
    return " x ".join(f"{edge:.4g}" for edge in edges)


def _largest_angle(one: Affine, other: Affine) -> float:
    """Between the same axes, in degrees."""
    a, b = (each[:3, :3] / np.linalg.norm(each[:3, :3], axis=0) for each in (one, other))
    return math.degrees(2 * math.asin(min(float(np.linalg.norm(a - b, axis=0).max()) / 2, 1.0)))


def idle_intercept(header: Any) -> float | None:
    """An intercept that does nothing, since the slope that belongs to it is 0 or no number; None where all is well."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    idle = (slope == 0 or not math.isfinite(slope)) and math.isfinite(inter) and inter != 0
    return inter if idle else None
