"""Two builders on one output at the same time: one builds, the other is told who does, the set is right."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

import ctpatch
from helpers import SMALL, Prepared, assert_same_tree, build_one, make_split, tree_bytes
from reliability.common import FULL, Count, environment
from reliability.common import run as run_ctpatch

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")

# Builds on each line of its input: an output, when to begin, how, and a file that is there while the output is held.
BUILDER = """
import contextlib, importlib, json, os, sys, time
import ctpatch
from ctpatch.work.folder import WorkFolder
plan = importlib.import_module("ctpatch.cutting.plan")
plan.LIMITS = plan.PartLimits(slices=1)
held = WorkFolder.held

@contextlib.contextmanager
def watched(self):
    with held(self):
        with open(task["witness"], "a") as file:
            file.write(f"in {os.getpid()}\\n")
        yield
        with open(task["witness"], "a") as file:
            file.write(f"out {os.getpid()}\\n")

WorkFolder.held = watched
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    time.sleep(max(0.0, task["at"] - time.time()))
    try:
        config = ctpatch.PatchConfig(patch_size=16, stride=8)
        result = ctpatch.build(task["source"], config=config, out=task["out"], **task["options"])[0]
        said = [result.outcome, ""]
    except ctpatch.CtPatchError as error:
        said = [error.code, error.message]
    print(json.dumps(said), flush=True)
"""


class Builder:
    """A process that builds when it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._to: IO[str] = process.stdin
        self._from: IO[str] = process.stdout
        assert self._from.readline() == "ready\n"

    def begin(self, prepared: Prepared, out: Path, at: float, **options: Any) -> None:
        task = {"source": str(prepared.folder), "out": str(out), "at": at, "options": options}
        self._to.write(json.dumps({**task, "witness": f"{out}.witness"}) + "\n")
        self._to.flush()

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
    return make_split(tmp_path / "root", [(40, 50)] * 3)


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


@pytest.mark.parametrize(("layout", "rounds"), LAYOUT_ROUNDS)
def test_two_begin_at_about_the_same_time(
    tmp_path: Path, prepared: Prepared, layout: Any, rounds: int, count: Count
) -> None:
    build_one(prepared, SMALL, layout=layout, out=tmp_path / "whole")
    wanted = tree_bytes(tmp_path / "whole")
    rng = random.Random(layout)
    host = socket.gethostname()
    with builders(2) as pair:
        for number in range(rounds):
            out = tmp_path / f"set-{number}"
            at = time.time() + 0.01
            span = rng.choice([0.0, 0.002, 0.02, 0.1])
            for builder in pair:
                builder.begin(prepared, out, at + rng.uniform(0, span), layout=layout)
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
    build_one(prepared, SMALL, out=tmp_path / "whole")
    wanted = tree_bytes(tmp_path / "whole")
    rng = random.Random(1)
    out = tmp_path / "set"
    with builders(4 if FULL else 3) as crowd:
        for _ in range(100 if FULL else 10):
            at = time.time() + 0.005
            for builder in crowd:
                overwrite = rng.random() < 0.3
                builder.begin(prepared, out, at + rng.uniform(0, 0.03), overwrite=overwrite)
            said = [builder.said() for builder in crowd]
            pids = [str(builder.process.pid) for builder in crowd]
            for outcome, message in said:
                assert outcome in {"built", "complete", "output-locked"}, said
                if outcome == "output-locked":
                    assert any(f"is being written by process {pid} on" in message for pid in pids), message
                count(f"many builders: {outcome}")
            assert_same_tree(tree_bytes(out), wanted)
        assert_one_at_a_time(out)


@needs_kill
@pytest.mark.parametrize("seed", range(25 if FULL else 2))
def test_one_is_killed_two_others_come(tmp_path: Path, prepared: Prepared, seed: int, count: Count) -> None:
    build_one(prepared, SMALL, out=tmp_path / "whole")
    out = tmp_path / "set"
    rng = random.Random(seed)
    with builders(3) as (dead, *pair):
        dead.begin(prepared, out, 0.0)
        while not (out / ".ctpatch/owner.json").exists() and not (out / "patch_meta.json").exists():
            time.sleep(0.0005)
        time.sleep(rng.choice([0.0, 0.001, 0.003]))
        dead.process.kill()
        dead.process.wait()
        Path(f"{out}.witness").write_text("")
        stale = (out / ".ctpatch/owner.json").exists()
        finished = (out / "patch_meta.json").exists()
        at = time.time() + 0.01
        for builder in pair:
            builder.begin(prepared, out, at + rng.uniform(0, 0.005))
        said = [builder.said() for builder in pair]
        for (outcome, message), other in zip(said, reversed(pair), strict=True):
            if outcome == "output-locked":
                assert f"is being written by process {other.process.pid} on" in message
        outcomes = {outcome for outcome, _ in said}
        assert outcomes <= {"built", "resumed", "complete", "output-locked"}, said
        assert outcomes & ({"complete"} if finished else {"built", "resumed"}), said
        assert_one_at_a_time(out)
        assert_same_tree(tree_bytes(out), tree_bytes(tmp_path / "whole"))
        count("owners killed" + (", taken over" if stale else ""))


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
