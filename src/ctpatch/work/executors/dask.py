"""Workers of a Dask scheduler, on this machine or on many; a few items are under way at a time, however many come.

A worker may die, and an item may run twice: the scheduler gives the items of a dead worker to others. What the data
are to blame for is final; what the system is to blame for is tried twice more.
"""

import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import lru_cache
from itertools import count, islice
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker, Worker
from distributed.protocol.pickle import dumps, loads

from ctpatch.errors import CtPatchError, SystemFailureError
from ctpatch.work.executors.base import Done, Failed, Item, Lost, Result, Shared

_RETRIES = 2
_PATIENCE = 600.0  # seconds without any worker after which the run ends
_FAREWELL = 30.0  # seconds that items under way are given to end when the run is stopped
_ITEMS_AHEAD, _FEWEST_AHEAD = 2, 4  # for each thread of the workers, and in all
_LOOK_AGAIN, _SOON = 2.0, 0.1  # seconds
_GONE = (
    "the connection to the Dask scheduler was lost, or it dropped the work; parts that were done are kept: run the "
    "same command again to go on"
)


class DaskExecutor:
    """Runs items on the workers that a client's scheduler has, also on those that come later."""

    def __init__(self, client: Client, *, patience: float = _PATIENCE) -> None:
        self._client = client
        self._patience = patience
        self._most, self._looked = _FEWEST_AHEAD, float("-inf")

    def run(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Done[Item, Result] | Failed[Item] | Lost[Item]]:
        """Run the function on all items.

        Raises:
            SystemFailureError: the scheduler is gone, or has had no worker for too long.
        """
        run, work = f"ctpatch-{uuid.uuid4().hex}", dumps((function, shared))
        queue, suspects, numbers = iter(items), list[Item](), count()
        under_way: dict[Future[Any], Item] = {}
        ready: SimpleQueue[Future[Any]] = SimpleQueue()

        def submit(several: Iterable[Item]) -> None:
            for item in several:
                key = f"{run}-{next(numbers)}"
                future = self._client.submit(_work_on, run, work, item, key=key, retries=_RETRIES, pure=False)
                future.add_done_callback(ready.put)
                under_way[future] = item

        try:
            while True:
                submit(islice(queue, max(0, self._items_ahead() - len(under_way))))
                # Who was with a deadly item when its worker died looks deadly too: alone, it shows.
                alone = not under_way
                if alone:
                    submit(suspects[:1])
                    del suspects[:1]
                if not under_way:
                    return
                future = self._next(ready)
                outcome = _outcome(under_way.pop(future), future)
                if isinstance(outcome, Lost) and not alone:
                    suspects.append(outcome.item)
                else:
                    yield outcome
        finally:
            if under_way:
                self._stop(run, list(under_way))

    def everywhere(self, function: Callable[[Any], Any], argument: Any) -> dict[str, Any]:
        """What the function returns, or raises, in each worker that there is; waits until there is one."""
        with suppress(TimeoutError):
            self._client.wait_for_workers(1, timeout=self._patience)
        if not self.workers():
            raise self._deserted()
        found: dict[str, Any] = self._client.run(function, argument, on_error="return")
        return found

    def workers(self) -> int:
        """How many there are now."""
        return len(self._client.nthreads())

    def _items_ahead(self) -> int:
        if time.monotonic() - self._looked > _LOOK_AGAIN:
            self._most = max(_FEWEST_AHEAD, _ITEMS_AHEAD * sum(self._client.nthreads().values()))
            self._looked = time.monotonic()
        return self._most

    def _next(self, ready: "SimpleQueue[Future[Any]]") -> Future[Any]:
        """The next item that is done, failed or given up."""
        manned = time.monotonic()
        while True:
            with suppress(Empty):
                future = ready.get(timeout=_LOOK_AGAIN)
                if future.status not in {"pending", "lost"}:
                    return future
                # Its worker died with the result before that was fetched: another one does the item again.
                ready.put(future)
                time.sleep(_SOON)
            if self._client.status != "running":
                raise SystemFailureError(_GONE)
            if self.workers():
                manned = time.monotonic()
            elif time.monotonic() - manned > self._patience:
                raise self._deserted()

    def _deserted(self) -> SystemFailureError:
        return SystemFailureError(
            f"the scheduler has had no worker for {self._patience:.0f} s; parts that were done are kept: start "
            "workers, then run the same command again"
        )

    def _stop(self, run: str, futures: list[Future[Any]]) -> None:
        """Let nothing of the run begin any more, and wait until what is at work has ended."""
        with suppress(OSError, TimeoutError, ValueError, RuntimeError):  # the scheduler may be what is gone
            self._client.run(_stop_here, run)
            self._client.cancel(futures, force=True)
            end = time.monotonic() + _FAREWELL
            while time.monotonic() < end and any(self._client.run(_stop_here, run).values()):
                time.sleep(0.05)


def _outcome(item: Item, future: Future[Any]) -> Done[Item, Any] | Failed[Item] | Lost[Item]:
    try:
        result = future.result()
    except KilledWorker:
        return Lost(item)
    except CancelledError:
        raise SystemFailureError(_GONE) from None
    except Exception as error:  # noqa: BLE001 - handed on, never swallowed
        return Failed(item, error)
    return Failed(item, result) if isinstance(result, CtPatchError) else Done(item, result)


# In a worker's process.
_stopped: set[str] = set()


def _work_on(run: str, work: bytes, item: Any) -> Any:
    """An item's result, or the error that would be the same again: only what is raised is tried again."""
    if run in _stopped:
        return None
    try:
        function, shared = _unpacked(work)
        return function(shared, item)
    except SystemFailureError:
        raise
    except CtPatchError as error:
        return error


@lru_cache(maxsize=4)
def _unpacked(work: bytes) -> Any:
    """The function and what all items share: the same object for all items of a run in one process."""
    return loads(work)


def _stop_here(run: str, dask_worker: Worker) -> bool:
    """Begin no more items of a run in this process; whether one is still at work, cancelled or not."""
    _stopped.add(run)
    return any(str(task.key).startswith(run) for task in dask_worker.state.all_running_tasks)


def dask_setup(_worker: Any) -> None:
    """Leave Ctrl-C to the builder, where a cluster of this machine is started with this module as its preload."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
