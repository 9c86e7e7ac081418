"""Builds against the limits of the machine, in one interleaved run: `make bench`.

Every round measures everything once, one after the other; the table shows medians and the ratio to a limit that was
measured in the same rounds. "Page cache" runs on a file system in memory where there is one, so that a sync costs
nothing; "disk" writes where you say and includes making the bytes durable, for us and for the limit.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, seconds

from ctpatch.core.statistics.api import use_compiled, window_statistics
from ctpatch.cutting.api import build
from ctpatch.files.npy import header_bytes
from ctpatch.phantom.slices import PhantomSplit, write_phantom
from ctpatch.words import LayoutName

SIZE, PATCH, STRIDE = 362, 128, 64
STARTS = [0, 64, 128, 192]
LAYOUTS: tuple[LayoutName, ...] = ("files", "shards", "slices", "index")
MEMORY_DISK = Path("/dev/shm")


class Bench:
    """The same work by the notebook, by the bare limit, and by us."""

    def __init__(self, sources: Path, where: Path, *, durable: bool) -> None:
        self.sources = sources
        self.where = where
        self.durable = durable
        self.split = sources / "prepared" / "phantom" / "train"
        self.paths = sorted(self.split.glob("train_[0-9]*.npy"))
        self.slices = [np.load(path) for path in self.paths[:64]]
        self.round = 0

    def folder(self, name: str) -> Path:
        """A new folder each time: deleting and creating again in one folder slows a file system down."""
        path = self.where / f"{name}{self.round}"
        path.mkdir(parents=True)
        return path

    def end(self, folder: Path) -> None:
        if self.durable:
            os.sync()
        del folder

    def load(self) -> None:
        for path in self.paths:
            np.load(path)

    def load_and_write(self, pixels_of: str) -> None:
        """np.load of the slices and a raw os.write of the bytes that a layout holds."""
        folder = self.folder(f"limit_{pixels_of}")
        patches = np.zeros((16, PATCH, PATCH), np.float32)
        fd = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT)
        for path in self.paths:
            image = np.load(path)
            os.write(fd, (patches if pixels_of == "shards" else image).data)
        os.close(fd)
        self.end(folder)

    def bare_files(self) -> None:
        """open, writev, close on the names and bytes of the layout `files`, from memory."""
        folder = str(self.folder("limit_files"))
        header = header_bytes((PATCH, PATCH), np.dtype(np.float32))
        patch = np.zeros((PATCH, PATCH), np.float32)
        for number in range(len(self.paths)):
            for row in STARTS:
                for col in STARTS:
                    name = f"{folder}/train_{number:06d}_{row:03d}_{col:03d}.npy"
                    fd = os.open(name, os.O_WRONLY | os.O_CREAT)
                    os.writev(fd, [header, patch.data.cast("B")])
                    os.close(fd)
        self.end(Path(folder))

    def notebook(self) -> None:
        """np.load, slice, np.save for each patch, four statistics each, one CSV."""
        folder = self.folder("notebook")
        rows = []
        for number, path in enumerate(self.paths):
            image = np.load(path)
            for row in STARTS:
                for col in STARTS:
                    patch = image[row : row + PATCH, col : col + PATCH]
                    name = f"train_{number:06d}_{row:03d}_{col:03d}"
                    np.save(folder / f"{name}.npy", patch)
                    numbers = [float(patch.min()), float(patch.max()), float(patch.mean()), float(patch.std())]
                    rows.append([name, number, path.name, row, col, f"{name}.npy", *numbers])
        with (folder / "patch_manifest.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        self.end(folder)

    def ours(self, layout: LayoutName) -> None:
        build(self.split, layout=layout, out=self.where / f"ours_{layout}{self.round}")


def bench_builds(bench: Bench, rounds: int) -> dict[str, float]:
    """Median seconds for each work; the file systems are emptied between rounds."""
    works: dict[str, Callable[[], object]] = {
        "load": bench.load,
        "limit shards": lambda: bench.load_and_write("shards"),
        "limit slices": lambda: bench.load_and_write("slices"),
        "limit files": bench.bare_files,
        "notebook": bench.notebook,
        **{layout: partial(bench.ours, layout) for layout in LAYOUTS},
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            os.sync()
            times[name].append(seconds(work))
            for folder in bench.where.iterdir():
                shutil.rmtree(folder)
        bench.round += 1
    return {name: statistics.median(values) for name, values in times.items()}


def bench_statistics(image: np.ndarray[Any, Any], rounds: int) -> tuple[float, float]:
    """Median seconds of one np.min pass and of the statistics of 16 windows, in turn."""
    few: list[float] = []
    all_of: list[float] = []
    for _ in range(rounds * 40):
        few.append(seconds(lambda: [np.min(image) for _ in range(10)]) / 10)
        all_of.append(
            seconds(lambda: [window_statistics(image, STARTS, STARTS, (PATCH, PATCH), 0.02) for _ in range(10)]) / 10
        )
    return statistics.median(few), statistics.median(all_of)


def peak_memory(split: Path, out: Path, layout: str) -> float:
    """Peak resident MB of a build in a process of its own."""
    # VmHWM, not ru_maxrss: that one remembers the process it was forked from.
    code = (
        f"import ctpatch; ctpatch.build({str(split)!r}, layout={layout!r}, out={str(out)!r})\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[1]) * 1024 / 1e6


def many_slices(sources: Path, root: Path, times: int) -> Path:
    """A split of `times` as many slices: the same pixels under other names."""
    split = root / "prepared" / "many" / "train"
    split.mkdir(parents=True)
    lines = ["path"]
    for copy in range(times):
        for path in sorted((sources / "prepared" / "phantom" / "train").glob("train_[0-9]*.npy")):
            name = f"{copy}_{path.name}"
            os.link(path, split / name)
            lines.append(f"prepared/many/train/{name}")
    (split / "train_manifest.csv").write_text("\n".join(lines) + "\n")
    return split


def print_builds(title: str, times: dict[str, float], slices: int) -> None:
    limits = {"files": "limit files", "shards": "limit shards", "slices": "limit slices", "index": "load"}
    reach = {"files": 0.8, "shards": 0.5, "slices": 0.5, "index": 0.5}
    print(f"\n{title}\n")
    print("| layout | slices/s | patches/s | times the notebook | share of the limit | to reach |")
    print("|---|---|---|---|---|---|")
    for layout in LAYOUTS:
        rate = slices / times[layout]
        ratio = times["notebook"] / times[layout]
        share = times[limits[layout]] / times[layout]
        print(f"| `{layout}` | {rate:,.0f} | {16 * rate:,.0f} | {ratio:.1f} | {share:.2f} | {reach[layout]} |")
    print(f"| the notebook | {slices / times['notebook']:,.0f} | {16 * slices / times['notebook']:,.0f} | 1 | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=512, help="phantom slices of 362x362")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk to measure [the system's]")
    parser.add_argument("--no-disk", action="store_true", help="page cache only")
    parser.add_argument("--numpy", action="store_true", help="statistics in numpy even where numba is there")
    options = parser.parse_args()
    compiled = use_compiled(not options.numpy)
    patients = max(options.slices // 32, 1)
    print(
        f"{machine()}, statistics by {'numba' if compiled else 'numpy'}; {patients * 32} slices of 362x362, one process"
    )
    with tempfile.TemporaryDirectory(dir=options.dir) as on_disk:
        sources = Path(on_disk) / "sources"
        write_phantom(sources, splits=(PhantomSplit("train", patients, 32),), pairs=False)
        if MEMORY_DISK.is_dir():
            with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as in_memory:
                bench = Bench(sources, Path(in_memory), durable=False)
                print_builds(
                    "Page cache (a file system in memory)", bench_builds(bench, options.rounds), len(bench.paths)
                )
        if not options.no_disk:
            where = Path(on_disk) / "work"
            where.mkdir()
            bench = Bench(sources, where, durable=True)
            print_builds("Disk, until durable", bench_builds(bench, options.rounds), len(bench.paths))
        bench = Bench(sources, Path(on_disk), durable=False)
        few, all_of = bench_statistics(bench.slices[5], options.rounds)
        print(
            f"\nStatistics of 16 windows: {all_of * 1e6:.0f} us, {all_of / few:.1f} np.min passes ({few * 1e6:.1f} us)"
        )
        if Path("/proc/self/status").exists():
            print("\n| peak memory of a build, MB | " + " | ".join(LAYOUTS) + " |\n|---|---|---|---|---|")
            for factor in (1, 4):
                split = many_slices(sources, Path(on_disk) / f"many{factor}", factor)
                peaks = [peak_memory(split, Path(on_disk) / f"peak{factor}_{name}", name) for name in LAYOUTS]
                cells = " | ".join(f"{peak:.0f}" for peak in peaks)
                print(f"| {factor * len(bench.paths)} slices | {cells} |")
        start = min(seconds(partial(subprocess.run, [sys.executable, "-c", "pass"], check=True)) for _ in range(5))
        for name, command in (
            ("import ctpatch", ["-c", "import ctpatch"]),
            ("ctpatch --help", ["-m", "ctpatch", "--help"]),
        ):
            runs = [
                seconds(partial(subprocess.run, [sys.executable, *command], check=True, stdout=subprocess.DEVNULL))
                for _ in range(options.rounds)
            ]
            print(f"\n{name}: {statistics.median(runs):.2f} s (Python alone {start:.2f} s)", end="")
    print()


if __name__ == "__main__":
    main()
