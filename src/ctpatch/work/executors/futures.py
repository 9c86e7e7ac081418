"""Any executor of `concurrent.futures`: a pool of threads or processes, or another library's of the same shape."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from concurrent.futures import Executor as Pool
from functools import partial
from itertools import islice
from typing import Any

from ctpatch.errors import SystemFailureError
from ctpatch.work.executors.base import Done, Failed, Item, Lost, Result, Shared, ending

_ITEMS_AHEAD = 2


def ended(
    submit: Callable[[Item], Future[Any]], items: Iterable[Item], most: int, is_broken: Callable[[Future[Any]], bool]
) -> Iterator[tuple[Item, Future[Any]]]:
    """Submit items, at most so many ahead of what has ended, and give each with its future when that has ended.

    Where a pool breaks, no more items are taken, and those that were under way come to their end: first what was done.
    """
    queue = iter(items)
    under_way: dict[Future[Any], Item] = {}
    broken = False
    try:
        while True:
            for item in islice(queue, 0 if broken else most - len(under_way)):
                under_way[submit(item)] = item
            if not under_way:
                return
            finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            broken = any(map(is_broken, finished))
            if broken:
                finished, _ = wait(under_way)
            for future in sorted(finished, key=is_broken):
                yield under_way.pop(future), future
    finally:
        for future in under_way:
            future.cancel()
        wait(under_way)


def outcome(item: Item, future: Future[Result]) -> Done[Item, Result] | Failed[Item]:
    """What came of an item whose future has ended."""
    error = future.exception()
    if error is None:
        return Done(item, future.result())
    if not isinstance(error, Exception):
        raise error
    return Failed(item, error)


class FuturesExecutor:
    """Runs items in a pool that belongs to the caller, who also ends it.

    A pool that broke cannot be put together again from here: the run ends with an error that says so, what was done
    is kept, and the same call with a new pool goes on.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._most = _ITEMS_AHEAD * int(getattr(pool, "_max_workers", None) or os.cpu_count() or 1)

    def run(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Done[Item, Result] | Failed[Item] | Lost[Item]]:
        """Run the function on all items.

        Raises:
            SystemFailureError: the pool broke, or was shut down, while items were under way.
        """
        with ending(ended(partial(self._submit, function, shared), items, self._most, _is_broken)) as futures:
            for item, future in futures:
                if _is_broken(future):
                    error = CancelledError() if future.cancelled() else future.exception()
                    raise SystemFailureError(_broken(error)) from error
                yield outcome(item, future)

    def everywhere(self, function: Callable[[Any], Any], argument: Any) -> dict[str, Any]:
        """What the function returns, or raises, in one worker: which there are cannot be told from here."""
        try:
            return {"a worker of the executor": self._submit(_alone, function, argument).result()}
        except Exception as error:  # noqa: BLE001 - handed on, never swallowed
            return {"a worker of the executor": error}

    def workers(self) -> int:
        """How many there are at least."""
        return 1

    def _submit(self, *call: Any) -> Future[Any]:
        try:
            return self._pool.submit(*call)
        except RuntimeError as error:  # a pool that is broken, or was shut down
            raise SystemFailureError(_broken(error)) from error


def _alone(function: Callable[[Any], Any], argument: Any) -> Any:
    return function(argument)


def _is_broken(future: Future[Any]) -> bool:
    return future.cancelled() or isinstance(future.exception(), BrokenExecutor)


def _broken(error: BaseException | None) -> str:
    return (
        f"the executor that was given broke while it worked ({type(error).__name__}: {str(error)[:200]}): a worker was "
        "killed, ran out of memory, or the executor was shut down; parts that were done are kept, run again with a "
        "new executor to go on"
    )
