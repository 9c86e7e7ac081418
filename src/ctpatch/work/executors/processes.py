"""Processes on this machine, in a pool that is rebuilt when one of them is killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import chain
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from ctpatch.errors import UsageError
from ctpatch.files.atomic import system_errors
from ctpatch.work.executors.base import Done, Failed, Item, Lost, Result, Shared, ending
from ctpatch.work.executors.futures import ended, outcome

_ITEMS_AHEAD = 2
"""Items handed to the pool for each worker, so that none waits and memory stays bounded."""

_PARENT = "CTPATCH_POOL_OF"
"""In the environment of a worker process: the process that starts it."""
_RUNS_THE_SCRIPT = 87
"""How a worker process ends that runs the script anew from its start."""
_GUARD = (
    "each worker process runs the script from its start, and so came to this call again; put what the script does "
    "under `if __name__ == '__main__':`, or use workers=1"
)

_work: tuple[Callable[[Any, Any], Any], Any] | None = None


def _start_worker(function: Callable[[Any, Any], Any], shared: object) -> None:
    """Keep what all items share; leave Ctrl-C to the parent; end when the parent ends."""
    global _work  # noqa: PLW0603 - one pool, one function: sent once, not with each item
    _work = (function, shared)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _work_on(item: Any) -> Any:
    assert _work is not None
    function, shared = _work
    try:
        return function(shared, item)
    except MemoryError:
        # No better off than a process that the system kills for its memory, and with too little left to go on (a
        # thread that cannot start may be waited for without end): the item is run again, alone and afresh.
        os._exit(1)


def refuse_unguarded_script() -> None:
    """End a process that only starts, to be a worker, where the script it belongs to has no main guard.

    Spawned processes import the script, whose calls then are made in each of them. One of ours ends at once and its
    parent says why; in one of somebody else's pool, UsageError says it.
    """
    if not getattr(multiprocessing.current_process(), "_inheriting", False):
        return
    if os.environ.get(_PARENT) == str(os.getppid()):
        os._exit(_RUNS_THE_SCRIPT)
    raise UsageError(_GUARD)


class _Spawn(SpawnContext):
    """Starts processes afresh and keeps them, so that it can be seen how they ended."""

    def __init__(self) -> None:
        self.started: list[BaseProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802
        process = super().Process(*args, **kwargs)
        self.started.append(process)
        return process

    def refuse_unguarded_script(self) -> None:
        for process in self.started:
            process.join()
            if process.exitcode == _RUNS_THE_SCRIPT:
                raise UsageError(_GUARD)


class ProcessExecutor:
    """Runs items in `workers` processes, started afresh (spawn), so that the same code runs on every system.

    When a process is killed, those items that were under way are run again one by one, each alone in a pool of its
    own: the one that kills its process twice more is lost, the others are done.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Done[Item, Result] | Failed[Item] | Lost[Item]]:
        """Run the function on all items."""
        queue = iter(items)
        for first in queue:
            suspects: list[Item] = []
            context = _Spawn()
            pool = self._pool(self.workers, function, shared, context)
            try:
                most = self.workers * _ITEMS_AHEAD
                with ending(ended(partial(_submit, pool), chain([first], queue), most, _is_broken)) as futures:
                    for item, future in futures:
                        if _is_broken(future):
                            suspects.append(item)
                        else:
                            yield outcome(item, future)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            if suspects:
                context.refuse_unguarded_script()
            for item in suspects:
                yield self._alone(item, function, shared)

    def _alone(
        self, item: Item, function: Callable[[Shared, Item], Result], shared: Shared
    ) -> Done[Item, Result] | Failed[Item] | Lost[Item]:
        # Whether the item was at work or only waiting when the shared pool broke cannot be told: it gets two tries.
        for _ in range(2):
            with self._pool(1, function, shared, _Spawn()) as pool:
                future: Future[Result] = _submit(pool, item)
                if not _is_broken(future):
                    return outcome(item, future)
        return Lost(item)

    @staticmethod
    def _pool(
        workers: int, function: Callable[[Any, Any], Any], shared: object, context: _Spawn
    ) -> ProcessPoolExecutor:
        with system_errors("starting", "worker processes"):
            return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(function, shared))


@contextmanager
def _as_parent() -> Iterator[None]:
    """Let processes that start here know it, and not hear Ctrl-C until they can leave it to their parent."""
    os.environ[_PARENT] = str(os.getpid())
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else ()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ.pop(_PARENT, None)


def _submit(pool: ProcessPoolExecutor, item: Any) -> Future[Any]:
    """Hand an item to the pool; a pool that broke in between gives a future that says so."""
    try:
        with system_errors("starting", "worker processes"), _as_parent():
            return pool.submit(_work_on, item)
    except BrokenProcessPool as error:
        broken: Future[Any] = Future()
        broken.set_exception(error)
        return broken


def _is_broken(future: Future[Any]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)
