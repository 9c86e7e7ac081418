"""Windows drawn while training by what users have today: from the same slices, 16 of 128x128 each, batches of 64.

A peer is a function `(slices, workers) -> make`, and `make()` iterates over one epoch. What each is asked for is what
its documentation shows for this case. Where a peer can keep slices in memory, a second row does so.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np

SIZE, PER_SLICE, BATCH = 128, 16, 64
SHARE = 0.33
LABELS = (1, 2)


@dataclass(frozen=True)
class Slices:
    """Where the slices are: a file of each image and of each mask, and a file of all images, `(N, H, W)`."""

    images: list[Path]
    masks: list[Path]
    stack: Path


Make = Callable[[], Iterator[Any]]
Peer = Callable[[Slices, int], Make]


def _kept(workers: int) -> dict[str, Any]:
    return {"num_workers": workers, "persistent_workers": workers > 0}


class _Crops:
    """A Dataset of one mapped file: a crop at a random place for each item, as most tutorials have it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = len(np.load(path, mmap_mode="r"))
        self._images: Any = None

    def __len__(self) -> int:
        return self._count * PER_SLICE

    def __getitem__(self, index: int) -> Any:
        import torch

        if self._images is None:
            self._images = np.load(self._path, mmap_mode="r")
        image = self._images[index // PER_SLICE]
        row, col = (int(torch.randint(side - SIZE + 1, ())) for side in image.shape)
        return torch.from_numpy(image[row : row + SIZE, col : col + SIZE].copy())[None]


def plain(slices: Slices, workers: int) -> Make:
    from torch.utils.data import DataLoader

    dataset: Any = _Crops(slices.stack)
    loader: Any = DataLoader(dataset, BATCH, shuffle=True, **_kept(workers))
    return lambda: iter(loader)


def deepinv(slices: Slices, workers: int) -> Make:
    """RandomPatchSampler: one window of a slice at a time, from the folder; each slice is asked for 16 times."""
    from torch.utils.data import DataLoader, RandomSampler

    # deepinv imports torchvision for other datasets and its plots; this sampler uses nothing of it.
    names = ("", ".utils", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder", ".datasets.utils")
    absent: dict[str, Any] = {} if find_spec("torchvision") else {f"torchvision{name}": MagicMock() for name in names}
    sys.modules.update(absent)
    try:
        from deepinv.datasets import RandomPatchSampler
    finally:
        for name in absent:
            del sys.modules[name]

    dataset = RandomPatchSampler(x_dir=str(slices.images[0].parent), patch_size=SIZE)
    order = RandomSampler(dataset, replacement=True, num_samples=len(dataset) * PER_SLICE)
    loader: Any = DataLoader(dataset, BATCH, sampler=order, **_kept(workers))
    return lambda: iter(loader)


def monai(slices: Slices, workers: int, *, labels: bool, cached: bool) -> Make:
    """RandSpatialCropSamplesd or RandCropByPosNegLabeld, 16 windows of each of four slices, from files or its cache.

    With the cache, the places of labelled pixels are in it as well, as MONAI has it for this crop.
    """
    from monai.data import CacheDataset, DataLoader, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        FgBgToIndicesd,
        LoadImaged,
        RandCropByPosNegLabeld,
        RandSpatialCropSamplesd,
    )

    keys = ["image", "mask"] if labels else ["image"]
    files = [{"image": str(image), "mask": str(mask)} for image, mask in zip(slices.images, slices.masks, strict=True)]
    steps: list[Any] = [LoadImaged(keys, reader="NumpyReader"), EnsureChannelFirstd(keys, channel_dim="no_channel")]
    known: dict[str, Any] = {}
    if labels and cached:
        steps.append(FgBgToIndicesd("mask"))
        known = {"fg_indices_key": "mask_fg_indices", "bg_indices_key": "mask_bg_indices"}
    steps.append(
        RandCropByPosNegLabeld(keys, "mask", (SIZE, SIZE), SHARE, 1 - SHARE, PER_SLICE, **known)
        if labels
        else RandSpatialCropSamplesd(keys, (SIZE, SIZE), PER_SLICE, random_size=False)
    )
    dataset: Any = CacheDataset(files, Compose(steps), progress=False) if cached else Dataset(files, Compose(steps))
    loader = DataLoader(dataset, batch_size=BATCH // PER_SLICE, shuffle=True, **_kept(workers))
    return lambda: iter(loader)


def torchio(slices: Slices, workers: int, *, labels: bool) -> Make:
    """Queue of 512 windows with UniformSampler or LabelSampler; all slices are in memory."""
    import torch
    import torchio as tio

    def tensor(path: Path) -> Any:
        return torch.from_numpy(np.load(path))[None, :, :, None]

    def subject(image: Path, mask: Path) -> Any:
        return (
            tio.Subject(image=tio.ScalarImage(tensor=tensor(image)), mask=tio.LabelMap(tensor=tensor(mask)))
            if labels
            else tio.Subject(image=tio.ScalarImage(tensor=tensor(image)))
        )

    dataset = tio.SubjectsDataset(
        [subject(image, mask) for image, mask in zip(slices.images, slices.masks, strict=True)]
    )
    each = {0: 1 - SHARE} | dict.fromkeys(LABELS, SHARE / len(LABELS))
    sampler = (
        tio.data.LabelSampler((SIZE, SIZE, 1), "mask", each) if labels else tio.data.UniformSampler((SIZE, SIZE, 1))
    )
    queue = tio.Queue(dataset, 512, PER_SLICE, sampler, num_workers=workers, verbose=False)
    loader = tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0)
    return lambda: iter(loader)


RANDOM: dict[str, Peer] = {
    "plain Dataset, crops of a mapped file": plain,
    "MONAI RandSpatialCropSamplesd, Dataset": partial(monai, labels=False, cached=False),
    "MONAI RandSpatialCropSamplesd, CacheDataset": partial(monai, labels=False, cached=True),
    "TorchIO Queue, UniformSampler, in memory": partial(torchio, labels=False),
    "deepinv RandomPatchSampler": deepinv,
}
BY_LABEL: dict[str, Peer] = {
    "MONAI RandCropByPosNegLabeld, Dataset": partial(monai, labels=True, cached=False),
    "MONAI RandCropByPosNegLabeld, CacheDataset": partial(monai, labels=True, cached=True),
    "TorchIO Queue, LabelSampler, in memory": partial(torchio, labels=True),
}
