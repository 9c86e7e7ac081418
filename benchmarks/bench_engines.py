"""What each engine costs against the local pool of processes: bare items, and builds, in one interleaved run.

Every round does everything once, one after the other; the tables show medians, and ratios to the local pool of the
same round. Builds are in the layout `index`, which writes the least, so that what the engine costs is most of it.
"""

import argparse
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

from ctpatch.cutting.api import build
from ctpatch.cutting.plan import LIMITS
from ctpatch.work.executors.base import Executor
from ctpatch.work.executors.choose import as_executor
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.serial import SerialExecutor

SIDE = 362
ITEMS = 1000
LOCAL = "processes"
MEMORY_DISK = Path("/dev/shm")


def nothing(_shared: None, item: int) -> int:
    """An item that is no work."""
    return item


def make_split(root: Path, slices: int) -> Path:
    """Slices of noise, and their manifest."""
    folder = root / "prepared" / "noise" / "train"
    folder.mkdir(parents=True)
    image = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    names = [f"train_{number:06d}.npy" for number in range(slices)]
    for number, name in enumerate(names):
        np.save(folder / name, np.roll(image, number, axis=0))
    (folder / "manifest.csv").write_text("path\n" + "".join(f"prepared/noise/train/{name}\n" for name in names))
    return folder


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def items_by(executor: Executor) -> None:
    """Run items that are no work."""
    for _ in executor.run(nothing, None, range(ITEMS)):
        pass


def build_by(executor: Executor, split: Path, out: Path) -> float:
    """Seconds of a build into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    return seconds(lambda: build(split, layout="index", out=out, executor=executor))


def build_by_shares(split: Path, out: Path, shares: int) -> float:
    """Seconds of so many commands at the same time, each with one share, and of the merge; their start included."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "ctpatch"]

    def work() -> None:
        running = [
            subprocess.Popen(
                [*command, "build", split, "--layout", "index", "--out", out, "--share", f"{number}/{shares}"],
                stdout=subprocess.DEVNULL,
            )
            for number in range(1, shares + 1)
        ]
        statuses = [process.wait() for process in running]
        if any(statuses):
            sys.exit("a share failed")
        merge = [*command, "merge", str(out), "--data-root", str(split.parents[2])]
        subprocess.run(merge, check=True, stdout=subprocess.DEVNULL)

    return seconds(work)


def show(title: str, found: dict[str, list[float]], number: int, unit: str) -> None:
    """A row for each engine: median, ratio to the local pool, and what one item takes more than there."""
    print(f"\n{title}\n{'':28}{'seconds':>9}{'ratio':>8}{f'ms more for each {unit}':>26}")
    for name, times in found.items():
        ratio = statistics.median(mine / pool for mine, pool in zip(times, found[LOCAL], strict=True))
        more = statistics.median(mine - pool for mine, pool in zip(times, found[LOCAL], strict=True))
        print(f"{name:28}{statistics.median(times):9.2f}{ratio:8.2f}{1000 * more / number:26.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    workers: int = options.workers
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {workers} workers")
    with ExitStack() as stack:
        place = MEMORY_DISK if MEMORY_DISK.is_dir() else None
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        split, out = make_split(root, options.slices), root / "out"
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(workers, spawn))
        cluster = stack.enter_context(
            LocalCluster(n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
        )
        client = stack.enter_context(Client(cluster))
        engines: dict[str, Executor] = {
            "serial": SerialExecutor(),
            LOCAL: ProcessExecutor(workers),
            "a pool that is there": as_executor(pool, 1),
            "dask, cluster that is there": as_executor(client, 1),
        }
        for executor in engines.values():  # what is only done once: imports in the workers, files in the page cache
            build_by(executor, split, out)
        items: dict[str, list[float]] = {name: [] for name in engines}
        builds: dict[str, list[float]] = {name: [] for name in (*engines, f"{workers} shares and merge")}
        for _ in range(options.rounds):
            for name, executor in engines.items():
                items[name].append(seconds(partial(items_by, executor)))
            for name, executor in engines.items():
                builds[name].append(build_by(executor, split, out))
            builds[f"{workers} shares and merge"].append(build_by_shares(split, out, workers))
        show(f"{ITEMS} items that are no work", items, ITEMS, "item")
        parts = -(-options.slices // LIMITS.slices)
        show(f"{options.slices} slices of {SIDE}x{SIDE}, index, {parts} parts", builds, parts, "part")


if __name__ == "__main__":
    main()
