"""What the benchmarks share: time, medians of interleaved rounds, the line that says which machine it was."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import numpy as np


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each work. Each round does everything once, so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(values) for name, values in times.items()}


def least(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Least seconds of each work that passed, and that this process's threads took of the processor.

    Rounds are as in `medians`, but each work is done twice in a row, and the second time counts: what it left in the
    caches of the processor it may use, as in a long run. The least time is the one to compare where other programs run
    on the machine: they add time and never take any away.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            work()
            start = time.process_time()
            passed = seconds(work)
            times[name].append((passed, time.process_time() - start))
    return {name: (min(each[0] for each in pairs), min(each[1] for each in pairs)) for name, pairs in times.items()}


def versions(packages: Iterable[str]) -> str:
    """The versions of some packages, as a list in words."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def machine() -> str:
    """Date, cores, system and versions."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, numpy {np.__version__}"
    )
