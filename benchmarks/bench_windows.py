"""Windows drawn while training: what each kind costs beside grid windows, and beside what users have today.

All draw 16 windows of 128x128 from each of the same slices, in batches of 64, warm. Each round walks one epoch of
each, one after the other. A ratio is one of least times over all rounds: what else runs on the machine adds time and
never takes any away. Times are those of the processor, over all threads of this process; with workers, which are
processes of their own, they are the times that pass. `PatchLoader` reads ahead by one thread, whatever workers a peer
has. `copies alone` is a bare loop that copies such windows into a given buffer: the limit.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench_peers import count_of, epoch
from measure import least, machine, versions
from peer_windows import BATCH, BY_LABEL, PER_SLICE, RANDOM, SHARE, SIZE, Make, Peer, Slices

import ctpatch
from ctpatch.core.statistics.api import use_compiled
from ctpatch.cutting.api import build
from ctpatch.files.memory import empty_buffer
from ctpatch.phantom.slices import PhantomSplit, write_phantom

GRID, DRAWN, COPIES = "grid windows", "random windows", "copies alone"
LIMITS = {
    COPIES: (DRAWN, None),
    DRAWN: (GRID, 1.3),
    "grid windows, context=1": (GRID, 3.0),
    "random windows, context=1": (DRAWN, 3.0),
    "LabelWindows": (DRAWN, 2.0),
    "LabelWindows, balanced": (DRAWN, 2.0),
    "LabelWindows, share=1": (DRAWN, 2.0),
    "random windows, a rule": (DRAWN, None),
}
RULE = "table: air_fraction > 0.9"


def write_slices(root: Path, count: int) -> Slices:
    """Phantom slices with masks of bone (1) and lung (2), and all images in one file."""
    write_phantom(root, splits=(PhantomSplit("train", max(count // 32, 1), 32),), pairs=False)
    folder = root / "prepared/phantom/train"
    images = sorted(folder.glob("train_[0-9]*.npy"))
    masks = [root / "masks" / image.name for image in images]
    masks[0].parent.mkdir()
    stack = [np.load(path) for path in images]
    for image, path in zip(stack, masks, strict=True):
        mask = np.zeros(image.shape, np.uint8)
        mask[image > 0.3] = 1
        mask[(image > 0.02) & (image < 0.12)] = 2
        np.save(path, mask)
    manifest = next(folder.glob("*.csv"))
    named = pl.Series("mask_path", [str(path.relative_to(root)) for path in masks])
    pl.read_csv(manifest).with_columns(named).write_csv(manifest)
    np.save(root / "stack.npy", np.stack(stack))
    return Slices(images, masks, root / "stack.npy")


def walk(loader: Any) -> None:
    for _ in loader:
        pass


def copies(ps: Any, batches: int) -> Callable[[], object]:
    """An epoch of bare copies of random windows."""
    rng = np.random.default_rng(0)
    stacks = [np.load(path, mmap_mode="r") for path in sorted((ps.folder / "shards").glob("train_[0-9]*[0-9].npy"))]
    images = [np.asarray(image) for stack in stacks for image in stack]
    out = empty_buffer((BATCH, SIZE, SIZE), np.dtype(np.float32))
    windows = []
    for _ in range(batches * BATCH):
        image = images[int(rng.integers(len(images)))]
        row, col = (int(rng.integers(side - SIZE + 1)) for side in image.shape)
        windows.append(image[row : row + SIZE, col : col + SIZE])

    def work() -> None:
        for first in range(0, len(windows), BATCH):
            for slot, window in zip(out, windows[first : first + BATCH], strict=True):
                slot[...] = window

    return work


def print_kinds(ps: Any, rounds: int) -> None:
    """What each kind of window costs, images alone."""
    windows = partial(ctpatch.RandomWindows, SIZE, PER_SLICE)
    by_label = partial(ctpatch.LabelWindows, SIZE, PER_SLICE)
    context: dict[str, Any] = {"context": 1, "context_gap": "ignore"}
    asked: dict[str, dict[str, Any]] = {
        GRID: {},
        DRAWN: {"windows": windows()},
        "grid windows, context=1": context,
        "random windows, context=1": {"windows": windows(), **context},
        "LabelWindows": {"windows": by_label(share=SHARE)},
        "LabelWindows, balanced": {"windows": by_label(share=SHARE, labels="balanced")},
        "LabelWindows, share=1": {"windows": by_label(share=1.0)},
        "random windows, a rule": {"windows": windows(rules=RULE)},
    }
    loaders = {name: ps.batches(BATCH, shuffle=True, arrays="image", **each) for name, each in asked.items()}
    works: dict[str, Callable[[], object]] = {name: partial(walk, loader) for name, loader in loaders.items()}
    loaders[COPIES] = loaders[DRAWN]
    works[COPIES] = copies(ps, len(loaders[COPIES]))
    times = {name: each[1] for name, each in least(works, rounds).items()}
    print("| from layout `slices` | us of processor a batch | ratio | limit |\n|---|---|---|---|")
    for name, value in times.items():
        to, limit = LIMITS.get(name, (None, None))
        ratio = f"{value / times[to]:.2f} of {to}" if to else ""
        print(f"| {name} | {value / len(loaders[name]) * 1e6:.0f} | {ratio} | {limit or ''} |", flush=True)


def made(peers: Mapping[str, Peer], slices: Slices) -> tuple[dict[str, Make], dict[str, str]]:
    """The peers with 0 and 2 workers; and for those that fail, why."""
    makes: dict[str, Make] = {}
    failed: dict[str, str] = {}
    for name, peer in peers.items():
        for workers in (0, 2):
            try:
                make = peer(slices, workers)
                count_of(next(make()))
            except Exception as error:  # noqa: BLE001 - whatever stops a peer is its line in the table
                failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
            else:
                makes[f"{name}, {workers} workers"] = make
    return makes, failed


def print_peers(title: str, ours: Mapping[str, Make], peers: Mapping[str, Peer], slices: Slices, rounds: int) -> None:
    others, failed = made(peers, slices)
    makes = {**ours, **others}
    seen: dict[str, int] = {}
    works: dict[str, Callable[[], object]] = {name: partial(epoch, make, seen, name) for name, make in makes.items()}
    times = least(works, rounds)
    passed, taken = times[next(iter(ours))]
    print(f"\n| {title} | us of processor a patch | us that pass | times ctpatch |\n|---|---|---|---|")
    for name, each in times.items():
        alone = not name.endswith(" 2 workers")
        shown = f"{each[1] / seen[name] * 1e6:.1f}" if alone else ""
        ratio = each[1] / taken if alone else each[0] / passed
        print(f"| {name} | {shown} | {each[0] / seen[name] * 1e6:.1f} | {ratio:.1f} |", flush=True)
    for name, reason in failed.items():
        print(f"| {name} | not measured: {reason} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=256, help="phantom slices of 362x362")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--alone", action="store_true", help="leave the others out")
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk to measure [the system's]")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what peers deprecate is not ours to print
    # A rule's statistics are those of a long run, after the machine code was loaded.
    compiled = "machine code" if use_compiled(True) else "numpy"
    print(f"{machine()}; statistics by {compiled}; {versions(['torch', 'monai', 'torchio', 'deepinv'])}\n")
    with tempfile.TemporaryDirectory(dir=options.dir, ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        slices = write_slices(root, options.slices)
        build(root / "prepared/phantom/train", layout="slices", out=root / "slices")
        ps = ctpatch.open(root / "slices", root)
        print_kinds(ps, options.rounds * 2)
        if options.alone:
            return
        from ctpatch.torch import PatchLoader

        kept = ctpatch.open(root / "slices", root, in_memory=True)
        random, by_label = ctpatch.RandomWindows(SIZE, PER_SLICE), ctpatch.LabelWindows(SIZE, PER_SLICE, share=SHARE)

        def loads(source: Any, windows: Any, arrays: Any) -> Make:
            return partial(iter, PatchLoader(source, BATCH, shuffle=True, windows=windows, arrays=arrays))

        print_peers(
            "random windows, images",
            {
                "ctpatch RandomWindows": loads(ps, random, "image"),
                "ctpatch RandomWindows, in_memory": loads(kept, random, "image"),
            },
            RANDOM,
            slices,
            options.rounds,
        )
        print_peers(
            f"windows of which {SHARE:.0%} hold a label, images and masks",
            {
                "ctpatch LabelWindows": loads(ps, by_label, ["image", "mask"]),
                "ctpatch LabelWindows, in_memory": loads(kept, by_label, ["image", "mask"]),
            },
            BY_LABEL,
            slices,
            options.rounds,
        )


if __name__ == "__main__":
    main()
