"""The same patches by what users have today: each peer writes what it needs, then gives batches of 64 in random order.

A peer is a function `(bench) -> make`, and `make()` iterates over one epoch. What each is asked for is what its
documentation shows for this case; none is asked for more patches than the set has.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PATCH, STRIDE, BATCH = 128, 64, 64


@dataclass(frozen=True)
class Bench:
    """Where the patches are: one .npy each, and the slices they were cut from; a folder to write in."""

    patches: list[str]
    slices: list[str]
    where: Path
    arrays: list[np.ndarray[Any, Any]]
    """All patches in memory, to write other formats from."""


Make = Callable[[], Iterator[Any]]


def torch_npy(bench: Bench, workers: int) -> Make:
    """A Dataset of one np.load for each item, as most tutorials have it."""
    import torch
    from torch.utils.data import DataLoader

    dataset: Any = _NpyDataset(bench.patches)
    loader: Any = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, collate_fn=torch.stack
    )
    return lambda: iter(loader)


class _NpyDataset:
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        return torch.from_numpy(np.load(self.paths[index]))[None]


class _Slices:
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return np.load(self.paths[index])[None]


def monai_patches(bench: Bench) -> Make:
    """PatchDataset: 16 random crops of each slice."""
    from monai.data import DataLoader, PatchDataset
    from monai.transforms import RandSpatialCropSamples

    crops = RandSpatialCropSamples(roi_size=(PATCH, PATCH), num_samples=16, random_size=False)
    dataset = PatchDataset(data=_Slices(bench.slices), patch_func=crops, samples_per_image=16)
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=0)
    return lambda: iter(loader)


def monai_grid(bench: Bench) -> Make:
    """GridPatchDataset: windows in order, slice by slice; it cannot shuffle."""
    from monai.data import DataLoader, GridPatchDataset
    from monai.data.utils import iter_patch

    def windows(image: Any) -> Iterator[Any]:
        for patch, place in iter_patch(image[0], (PATCH, PATCH), overlap=0.5, mode=None):
            yield patch[None], place

    dataset = GridPatchDataset(data=_Slices(bench.slices), patch_iter=windows)
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=0)
    return lambda: iter(loader)


def _torchio_subjects(bench: Bench) -> Any:
    import torch
    import torchio as tio

    def subject(path: str) -> Any:
        return tio.Subject(image=tio.ScalarImage(tensor=torch.from_numpy(np.load(path))[None, :, :, None]))

    return tio.SubjectsDataset([subject(path) for path in bench.slices])


def torchio_uniform(bench: Bench) -> Make:
    """Queue with UniformSampler: 16 random windows of each slice."""
    import torchio as tio

    queue = tio.Queue(
        _torchio_subjects(bench), 512, 16, tio.data.UniformSampler((PATCH, PATCH, 1)), num_workers=0, verbose=False
    )
    loader = tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0)
    return lambda: iter(loader)


def torchio_grid(bench: Bench) -> Make:
    """GridSampler of each slice, slice after slice: 25 windows where its overlap covers the border."""
    import torchio as tio

    subjects = _torchio_subjects(bench)

    def batches() -> Iterator[Any]:
        for subject in subjects:
            sampler = tio.GridSampler(subject, (PATCH, PATCH, 1), (STRIDE, STRIDE, 0))
            yield from tio.SubjectsLoader(sampler, batch_size=BATCH, num_workers=0)

    return batches


def webdataset(bench: Bench) -> Make:
    """Tar files of .npy, decoded and shuffled in a buffer of 1,000."""
    import webdataset as wds

    folder = bench.where / "webdataset"
    folder.mkdir()
    with wds.ShardWriter(f"file:{folder}/patches-%05d.tar", maxcount=2048, verbose=0) as writer:
        for number, patch in enumerate(bench.arrays):
            stream = io.BytesIO()
            np.save(stream, patch)
            writer.write({"__key__": f"{number:07d}", "npy": stream.getvalue()})
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=100).shuffle(1000).decode().to_tuple("npy").batched(BATCH)
    return lambda: iter(dataset)


def litdata(bench: Bench) -> Make:
    """Chunks of 64 MB written by its own writer; StreamingDataLoader without workers."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder = bench.where / "litdata"
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for number, patch in enumerate(bench.arrays):
        writer[number] = patch
    writer.done()
    writer.merge(1)
    loader = StreamingDataLoader(StreamingDataset(str(folder), shuffle=True), batch_size=BATCH, num_workers=0)
    return lambda: iter(loader)


def hugging_face(bench: Bench) -> Make:
    """Arrow with Array2D, batches of random indices as NumPy."""
    from datasets import Array2D, Dataset, Features, disable_progress_bars

    disable_progress_bars()
    features = Features({"image": Array2D((PATCH, PATCH), "float32")})

    def rows() -> Iterator[dict[str, Any]]:
        for patch in bench.arrays:
            yield {"image": patch}

    dataset = Dataset.from_generator(rows, features=features, cache_dir=str(bench.where / "hf")).with_format("numpy")
    rng = np.random.default_rng(0)

    def batches() -> Iterator[Any]:
        order = rng.permutation(len(dataset))
        for start in range(0, len(order), BATCH):
            yield dataset[order[start : start + BATCH].tolist()]["image"]

    return batches


def grain(bench: Bench) -> Make:
    """MapDataset over np.load, shuffled, read by its threads."""
    import grain as pygrain

    class Source:
        def __len__(self) -> int:
            return len(bench.patches)

        def __getitem__(self, index: Any) -> Any:
            return np.load(bench.patches[index])

    dataset = pygrain.MapDataset.source(Source()).shuffle(seed=0).to_iter_dataset().batch(BATCH)
    return lambda: iter(dataset)


PEERS: dict[str, Callable[[Bench], Make]] = {
    "torch Dataset of np.load, 0 workers": lambda bench: torch_npy(bench, 0),
    "torch Dataset of np.load, 2 workers": lambda bench: torch_npy(bench, 2),
    "MONAI PatchDataset (random crops, slices in order)": monai_patches,
    "MONAI GridPatchDataset (in order)": monai_grid,
    "TorchIO Queue, UniformSampler": torchio_uniform,
    "TorchIO GridSampler (in order)": torchio_grid,
    "WebDataset": webdataset,
    "LitData": litdata,
    "Hugging Face datasets": hugging_face,
    "grain": grain,
}
