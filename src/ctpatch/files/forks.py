"""What a process that was forked can still use.

A fork copies memory and one thread. Threads of libraries are not in the copy, and a lock that another thread held stays
locked in it. polars waits without end for its threads in such a process. So ctpatch reads what it needs of tables
before a fork, gives a forked process new locks, and refuses with an error message to read a table where polars would
hang.
"""

import os
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ctpatch.errors import CtPatchError, UsageError

_POLARS_THREAD = re.compile(r"polars-\d+|tokio-rt-worker|async-executor")


class OwnLock:
    """A reentrant lock that a forked process gets anew, unlocked: the thread that held it is not in that process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Forget who holds it."""
        self._lock = threading.RLock()


def before_a_fork(prepare: Callable[[], object]) -> None:
    """Call a bound method before each fork at which polars has threads, as long as its object lives.

    An error that ctpatch raises in it is kept for the forked process, which meets it when it does the same.
    """
    _prepares.append(weakref.WeakMethod(prepare, _prepares.remove))


def require_polars(what: str) -> None:
    """Refuse to go on in a process that was forked while polars had threads: it would wait for them without end.

    Raises:
        UsageError: it was.
    """
    if _state.lost:
        raise UsageError(
            f"{what}: this process was forked (a DataLoader worker, multiprocessing) from one that had used polars, "
            "and tables cannot be read in it. Open the set before the fork; or start workers afresh, with "
            "multiprocessing_context='spawn' in a DataLoader or multiprocessing.get_context('spawn')"
        )


class _State:
    """Whether polars had threads at the last fork, and whether this process is one that lost them."""

    running = False
    lost = False


_state = _State()
_locks: "weakref.WeakSet[OwnLock]" = weakref.WeakSet()
_prepares: list["weakref.WeakMethod[Any]"] = []


def _polars_has_threads() -> bool:
    """Whether polars started threads in this process; taken for granted where the system does not list threads."""
    try:
        for thread in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{thread}/comm", encoding="utf-8", errors="replace") as name:
                    if _POLARS_THREAD.match(name.read()):
                        return True
            except FileNotFoundError:  # it has ended meanwhile
                continue
    except OSError:
        return True
    return False


def _before() -> None:
    _state.running = not _state.lost and _polars_has_threads()
    if not _state.running:
        return
    for reference in _prepares.copy():
        prepare = reference()
        if prepare is not None:
            try:
                prepare()
            except CtPatchError:
                continue


def _in_child() -> None:
    _state.lost = _state.lost or _state.running
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
