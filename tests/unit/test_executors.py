"""Executors: every item comes back once, done, failed or lost, whoever dies on the way."""

import importlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctpatch.work.executors.base import Done, Failed, Lost
from ctpatch.work.executors.choose import local_executor
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.serial import SerialExecutor

# A spawned process finds its work by the module's name, wherever the tests lie: so the module is put where it looks.
WORK = """
import os
import time
from pathlib import Path

def note(shared, item):
    with open(Path(shared) / "log", "a") as log:
        log.write(f"{item} {os.getpid()}\\n")

def square(shared, item):
    note(shared, item)
    return item * item

def odd_is_wrong(shared, item):
    note(shared, item)
    if item % 2:
        raise ValueError(f"{item} is odd in {shared}")
    return -item

def deadly(shared, item):
    note(shared, item)
    if item in (2, 5):
        os._exit(3)
    return item * 10

def deadly_once(shared, item):
    note(shared, item)
    flag = Path(shared) / "died"
    if item == 1 and not flag.exists():
        flag.touch()
        os._exit(3)
    return item * 10

def unspeakable(shared, item):
    return lambda: item

def slow(shared, item):
    note(shared, item)
    time.sleep(0.02)
    return item
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "work_of_executors.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_of_executors")
    del sys.modules["work_of_executors"]


@pytest.fixture
def shared(tmp_path: Path) -> str:
    return str(tmp_path)


def runs(shared: str) -> Counter[int]:
    lines = (Path(shared) / "log").read_text().splitlines()
    return Counter(int(line.split()[0]) for line in lines)


def by_item(outcomes: Iterator[Any]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for outcome in outcomes:
        assert outcome.item not in found, "an item came twice"
        found[outcome.item] = outcome
    return found


def test_one_worker_is_this_process_and_more_are_processes() -> None:
    assert isinstance(local_executor(1), SerialExecutor)
    executor = local_executor(3)
    assert isinstance(executor, ProcessExecutor)
    assert executor.workers == 3


class TestSerial:
    def test_in_order_and_in_this_process(self) -> None:
        seen: list[tuple[str, int]] = []

        def work(shared: str, item: int) -> int:
            seen.append((shared, item))
            if item == 2:
                raise KeyError(item)
            return item * 3

        outcomes = list(SerialExecutor().run(work, "common", [3, 2, 1]))
        assert seen == [("common", 3), ("common", 2), ("common", 1)]
        assert outcomes[0] == Done(3, 9)
        assert outcomes[2] == Done(1, 3)
        failed = outcomes[1]
        assert isinstance(failed, Failed)
        assert failed.item == 2
        assert isinstance(failed.error, KeyError)
        assert failed.error.args == (2,)

    def test_items_are_taken_one_by_one_and_no_further_than_asked(self) -> None:
        taken: list[int] = []

        def items() -> Iterator[int]:
            for item in range(100):
                taken.append(item)
                yield item

        outcomes = iter(SerialExecutor().run(lambda _shared, item: item, None, items()))
        assert next(outcomes) == Done(0, 0)
        assert taken == [0]

    def test_ctrl_c_is_no_failure_of_an_item(self) -> None:
        def work(_shared: None, _item: int) -> int:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(SerialExecutor().run(work, None, [1]))

    def test_no_items(self) -> None:
        assert list(SerialExecutor().run(lambda _shared, item: item, None, [])) == []


class TestProcesses:
    def test_every_item_once_in_other_processes(self, work: Any, shared: str) -> None:
        found = by_item(ProcessExecutor(2).run(work.square, shared, range(20)))
        assert found == {item: Done(item, item * item) for item in range(20)}
        assert runs(shared) == dict.fromkeys(range(20), 1)
        pids = {int(line.split()[1]) for line in (Path(shared) / "log").read_text().splitlines()}
        import os

        assert os.getpid() not in pids
        assert 1 <= len(pids) <= 2

    def test_no_items(self, work: Any, shared: str) -> None:
        assert list(ProcessExecutor(2).run(work.square, shared, [])) == []

    def test_an_item_that_fails_takes_none_with_it(self, work: Any, shared: str) -> None:
        found = by_item(ProcessExecutor(2).run(work.odd_is_wrong, shared, range(6)))
        assert sorted(found) == list(range(6))
        for item, outcome in found.items():
            if item % 2:
                assert isinstance(outcome, Failed)
                assert type(outcome.error) is ValueError
                assert str(outcome.error) == f"{item} is odd in {shared}"
            else:
                assert outcome == Done(item, -item)
        assert runs(shared) == dict.fromkeys(range(6), 1)

    def test_an_item_that_kills_its_process_twice_is_lost_and_the_others_are_done(self, work: Any, shared: str) -> None:
        found = by_item(ProcessExecutor(2).run(work.deadly, shared, range(8)))
        assert found == {item: Lost(item) if item in (2, 5) else Done(item, item * 10) for item in range(8)}
        counts = runs(shared)
        assert counts[2] == 3  # once among others, twice alone, and no fourth
        assert counts[5] in {2, 3}  # it may only have been queued when 2 ended the pool
        assert max(counts.values()) == 3

    def test_a_process_that_dies_once_costs_nothing(self, work: Any, shared: str) -> None:
        found = by_item(ProcessExecutor(2).run(work.deadly_once, shared, range(6)))
        assert found == {item: Done(item, item * 10) for item in range(6)}
        assert runs(shared)[1] == 2

    def test_a_result_that_cannot_travel_is_a_failure_with_its_item(self, work: Any, shared: str) -> None:
        found = by_item(ProcessExecutor(1).run(work.unspeakable, shared, [4]))
        assert isinstance(found[4], Failed)
        assert "pickle" in str(found[4].error).lower()

    def test_items_are_taken_as_they_are_needed(self, work: Any, shared: str) -> None:
        taken: list[int] = []

        def items() -> Iterator[int]:
            for item in range(1000):
                taken.append(item)
                yield item

        outcomes = iter(ProcessExecutor(1).run(work.slow, shared, items()))
        first = next(outcomes)
        assert isinstance(first, Done)
        assert len(taken) <= 4  # two ahead of the worker, not a thousand
        outcomes.close()  # type: ignore[attr-defined]
        done = sum(runs(shared).values())
        assert done <= 5
        time.sleep(0.1)
        assert sum(runs(shared).values()) == done  # closing the iterator ended the work
