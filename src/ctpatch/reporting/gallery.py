"""The slices and patches that are shown, with their pixels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.events import Listener, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.reporting.cells import tiles
from ctpatch.reporting.choose import ChosenPatches, ChosenSlice, choose_pairs, choose_patches, choose_slices
from ctpatch.reporting.gather import AllWindows, SetWindows
from ctpatch.reporting.pictures import (
    MOST_PATCH_SIDE,
    MOST_SLICE_SIDE,
    Tones,
    display_windows,
    make_tones,
    shrunk,
)
from ctpatch.reporting.pixels import SetPixels, without_gaps

Image = NDArray[np.float32]
SLICE_QUALITY, PATCH_QUALITY = 86, 88
PIXEL_BARS = 64
_MOST_COUNTED = 2000
"""Windows whose pixels are counted one by one; more are thinned out evenly."""


@dataclass(frozen=True, slots=True)
class GallerySlice:
    """A slice with its pixels, shrunk where it is large; None where there are none."""

    chosen: ChosenSlice
    shape: tuple[int, int]
    image: Image | None
    whole: bool
    patient: str | None
    path: str


@dataclass(frozen=True, slots=True)
class GalleryPatch:
    """A patch, its row in the table of all windows, and the pixels of its arrays (none where they are gone)."""

    row: int
    arrays: dict[str, Image]


@dataclass(frozen=True)
class Gallery:
    """All that is shown of pixels.

    Attributes:
        slices, groups, pairs: what is shown; a group with its patches.
        tones: how pixels become pictures.
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

    def display_windows(self) -> list[dict[str, Any]]:
        """Display windows to choose from."""
        config = self.windows.sets[0].ps.config
        return display_windows(self.tones, config.value_range, config.air_level)


def make_gallery(windows: AllWindows, slices: int, seed: int, listener: Listener) -> Gallery:
    """Choose, and read the pixels. Pixels that are gone are left out and told of in `faults`.

    Args:
        windows: all windows.
        slices: how many slices to show, of all sets together.
        seed: decides what is left to chance.
        listener: is told of progress.
    """
    chosen = choose_slices(windows, slices, seed)
    groups = choose_patches(windows, seed)
    paired = next((each for each in windows.sets if len(each.ps.arrays) > 1 and each.ps.meta.num_patches), None)
    pair_rows = choose_pairs(windows, paired, seed) if paired else ()
    pixels = {id(each): SetPixels(each.ps) for each in windows.sets}
    task = "report"
    listener(WorkStarted(task, len(chosen) + sum(len(group.rows) for group in groups) + len(pair_rows), "pictures"))
    try:
        shown, full = [], []
        for each in chosen:
            made, image = _slice(each, pixels[id(each.owner)])
            shown.append(made)
            full.append(image)
            listener(WorkAdvanced(task, 1))
        tones = make_tones([each.image for each in shown if each.image is not None])
        drawn = []
        for group in groups:
            patches = tuple(_patch(row, windows, pixels, ("image",)) for row in group.rows)
            drawn.append((group, patches))
            listener(WorkAdvanced(task, len(patches)))
        partner = paired.ps.arrays[1] if paired else None
        pairs = tuple(_patch(row, windows, pixels, ("image", partner)) for row in pair_rows if partner)
        listener(WorkAdvanced(task, len(pairs)))
    finally:
        listener(WorkFinished(task))
    if not any(each.image is not None for each in shown):
        tones = make_tones([patch.arrays["image"] for _, patches in drawn for patch in patches if patch.arrays])
    rows, counts = _count_pixels(windows, chosen, full, tones)
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


def _slice(chosen: ChosenSlice, pixels: SetPixels) -> tuple[GallerySlice, NDArray[Any] | None]:
    """A slice as it is shown, and its pixels in full where it is whole."""
    found = pixels.slice(chosen.slice_index)
    record = chosen.owner.ps.slices.row(by_predicate=pl.col("slice_index") == chosen.slice_index, named=True)
    image = found.arrays.get("image")
    low = chosen.owner.ps.config.value_range[0]
    made = GallerySlice(
        chosen,
        (record["height"], record["width"]),
        None if image is None else shrunk(without_gaps(image, low), MOST_SLICE_SIDE),
        found.whole,
        record["patient_id"],
        record["src_path"],
    )
    return made, image if found.whole else None


def _patch(row: int, windows: AllWindows, pixels: dict[int, SetPixels], arrays: Sequence[str]) -> GalleryPatch:
    found = pixels[id(windows.set_of(row))].patch(windows.record(row))
    if found is None or any(name not in found for name in arrays):
        return GalleryPatch(row, {})
    return GalleryPatch(row, {name: shrunk(found[name], MOST_PATCH_SIDE) for name in arrays})


def _count_pixels(
    windows: AllWindows, chosen: Iterable[ChosenSlice], full: Iterable[NDArray[Any] | None], tones: Tones
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """For windows of whole slices, how their pixels are spread."""
    whole = [(each, image) for each, image in zip(chosen, full, strict=True) if image is not None]
    every = -(-sum(each.count for each, _ in whole) // _MOST_COUNTED) if whole else 1
    low, high = float(tones.levels[0]), float(tones.levels[-1])
    rows, counts = [], []
    for each, image in whole:
        scaled = (np.asarray(image, np.float64) - low) * (PIXEL_BARS / (high - low))
        bars = np.clip(scaled, 0, PIXEL_BARS - 1).astype(np.intp)
        height, width = each.owner.ps.patch_size
        for at in range(each.start, each.start + each.count, every):
            row, col = int(windows.columns["row"][at]), int(windows.columns["col"][at])
            inside = bars[row : row + height, col : col + width]
            rows.append(at)
            counts.append(np.bincount(inside.ravel(), minlength=PIXEL_BARS))
    return np.asarray(rows, np.uint32), np.asarray(counts, np.uint32).reshape(-1, PIXEL_BARS)


def slice_tiles(
    owner: SetWindows, shape: tuple[int, int], rows: Sequence[int], cols: Sequence[int]
) -> list[list[float]]:
    """For each window its tile: row and col where it begins, height, width, in pixels of the slice."""
    size = owner.ps.patch_size
    down, across = tiles(rows, size[0], shape[0]), tiles(cols, size[1], shape[1])
    return [
        [down[row][0], across[col][0], down[row][1] - down[row][0], across[col][1] - across[col][0]]
        for row, col in zip(rows, cols, strict=True)
    ]
