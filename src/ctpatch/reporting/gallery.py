"""The slices and patches that are shown, with their pixels from wherever they still are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.patches import window_of
from ctpatch.errors import CtPatchError
from ctpatch.events import Listener, WorkAdvanced, working
from ctpatch.format.tables import patch_id
from ctpatch.reading.patchset import AnySet
from ctpatch.reporting.choose import ChosenPatches, ChosenSlice, choose_pairs, choose_patches, choose_slices
from ctpatch.reporting.pictures import Tones, display_windows, make_tones, shrunk
from ctpatch.reporting.windows import AllWindows, SetWindows

Image = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
PIXEL_BARS = 64
_MOST_SLICE_SIDE, _MOST_PATCH_SIDE = 400, 128
_MOST_COUNTED = 2000
"""Windows whose pixels are counted one by one; more are thinned out evenly."""
_SLICES_KEPT = 64
_GAP = 3.0


@dataclass(frozen=True, slots=True)
class GallerySlice:
    """A slice as it is shown.

    Attributes:
        image: its pixels, shrunk where it is large; None where there are none.
        whole: whether they are the slice itself, not put together from its kept patches.
        patient, path: of its source.
        rows, cols: where its windows begin.
    """

    chosen: ChosenSlice
    shape: tuple[int, int]
    image: Image | None
    whole: bool
    patient: str | None
    path: str
    rows: list[int]
    cols: list[int]

    def tiles(self) -> list[list[float]]:
        """For each window its tile: row and col where it begins, height, width, in pixels of the slice."""
        size = self.chosen.owner.ps.patch_size
        down, across = tiles(self.rows, size[0], self.shape[0]), tiles(self.cols, size[1], self.shape[1])
        return [
            [down[row][0], across[col][0], down[row][1] - down[row][0], across[col][1] - across[col][0]]
            for row, col in zip(self.rows, self.cols, strict=True)
        ]

    def boxes(self) -> list[list[float]]:
        """Tiles with a gap between them, as they are drawn: left, top, width, height."""
        found = []
        for top, left, height, width in self.tiles():
            gap = min(_GAP, height / 6, width / 6)
            found.append([left + gap, top + gap, max(width - 2 * gap, 0.5), max(height - 2 * gap, 0.5)])
        return found


@dataclass(frozen=True, slots=True)
class GalleryPatch:
    """A patch: its place in the table of all windows, its row there, and its pixels, where they are not gone."""

    row: int
    owner: SetWindows
    record: dict[str, Any]
    arrays: dict[str, Image]

    def identity(self, split: str) -> str:
        """Its id."""
        return patch_id(split, *(int(self.record[name]) for name in ("slice_index", "row", "col")))


@dataclass(frozen=True)
class Gallery:
    """All that is shown of pixels.

    Attributes:
        partner, labels: the array beside `image` in pairs, and whether it holds labels.
        pixel_rows, pixel_counts: windows of whole slices, and for each how often its pixels fall into each of
            `PIXEL_BARS` bars between the lowest and the highest pixel shown.
        faults: why some pixels are not shown.
    """

    windows: AllWindows
    slices: tuple[GallerySlice, ...]
    groups: tuple[tuple[ChosenPatches, tuple[GalleryPatch, ...]], ...]
    pairs: tuple[GalleryPatch, ...]
    partner: str | None
    labels: bool
    tones: Tones
    pixel_rows: NDArray[np.uint32]
    pixel_counts: NDArray[np.uint32]
    faults: tuple[str, ...]

    @cached_property
    def display_windows(self) -> list[dict[str, Any]]:
        """Display windows to choose from."""
        config = self.windows.sets[0].ps.config
        return display_windows(self.tones, config.value_range, config.air_level)


class ShownPixels:
    """Slices and patches of one set, read when asked for; a fault is told, and is not the end of the report."""

    def __init__(self, ps: AnySet) -> None:
        self._ps = ps
        self.faults: dict[str, None] = {}
        self.slice = lru_cache(_SLICES_KEPT)(self._slice)

    def _slice(self, slice_index: int) -> tuple[Arrays, bool]:
        """A slice's arrays, each `(H, W)`, and whether they are whole: from the set or its source.

        Else they are put together from its kept patches, NaN elsewhere; empty where no pixel is to be had.
        """
        try:
            return self._ps.slice(slice_index, arrays=self._ps.arrays), True
        except CtPatchError as error:
            fault = error.message
        if self._ps.layout.holds_patches:
            pixels = [name for name, info in self._ps.meta.arrays.items() if not info.labels]
            try:
                return {name: self._ps.reassemble(slice_index, array=name, window="uniform") for name in pixels}, False
            except CtPatchError as error:
                fault = error.message
        self.faults[fault] = None
        return {}, False

    def patch(self, record: Mapping[str, Any]) -> Arrays:
        """The pixels of a window (a row of their table), kept or dropped, by array; empty where they are nowhere."""
        if record["at"] is not None:
            try:
                read = self._ps.read([int(record["at"])], arrays=self._ps.arrays)
                return {name: patches[0] for name, patches in read.items()}
            except CtPatchError as error:
                self.faults[error.message] = None
                return {}
        arrays, whole = self.slice(int(record["slice_index"]))
        if not whole:
            return {}
        row, col, size, mode = int(record["row"]), int(record["col"]), self._ps.patch_size, self._ps.config.pad_mode
        found = {name: window_of(image, row, col, size, mode) for name, image in arrays.items()}
        return {name: patch for name, patch in found.items() if patch is not None}


def make_gallery(windows: AllWindows, slices: int, seed: int, listener: Listener) -> Gallery:
    """Choose `slices` slices of all sets, and patches, and read the pixels; `faults` tells of those that are gone."""
    chosen = choose_slices(windows, slices, seed)
    groups = choose_patches(windows, seed)
    paired = next((each for each in windows.sets if len(each.ps.arrays) > 1 and each.ps.meta.num_patches), None)
    partner = paired.ps.arrays[1] if paired else None
    pair_rows = choose_pairs(windows, paired, seed) if paired else ()
    pixels = {id(each): ShownPixels(each.ps) for each in windows.sets}

    def read(rows: Sequence[int], arrays: Sequence[str]) -> tuple[GalleryPatch, ...]:
        patches = tuple(_patch(row, windows, pixels, arrays) for row in rows)
        listener(WorkAdvanced(task, len(patches)))
        return patches

    task = "report"
    total = len(chosen) + sum(len(group.rows) for group in groups) + len(pair_rows)
    with working(listener, task, total, "pictures"):
        shown, full = [], []
        for each in chosen:
            made, image = _slice(each, windows, pixels[id(each.owner)])
            shown.append(made)
            full.append(image)
            listener(WorkAdvanced(task, 1))
        drawn = [(group, read(group.rows, ["image"])) for group in groups]
        pairs = read(pair_rows, [name for name in ("image", partner) if name])
    images = [each.image for each in shown if each.image is not None]
    tones = make_tones(images or [patch.arrays["image"] for _, some in drawn for patch in some if patch.arrays])
    rows, counts = _count_pixels(shown, full, tones)
    return Gallery(
        windows=windows,
        slices=tuple(shown),
        groups=tuple(drawn),
        pairs=tuple(pair for pair in pairs if pair.arrays),
        partner=partner,
        labels=bool(paired and partner and paired.ps.meta.arrays[partner].labels),
        tones=tones,
        pixel_rows=rows,
        pixel_counts=counts,
        faults=tuple(fault for each in pixels.values() for fault in each.faults),
    )


def _slice(chosen: ChosenSlice, windows: AllWindows, pixels: ShownPixels) -> tuple[GallerySlice, NDArray[Any] | None]:
    """A slice as it is shown, and its pixels in full where it is whole."""
    arrays, whole = pixels.slice(chosen.slice_index)
    ps, image = chosen.owner.ps, arrays.get("image")
    record = ps.slices.row(by_predicate=pl.col("slice_index") == chosen.slice_index, named=True)
    rows, cols = (windows.columns[name][chosen.where].astype(np.int64).tolist() for name in ("row", "col"))
    shown = None
    if image is not None:
        shown = shrunk(np.where(np.isfinite(image), image, ps.config.value_range[0]), _MOST_SLICE_SIDE)
    shape = (record["height"], record["width"])
    made = GallerySlice(chosen, shape, shown, whole, record["patient_id"], record["src_path"], rows, cols)
    return made, image if whole else None


def _patch(row: int, windows: AllWindows, pixels: dict[int, ShownPixels], arrays: Sequence[str]) -> GalleryPatch:
    owner, record = windows.set_of(row), windows.record(row)
    found = pixels[id(owner)].patch(record)
    shown = {name: shrunk(found[name], _MOST_PATCH_SIDE) for name in arrays if name in found}
    return GalleryPatch(row, owner, record, shown if len(shown) == len(arrays) else {})


def _count_pixels(
    shown: Iterable[GallerySlice], full: Iterable[NDArray[Any] | None], tones: Tones
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """For windows of whole slices, how their pixels are spread."""
    whole = [(each, image) for each, image in zip(shown, full, strict=True) if image is not None]
    every = max(-(-sum(len(each.rows) for each, _ in whole) // _MOST_COUNTED), 1)
    low, high = float(tones.levels[0]), float(tones.levels[-1])
    rows, counts = [], []
    for each, image in whole:
        scaled = (np.asarray(image, np.float64) - low) * (PIXEL_BARS / (high - low))
        bars = np.clip(scaled, 0, PIXEL_BARS - 1).astype(np.intp)
        height, width = each.chosen.owner.ps.patch_size
        for at in range(0, len(each.rows), every):
            row, col = each.rows[at], each.cols[at]
            inside = bars[row : row + height, col : col + width]
            rows.append(each.chosen.start + at)
            counts.append(np.bincount(inside.ravel(), minlength=PIXEL_BARS))
    return np.asarray(rows, np.uint32), np.asarray(counts, np.uint32).reshape(-1, PIXEL_BARS)


def tiles(starts: Iterable[int], size: int, length: int) -> dict[int, tuple[float, float]]:
    """For each origin along an axis, where the tile of its window begins and ends.

    A tile reaches from midway to the window before to midway to the window after, by their centres, so it lies in
    the middle of its window; the outermost are as long on both sides. Nothing reaches beyond the slice.

    >>> tiles([0, 64, 128], 128, 362)
    {0: (32.0, 96.0), 64: (96.0, 160.0), 128: (160.0, 224.0)}
    """
    origins = sorted(set(starts))
    centres = [start + size / 2 for start in origins]
    between = [(before + after) / 2 for before, after in pairwise(centres)]
    ends = (2 * centres[0] - between[0], 2 * centres[-1] - between[-1]) if between else (-math.inf, math.inf)
    borders = (ends[0], *between, ends[1])
    return {
        start: (max(min(max(start, begin), length - 1), 0.0), max(min(start + size, end, float(length)), 0.0))
        for start, (begin, end) in zip(origins, pairwise(borders), strict=False)
    }
