"""DICOM segmentations: frames of marks, laid on the slices they were drawn on, pixel on pixel or not at all."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.prepare.geometry import MAX_RAW_PIXELS
from ctpatch.prepare.readers.dicom.file import FileProblemError
from ctpatch.prepare.readers.dicom.labels.grids import Grid
from ctpatch.prepare.readers.dicom.labels.opening import FITS_MM, LABEL_MAP, instances_in, referenced, vector

_MAX_FRAMES = 100_000


class Segmentation:
    """A segmentation: one segment a frame (`BINARY`, `FRACTIONAL`), or segment numbers as values (`LABELMAP`).

    Attributes:
        names: segment numbers and what the segments are called.
        frame_of_reference: id of the coordinates.
        series, instances: ids of what the object says it is about.
        only_marked: whether it covers no more slices than those it has frames for.

    Raises:
        FileProblemError: it contradicts itself, or is of a kind that needs a decision.
    """

    def __init__(self, dataset: Any, fraction: float | None) -> None:
        self._dataset = dataset
        kind = str(dataset.get("SegmentationType") or "")
        self._kind = "LABELMAP" if dataset.SOPClassUID == LABEL_MAP else kind
        self._fraction = fraction
        self._largest = float(dataset.get("MaximumFractionalValue") or 255)
        if self._kind == "FRACTIONAL" and fraction is None:
            reason = "its segments are fractions, not labels; --fraction 0.5 marks pixels of at least half"
            raise FileProblemError("fractional", reason)
        if self._kind not in {"BINARY", "FRACTIONAL", "LABELMAP"}:
            raise FileProblemError("damaged", "its SegmentationType is none of BINARY, FRACTIONAL and LABELMAP")
        self.names = {
            int(each.SegmentNumber): str(each.get("SegmentLabel") or "")
            for each in dataset.get("SegmentSequence") or []
            if int(each.SegmentNumber) != 0  # of label maps: the background
        }
        self.frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
        self.series, self.instances = referenced(dataset)
        self._shape, self._bits = self._pixels()
        self._grids: list[Grid] = []
        self._segments: list[int] = []
        self._sources: list[frozenset[str]] = []
        self._read_frames()
        self.only_marked = not (self.series or self.instances)

    def _pixels(self) -> tuple[tuple[int, int], int]:
        dataset = self._dataset
        shape, bits = (int(dataset.Rows), int(dataset.Columns)), int(dataset.BitsAllocated)
        frames = int(dataset.get("NumberOfFrames") or 1)
        wanted = {"BINARY": (1,), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}[self._kind]
        if not (min(shape) >= 1 and max(shape) <= MAX_RAW_PIXELS and 1 <= frames <= _MAX_FRAMES):
            reason = f"it says {frames} frames of {shape[0]}x{shape[1]} pixels, wanted at most {_MAX_FRAMES} frames of "
            raise FileProblemError("too-large", f"{reason}{MAX_RAW_PIXELS} pixels on a side")
        if bits not in wanted or int(dataset.get("SamplesPerPixel") or 1) != 1:
            raise FileProblemError("bits", f"its BitsAllocated is {bits}, wanted {wanted[-1]} for {self._kind}")
        promised = (frames * shape[0] * shape[1] * bits + 7) // 8
        held = len(dataset.get("PixelData") or b"")
        if held < promised:
            raise FileProblemError("damaged", f"its header promises {promised} bytes of pixels, it holds {held}")
        return shape, bits

    def _read_frames(self) -> None:
        dataset = self._dataset
        own = dataset.get("PerFrameFunctionalGroupsSequence") or []
        if len(own) != int(dataset.get("NumberOfFrames") or 1):
            raise FileProblemError("damaged", f"it describes {len(own)} frames, its NumberOfFrames says otherwise")
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]

        def group(frame: Any, name: str) -> Any:
            for where in (frame, shared):
                if where is not None and where.get(name):
                    return where[name][0]
            raise FileProblemError("no-geometry", f"a frame of it has no {name}")

        for frame in own:
            origin = vector(group(frame, "PlanePositionSequence").get("ImagePositionPatient"), 3)
            axes = vector(group(frame, "PlaneOrientationSequence").get("ImageOrientationPatient"), 6)
            spacing = vector(group(frame, "PixelMeasuresSequence").get("PixelSpacing"), 2)
            self._grids.append(Grid(origin, axes[3:] * spacing[0], axes[:3] * spacing[1], self._shape))
            segment = 0
            if self._kind != "LABELMAP":
                segment = int(group(frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
                if segment not in self.names:
                    raise FileProblemError("damaged", f"a frame is of segment {segment}, which is not described")
            self._segments.append(segment)
            derived = frame.get("DerivationImageSequence") or []
            self._sources.append(frozenset().union(*(instances_in(each, "SourceImageSequence") for each in derived)))
        self.instances = self.instances.union(*self._sources)

    def unfit(self, images: Sequence[tuple[str, Grid]]) -> tuple[str | None, int]:
        """Why its frames do not fit the slices that it covers, and how many are of slices that are not there."""
        origins = np.stack([grid.origin for _, grid in images])
        normal = images[0][1].normal
        along = origins @ normal
        known = {instance for instance, _ in images}
        absent = 0
        for number, (grid, sources) in enumerate(zip(self._grids, self._sources, strict=True), 1):
            away = np.abs(along - grid.origin @ normal)
            nearest = int(away.argmin())
            if away[nearest] > FITS_MM:
                if sources and not sources & known:
                    absent += 1
                    continue
                return f"its frame {number} lies {away[nearest]:.2f} mm from the nearest slice of the series", absent
            if images[nearest][1].turn_from(grid) is None:
                return f"the pixels of its frame {number} do not lie on those of the slice: another grid", absent
        return None, absent

    def marks(self, grid: Grid) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """The segments with marks on a slice, and their pixels `(H, W)`.

        Raises:
            FileProblemError: a frame does not fit, a segment is there twice, or a value is no segment.
        """
        seen: set[int] = set()
        normal = grid.normal
        away = np.abs((np.stack([each.origin for each in self._grids]) - grid.origin) @ normal)
        for number in np.flatnonzero(away <= FITS_MM).tolist():
            turn = grid.turn_from(self._grids[number])
            if turn is None:
                raise FileProblemError(
                    "other-grid", f"the pixels of frame {number + 1} do not lie on those of the slice"
                )
            values = turn.apply(self._values(number))
            present = [each for each in np.unique(values).tolist() if each] if self._kind == "LABELMAP" else []
            for segment in present or [self._segments[number]]:
                if segment == 0:
                    continue
                if segment not in self.names or segment in seen:
                    what = "twice on one slice" if segment in seen else "not described"
                    raise FileProblemError("damaged", f"segment {segment} is {what}")
                seen.add(segment)
                yield segment, values == segment if self._kind == "LABELMAP" else self._marked(values)

    def _marked(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        if self._kind == "BINARY":
            return values.astype(np.bool_)
        assert self._fraction is not None
        marked: NDArray[np.bool_] = values >= max(self._fraction * self._largest, 1e-9)
        return marked

    def _values(self, number: int) -> NDArray[Any]:
        """Values of a frame as stored. Bits of BINARY run on from frame to frame, lowest first (PS3.5, 8.1.1)."""
        count = self._shape[0] * self._shape[1]
        data = memoryview(self._dataset.PixelData)
        if self._bits == 1:
            start = number * count
            some = np.frombuffer(data[start // 8 : (start + count + 7) // 8], np.uint8)
            bits = np.unpackbits(some, bitorder="little")[start % 8 : start % 8 + count]
            return bits.reshape(self._shape)
        little = self._dataset.original_encoding[1]
        dtype = np.dtype(np.uint8 if self._bits == 8 else "<u2" if little else ">u2")  # noqa: PLR2004
        return np.frombuffer(data, dtype, count, number * count * dtype.itemsize).reshape(self._shape)
