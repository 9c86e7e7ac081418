"""Headers to series: what belongs together, in which order, upright, and what is odd about it."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.prepare.readers.base import GroupKind, RawSlice, SeriesFacts, SeriesNote
from ctpatch.prepare.readers.dicom import GroupBy
from ctpatch.prepare.readers.dicom.header import Axes, CtHeader
from ctpatch.prepare.readers.dicom.orientation import across_the_table
from ctpatch.prepare.readers.dicom.together import common_points

SAME_POSITION_MM = 0.01
_GAP = 1.5
"""A step this many times the usual one is a gap."""
_STEP_TOLERANCE_MM = 0.05
_SHIFT_TOLERANCE_MM = 0.1
_TILT_TOLERANCE_DEG = 0.1
SAME_ORIENTATION_DEG = 0.1
"""Directions that differ by less are one: over 400 mm that is 0.7 mm, less than a pixel."""
SAME_SPACING_MM = 0.001
"""Spacings that differ by less are one: over 512 pixels that is 0.5 mm, less than a pixel."""
_MOST_SCOUTS = 2
"""Places of scout views of one direction in a series: one, or another one where it was taken again."""
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
        position = _position(origin, axes)
    return Placed(turn, replace(header, shape=shape, spacing_mm=spacing, origin_mm=origin, axes=axes), position)


def _position(origin: tuple[float, float, float], axes: Axes) -> float:
    return round(float(np.dot(_normal(axes), np.array(origin))), 6) + 0.0


def _normal(axes: Axes) -> NDArray[np.float64]:
    normal = np.cross(np.array(axes[:3]), np.array(axes[3:]))
    return normal / math.hypot(*normal)  # cosines that are rounded are no unit vectors


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


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices that belong together, along their normal.

    Attributes:
        name: of the series, which tells it from all others of the source.
        slices: in order.
        orientations: in how many orientations the slices lie that the source has in one series.
    """

    name: str
    slices: list[Placed]
    orientations: int


def into_series(placed: Iterable[Placed], group_by: GroupBy) -> list[Stack]:
    """Slices by group and patient, series (or folder, where its id is blank), orientation, size, spacing and stack.

    They are sorted. Orientations and spacings that differ by rounding are one. Then all positions are taken along one
    normal.
    """
    together: dict[tuple[tuple[str, ...], str, tuple[int, int]], list[Placed]] = defaultdict(list)
    for each in placed:
        header = each.header
        series = header.series or f"folder {header.file.rpartition('/')[0]}"
        owners = tuple(dict.fromkeys((group_of(header, group_by)[0], patient_of(header, group_by)[0])))
        together[owners, series, header.shape].append(each)
    stacks: list[Stack] = []
    tolerance = 2 * math.sin(math.radians(SAME_ORIENTATION_DEG) / 2)  # between the ends of two directions
    for (owners, series, shape), members in together.items():
        axes_of = common_points((each.header.axes for each in members if each.header.axes), tolerance, vectors=2)
        spacing_of = common_points(
            (each.header.spacing_mm for each in members if each.header.spacing_mm), SAME_SPACING_MM
        )
        parts: dict[str, list[Placed]] = defaultdict(list)
        for each in members:
            axes = each.header.axes and axes_of[each.header.axes]
            spacing = each.header.spacing_mm and spacing_of[each.header.spacing_mm]
            name = (
                *owners,
                series,
                axes and tuple(round(value, 3) + 0.0 for value in axes),
                shape,
                spacing and tuple(round(value, 5) for value in spacing),
                *([each.header.stack] if each.header.stack else []),
            )
            parts[repr(name)].append(_along(each, axes))
        ordered = {name: sorted(slices, key=_order) for name, slices in parts.items()}
        firsts = (slices[0].header.axes for slices in ordered.values() if not is_scout(slices))
        count = len({axes_of[axes] for axes in firsts if axes is not None})
        stacks += (Stack(name, slices, count) for name, slices in ordered.items())
    return sorted(stacks, key=lambda each: each.name)


def _along(each: Placed, axes: Axes | None) -> Placed:
    """The slice with its position along the normal of its series, not along its own."""
    if axes is None or axes == each.header.axes or each.header.origin_mm is None:
        return each
    return replace(each, position_mm=_position(each.header.origin_mm, axes))


