"""Small splits, ctpatch in a process of its own under given conditions, and what of a set may be there afterwards."""

import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main as run_command
from ctpatch.errors import UsageError
from helpers import EPOCH, Prepared, make_split, small_parts, tree_bytes

FULL = os.environ.get("CTPATCH_RELIABILITY") == "full"
"""Whether all of the suite runs, as in `make reliability`, or a sample."""

DRIVER = Path(__file__).with_name("driver.py")
TIMEOUT = 120.0
OPTIONS = ("--patch-size", "16", "--stride", "8", "--drop", "flat: std < 0.001")
"""Of a build that drops some windows and keeps most."""

ONLY_IN_FULL = pytest.mark.skipif(not FULL, reason="a part of the full suite: make reliability")

SMALL_PARTS: dict[str, Any] = {"slices": 2, "shard_bytes": 20_000}
"""Limits of a plan with which six small slices make three parts in every layout."""


class Count(Protocol):
    """Adds to a number that is printed at the end of the run."""

    def __call__(self, name: str, number: int = 1) -> None: ...


@dataclass(frozen=True)
class Ran:
    """A process that has ended."""

    status: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.status in {-9, 137}


def small_split(root: Path, slices: int = 6, shape: tuple[int, int] = (40, 50)) -> Prepared:
    """A split with a second image and a mask."""
    return make_split(root, [shape] * slices, arrays={"target": np.float32, "mask": np.uint8})


def environment(**more: str) -> dict[str, str]:
    """Of a process that leaves nothing behind and does the same every time."""
    fixed = {
        "SOURCE_DATE_EPOCH": EPOCH,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "POLARS_MAX_THREADS": "1",
    }
    return {**os.environ, **fixed, **more}


def command(arguments: Sequence[str | Path], conditions: Mapping[str, Any] | None = None) -> list[str]:
    """The command line of ctpatch, under conditions of `driver.py` where there are any."""
    words = [str(argument) for argument in arguments]
    if not conditions:
        return [sys.executable, "-m", "ctpatch", *words]
    return [sys.executable, str(DRIVER), json.dumps(conditions), *words]


def run(
    arguments: Sequence[str | Path],
    conditions: Mapping[str, Any] | None = None,
    *,
    before: Sequence[str] = (),
    cwd: Path | None = None,
    **more: str,
) -> Ran:
    """Run ctpatch in a process and wait for it.

    Args:
        arguments: as on the command line.
        conditions: see `driver.py`.
        before: what stands in front of the command, such as strace.
        cwd: the working folder.
        more: environment variables.
    """
    done = subprocess.run(
        [*before, *command(arguments, conditions)],
        env=environment(**more),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def run_here(arguments: Sequence[str | Path], conditions: Mapping[str, Any] | None = None) -> Ran:
    """As `run` in this process, ten times quicker; of the conditions only the limits of the plan."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        small_parts(patch, **(conditions or {}).get("plan", {}))
        status = run_command([str(argument) for argument in arguments])
    return Ran(status, out.getvalue(), err.getvalue())


def build_arguments(split: Prepared, layout: str = "files", *more: str | Path) -> list[str | Path]:
    """`ctpatch build` of a small split."""
    return ["build", split.folder, "--layout", layout, *OPTIONS, *more]


def set_state(folder: Path, **options: Any) -> str:
    """What verify says of a folder: `absent`, `incomplete`, `complete`, or `damaged` with what it found."""
    try:
        report = ctpatch.verify(folder, **options)
    except UsageError:
        return "absent"
    if report.ok:
        return "complete"
    return "incomplete" if report.status == "incomplete" else f"damaged: {report.findings[:3]}"


def restore(folder: Path, template: Path | None) -> None:
    """Make a folder what its template is; nothing where there is none."""
    if folder.exists():
        shutil.rmtree(folder)
    if template is not None and template.exists():
        shutil.copytree(template, folder, symlinks=True)


def finished_tree(folder: Path) -> dict[str, bytes]:
    """A finished set's files, without what a build cut off at its very end would still remove."""
    return {name: content for name, content in tree_bytes(folder).items() if not name.startswith(".ctpatch/")}


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """So many of the items, evenly spread, the first and the last among them; all where there are fewer."""
    if number >= len(items):
        return list(items)
    if number == 1:
        return [items[len(items) // 2]]
    return [items[round(k * (len(items) - 1) / (number - 1))] for k in range(number)]


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ctpatch-reliability-")).resolve()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[Path]:
    """Mount something on a folder while the block runs; skips the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount {' '.join(words)}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        gc.collect()  # files that are mapped into memory keep a file system busy
        subprocess.run(["umount", str(folder)], capture_output=True, check=True)


def need_root() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root: to mount file systems and to become another user")


def need_program(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}, which is not installed")
