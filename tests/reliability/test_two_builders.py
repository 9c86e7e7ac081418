"""Two builders on one output at the same time: one builds, the other is told who does, the set is right."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

import ctpatch
from helpers import SMALL, Prepared, assert_same_tree, build_one, make_split, small_parts, tree_bytes
from reliability.common import FULL, TIMEOUT, Count, environment
from reliability.common import run as run_ctpatch

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")

# Builds on each line of its input: an output, how many steps to count before, how, where to stop for ever, and a file
# for what happens while the output is held.
BUILDER = """
import contextlib, faulthandler, importlib, json, os, sys, threading
import ctpatch
from ctpatch.events import WorkAdvanced
from ctpatch.work.folder import WorkFolder
plan = importlib.import_module("ctpatch.cutting.plan")
plan.LIMITS = plan.PartLimits(slices=1)
held = WorkFolder.held

def stop():
    print("stopped", flush=True)
    threading.Event().wait(600)

@contextlib.contextmanager
def watched(self):
    with held(self):
        with open(task["witness"], "a") as file:
            file.write(f"in {os.getpid()}\\n")
        if task["stop"] == 0:
            stop()
        yield
        with open(task["witness"], "a") as file:
            file.write(f"out {os.getpid()}\\n")

def listener(event):
    global parts
    if isinstance(event, WorkAdvanced):
        parts += 1
        if parts == task["stop"]:
            stop()

WorkFolder.held = watched
print("ready", flush=True)
for line in sys.stdin:
    task, parts = json.loads(line), 0
    faulthandler.dump_traceback_later(600, exit=True)
    for _ in range(task["steps"]):
        os.getpid()
    try:
        config = ctpatch.PatchConfig(patch_size=16, stride=8)
        options = {**task["options"], "listener": listener}
        result = ctpatch.build(task["source"], config=config, out=task["out"], **options)[0]
        said = [result.outcome, ""]
    except ctpatch.CtPatchError as error:
        said = [error.code, error.message]
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(said), flush=True)
"""
SLICES = 3


class Builder:
    """A process that builds when it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._to: IO[str] = process.stdin
        self._from: IO[str] = process.stdout
        assert self._from.readline() == "ready\n"

    def begin(self, prepared: Prepared, out: Path, *, steps: int = 0, stop: int | None = None, **options: Any) -> None:
        """Have it build; where `stop` is a number, it stands still for ever when so many parts are done."""
        task = {"source": str(prepared.folder), "out": str(out), "steps": steps, "stop": stop, "options": options}
        self._to.write(json.dumps({**task, "witness": f"{out}.witness"}) + "\n")
        self._to.flush()

    def stopped(self) -> bool:
        """Wait until it stands still; false where it says something else."""
        return self._from.readline() == "stopped\n"

    def said(self) -> tuple[str, str]:
        outcome, message = json.loads(self._from.readline())
        return outcome, message


@contextmanager
def builders(number: int) -> Iterator[list[Builder]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for _ in range(number)
    ]
    try:
        yield [Builder(process) for process in started]
    finally:
        for process in started:
            with process:
                process.kill()


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return make_split(tmp_path / "root", [(40, 50)] * SLICES)


def assert_one_at_a_time(out: Path) -> int:
    """What the builders wrote down while they held the output is a sequence of in and out, of one at a time."""
    lines = Path(f"{out}.witness").read_text().splitlines()
    inside = None
    for line in lines:
        what, who = line.split()
        assert (what, inside) in {("in", None), ("out", who)}, lines
        inside = who if what == "in" else None
    assert inside is None
    return len(lines) // 2


LAYOUT_ROUNDS = [(layout, 100 if FULL else 6) for layout in ("files", "shards", "slices", "index")]


def built_alone(prepared: Prepared, folder: Path, layout: Any = "files") -> dict[str, bytes]:
    """The files of a set in parts of one slice, as the builders make it: means on record are added up part by part."""
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch, slices=1)
        build_one(prepared, SMALL, layout=layout, out=folder)
    return tree_bytes(folder)


@pytest.mark.parametrize(("layout", "rounds"), LAYOUT_ROUNDS)
def test_two_begin_at_about_the_same_time(
    tmp_path: Path, prepared: Prepared, layout: Any, rounds: int, count: Count
) -> None:
    wanted = built_alone(prepared, tmp_path / "whole", layout)
    rng = random.Random(layout)
    host = socket.gethostname()
    with builders(2) as pair:
        for number in range(rounds):
            out = tmp_path / f"set-{number}"
            most = rng.choice([1, 20_000, 200_000])
            for builder in pair:
                builder.begin(prepared, out, steps=rng.randrange(most), layout=layout)
            said = [builder.said() for builder in pair]
            outcomes = sorted(outcome for outcome, _ in said)
            assert outcomes in (["built", "complete"], ["built", "output-locked"]), said
            for (outcome, message), other in zip(said, reversed(pair), strict=True):
                if outcome == "output-locked":
                    assert f"is being written by process {other.process.pid} on {host!r}" in message
                count(f"two builders: {outcome}")
            assert assert_one_at_a_time(out) == 3 - outcomes.count("built") - outcomes.count("output-locked")
            assert_same_tree(tree_bytes(out), wanted)


