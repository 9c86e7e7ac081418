"""Label objects to masks: which slices an object covers, whether it fits them, and the label of each pixel."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import Labelled, LeftOut, RawSlice, Scan, SeriesNote
from ctpatch.prepare.readers.dicom.file import FileProblemError
from ctpatch.prepare.readers.dicom.labels.choice import LabelChoice
from ctpatch.prepare.readers.dicom.labels.grids import Grid
from ctpatch.prepare.readers.dicom.labels.opening import OBJECTS, STRUCTURES, read_object, storage_of
from ctpatch.prepare.readers.dicom.labels.segmentation import Segmentation
from ctpatch.prepare.readers.dicom.labels.structures import Structures
from ctpatch.prepare.readers.tree import find_files, source_folder

LabelObject = Segmentation | Structures


@dataclass(frozen=True, slots=True)
class LabelObjectReader:
    """Reads masks of slices that are there from segmentations and structure sets.

    Attributes:
        choice: which segments become which label.
        later_wins: where labels overlap, the later one of the choice holds; otherwise that is a fault.
        fraction: the share from which a pixel of a fractional segment is marked; None refuses such.
        follow_links: whether links that leave the source are followed.
    """

    choice: LabelChoice
    later_wins: bool = False
    fraction: float | None = None
    follow_links: bool = False
    name: str = "dicom"

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find no slices: label objects have none of their own."""
        del root, advance
        return Scan()

    def label(
        self, root: Path, images: list[RawSlice], advance: Callable[[int], None], *, names_shown: bool
    ) -> Labelled:
        """Find the object that covers each slice. It is refused as a whole where it does not fit."""
        files, left_out = find_files(root, follow_links=self.follow_links)
        folder = source_folder(root)
        found = Labelled(left_out=left_out)
        claims: dict[str, list[str]] = defaultdict(list)
        labelled: dict[tuple[str, str], list[RawSlice]] = {}
        objects: list[dict[int, str]] = []
        for file in files:
            advance(1)
            storage = storage_of(folder, file, follow_links=self.follow_links)
            if storage not in OBJECTS:
                found.left_out.append(LeftOut(file, "no-labels", "it is no segmentation and no structure set"))
                continue
            try:
                one = self._object(folder, file)
                self.choice.numbers(one.names)
                covered = _covered(one, images)
                for series, slices in covered.items():
                    self._add_notes(one, series, slices, found)
            except (FileProblemError, ValueError) as problem:
                known = problem if isinstance(problem, FileProblemError) else FileProblemError("labels", str(problem))
                found.left_out.append(known.left_out(file))
                continue
            if not covered:
                reason = "it refers to no slice that is prepared, or has no frame on one"
                found.left_out.append(LeftOut(file, "unmatched", reason))
                continue
            objects.append(one.names)
            for series, slices in covered.items():
                claims[series].append(file)
                labelled[series, file] = slices
        for series, several in claims.items():
            if len(several) > 1:
                reason = (
                    f"it is one of {len(several)} label objects of a series; keep the one that is meant in the folder "
                    "of masks"
                )
                found.left_out.extend(LeftOut(file, "labels-ambiguous", reason, fault=True) for file in several)
            else:
                for image in labelled[series, several[0]]:
                    found.partners[image] = _mask_of(image, several[0])
        if objects:
            self.choice.check(objects, names_shown=names_shown)
        found.images_left = [
            LeftOut(image.file, "unmatched", "no label object that fits covers it")
            for image in images
            if image not in found.partners
        ]
        found.record = self._record(objects)
        return found

    def _record(self, objects: list[dict[int, str]]) -> dict[str, Any]:
        """Labels with the user's own patterns, or their numbers alone: names in objects can be those of patients."""
        if self.choice.wanted:
            return {"labels": [[number, pattern] for number, pattern in self.choice.wanted]}
        return {"labels": sorted({number for each in objects for number in each})}

    def _object(self, folder: Path, file: str) -> LabelObject:
        dataset = read_object(folder, file, follow_links=self.follow_links)
        try:
            if dataset.SOPClassUID == STRUCTURES:
                return Structures(dataset)
            return Segmentation(dataset, self.fraction)
        except FileProblemError:
            raise
        except Exception as error:  # noqa: BLE001 - values are converted where they are asked for
            raise FileProblemError("damaged", f"it cannot be read as labels ({type(error).__name__})") from None

    def _add_notes(self, one: LabelObject, series: str, slices: list[RawSlice], found: Labelled) -> None:
        """Say what is odd about an object on a series; FileProblemError where it does not fit."""
        grids = []
        for image in slices:
            grid, ids = Grid.of(image), image.known_as
            if grid is None or ids is None:
                raise FileProblemError("no-geometry", "a slice that it covers does not say where it lies")
            if one.frame_of_reference and ids.frame and one.frame_of_reference != ids.frame:
                raise FileProblemError("other-frame", "it is in another frame of reference than the slices it covers")
            grids.append((ids.instance, grid))
        reason, absent = one.unfit(grids)
        if reason is not None:
            raise FileProblemError("labels-differ", f"{reason}; ctpatch shifts and interpolates no labels")
        if absent:
            message = f"{absent} frames or contours of its labels lie on slices that are not there"
            found.notes.append(SeriesNote("labels-unmatched", series, message))
        unnamed = sum(instance not in one.instances for instance, _ in grids) if one.instances else 0
        if unnamed:
            message = f"{unnamed} of {len(slices)} slices are not among those that its label object names; they are 0 "
            message += "where it marks nothing"
            found.notes.append(SeriesNote("labels-partial", series, message))
        if isinstance(one, Structures):
            for kind, count in one.other_contours.items():
                message = f"{count} contours {kind} mark no area and are not used"
                found.notes.append(SeriesNote("labels-contours", series, message))

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        """Read masks of slices of one file: `(H, W)` float32 whole numbers, 0 where nothing is marked."""
        folder = source_folder(root)
        opened: tuple[str, LabelObject] | None = None
        for each in slices:
            try:
                if opened is None or opened[0] != each.file:
                    opened = each.file, self._object(folder, each.file)
                yield self._mask(opened[1], each)
            except (FileProblemError, ValueError) as problem:
                raise SliceError(f"{each.file}: {problem}") from None

    def _mask(self, one: LabelObject, image: RawSlice) -> NDArray[np.float32]:
        grid = Grid.of(image)
        if grid is None:
            raise FileProblemError("no-geometry", "its slice does not say where it lies")
        numbers = self.choice.numbers(one.names)
        marked: dict[int, NDArray[np.bool_]] = {}
        for segment, pixels in one.marks(grid):
            label = numbers.get(segment)
            if label is not None:
                marked[label] = marked[label] | pixels if label in marked else pixels
        mask = np.zeros(grid.shape, np.float32)
        for label in [each for each in self.choice.order() if each in marked] or sorted(marked):
            pixels = marked[label]
            covered = mask[pixels & (mask > 0)]
            if len(covered) and not self.later_wins:
                names = f"{self.choice.called(int(covered[0]))} and {self.choice.called(label)}"
                raise FileProblemError(
                    "overlap",
                    f"labels {names} overlap in {len(covered)} pixels; choose with --labels, and say "
                    "--later-label-wins where the later one of these is meant",
                )
            mask[pixels] = label
        return mask


def _covered(one: LabelObject, images: list[RawSlice]) -> dict[str, list[RawSlice]]:
    """The slices that an object covers, by series: all of a series that it refers to; else those that it marks."""
    by_series: dict[str, list[RawSlice]] = defaultdict(list)
    for image in images:
        by_series[image.series].append(image)
    covered = {}
    for series, slices in by_series.items():
        ids = [each.known_as for each in slices if each.known_as is not None]
        if any(each.series in one.series or each.instance in one.instances for each in ids):
            covered[series] = slices
        elif one.only_marked and one.frame_of_reference and ids and ids[0].frame == one.frame_of_reference:
            marked = [each for each in slices if (grid := Grid.of(each)) is not None and any(one.marks(grid))]
            if marked:
                covered[series] = marked
    return covered


def _mask_of(image: RawSlice, file: str) -> RawSlice:
    return replace(image, file=file, item=image.order, beside=(), label="", names=())
