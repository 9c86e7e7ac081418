"""Workers die; the work does not."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ctpatch
from ctpatch.config import BuildConfig
from ctpatch.cutting.work import CutWork, make_set
from ctpatch.errors import WorkerLostError
from ctpatch.events import Event, WorkAdvanced
from ctpatch.work.executors.base import Done, Failed, Lost
from ctpatch.work.executors.choose import local_executor
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.serial import SerialExecutor
from helpers import (
    SMALL,
    Heard,
    assert_same_tree,
    build_one,
    double,
    double_or_die,
    double_or_die_once,
    double_or_raise,
    make_split,
    small_parts,
    tree_bytes,
)

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=2, packed_windows=40)


def test_one_worker_is_this_process() -> None:
    assert isinstance(local_executor(1), SerialExecutor)
    assert isinstance(local_executor(2), ProcessExecutor)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_done_once(workers: int) -> None:
    outcomes = list(local_executor(workers).run(double, 100, range(25)))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert sorted((outcome.item, outcome.result) for outcome in outcomes if isinstance(outcome, Done)) == [
        (item, 100 + 2 * item) for item in range(25)
    ]
    assert list(local_executor(workers).run(double, 100, [])) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_of_its_item_alone(workers: int) -> None:
    outcomes = list(local_executor(workers).run(double_or_raise, 3, range(6)))
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert [(outcome.item, repr(outcome.error)) for outcome in failed] == [(3, "ValueError('item 3 is not wanted')")]
    assert sorted(outcome.result for outcome in outcomes if isinstance(outcome, Done)) == [0, 2, 4, 8, 10]


@needs_kill
def test_an_item_that_kills_its_process_is_lost_alone() -> None:
    outcomes = list(ProcessExecutor(2).run(double_or_die, 5, range(8)))
    assert [outcome.item for outcome in outcomes if isinstance(outcome, Lost)] == [5]
    assert sorted(outcome.result for outcome in outcomes if isinstance(outcome, Done)) == [
        2 * item for item in range(8) if item != 5
    ]


@needs_kill
def test_an_item_that_dies_once_is_done(tmp_path: Path) -> None:
    outcomes = list(ProcessExecutor(2).run(double_or_die_once, str(tmp_path / "marker"), range(12)))
    assert (tmp_path / "marker").exists()
    assert sorted(outcome.result for outcome in outcomes if isinstance(outcome, Done)) == list(range(0, 24, 2))


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    run = ProcessExecutor(2).run(double, 0, items())
    next(run)
    assert len(taken) < 20
    close: Callable[[], None] = run.close  # type: ignore[attr-defined]
    close()
    assert multiprocessing.active_children() == []


@needs_kill
@pytest.mark.parametrize("layout", ["files", "slices"])
def test_a_worker_killed_in_a_build_changes_no_byte(tmp_path: Path, layout: Any) -> None:
    whole = make_split(tmp_path / "whole", [(40, 50)] * 16)
    build_one(whole, layout=layout)
    prepared = make_split(tmp_path / "killed", [(40, 50)] * 16)
    killed: list[int] = []

    def listener(event: Event) -> None:
        if isinstance(event, WorkAdvanced) and not killed:
            victim = multiprocessing.active_children()[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    result = build_one(prepared, layout=layout, workers=2, listener=listener)
    assert len(killed) == 1
    assert result.complete
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(whole.out))


class Losing:
    """An executor that gives the part with the third slice up as lost, as after two deaths."""

    def run(self, function: Callable[[Any, Any], Any], shared: Any, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if any(task.slice_index == 2 for task in item.tasks):
                yield Lost(item)
            else:
                yield Done(item, function(shared, item))


def test_a_lost_part_is_named_the_rest_is_kept(tmp_path: Path) -> None:
    prepared = make_split(tmp_path / "lost", [(40, 50)] * 8)
    plan = ctpatch.plan(prepared.folder, config=SMALL)[0]
    with pytest.raises(WorkerLostError) as error:
        make_set(CutWork(plan, prepared.out, BuildConfig()), Losing(), Heard())
    assert prepared.paths["image"][2] in error.value.message
    assert error.value.exit_status == 1
    assert ctpatch.verify(prepared.out).status == "incomplete"
    assert len(list((prepared.out / ".ctpatch").glob("*.receipt.json"))) == 3
    assert build_one(prepared).outcome == "resumed"
    whole = make_split(tmp_path / "whole", [(40, 50)] * 8)
    build_one(whole)
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(whole.out))