def test_many_begin_again_and_again(tmp_path: Path, prepared: Prepared, count: Count) -> None:
    wanted = built_alone(prepared, tmp_path / "whole")
    rng = random.Random(1)
    out = tmp_path / "set"
    with builders(4 if FULL else 3) as crowd:
        for _ in range(100 if FULL else 10):
            for builder in crowd:
                overwrite = rng.random() < 0.3
                builder.begin(prepared, out, steps=rng.randrange(300_000), overwrite=overwrite)
            said = [builder.said() for builder in crowd]
            pids = [str(builder.process.pid) for builder in crowd]
            for outcome, message in said:
                assert outcome in {"built", "complete", "output-locked"}, said
                if outcome == "output-locked":
                    assert any(f"is being written by process {pid} on" in message for pid in pids), message
                count(f"many builders: {outcome}")
            assert_same_tree(tree_bytes(out), wanted)
        assert_one_at_a_time(out)


@pytest.mark.parametrize("stop", range(SLICES + 1))
def test_the_second_comes_while_the_first_is_at_work(
    tmp_path: Path, prepared: Prepared, stop: int, count: Count
) -> None:
    out = tmp_path / "set"
    with builders(2) as (first, second):
        first.begin(prepared, out, stop=stop)
        assert first.stopped()
        second.begin(prepared, out)
        outcome, message = second.said()
    assert outcome == "output-locked"
    assert f"is being written by process {first.process.pid} on {socket.gethostname()!r}" in message
    assert Path(f"{out}.witness").read_text() == f"in {first.process.pid}\n"
    count("two builders: output-locked")


@needs_kill
@pytest.mark.parametrize("stop", [*range(SLICES + 1), None] if FULL else [0, 2, None])
@pytest.mark.parametrize("seed", range(5 if FULL else 1))
def test_one_is_killed_two_others_come(
    tmp_path: Path, prepared: Prepared, stop: int | None, seed: int, count: Count
) -> None:
    """Killed when it holds the output, when so many parts are done, or when all is done (None)."""
    wanted = built_alone(prepared, tmp_path / "whole")
    out = tmp_path / "set"
    rng = random.Random(f"{stop} {seed}")
    with builders(3) as (dead, *pair):
        dead.begin(prepared, out, stop=stop)
        if stop is None:
            assert dead.said() == ("built", "")
        else:
            assert dead.stopped()
        dead.process.kill()
        dead.process.wait(TIMEOUT)
        assert (out / ".ctpatch/owner.json").exists() is (stop is not None)
        Path(f"{out}.witness").write_text("")
        for builder in pair:
            builder.begin(prepared, out, steps=rng.randrange(50_000))
        said = [builder.said() for builder in pair]
        for (outcome, message), other in zip(said, reversed(pair), strict=True):
            if outcome == "output-locked":
                assert f"is being written by process {other.process.pid} on" in message
        outcomes = sorted(outcome for outcome, _ in said)
        made = "complete" if stop is None else "resumed" if stop else "built"
        assert outcomes in (sorted([made, "complete"]), sorted([made, "output-locked"])), said
        assert_one_at_a_time(out)
        assert_same_tree(tree_bytes(out), wanted)
        count("owners killed" + ("" if stop is None else ", taken over"))


def test_the_command_line_says_what_it_took_over_and_what_it_did_not(tmp_path: Path, prepared: Prepared) -> None:
    out = prepared.out
    state = out / ".ctpatch"
    state.mkdir(parents=True)
    arguments: list[str | Path] = ["build", prepared.folder, "--patch-size", "16", "--stride", "8"]
    owner = {"pid": 4_000_000, "host": "elsewhere", "since": "2024-01-01T00:00:00Z"}
    (state / "owner.json").write_text(json.dumps(owner))
    refused = run_ctpatch(arguments)
    assert (refused.status, refused.out) == (1, "")
    assert "process 4000000 on 'elsewhere' since 2024-01-01T00:00:00Z" in refused.err
    assert "remove .ctpatch/owner.json in the folder and run the command again" in refused.err
    assert json.loads((state / "owner.json").read_text()) == owner
    assert set(os.listdir(out)) == {".ctpatch"}
    (state / "owner.json").write_text(json.dumps({**owner, "host": socket.gethostname()}))
    taken = run_ctpatch(arguments)
    assert taken.status == 0, taken.err
    assert "took over from process 4000000 on" in taken.err
    assert not state.exists()
    build_one(prepared, SMALL, out=tmp_path / "whole")
    names = tree_bytes(tmp_path / "whole")
    assert set(tree_bytes(out)) == set(names)
    assert ctpatch.verify(out, deep=True).ok


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid": "x"}', b"\xff", b"[" * 100_000])
def test_an_owner_that_cannot_be_read(prepared: Prepared, content: bytes) -> None:
    state = prepared.out / ".ctpatch"
    state.mkdir(parents=True)
    (state / "owner.json").write_bytes(content)
    assert build_one(prepared).outcome == "built"
    assert not state.exists()
