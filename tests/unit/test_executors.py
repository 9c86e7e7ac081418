"""Executors in this process: what holds for the serial one alone, and how one is chosen."""

import pytest

from ctpatch.executors.base import Done, Failed
from ctpatch.executors.choose import local_executor
from ctpatch.executors.processes import ProcessExecutor
from ctpatch.executors.serial import SerialExecutor


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
