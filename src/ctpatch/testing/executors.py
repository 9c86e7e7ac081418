"""What every executor has to keep, as a class of tests: one subclass for each executor.

A subclass gives its executor as the fixture `executor` and says with its attributes what kind it is. Nothing here
depends on how fast or busy the machine is: items wait for files, and each wait has a deadline that only ends a hang.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from ctpatch.errors import SliceError, SystemFailureError
from ctpatch.work.executors.base import Done, Executor, Failed, Lost, ending

DEADLINE = 120.0
"""Seconds after which a wait is given up: it ends a hang, and no test that passes comes near it."""

DEADLY = 5
"""The item that ends the process that works on it."""


# Work: functions of a module, since a process that is started afresh must find them by name. `shared` is a folder.


def plus_double(shared: int, item: int) -> int:
    return shared + 2 * item


def note_and_double(shared: str, item: int) -> int:
    note(shared, "begun", item)
    return 2 * item


def raise_one_of_three(shared: str, item: int) -> int:
    """Raise what the data are to blame for, what the system is, and what the code is."""
    note(shared, "begun", item)
    errors: list[Exception] = [SliceError("of the data"), SystemFailureError("of the system"), ValueError("a mistake")]
    raise errors[item]


def wait_for_each_other(shared: str, item: int) -> int:
    """Return only when another item has begun too."""
    note(shared, "begun", item)
    wait_until(lambda: len(noted(shared, "begun")) > 1, "another item has begun")
    return item


def wait_for_the_gate(shared: str, item: int) -> int:
    """Return the first item at once, the others when the file `gate` is there."""
    note(shared, "begun", item)
    if item:
        wait_until(Path(shared, "gate").exists, "the gate is open")
    note(shared, "ended", item)
    return item


def die_at_one_item(shared: str, item: int) -> int:
    """End the process at one item, every time."""
    note(shared, "begun", item)
    if item == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def die_once(shared: str, item: int) -> int:
    """End the process at one item, the first time."""
    if item == DEADLY and not Path(shared, "died").exists():
        Path(shared, "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def die_when_the_earlier_ones_are_back(shared: str, item: int) -> int:
    """End the process at one item when the file `gate` is there; the items after it wait to be ended with it."""
    if item == DEADLY:
        wait_until(Path(shared, "gate").exists, "the items before have come back")
        os.kill(os.getpid(), signal.SIGKILL)
    if item > DEADLY:
        wait_until(lambda: False, "the pool ends its processes")
    return 2 * item


def number_of_the_process(_shared: None, _item: int) -> int:
    return os.getpid()


def return_what_cannot_travel(shared: int, item: int) -> Any:
    return threading.Lock() if item == shared else item


# What the work notes down, and how it is waited for.


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for what another thread or process does."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {DEADLINE:.0f} s in vain until {what}")
        time.sleep(0.005)


def noted(shared: str | Path, what: str) -> Counter[int]:
    """How often each item has begun, or ended."""
    log = Path(shared, "log")
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(int(line.split()[1]) for line in lines if line.split()[0] == what)


def note(shared: str, what: str, item: int) -> None:
    """Write down that an item has begun, or ended."""
    # One write of a few bytes at the end of a file comes out whole, whoever else writes.
    with open(Path(shared, "log"), "ab", buffering=0) as log:
        log.write(f"{what} {item}\n".encode())


def _item(outcome: Done[int, Any] | Failed[int] | Lost[int]) -> int:
    return outcome.item


class ExecutorContract:
    """Tests of one executor. Subclasses name themselves `Test…` and override the fixture.

    Attributes:
        workers: how many items the executor works on at the same time.
        ahead: how many items it may take from the caller that have not come back.
        tries: how often an item is run whose error is not of the data.
        apart: whether the work is done in other processes, so that results are pickled.
        deaths: what becomes of a worker that is killed: the work `survives`, or the run `ends` with an error; None
            where a kill would end the tests themselves.
    """

    workers = 2
    ahead = 4
    tries = 1
    apart = True
    deaths: Literal["survives", "ends"] | None = "survives"

    @pytest.fixture
    def executor(self) -> Any:
        """The executor, returned or yielded; what it needs is ended after the test."""
        pytest.fail(f"{type(self).__name__} has no fixture `executor`: define one that gives the executor to test")

    @pytest.fixture
    def shared(self, tmp_path: Path) -> str:
        """A folder for what the work notes down."""
        return str(tmp_path)

    # Every item comes back.

    def test_every_item_comes_back_once(self, executor: Executor) -> None:
        outcomes = sorted(executor.run(plus_double, 100, range(30)), key=_item)
        assert outcomes == [Done(item, 100 + 2 * item) for item in range(30)]

    def test_no_items(self, executor: Executor) -> None:
        assert list(executor.run(plus_double, 100, [])) == []

    def test_where_the_work_is_done(self, executor: Executor) -> None:
        outcomes = list(executor.run(number_of_the_process, None, range(20)))
        processes = {each.result for each in outcomes if isinstance(each, Done)}
        if self.apart:
            assert 1 <= len(processes) <= self.workers
            assert os.getpid() not in processes
        else:
            assert processes == {os.getpid()}

    def test_an_error_is_of_its_item_and_the_data_are_asked_once(self, executor: Executor, shared: str) -> None:
        outcomes = sorted(executor.run(raise_one_of_three, shared, range(3)), key=_item)
        assert [(each.item, type(each.error), str(each.error)) for each in outcomes if isinstance(each, Failed)] == [
            (0, SliceError, "of the data"),
            (1, SystemFailureError, "of the system"),
            (2, ValueError, "a mistake"),
        ]
        assert len(outcomes) == 3
        assert noted(shared, "begun") == {0: 1, 1: self.tries, 2: self.tries}

    def test_a_result_that_cannot_travel_is_a_failure_of_its_item(self, executor: Executor) -> None:
        kinds = sorted((each.item, type(each)) for each in executor.run(return_what_cannot_travel, 4, range(6)))
        assert kinds == [(item, Failed if item == 4 and self.apart else Done) for item in range(6)]

    # Items are taken as they are needed.

    def test_no_more_items_are_taken_than_may_be_under_way(self, executor: Executor) -> None:
        taken: list[int] = []

        def items() -> Iterator[int]:
            for item in range(60):
                taken.append(item)
                yield item

        back = 0
        for outcome in executor.run(plus_double, 0, items()):
            assert isinstance(outcome, Done)
            assert len(taken) <= back + self.ahead
            back += 1
        assert back == len(taken) == 60

    def test_items_that_end_in_an_error_end_the_run_with_it(self, executor: Executor, shared: str) -> None:
        def items() -> Iterator[int]:
            yield from range(3)
            raise LookupError("no more items")

        with pytest.raises(LookupError, match="no more items"):
            list(executor.run(note_and_double, shared, items()))
        before = noted(shared, "begun")
        list(executor.run(plus_double, 0, range(10)))
        assert noted(shared, "begun") == before

    def test_items_are_worked_on_at_the_same_time(self, executor: Executor, shared: str) -> None:
        if self.workers == 1:
            pytest.skip("works on one item after the other")
        assert sorted(executor.run(wait_for_each_other, shared, range(2)), key=_item) == [Done(0, 0), Done(1, 1)]

    # The end.

    def test_nothing_goes_on_behind_the_end_of_a_run_that_is_left(self, executor: Executor, shared: str) -> None:
        """What was at work has ended when the run is closed, and nothing of it begins any more."""
        closing = threading.Event()

        def open_the_gate() -> None:
            closing.wait(DEADLINE)
            Path(shared, "gate").touch()

        opener = threading.Thread(target=open_the_gate, daemon=True)
        opener.start()
        with ending(executor.run(wait_for_the_gate, shared, range(1000))) as outcomes:
            assert next(outcomes) == Done(0, 0)
            wait_until(lambda: len(noted(shared, "begun")) >= self.workers, "the other workers are at work")
            closing.set()
        begun, ended = noted(shared, "begun"), noted(shared, "ended")
        assert begun == ended
        assert set(begun.values()) == {1}
        assert len(begun) <= self.ahead
        # What still stood in a queue would be worked on before what comes now.
        again = list(executor.run(plus_double, 0, range(4 * self.ahead)))
        assert sum(isinstance(each, Done) for each in again) == 4 * self.ahead
        opener.join(DEADLINE)
        assert noted(shared, "begun") == begun

    # Workers that die.

    def test_an_item_that_kills_its_worker_every_time(self, executor: Executor, shared: str) -> None:
        self._need_deaths()
        if self.deaths == "ends":
            back: list[Any] = []
            with pytest.raises(SystemFailureError, match="run again with a new executor to go on"):  # noqa: PT012
                for outcome in executor.run(die_when_the_earlier_ones_are_back, shared, range(100)):
                    back.append(outcome)
                    if len(back) == DEADLY:
                        Path(shared, "gate").touch()
            assert sorted(back, key=_item) == [Done(item, 2 * item) for item in range(DEADLY)]
            return
        outcomes = sorted(executor.run(die_at_one_item, shared, range(8)), key=_item)
        assert outcomes == [Lost(item) if item == DEADLY else Done(item, 2 * item) for item in range(8)]
        assert noted(shared, "begun")[DEADLY] >= 2  # it is not given up at once

    def test_a_worker_that_dies_once_costs_nothing(self, executor: Executor, shared: str) -> None:
        self._need_deaths()
        if self.deaths == "ends":
            pytest.skip("ends at the first death")
        outcomes = sorted(executor.run(die_once, shared, range(12)), key=_item)
        assert Path(shared, "died").exists()
        assert outcomes == [Done(item, 2 * item) for item in range(12)]

    def _need_deaths(self) -> None:
        if self.deaths is None:
            pytest.skip("the work is done in the process of the tests")
        if not hasattr(signal, "SIGKILL"):
            pytest.skip("the system has no SIGKILL")
