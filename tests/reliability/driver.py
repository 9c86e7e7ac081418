"""Run the command line of ctpatch under conditions: `driver.py '{"plan": {"slices": 2}}' build …`.

Conditions, a JSON object:
    plan: limits of parts, by name, so that a small set has several parts.
    uid: become this user when everything is imported.
    spare_files: how many more files may be opened than are open.
    clock: `[first, step]` in nanoseconds: what `time.time_ns` says first, and how far each call moves it.
    shutdown: `[folder, k, what]`: cut the file system off, as a power cut does, when the k-th call of a kind has
        ended; never with -1. The kind is "call": what makes something durable or gives it its name; or "write": that,
        and what opens, writes or removes a file.
    log: the file that gets the number of such calls at the end.
"""

import atexit
import importlib
import itertools
import json
import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
_NO_FLUSH = 2


def shut_down(folder: str) -> None:
    """Cut a file system off: nothing in memory reaches the disk from here on, the journal neither."""
    import fcntl

    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, _NO_FLUSH.to_bytes(4, sys.byteorder))
    finally:
        os.close(fd)


def _import_all() -> None:
    import ctpatch

    # Not what imports torch, which no command needs, nor machine code.
    left_out = (
        "ctpatch.__main__",
        "ctpatch.torch",
        "ctpatch.lightning",
        "ctpatch.adapters.",
        "ctpatch.core.statistics.numba",
    )
    for module in pkgutil.walk_packages(ctpatch.__path__, "ctpatch."):
        if not module.name.startswith(left_out):
            importlib.import_module(module.name)
    import polars as pl

    pl.read_csv(b"a\n1\n")  # polars starts its threads when it is first used, and panics where it cannot


def _limit_files(spare: int) -> None:
    import resource

    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, used + spare))


def _set_clock(first: int, step: int) -> None:
    calls = itertools.count()
    lock = threading.Lock()

    def time_ns() -> int:
        with lock:
            return first + step * next(calls)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def _cut_off_after(folder: str, when: int, what: str, log: str | None) -> None:
    calls = itertools.count(1)
    if log is not None:
        atexit.register(lambda: Path(log).write_text(str(next(calls) - 1)))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            if next(calls) == when:
                shut_down(folder)
            return result

        return wrapper

    import ctpatch.files.atomic

    os.fsync = counted(os.fsync)
    os.replace = counted(os.replace)
    ctpatch.files.atomic._syncfs = counted(ctpatch.files.atomic._syncfs)
    if what == "write":
        for name in ("open", "write", "writev", "ftruncate", "mkdir", "unlink"):
            setattr(os, name, counted(getattr(os, name)))


def main() -> int:
    conditions = json.loads(sys.argv[1])
    from ctpatch.cli.app import main as run_command

    plan: Any = importlib.import_module("ctpatch.cutting.plan")
    plan.LIMITS = plan.PartLimits(**conditions.get("plan", {}))
    if {"uid", "spare_files"} & set(conditions):
        _import_all()
    if "clock" in conditions:
        _set_clock(*conditions["clock"])
    if "shutdown" in conditions:
        folder, when, what = conditions["shutdown"]
        _cut_off_after(folder, when, what, conditions.get("log"))
    if "uid" in conditions:
        os.setgroups([])
        os.setgid(conditions["uid"])
        os.setuid(conditions["uid"])
    if "spare_files" in conditions:
        _limit_files(conditions["spare_files"])
    return run_command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
