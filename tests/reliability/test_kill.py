"""SIGKILL at the system calls that change the output: never a set that passes and differs, and the same bytes after."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import EPOCH, Prepared, assert_same_tree, tree_bytes, tree_stamps
from reliability.common import (
    FULL,
    ONLY_IN_FULL,
    SMALL_PARTS,
    Count,
    build_arguments,
    finished_tree,
    restore,
    run,
    run_here,
    set_state,
    small_split,
    spread,
)
from reliability.tracing import Call, disturb, need_strace, spread_over_kinds, trace

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="strace is there on Linux alone")

POINTS = 14 if FULL else 3
SAMPLE = ("slices", "overwrite files")
CONDITIONS = {"plan": SMALL_PARTS}

Words = list[str | Path]


@dataclass(frozen=True)
class Scenario:
    """A command that is killed: what is run before it, and itself."""

    before: Callable[[Prepared], list[Words]]
    command: Callable[[Prepared], Words]
    out: str = "train"
    status: int = 0


def _build(layout: str, *more: str) -> Callable[[Prepared], Words]:
    return lambda split: build_arguments(split, layout, *more)


def _convert(layout: str, *more: str) -> Callable[[Prepared], Words]:
    return lambda split: ["convert", split.out, split.out.parent / "other", "--layout", layout, *more]


def _after(*builds: Callable[[Prepared], Words]) -> Callable[[Prepared], list[Words]]:
    return lambda split: [each(split) for each in builds]


SCENARIOS = {
    "files": Scenario(_after(), _build("files")),
    "shards": Scenario(_after(), _build("shards")),
    "slices": Scenario(_after(), _build("slices")),
    "index": Scenario(_after(), _build("index")),
    "workers": Scenario(_after(), _build("files", "--workers", "2")),
    "skip": Scenario(_after(), _build("shards", "--on-error", "skip"), status=1),
    "files to shards": Scenario(_after(_build("files")), _convert("shards", "--keep", "mean > 0.1"), "other"),
    "shards to files": Scenario(_after(_build("shards")), _convert("files"), "other"),
    "files to slices": Scenario(_after(_build("files")), _convert("slices"), "other"),
    "overwrite files": Scenario(_after(_build("files")), _build("shards", "--pad-mode", "shift", "--overwrite")),
    "overwrite shards": Scenario(_after(_build("shards")), _build("files", "--overwrite")),
    "complete already": Scenario(_after(_build("files")), _build("files")),
}


def _prepare(root: Path, name: str) -> Prepared:
    split = small_split(root)
    if name == "skip":
        split.file(3).write_bytes(split.file(3).read_bytes()[:-5])
    return split


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(tmp_path: Path, name: str, count: Count) -> None:
    need_strace()
    if not FULL and name not in SAMPLE:
        pytest.skip("a part of the full suite: make reliability")
    scenario = SCENARIOS[name]
    split = _prepare(tmp_path, name)
    patches, template, log = tmp_path / "patches", tmp_path / "template", tmp_path / "strace.log"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for words in scenario.before(split):
        assert run_here(words, CONDITIONS).status == 0
    restore(template, patches)
    out = patches / split.dataset / scenario.out
    earlier = tree_bytes(out) if out.exists() else None
    command = scenario.command(split)
    ran, calls = trace(command, CONDITIONS, patches, log)
    assert ran.status == scenario.status, ran.err
    wanted, sources = tree_bytes(patches), tree_stamps(split.folder)
    finished = finished_tree(out)
    assert not any(".ctpatch" in path or path.endswith((".tmp", "lock")) for path in wanted)

    chosen = spread_over_kinds(calls, POINTS)
    if not FULL:  # of other kinds in each scenario
        chosen = spread(spread_over_kinds(calls, 60), 3 + SAMPLE.index(name))[:POINTS]
    for number, call in enumerate(chosen):
        restore(patches, template if template.exists() else None)
        disturb(command, CONDITIONS, call, "signal=SIGKILL", log)
        killed = "+++ killed by SIGKILL +++" in log.read_text(errors="replace")
        count("SIGKILL: points", int(killed))
        count(f"SIGKILL: points at {call.kind}", int(killed))
        _check_what_is_left(out, finished, earlier, call)
        in_a_process = FULL and number % 4 == 0  # in this one it is quicker
        again = run(command, CONDITIONS, TMPDIR=str(temporary)) if in_a_process else run_here(command, CONDITIONS)
        assert again.status == scenario.status, (call, again.err)
        assert_same_tree(tree_bytes(patches), wanted)
        assert set_state(out, deep=name != "skip") == "complete"
        assert tree_stamps(split.folder) == sources
        assert list(temporary.iterdir()) == []


def _check_what_is_left(out: Path, finished: dict[str, bytes], earlier: dict[str, bytes] | None, call: Call) -> None:
    state = set_state(out)
    if state == "complete":
        assert finished_tree(out) in (finished, earlier), f"a set that differs passes after a kill at {call}"
    else:
        assert state in {"absent", "incomplete"}, (state, call)


@ONLY_IN_FULL
def test_a_build_that_is_killed_again_and_again_ends_in_the_same_bytes(tmp_path: Path, count: Count) -> None:
    need_strace()
    split = small_split(tmp_path)
    command, log = build_arguments(split, "shards"), tmp_path / "strace.log"
    ran, calls = trace(command, CONDITIONS, split.out, log)
    assert ran.status == 0, ran.err
    wanted = tree_bytes(split.out)
    restore(split.out, None)
    # Each run is killed a little later in its own life; what the ones before did stays.
    kills = 0
    for call in [call for call in calls if call.kind == "rename"][:8]:
        kills += disturb(command, CONDITIONS, call, "signal=SIGKILL", log).killed
        assert set_state(split.out) != "complete" or finished_tree(split.out) == wanted
    count("SIGKILL: points", kills)
    assert kills >= 2
    assert run(command, CONDITIONS).status == 0
    assert_same_tree(tree_bytes(split.out), wanted)


def test_the_time_of_the_run_is_the_only_difference(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests fix by SOURCE_DATE_EPOCH."""
    command = build_arguments(small, "shards")
    assert run_here(command, CONDITIONS).status == 0
    before = tree_bytes(small.out)
    restore(small.out, None)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(EPOCH) + 86_400))
    assert run_here(command, CONDITIONS).status == 0
    after = tree_bytes(small.out)
    assert [name for name in after if after[name] != before[name]] == ["patch_meta.json"]
    assert before["patch_meta.json"].replace(b"2023-11-14", b"2023-11-15") == after["patch_meta.json"]
