"""Results read ahead by a thread, while the caller works on the one before."""

import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ctpatch.errors import UsageError

Asked = TypeVar("Asked")
Result = TypeVar("Result")

_SECONDS_TO_END = 10.0
_NAME = "ctpatch-loader"


class ReadAhead(Generic[Asked, Result]):
    """Iterates over `read(each)` for each of `asked`, in order. It holds no result that it has given out.

    Args:
        read: gives one result; runs in the thread.
        asked: what is read.
        ahead: how many results are read before they are asked for; with 0 there is no thread.
        finish: what is left to do to a result when it is asked for, in the thread that asks.

    Raises:
        UsageError: it is asked for a result in another process than it was made in.
    """

    def __init__(
        self,
        read: Callable[[Asked], Result],
        asked: Sequence[Asked],
        ahead: int,
        finish: Callable[[Result], Result] | None = None,
    ) -> None:
        self._read = read
        self._finish = finish
        self._asked = asked
        self._given = 0
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Result | _Failure] = queue.SimpleQueue()
        if ahead:
            for _ in range(min(ahead, len(asked))):
                self._orders.put(True)
            thread = threading.Thread(
                target=_fill, args=(read, asked, self._orders, self._ready), name=_NAME, daemon=True
            )
            thread.start()
            self._thread = thread

    def __iter__(self) -> "ReadAhead[Asked, Result]":
        return self

    def __next__(self) -> Result:
        if os.getpid() != self._process:
            raise UsageError(
                f"this iterator was begun in process {self._process} and carried into process {os.getpid()} by a "
                "fork, where its reading thread is missing; begin a new one there with iter(loader)"
            )
        if self._given == len(self._asked):
            self.close()
            raise StopIteration
        self._given += 1
        try:
            got = self._next()
            return got if self._finish is None else self._finish(got)
        except BaseException:
            self.close()
            raise

    def _next(self) -> Result:
        if self._thread is None:
            return self._read(self._asked[self._given - 1])
        self._orders.put(True)
        got = self._ready.get()
        if isinstance(got, _Failure):
            raise got.error
        return got

    def close(self) -> None:
        """End the thread; nothing is given out any more."""
        self._end(None)

    def __del__(self) -> None:
        # Not without end: Python may collect this at any moment, also where the thread waits for a lock that is held.
        self._end(_SECONDS_TO_END)

    def _end(self, seconds: float | None) -> None:
        self._given = len(self._asked)
        thread, self._thread = self._thread, None
        if thread is None or os.getpid() != self._process:  # in a forked process there is none to end
            return
        self._orders.put(False)
        # When Python ends, the thread no longer runs; and it may be the one in which this is collected.
        if not sys.is_finalizing() and thread is not threading.current_thread():
            thread.join(seconds)


class _Failure:
    """An error in the thread, on its way to the caller."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _fill(
    read: Callable[[Asked], Result],
    asked: Sequence[Asked],
    orders: "queue.SimpleQueue[bool]",
    ready: "queue.SimpleQueue[Result | _Failure]",
) -> None:
    """What the thread does; it knows nothing of the iterator, so that one that nobody holds can end it."""
    try:
        for each in asked:
            if not orders.get():
                return
            ready.put(read(each))
    except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
        ready.put(_Failure(error))


def in_reading_thread() -> bool:
    """Whether the code that asks runs in a thread that reads ahead."""
    return threading.current_thread().name == _NAME