def _order(each: Placed) -> tuple[bool, float, float, str, int]:
    """Along the normal; by number where no position is known; by name where nothing else tells."""
    position, number = each.position_mm, each.header.number
    return (
        position is None,
        position or 0.0,
        math.inf if number is None else number,
        each.header.file,
        each.header.frame,
    )


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


def is_scout(series: list[Placed]) -> bool:
    """Whether a series is a scout view that does not say so: images along the patient at one place or two, not derived.

    A CT scans slices across the patient; planes along the patient come from scout views and reformats.
    """
    axes = series[0].header.axes
    if axes is None or not across_the_table(axes) or any(each.header.derived for each in series):
        return False
    return len({each.position_mm for each in series}) <= _MOST_SCOUTS


def oddities(name: str, series: list[Placed], orientations: int = 1) -> Iterator[SeriesNote]:
    """What a user should know of a series: odd headers, gaps, mixed spacing, tilt, turned or not axial, no position."""
    first, count = series[0], len(series)
    others = sum(len(run) - 1 for run in same_position(series))
    if others:
        message = f"{others} slices lie where another one lies and have other pixels; all are kept"
        yield SeriesNote("same-position", name, message)
    if orientations > 1:
        message = (
            f"its source has slices of {orientations} orientations in one series, which differ by more than "
            f"{SAME_ORIENTATION_DEG:g} degrees; each is a series of its own"
        )
        yield SeriesNote("several-orientations", name, message)
    for remark, said in sorted(Counter(remark for each in series for remark in each.header.remarks).items()):
        yield SeriesNote(remark.kind, name, f"{remark.message} ({said} of {count} slices)")
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


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps between slices of a series that lie apart, in mm: all, the usual one, and those that are gaps."""

    all: list[float]
    usual: float
    gaps: list[float]

    @classmethod
    def between(cls, positions: Sequence[float]) -> "Steps | None":
        """Those between positions in order; None where no two slices lie apart."""
        steps = [step for before, after in pairwise(positions) if (step := after - before) >= SAME_POSITION_MM]
        if not steps:
            return None
        usual = statistics.median(steps)
        return cls(steps, usual, [step for step in steps if step > _GAP * usual])

    @property
    def missing(self) -> int:
        """About how many slices the gaps have room for."""
        return sum(max(round(step / self.usual) - 1, 1) for step in self.gaps)


def _step_notes(name: str, positions: list[float]) -> Iterator[SeriesNote]:
    steps = Steps.between(positions)
    if steps is None:
        return
    usual, gaps = steps.usual, steps.gaps
    if gaps:
        yield SeriesNote(
            "gap", name, f"{len(gaps)} gaps: steps of up to {max(gaps):g} mm where {usual:g} mm is usual; about "
            f"{steps.missing} slices are missing"
        )  # fmt: skip
    others = [step for step in steps.all if step <= _GAP * usual and abs(step - usual) > _STEP_TOLERANCE_MM]
    if others:
        yield SeriesNote(
            "mixed-spacing", name, f"steps between slices run from {min(steps.all):g} to {max(steps.all):g} mm, most "
            f"are {usual:g} mm"
        )  # fmt: skip


def series_facts(series: list[Placed]) -> SeriesFacts:
    """What the headers of a series say for the user's eyes: those of the first slice, and the thickness of all."""
    first = series[0].header
    kernel = first.kernel
    description = next((each for each in first.names if each != kernel), "")
    thick = {each.header.thickness_mm for each in series}
    return SeriesFacts(description, kernel, thick.pop() if len(thick) == 1 else None)


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
            item=header.frame,
            shape=header.shape,
            group=group,
            group_kind=kind,
            series=name,
            order=order,
            position_mm=each.position_mm,
            spacing_mm=header.spacing_mm,
            label=" ".join(header.names),
            names=header.names,
            origin_mm=header.origin_mm,
            axes=header.axes,
            patient=None if patient == group else patient,
            patient_kind=None if patient == group else patient_kind,
            known_as=header.known_as,
        )
