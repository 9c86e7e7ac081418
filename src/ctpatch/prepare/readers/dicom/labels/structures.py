"""RT structure sets: closed contours in the planes of slices, filled by pixel centres."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.polygons import fill_even_odd
from ctpatch.prepare.readers.dicom.file import FileProblemError
from ctpatch.prepare.readers.dicom.labels.grids import Grid
from ctpatch.prepare.readers.dicom.labels.opening import FITS_MM, instances_in, referenced

MAX_POINTS = 5_000_000
"""Of all contours of a structure set; those of a patient have a hundred thousand."""
MAX_SLICE_POINTS = 500_000
"""Of one ROI on one slice."""
_MAX_NUMBER_BYTES = 32
_CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
Points = NDArray[np.float64]


class Structures:
    """A structure set; its attributes are those of `Segmentation`, its segments are the ROIs.

    Attributes:
        other_contours: how many contours mark no area, such as points and open lines; they are not used.

    Raises:
        FileProblemError: it contradicts itself, or has more points than any patient.
    """

    def __init__(self, dataset: Any) -> None:
        self.series, self.instances = referenced(dataset)
        frames = {str(each.get("FrameOfReferenceUID") or "") for each in
                  dataset.get("ReferencedFrameOfReferenceSequence") or []}  # fmt: skip
        self.names: dict[int, str] = {}
        for roi in dataset.get("StructureSetROISequence") or []:
            number = int(roi.ROINumber)
            if number in self.names:
                raise FileProblemError("damaged", f"it has two ROIs of number {number}")
            self.names[number] = str(roi.get("ROIName") or "")
            frames.add(str(roi.get("ReferencedFrameOfReferenceUID") or ""))
        frames.discard("")
        if len(frames) > 1:
            raise FileProblemError("other-frame", f"its ROIs are in {len(frames)} frames of reference, wanted one")
        self.frame_of_reference = next(iter(frames), "")
        self.other_contours = Counter[str]()
        self._contours: list[tuple[int, Points]] = []
        self._sources: list[frozenset[str]] = []
        self._read_contours(dataset)
        self.instances = self.instances.union(*self._sources)
        self.only_marked = not (self.series or self.instances)

    def _read_contours(self, dataset: Any) -> None:
        total = 0
        for roi in dataset.get("ROIContourSequence") or []:
            number = int(roi.ReferencedROINumber)
            if number not in self.names:
                raise FileProblemError("damaged", f"it has contours of ROI {number}, which is not described")
            for contour in roi.get("ContourSequence") or []:
                kind = str(contour.get("ContourGeometricType") or "")
                if kind not in _CLOSED:
                    self.other_contours["of another kind than CLOSED_PLANAR"] += 1
                    continue
                points = _points(contour, MAX_POINTS - total)
                total += len(points)
                if len(points) < 3:  # noqa: PLR2004
                    self.other_contours["of fewer than three points"] += 1
                    continue
                self._contours.append((number, points))
                self._sources.append(instances_in(contour, "ContourImageSequence"))

    def unfit(self, images: Sequence[tuple[str, Grid]]) -> tuple[str | None, int]:
        """Why its contours do not fit the slices that it covers, and how many are of slices that are not there."""
        normal = images[0][1].normal
        along = np.stack([grid.origin for _, grid in images]) @ normal
        places = {instance: place for place, (instance, _) in enumerate(images)}
        absent = 0
        for (number, points), sources in zip(self._contours, self._sources, strict=True):
            heights = points @ normal
            away = np.abs(along - heights[0])
            nearest = int(away.argmin())
            if away[nearest] > FITS_MM and sources and not sources & set(places):
                absent += 1
                continue
            far = float(np.abs(heights - along[nearest]).max())
            if far > FITS_MM:
                return f"a contour of its ROI {number} lies {far:.2f} mm from the plane of the nearest slice", absent
            named = [places[each] for each in sources if each in places]
            if named and all(abs(along[each] - along[nearest]) > FITS_MM for each in named):
                return f"a contour of its ROI {number} lies on another slice than the one that it names", absent
        return None, absent

    def marks(self, grid: Grid) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """The ROIs with contours on a slice, and their pixels `(H, W)`.

        Raises:
            FileProblemError: one has more points than any organ on a slice.
        """
        here: dict[int, list[Points]] = {}
        normal = grid.normal
        for number, points in self._contours:
            if abs((points[0] - grid.origin) @ normal) <= FITS_MM:
                here.setdefault(number, []).append(grid.places(points)[0])
        for number, contours in here.items():
            if sum(map(len, contours)) > MAX_SLICE_POINTS:
                reason = f"its ROI {number} has more than {MAX_SLICE_POINTS} points on one slice"
                raise FileProblemError("too-large", reason)
            yield number, fill_even_odd(contours, grid.shape)


def _points(contour: Any, at_most: int) -> Points:
    """The points `(N, 3)` in mm, from the bytes of the tag: an object for each of millions of numbers is too many."""
    element = contour.get_item("ContourData")
    raw = None if element is None else element.value
    if not isinstance(raw, bytes):
        raw = b"\\".join(str(each).encode() for each in raw or [])
    if len(raw) > at_most * 3 * _MAX_NUMBER_BYTES or raw.count(b"\\") + 1 > at_most * 3:
        raise FileProblemError("too-large", f"its contours have more than {MAX_POINTS} points")
    try:
        numbers = np.array(raw.strip(b"\0 ").split(b"\\") if raw.strip(b"\0 ") else [], dtype="S32").astype(np.float64)
    except ValueError:
        raise FileProblemError("damaged", "its contours hold something else than numbers") from None
    said = contour.get("NumberOfContourPoints")
    if len(numbers) % 3 or (said is not None and int(said) * 3 != len(numbers)):
        reason = f"a contour says {said} points and holds {len(numbers)} numbers, wanted three for each point"
        raise FileProblemError("damaged", reason)
    if not (np.abs(numbers) < 1e6).all():  # noqa: PLR2004 - a kilometre; false for NaN
        raise FileProblemError("damaged", "its contours have points that are nowhere in a patient")
    return numbers.reshape(-1, 3)
