"""Headers to series: what belongs together, in which order, upright, and what is odd about it."""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.prepare.readers.base import GroupKind, RawSlice, SeriesNote
from ctpatch.prepare.readers.dicom import GroupBy
from ctpatch.prepare.readers.dicom.header import Axes, CtHeader

SAME_POSITION_MM = 0.01
_GAP = 1.5
"""A step this many times the usual one is a gap."""
_STEP_TOLERANCE_MM = 0.05
_SHIFT_TOLERANCE_MM = 0.1
_TILT_TOLERANCE_DEG = 0.1
_DOMINANT = 0.8
"""A cosine of at least this: the direction is that axis, gantry tilts of up to 36 degrees included."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What makes a stored image upright: transposed, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_cols: bool = False

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """Turn an image `(H, W)`."""
        turned = image.T if self.transpose else image
        if self.flip_rows:
            turned = turned[::-1]
        return turned[:, ::-1] if self.flip_cols else turned

    def __bool__(self) -> bool:
        return self.transpose or self.flip_rows or self.flip_cols


@dataclass(frozen=True, slots=True)
class Placed:
    """How an image is turned, its header as it is for the turned image, and its position along the normal."""

    turn: Turn
    header: CtHeader
    position_mm: float | None


def upright_turn(axes: Axes | None) -> Turn | None:
    """The turn after which columns run to the patient's left and rows to the back; None for slices not axial."""
    if axes is None:
        return Turn()
    a, b = axes[:3], axes[3:]
    if abs(a[0]) >= _DOMINANT and abs(b[1]) >= _DOMINANT:
        return Turn(flip_rows=b[1] < 0, flip_cols=a[0] < 0)
    if abs(a[1]) >= _DOMINANT and abs(b[0]) >= _DOMINANT:
        return Turn(transpose=True, flip_rows=a[1] < 0, flip_cols=b[0] < 0)
    return None


def place(header: CtHeader, *, keep_orientation: bool) -> Placed:
    """Where the image lies once it is upright."""
    turn = Turn() if keep_orientation else upright_turn(header.axes) or Turn()
    shape, spacing, origin, axes = header.shape, header.spacing_mm, header.origin_mm, header.axes
    if turn.transpose:
        shape = shape[::-1]
        spacing = spacing and spacing[::-1]
        axes = axes and (*axes[3:], *axes[:3])
    if axes is not None:
        along_cols, along_rows = np.array(axes[:3]), np.array(axes[3:])
        if origin is not None and spacing is not None:
            corner = np.array(origin)
            corner += along_cols * (spacing[1] * (shape[1] - 1) * turn.flip_cols)
            corner += along_rows * (spacing[0] * (shape[0] - 1) * turn.flip_rows)
            origin = (float(corner[0]), float(corner[1]), float(corner[2]))
        a = (-along_cols if turn.flip_cols else along_cols).tolist()
        b = (-along_rows if turn.flip_rows else along_rows).tolist()
        axes = (a[0], a[1], a[2], b[0], b[1], b[2])
    position = header.location_mm
    if origin is not None and axes is not None:
        position = round(float(np.dot(_normal(axes), np.array(origin))), 6) + 0.0
    return Placed(turn, replace(header, shape=shape, spacing_mm=spacing, origin_mm=origin, axes=axes), position)


def _normal(axes: Axes) -> NDArray[np.float64]:
    return np.cross(np.array(axes[:3]), np.array(axes[3:]))


def group_of(header: CtHeader, group_by: GroupBy) -> tuple[str, GroupKind]:
    """What must not be divided: as asked, or the next that is known."""
    folder = header.file.rpartition("/")[0]
    chain: dict[GroupBy, tuple[GroupKind, str]] = {
        "patient": ("patient", header.patient),
        "study": ("study", header.study),
        "series": ("series", header.series),
        "folder": ("folder", folder or "."),
        "top-folder": ("folder", folder.partition("/")[0] or "."),
    }
    names = list(chain)[list(chain).index(group_by) :]
    kind, name = next(chain[each] for each in names if chain[each][1])
    return (name if kind == "patient" else f"{kind} {name}"), kind


def patient_of(header: CtHeader, group_by: GroupBy) -> tuple[str, GroupKind]:
    """Whose slice it is: the patient; without an id the study, which is of one patient alone; else the group.

    Where ids are blank, a top folder is the user's own word for a patient, who can have several studies.
    """
    found, kind = group_of(header, "patient")
    known = kind == "patient" or (kind == "study" and group_by != "top-folder")
    return (found, kind) if known else group_of(header, group_by)


