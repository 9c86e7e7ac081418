"""Random batches against a copy within memory, the loaders on top, and how long a training step waits for them.

`memory` is np.take from one array in memory into a given buffer: the limit. `page cache` is a bare loop that copies
items of the mapped shards: what the machine gives for pages of files, which it maps in small pages where memory has
large ones. Every round measures everything once, some batches in a row; medians, warm, batches of 64 in random
order: `make bench`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, medians, seconds

from ctpatch.cutting.api import build
from ctpatch.files.memory import empty_buffer
from ctpatch.phantom.slices import PhantomSplit, write_phantom
from ctpatch.reading.patchset import PatchSet, open_set
from ctpatch.words import LayoutName

PATCH, BATCH = 128, 64
IN_A_ROW = 32
LAYOUTS: tuple[LayoutName, ...] = ("files", "shards", "slices", "index")
REACH = {"shards, in_memory": 0.7, "slices, in_memory": 0.6, "shards": 0.7, "slices": 0.6}

Floats = np.ndarray[Any, np.dtype[np.float32]]
Indices = np.ndarray[Any, np.dtype[np.int64]]


def copy_items(items: list[Floats], out: Floats) -> None:
    for slot, item in zip(out, items, strict=True):
        slot[...] = item


def bench_batches(sets: dict[str, PatchSet], memory: Floats, rounds: int) -> dict[str, float]:
    """Median seconds of one random batch."""
    rng = np.random.Generator(np.random.Philox(7))
    count = len(memory)
    out = empty_buffer((BATCH, PATCH, PATCH), np.dtype(np.float32))
    plain = np.empty((BATCH, PATCH, PATCH), np.float32)  # 16 bytes behind a page: see docs/design/015-copying.md
    shards = [np.load(path, mmap_mode="r") for path in sorted((sets["shards"].folder / "shards").glob("*.npy"))]
    items = [np.asarray(shard)[item] for shard in shards for item in range(len(shard))]

    def in_a_row(read: Callable[[Indices], object]) -> None:
        """Batch after batch, as in an epoch: what one kind leaves in the caches of the processor, it may use."""
        for _ in range(IN_A_ROW):
            read(rng.permutation(count)[:BATCH])

    readers: dict[str, Callable[[Indices], object]] = {
        "memory": lambda which: np.take(memory, which, axis=0, out=out, mode="clip"),
        "page cache": lambda which: copy_items([items[patch] for patch in which.tolist()], out),
        "page cache, into np.empty": lambda which: copy_items([items[patch] for patch in which.tolist()], plain),
        "shards, into np.empty": partial(sets["shards"].read, out=plain),
        **{name: partial(ps.read, out=out) for name, ps in sets.items()},
    }
    for ps in sets.values():
        ps.read(range(count))
    drawing = medians({"": partial(in_a_row, lambda _which: None)}, 20)[""]
    found = medians({name: partial(in_a_row, read) for name, read in readers.items()}, rounds)
    return {name: (value - drawing) / IN_A_ROW for name, value in found.items()}


def walk(batches: Iterator[Any]) -> int:
    seen = 0
    for batch in batches:
        images = batch.arrays["image"] if hasattr(batch, "arrays") else batch
        seen += len(images)
    return seen


def bench_loaders(sets: dict[str, PatchSet], rounds: int) -> dict[str, float]:
    """Median seconds of an epoch in random order, batch after batch, nothing done with them."""
    works: dict[str, Callable[[], object]] = {}
    for name, ps in sets.items():
        works[f"ps.batches, {name}"] = partial(walk_all, ps.batches(BATCH, shuffle=True))
    try:
        from ctpatch.torch import PatchLoader
    except ModuleNotFoundError:
        print("torch is not installed: PatchLoader is not measured")
    else:
        for name, ps in sets.items():
            works[f"PatchLoader, {name}"] = partial(walk_all, PatchLoader(ps, BATCH, shuffle=True))
    for work in works.values():
        work()
    return medians(works, rounds)


def walk_all(loader: Any) -> int:
    return walk(iter(loader))


def training_step(target: float) -> Callable[[], object]:
    """Work of about so many seconds that holds the interpreter as a training step does: hardly."""
    size = 256
    while True:
        a = np.ones((size, size), np.float32)
        a @ a
        if min(seconds(lambda a=a: a @ a) for _ in range(5)) * 4 > target:  # type: ignore[misc]
            break
        size = int(size * 1.25)
    return lambda: [a @ a for _ in range(4)]


def stall(loader: Any, step: Callable[[], object]) -> float:
    """Median seconds that a step waits for its batch."""
    waits: list[float] = []
    batches = iter(loader)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        waited = time.perf_counter() - start
        if batch is None:
            return float(np.median(waits))
        waits.append(waited)
        step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=512, help="phantom slices of 362x362, 16 patches each")
    parser.add_argument("--rounds", type=int, default=25, help=f"times {IN_A_ROW} batches of each kind")
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk to measure [the system's]")
    options = parser.parse_args()
    patients = max(options.slices // 32, 1)
    print(f"{machine()}; {patients * 32 * 16:,} patches of 128x128, batches of {BATCH}, warm\n")
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        sources = Path(folder) / "sources"
        write_phantom(sources, splits=(PhantomSplit("train", patients, 32),), pairs=False)
        sets: dict[str, PatchSet] = {}
        for layout in LAYOUTS:
            build(sources / "prepared/phantom/train", layout=layout, out=Path(folder) / layout)
            sets[layout] = open_set(Path(folder) / layout, sources)
        for layout in LAYOUTS:
            sets[f"{layout}, in_memory"] = open_set(Path(folder) / layout, sources, in_memory=True)
        memory = sets["shards"].read(range(len(sets["shards"])))
        times = bench_batches(sets, memory, options.rounds)
        print(
            "| `ps.read` | us a patch | share of memory | share of the page cache | to reach |\n|---|---|---|---|---|"
        )
        for name, value in times.items():
            shares = f"{times['memory'] / value:.2f} | {times['page cache'] / value:.2f}"
            print(f"| {name} | {value / BATCH * 1e6:.1f} | {shares} | {REACH.get(name, '')} |")
        epochs = bench_loaders(sets, max(options.rounds // 5, 3))
        print("\n| an epoch | us a patch | share of `ps.read` | to reach |\n|---|---|---|---|")
        for name, value in epochs.items():
            each = value / len(memory)
            share = times[name.partition(", ")[2]] / BATCH / each
            print(f"| {name} | {each * 1e6:.1f} | {share:.2f} | {0.6 if name.startswith('PatchLoader') else ''} |")
        step = training_step(1.9e-3)
        alone = min(seconds(step) for _ in range(20))
        print(f"\n| beside a step of {alone * 1e3:.1f} ms | waits, ms a batch |\n|---|---|")
        for name, ps in sets.items():
            print(f"| ps.batches, {name} | {stall(ps.batches(BATCH, shuffle=True), step) * 1e3:.3f} |")


if __name__ == "__main__":
    main()
