"""What holds for one executor alone, where need be with pools that end as the test says; and how one is chosen."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from ctpatch.errors import SystemFailureError
from ctpatch.work.executors.base import Done, Failed
from ctpatch.work.executors.choose import local_executor
from ctpatch.work.executors.futures import FuturesExecutor
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.serial import SerialExecutor


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

    def test_ctrl_c_is_no_failure_of_an_item(self) -> None:
        def work(_shared: None, _item: int) -> int:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(SerialExecutor().run(work, None, [1]))


class Scripted(Executor):
    """A pool that does no work: the future of each item is there before it is asked for."""

    _max_workers = 2

    def __init__(self, futures: Mapping[int, Future[int]]) -> None:
        self._futures = futures

    def submit(self, _function: Callable[..., Any], /, *arguments: Any, **_options: Any) -> Future[Any]:
        return self._futures[arguments[-1]]


def ended(result: int | Exception) -> Future[int]:
    future: Future[int] = Future()
    if isinstance(result, int):
        future.set_result(result)
    else:
        future.set_exception(result)
    return future


def broken() -> Exception:
    return BrokenProcessPool("a process was killed")


def double(_shared: None, item: int) -> int:
    return 2 * item


def test_what_was_done_before_a_pool_broke_is_handed_on_first() -> None:
    pool = Scripted({0: ended(broken()), 1: ended(2), 2: ended(4), 3: ended(broken())})
    back: list[Any] = []
    with pytest.raises(SystemFailureError, match="a process was killed"):
        back.extend(FuturesExecutor(pool).run(double, None, range(4)))
    assert sorted(back, key=lambda each: each.item) == [Done(1, 2), Done(2, 4)]


def test_an_item_that_ended_while_the_pool_broke_is_done_and_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    late: Future[int] = Future()

    class Dead(Future[int]):
        """The item 1 ends when it is looked at what became of this one."""

        def exception(self, timeout: float | None = None) -> BaseException | None:
            if not late.done():
                late.set_result(2)
            return super().exception(timeout)

    dead = Dead()
    dead.set_exception(broken())
    pools = iter([Scripted({0: dead, 1: late}), Scripted({0: ended(0)})])
    monkeypatch.setattr(ProcessExecutor, "_pool", staticmethod(lambda *_options: next(pools)))
    assert list(ProcessExecutor(2).run(double, None, range(2))) == [Done(1, 2), Done(0, 0)]