def into_series(placed: Iterable[Placed], group_by: GroupBy) -> dict[str, list[Placed]]:
    """Slices by group and patient, series (or folder, where its id is blank), orientation, size and spacing; sorted."""
    series: dict[str, list[Placed]] = {}
    for each in placed:
        header = each.header
        folder = header.file.rpartition("/")[0]
        parts = (
            *dict.fromkeys((group_of(header, group_by)[0], patient_of(header, group_by)[0])),
            header.series or f"folder {folder}",
            None if header.axes is None else tuple(round(value, 3) + 0.0 for value in header.axes),
            header.shape,
            None if header.spacing_mm is None else tuple(round(value, 5) for value in header.spacing_mm),
        )
        series.setdefault(repr(parts), []).append(each)
    return {name: sorted(series[name], key=_order) for name in sorted(series)}


def _order(each: Placed) -> tuple[bool, float, float, str]:
    """Along the normal; by number where no position is known; by name where nothing else tells."""
    position, number = each.position_mm, each.header.number
    return position is None, position or 0.0, math.inf if number is None else number, each.header.file


def same_position(series: list[Placed]) -> list[list[Placed]]:
    """Runs of two and more slices that lie at one place."""
    runs = [[each] for each in series[:1]]
    for one, other in pairwise(series):
        here, there = one.position_mm, other.position_mm
        if here is not None and there is not None and abs(here - there) < SAME_POSITION_MM:
            runs[-1].append(other)
        else:
            runs.append([other])
    return [run for run in runs if len(run) > 1]


def oddities(name: str, series: list[Placed]) -> Iterator[SeriesNote]:
    """What a user should know of a series: gaps, mixed spacing, tilt, turned or not axial, no position."""
    first, count = series[0], len(series)
    if first.turn:
        yield SeriesNote("turned", name, f"the patient lay prone or on a side: slices were made upright ({count})")
    if first.header.axes is not None and upright_turn(first.header.axes) is None:
        yield SeriesNote("not-axial", name, f"its slices are not axial ({count}); they are kept as they lie")
    positions = [each.position_mm for each in series if each.position_mm is not None]
    if len(positions) < count:
        yield SeriesNote("no-position", name, f"{count - len(positions)} of {count} slices do not say where they lie")
    yield from _step_notes(name, positions)
    tilts = [abs(each.header.tilt_deg) for each in series]
    shift = _largest_shift(series)
    if max(tilts) > _TILT_TOLERANCE_DEG:
        yield SeriesNote("tilt", name, f"the gantry is tilted by {max(tilts):g} degrees")
    elif shift > _SHIFT_TOLERANCE_MM:
        yield SeriesNote("tilt", name, f"neighbouring slices are shifted by up to {shift:.2f} mm within their plane")


def _step_notes(name: str, positions: list[float]) -> Iterator[SeriesNote]:
    steps = [step for before, after in pairwise(positions) if (step := after - before) >= SAME_POSITION_MM]
    if not steps:
        return
    usual = statistics.median(steps)
    gaps = [step for step in steps if step > _GAP * usual]
    if gaps:
        missing = sum(max(round(step / usual) - 1, 1) for step in gaps)
        yield SeriesNote(
            "gap", name, f"{len(gaps)} gaps: steps of up to {max(gaps):g} mm where {usual:g} mm is usual; about "
            f"{missing} slices are missing"
        )  # fmt: skip
    others = [step for step in steps if step <= _GAP * usual and abs(step - usual) > _STEP_TOLERANCE_MM]
    if others:
        yield SeriesNote(
            "mixed-spacing", name, f"steps between slices run from {min(steps):g} to {max(steps):g} mm, most are "
            f"{usual:g} mm"
        )  # fmt: skip


def _largest_shift(series: list[Placed]) -> float:
    largest = 0.0
    for one, other in pairwise(series):
        if one.header.origin_mm is None or other.header.origin_mm is None or one.header.axes is None:
            continue
        step = np.array(other.header.origin_mm) - np.array(one.header.origin_mm)
        normal = _normal(one.header.axes)
        largest = max(largest, float(np.linalg.norm(step - normal * np.dot(step, normal))))
    return largest


def raw_slices(name: str, series: list[Placed], group_by: GroupBy) -> Iterator[RawSlice]:
    """The records of a series' slices, in order."""
    for order, each in enumerate(series):
        header = each.header
        (group, kind), (patient, patient_kind) = group_of(header, group_by), patient_of(header, group_by)
        yield RawSlice(
            file=header.file,
            item=0,
            shape=header.shape,
            group=group,
            group_kind=kind,
            series=name,
            order=order,
            position_mm=each.position_mm,
            spacing_mm=header.spacing_mm,
            label=header.label,
            origin_mm=header.origin_mm,
            axes=header.axes,
            patient=None if patient == group else patient,
            patient_kind=None if patient == group else patient_kind,
        )
