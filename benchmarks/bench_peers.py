"""Loading and reassembly side by side with what users have today: `make bench-peers`.

The same patches for all, batches of 64; every round walks one epoch of each, one after the other; medians of warm
epochs. A peer that is not installed, or fails, stands in the table with its reason.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_read import training_step
from measure import machine, medians, seconds, versions
from peer_loaders import BATCH, PEERS, Bench, Make
from peer_reassembly import COLUMNS, MERGERS, correctness

from ctpatch.cutting.api import build
from ctpatch.phantom.slices import PhantomSplit, write_phantom
from ctpatch.reading.patchset import open_set
from ctpatch.words import LayoutName

LAYOUTS: tuple[LayoutName, ...] = ("files", "shards", "slices")
PACKAGES = ["torch", "monai", "torchio", "webdataset", "litdata", "datasets", "grain", "patchify", "tiler"]


def ours(folder: Path, sources: Path) -> dict[str, Make]:
    from ctpatch.torch import PatchLoader

    made: dict[str, Make] = {}
    for in_memory in (False, True):
        for layout in LAYOUTS:
            ps = open_set(folder / layout, sources, in_memory=in_memory)
            name = f"ctpatch PatchLoader, {layout}{', in_memory' if in_memory else ''}"
            made[name] = partial(iter, PatchLoader(ps, BATCH, shuffle=True))
    return made


def count_of(batch: Any) -> int:
    """Patches in a batch of whatever kind a peer gives."""
    while isinstance(batch, dict | list | tuple):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
        if isinstance(batch, dict) and "data" in batch:
            batch = batch["data"]
    return len(batch)


def epoch(make: Make, seen: dict[str, int], name: str) -> None:
    seen[name] = sum(count_of(batch) for batch in make())


def waits(make: Make, step: Callable[[], object], batches: int = 64) -> float:
    """Milliseconds that a training step waits for its batch: the mean, as reading in bursts hides in a median."""
    iterator: Iterator[Any] = make()
    next(iterator)
    step()
    waited = 0.0
    done = 0
    while done < batches:
        start = time.perf_counter()
        if next(iterator, None) is None:
            break
        waited += time.perf_counter() - start
        done += 1
        step()
    return waited / max(done, 1) * 1e3


def print_loaders(bench: Bench, folder: Path, sources: Path, rounds: int) -> None:
    makes = ours(folder, sources)
    failed: dict[str, str] = {}
    for name, prepare in PEERS.items():
        try:
            makes[name] = prepare(bench)
            count_of(next(makes[name]()))
        except Exception as error:  # noqa: BLE001 - whatever stops a peer is its line in the table
            makes.pop(name, None)
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    failed["FFCV"] = "needs OpenCV and a compiler to install; not in the environment"
    seen: dict[str, int] = {}
    works = {name: partial(epoch, make, seen, name) for name, make in makes.items()}
    for work in works.values():
        work()
    times = medians(works, rounds)
    step = training_step(1.9e-3)
    alone = min(seconds(step) for _ in range(20))
    print(f"| loader | us a patch | patches in an epoch | waits beside a step of {alone * 1e3:.1f} ms, ms a batch |")
    print("|---|---|---|---|")
    for name, value in times.items():
        wait = float(np.median([waits(makes[name], step) for _ in range(3)]))
        print(f"| {name} | {value / seen[name] * 1e6:.1f} | {seen[name]:,} | {wait:.2f} |", flush=True)
    for name, reason in failed.items():
        print(f"| {name} | not measured: {reason} | | |")


def print_reassembly(slices: list[np.ndarray[Any, Any]], rounds: int) -> None:
    def image(side: int) -> np.ndarray[Any, Any]:
        base = slices[0]
        return np.ascontiguousarray(np.pad(base, ((0, max(side - 362, 0)),) * 2, "reflect")[:side, :side])

    works: dict[str, Callable[[], object]] = {}
    for side in (362, 512):
        for name, merger in MERGERS.items():
            try:
                _patches, merge = merger(image(side), 128, 64)
                merge()
            except Exception:  # noqa: BLE001 - its answer stands in the table of correctness
                continue
            works[f"{side} {name}"] = merge
    times = medians(works, rounds)
    table = correctness(image)
    print("\n| reassembly | 362x362, 16 patches, ms | 512x512, 49 patches, ms |\n|---|---|---|")
    for name in MERGERS:
        cells = [f"{times[f'{side} {name}'] * 1e3:.2f}" if f"{side} {name}" in times else "" for side in (362, 512)]
        print(f"| {name} | {cells[0]} | {cells[1]} |")
    print("\n| unchanged patches come back | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for name, answers in table.items():
        print(f"| {name} | " + " | ".join(answers) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=512, help="phantom slices of 362x362, 16 patches each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk to measure [the system's]")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what peers deprecate is not ours to print
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    patients = max(options.slices // 32, 1)
    print(f"{machine()}; {patients * 32 * 16:,} patches of 128x128\n\n{versions(PACKAGES)}\n")
    with tempfile.TemporaryDirectory(dir=options.dir, ignore_cleanup_errors=True) as folder:
        sources = Path(folder) / "sources"
        write_phantom(sources, splits=(PhantomSplit("train", patients, 32),), pairs=False)
        for layout in LAYOUTS:
            build(sources / "prepared/phantom/train", layout=layout, out=Path(folder) / layout)
        slices = sorted(str(path) for path in (sources / "prepared/phantom/train").glob("train_[0-9]*.npy"))
        patches = sorted(str(path) for path in (Path(folder) / "files").glob("train_*.npy"))
        arrays = list(open_set(Path(folder) / "shards", sources).read(range(len(patches))))
        bench = Bench(patches, slices, Path(folder), arrays)
        print_loaders(bench, Path(folder), sources, options.rounds)
        print_reassembly([np.load(path) for path in slices[5:6]], options.rounds * 8)


if __name__ == "__main__":
    main()
