"""Patches back into slices by the peers, each the way its documentation shows; and what each makes of hard cases.

A merger is a function `(image, size, stride) -> (patches it made, merge)`: it cuts the way it wants to and puts
together again. `merge` is what is timed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import ctpatch

Merge = Callable[[], np.ndarray[Any, Any]]
Merger = Callable[[np.ndarray[Any, Any], int, int], tuple[np.ndarray[Any, Any], Merge]]


def ours(image: np.ndarray[Any, Any], size: int, stride: int, window: Any) -> tuple[np.ndarray[Any, Any], Merge]:
    config = ctpatch.PatchConfig(patch_size=size, stride=stride)
    coords = ctpatch.sliding_window_coords(image.shape[0], image.shape[1], config)
    patches = np.array([image[r : r + size, c : c + size] for r, c in coords])
    height, width = image.shape
    return patches, lambda: ctpatch.reassemble(patches, coords, (height, width), window=window)


def torchio(image: np.ndarray[Any, Any], size: int, stride: int, mode: str) -> tuple[np.ndarray[Any, Any], Merge]:
    import torch
    import torchio as tio

    subject = tio.Subject(image=tio.ScalarImage(tensor=torch.from_numpy(image)[None, :, :, None]))
    sampler = tio.GridSampler(subject, (size, size, 1), (size - stride, size - stride, 0))
    patches = [sampler[n] for n in range(len(sampler))]
    batch = torch.stack([patch["image"][tio.DATA] for patch in patches])
    places = torch.stack([torch.as_tensor(patch[tio.LOCATION]) for patch in patches])

    def merge() -> np.ndarray[Any, Any]:
        aggregator = tio.data.GridAggregator(sampler, overlap_mode=mode)
        aggregator.add_batch(batch, places)
        return np.asarray(aggregator.get_output_tensor()[0, :, :, 0])

    return batch.numpy(), merge


def monai(image: np.ndarray[Any, Any], size: int, stride: int) -> tuple[np.ndarray[Any, Any], Merge]:
    import torch
    from monai.inferers import AvgMerger

    config = ctpatch.PatchConfig(patch_size=size, stride=stride)
    coords = ctpatch.sliding_window_coords(image.shape[0], image.shape[1], config)
    patches = torch.stack([torch.from_numpy(image[r : r + size, c : c + size]) for r, c in coords])[:, None, None]

    def merge() -> np.ndarray[Any, Any]:
        merger = AvgMerger(merged_shape=(1, 1, *image.shape))
        for patch, place in zip(patches, coords, strict=True):
            merger.aggregate(patch, place)
        return np.asarray(merger.finalize()[0, 0])

    return patches.numpy(), merge


def monai_sliding_window(image: np.ndarray[Any, Any], size: int, stride: int) -> tuple[np.ndarray[Any, Any], Merge]:
    """Cuts and merges in one; its time includes the cutting."""
    import torch
    from monai.inferers import sliding_window_inference

    batch = torch.from_numpy(image)[None, None]

    def merge() -> np.ndarray[Any, Any]:
        made = sliding_window_inference(batch, (size, size), 16, _same, overlap=1 - stride / size, mode="gaussian")
        return np.asarray(made[0, 0])

    return image, merge


def _same(batch: Any) -> Any:
    return batch


def patchify(image: np.ndarray[Any, Any], size: int, stride: int) -> tuple[np.ndarray[Any, Any], Merge]:
    from patchify import patchify as cut
    from patchify import unpatchify

    patches = cut(image, (size, size), step=stride)
    return patches, lambda: unpatchify(patches, image.shape)


def tiler(image: np.ndarray[Any, Any], size: int, stride: int, window: str) -> tuple[np.ndarray[Any, Any], Merge]:
    from tiler import Merger as TileMerger
    from tiler import Tiler

    tiles = Tiler(data_shape=image.shape, tile_shape=(size, size), overlap=(size - stride, size - stride))
    patches = np.array([tile for _number, tile in tiles.iterate(image)])

    def merge() -> np.ndarray[Any, Any]:
        merger = TileMerger(tiles, window=window)
        for number, patch in enumerate(patches):
            merger.add(number, patch)
        return np.asarray(merger.merge(unpad=True))

    return patches, merge


MERGERS: dict[str, Merger] = {
    "ctpatch, uniform": partial(ours, window="uniform"),
    "ctpatch, hann": partial(ours, window="hann"),
    "ctpatch, gaussian": partial(ours, window="gaussian"),
    "TorchIO GridAggregator, average": partial(torchio, mode="average"),
    "TorchIO GridAggregator, hann": partial(torchio, mode="hann"),
    "MONAI AvgMerger": monai,
    "MONAI sliding_window_inference": monai_sliding_window,
    "patchify": patchify,
    "tiler, boxcar": partial(tiler, window="boxcar"),
    "tiler, hann": partial(tiler, window="hann"),
}

CASES: dict[str, tuple[int, int, int]] = {
    "362, stride 64": (362, 128, 64),
    "512, stride 64": (512, 128, 64),
    "stride 8": (362, 128, 8),
    "size 128": (128, 128, 64),
    "size 129": (129, 128, 64),
}


def judged(merger: Merger, image: np.ndarray[Any, Any], size: int, stride: int) -> str:
    """What comes back of patches that nobody changed: `right`, or how wrong, in a few words."""
    try:
        _patches, merge = merger(image, size, stride)
        made = merge()
    except Exception as refusal:  # noqa: BLE001 - whatever a peer raises is its answer
        return f"refuses ({type(refusal).__name__})"
    if made.shape != image.shape:
        return f"shape {made.shape[0]}x{made.shape[1]}"
    expected = image.astype(np.float64)
    unsaid = np.isnan(made) & ~np.isnan(expected)
    wrong = ~unsaid & ~(np.isnan(made) & np.isnan(expected))
    off_by = np.nan_to_num(np.abs(made.astype(np.float64) - expected), nan=np.inf, posinf=np.inf)
    wrong &= off_by > (1e-6 if image.dtype == np.float32 else 1e-3)
    parts = []
    if wrong.any():
        worst, count = float(off_by[wrong].max()), int(wrong.sum())
        parts.append(f"{count:,} pixels off by up to {worst:.1g}" if worst < np.inf else f"NaN or infinite: {count:,}")
    if unsaid.any():
        parts.append(f"{int(unsaid.sum()):,} NaN, not covered")
    return ", ".join(parts) or "right"


def correctness(image: Callable[[int], np.ndarray[Any, Any]]) -> dict[str, list[str]]:
    """For each merger its answers to all cases."""
    table = {}
    for name, merger in MERGERS.items():
        answers = [judged(merger, image(side), size, stride) for side, size, stride in CASES.values()]
        constant = np.full((362, 362), 0.7, np.float32)
        answers.append(judged(merger, constant, 128, 64))
        holed = image(362).copy()
        holed[100, 100] = np.nan
        answers.append(judged(merger, holed, 128, 64))
        answers.append(judged(merger, image(362).astype(np.float16), 128, 64))
        table[name] = answers
    return table


COLUMNS = [*CASES, "constant", "one NaN", "float16"]
