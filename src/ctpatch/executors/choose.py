"""The executor for a number of workers."""

from ctpatch.executors.base import Executor
from ctpatch.executors.processes import ProcessExecutor
from ctpatch.executors.serial import SerialExecutor


def local_executor(workers: int) -> Executor:
    """One worker works in this process, more in processes of their own."""
    return SerialExecutor() if workers == 1 else ProcessExecutor(workers)
