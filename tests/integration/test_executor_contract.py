"""The contract of executors, kept by each that there is."""

import importlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ctpatch.testing.executors import (
    DEADLY,
    ExecutorContract,
    die_at_one_item,
    die_once,
    note,
    noted,
    plus_double,
    wait_until,
)
from ctpatch.work.executors.base import Done, Executor, Lost, ending
from ctpatch.work.executors.choose import as_executor, engine_executor
from ctpatch.work.executors.futures import FuturesExecutor
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.serial import SerialExecutor


def die_at_two_items(shared: str, item: int) -> int:
    note(shared, "begun", item)
    if item in {2, DEADLY}:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


class TestSerial(ExecutorContract):
    workers = 1
    ahead = 1
    apart = False
    deaths = None

    @pytest.fixture
    def executor(self) -> Executor:
        return SerialExecutor()


class TestProcesses(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return ProcessExecutor(2)

    def test_a_deadly_item_is_tried_twice_alone(self, executor: Executor, shared: str) -> None:
        outcomes = list(executor.run(die_at_one_item, shared, range(8)))
        assert [each.item for each in outcomes if isinstance(each, Lost)] == [5]
        begun = noted(shared, "begun")
        assert begun.pop(5) == 3  # once among others, and no fourth time
        assert set(begun) == {0, 1, 2, 3, 4, 6, 7}
        assert max(begun.values()) <= 2

    def test_two_deadly_items(self, executor: Executor, shared: str) -> None:
        outcomes = {each.item: each for each in executor.run(die_at_two_items, shared, range(8))}
        assert outcomes == {item: Lost(item) if item in {2, 5} else Done(item, 2 * item) for item in range(8)}
        begun = noted(shared, "begun")
        # One may only have been queued when the other ended the pool.
        assert {begun.pop(2), begun.pop(5)} <= {2, 3}
        assert max(begun.values()) <= 3

    def test_no_process_is_left_behind(self, executor: Executor) -> None:
        before = set(multiprocessing.active_children())
        with ending(executor.run(plus_double, 0, range(1000))) as outcomes:
            next(outcomes)
            assert set(multiprocessing.active_children()) - before
        assert set(multiprocessing.active_children()) <= before


class TestPoolOfThreads(ExecutorContract):
    apart = False
    deaths = None

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with ThreadPoolExecutor(2) as pool:
            yield FuturesExecutor(pool)


class TestPoolOfProcesses(ExecutorContract):
    deaths = "ends"

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            yield FuturesExecutor(pool)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    dask = importlib.import_module("dask")
    # As few deaths as will do, since a worker takes a second to come back; and it is waited for until it is.
    with (
        dask.config.set(
            {"distributed.scheduler.allowed-failures": 1, "distributed.deploy.lost-worker-timeout": "1 day"}
        ),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class TestDask(ExecutorContract):
    tries = 3

    @pytest.fixture
    def executor(self, client: Any) -> Executor:
        client.wait_for_workers(2)  # a test before may have killed some
        return as_executor(client, 1)

    def test_the_scheduler_holds_no_more_than_is_under_way(self, client: Any, executor: Executor) -> None:
        def tasks() -> set[str]:
            return set(client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)))

        of_others = tasks()  # an error that a test before has kept keeps its task
        back: Counter[type] = Counter()
        for outcome in executor.run(plus_double, 0, range(120)):
            back[type(outcome)] += 1
            if back[Done] in {20, 100}:  # nothing is handed over while this waits
                wait_until(lambda: len(tasks() - of_others) <= self.ahead, "the scheduler has let go of what came back")
        assert back == {Done: 120}


def test_a_worker_of_our_own_cluster_comes_back_however_long_that_takes(tmp_path: Path) -> None:
    """Where Dask would give it up at once."""
    dask = pytest.importorskip("dask", reason="the extra dask is not installed")
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 ms"}),
        engine_executor("dask", workers=1) as executor,
    ):
        assert executor is not None
        outcomes = list(executor.run(die_once, str(tmp_path), range(8)))
    assert (tmp_path / "died").exists()
    assert sorted(each.item for each in outcomes if isinstance(each, Done)) == list(range(8))
