"""Clocks that lie: set back during a build, in the far past or future; times of files that make no sense."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import Prepared, assert_same_tree, tree_bytes
from reliability.common import (
    FULL,
    SMALL_PARTS,
    Count,
    build_arguments,
    restore,
    run,
    run_here,
    set_state,
)

CONDITIONS: dict[str, Any] = {"plan": SMALL_PARTS}
HOUR = 3_600_000_000_000
YEAR = 8_766 * HOUR
NOW = 57 * YEAR
"""About 2027, in nanoseconds since 1970, as all times here."""

CLOCKS = {
    "1970": (0, 1),
    "2255": (285 * YEAR, 1_000_000),
    "an hour back at each look": (NOW, -HOUR),
    "stands still": (NOW, 0),
    "a year on at each look": (NOW, YEAR),
}
FILE_TIMES = {"1902": -68 * YEAR, "1970": 0, "2105": 135 * YEAR, "2255": 285 * YEAR}
LAYOUTS = ("files", "shards", "slices", "index") if FULL else ("slices",)


def _undisturbed(split: Prepared, layout: str) -> dict[str, bytes]:
    assert run_here(build_arguments(split, layout), CONDITIONS).status == 0
    wanted = tree_bytes(split.out)
    restore(split.out, None)
    return wanted


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("clock", CLOCKS if FULL else ["an hour back at each look"])
def test_a_clock_that_lies_changes_no_byte(small: Prepared, layout: str, clock: str, count: Count) -> None:
    command = build_arguments(small, layout)
    wanted = _undisturbed(small, layout)
    ran = run(command, {**CONDITIONS, "clock": CLOCKS[clock]})
    assert ran.status == 0, ran.err
    assert_same_tree(tree_bytes(small.out), wanted)
    assert " complete" in run_here(command, CONDITIONS).out
    count("clocks and times of files")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("first", "second"), [("2255", "1970"), ("1970", "2255")] if FULL else [("2255", "1970")])
def test_the_clock_is_set_between_two_runs(small: Prepared, layout: str, first: str, second: str, count: Count) -> None:
    command = build_arguments(small, layout)
    wanted = _undisturbed(small, layout)
    whole = _stop_at_the_last_slice(small, layout, first)
    small.file(5).write_bytes(whole)
    ran = run(command, {**CONDITIONS, "clock": CLOCKS[second]})
    assert ran.status == 0, ran.err
    assert " resumed" in ran.out
    assert_same_tree(tree_bytes(small.out), wanted)
    count("clocks and times of files")


def _stop_at_the_last_slice(split: Prepared, layout: str, clock: str) -> bytes:
    """Run a build that stops in its last part; returns what the last slice should have been."""
    whole = split.file(5).read_bytes()
    bad = np.full((40, 50), 2, np.float32)
    np.save(split.file(5), bad)
    ran = run(build_arguments(split, layout), {**CONDITIONS, "clock": CLOCKS[clock]})
    assert ran.status == 1, ran
    assert "finished parts are kept" in ran.err
    return whole


def test_a_change_is_found_though_the_clock_was_ahead(small: Prepared, count: Count) -> None:
    """The clock said 2255 when the slice was cut; whatever its times are now, they prove nothing."""
    whole = _stop_at_the_last_slice(small, "shards", "2255")
    _change(small.file(0))
    small.file(5).write_bytes(whole)
    ran = run_here(build_arguments(small, "shards"), CONDITIONS)
    assert ran.status == 1, ran
    assert "train_000000.npy has changed since it was cut" in ran.err
    assert set_state(small.out) == "incomplete"
    count("clocks and times of files")


def test_a_change_is_found_though_the_set_is_dated_in_the_future(small: Prepared, count: Count) -> None:
    command = build_arguments(small, "shards")
    assert run_here(command, CONDITIONS).status == 0
    for path in small.out.rglob("*"):
        os.utime(path, ns=(FILE_TIMES["2105"],) * 2)
    assert " complete" in run_here(command, CONDITIONS).out
    _change(small.file(0))
    ran = run_here(command, CONDITIONS)
    assert ran.status == 2, ran
    assert "changed" in ran.err
    count("clocks and times of files")


def _change(path: Path) -> None:
    """Other pixels in a file of the same size and modification time."""
    before = path.stat()
    pixels = np.load(path)
    pixels[0, 0] += np.float32(0.5)
    np.save(path, pixels)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("when", FILE_TIMES)
def test_times_of_files_that_make_no_sense(small: Prepared, when: str, count: Count) -> None:
    """Of sources before the build, and of receipts and rows in the middle of it."""
    layout = "shards"
    command = build_arguments(small, layout)
    wanted = _undisturbed(small, layout)
    for path in small.folder.iterdir():
        os.utime(path, ns=(FILE_TIMES[when],) * 2)
    whole = small.file(5).read_bytes()
    np.save(small.file(5), np.full((40, 50), 2, np.float32))
    assert run_here(command, CONDITIONS).status == 1
    for path in [*small.folder.iterdir(), *small.out.rglob("*")]:
        os.utime(path, ns=(FILE_TIMES[when],) * 2)
    small.file(5).write_bytes(whole)
    os.utime(small.file(5), ns=(FILE_TIMES[when],) * 2)
    ran = run_here(command, CONDITIONS)
    assert (ran.status, " resumed" in ran.out) == (0, True), ran
    assert_same_tree(tree_bytes(small.out), wanted)
    assert set_state(small.out, deep=True) == "complete"
    count("clocks and times of files")
