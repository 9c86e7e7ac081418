"""Who holds a folder: a lock that ends with its holder, and beside it a name that other machines can read.

Where the file system has no locks, the name alone holds the folder: it is made once, and followed when its process is
gone.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ctpatch.errors import OutputConflictError, OutputLockedError, SystemFailureError
from ctpatch.events import Listener, Notice
from ctpatch.files.atomic import made_folder, read_regular, system_errors, write_atomic, write_once
from ctpatch.files.locks import FileLock, NoLocksError
from ctpatch.format.meta import now_utc

LOCK = "lock"
OWNER = "owner.json"
_TURN = "turn"
"""A folder that one process at a time can make: where there are no locks, only that one follows a dead holder."""
_MAX_OWNER_BYTES = 65_536
_LOOKS = 20
_LOOKS_OF_OTHERS = 5
_LOOK_AGAIN = 0.1
"""Seconds between two looks at who holds a folder."""

_held_by_name: set[Path] = set()
"""What this process holds by its name alone."""


class Owner(NamedTuple):
    """A process that holds a folder, as it wrote it down."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host[:100]!r} since {self.since[:30]}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    def lives(self, place: Path) -> bool:
        """Whether a process of this machine, which has the place by its name alone, may still be at work on it."""
        if self.pid == os.getpid():
            return place in _held_by_name  # a container starts again with the same number
        if sys.platform == "win32":  # there, asking in this way ends the process
            return True
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            return True
        except (ProcessLookupError, OverflowError):
            return False
        return self.pid > 0


class Hold:
    """Holds a folder for this process.

    Args:
        folder: what is held, or of which a share is; made when it is held, gone where it is new and stays empty.
        place: the folder in it that the lock and the name lie in; made when it is held, gone when it is idle.
        name: what messages call that which is held.
        listener: is told where a dead holder was followed, and where the file system has no locks.
        elsewhere: what a name from another machine means: `refuse`, as its process may live, or `follow`, where two
            may do the same work without harm.
    """

    def __init__(self, folder: Path, place: Path, name: str, listener: Listener, *, elsewhere: str = "refuse") -> None:
        self.place = place
        self.shown = (place / OWNER).relative_to(folder).as_posix()
        self._folder, self._name, self._listener, self._elsewhere = folder, name, listener, elsewhere
        self._by_name = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder: no other process does meanwhile; OutputLockedError says which one holds it already."""
        with made_folder(self._folder):
            try:
                yield from self._held()
            finally:
                if self.place.parent != self._folder:
                    with suppress(OSError):  # it stays where there is anything in it
                        self.place.parent.rmdir()

    def _held(self) -> Iterator[None]:
        lock = FileLock(self.place / LOCK)
        with system_errors("locking", self._name):
            try:
                self._wait_for(lock.acquire)
            except NoLocksError as error:
                self._listener(
                    Notice(
                        "no-locks",
                        f"the file system has no locks ({error.strerror}): {self.shown} alone holds {self._name}; "
                        "if a run is killed on another machine, remove that file before the next run",
                    )
                )
                self._by_name = True
                self._wait_for(self._take_by_name)
        try:
            if not self._by_name:
                self._take_over()
            yield
        finally:
            self._let_go(lock)

    def _wait_for(self, take: Callable[[], bool]) -> None:
        """Take the folder, or say who has it.

        Who is just coming has not written its name yet, and the name of one that died may still stand there; who is
        just leaving removes the folder: only a name that stays for a moment is that of the holder.
        """
        seen = None
        for look in range(_LOOKS):
            time.sleep(_LOOK_AGAIN if look else 0)
            try:
                if self.place.is_symlink():
                    raise OutputConflictError(f"{self.place.name} is a link, which is not followed; remove it")
                self.place.mkdir(parents=True, exist_ok=True)
                if take():
                    return
            except FileNotFoundError:
                seen = None
                continue
            owner = self._owner()
            # The name of a process that is gone stays until the one who follows it has written its own.
            if owner is not None and owner == seen and (owner.lives(self.place) or not owner.is_here):
                break
            seen = owner
        # A name, unlike a lock, may stay when its process is gone.
        cure = f"; if that process is gone, remove {self.shown} and run again" if self._by_name else ""
        raise OutputLockedError(
            f"{self._name} is being written by {seen or 'another process'}; "
            f"wait until it has ended, or choose another --out{cure}"
        )

    def _owner(self) -> Owner | None:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            owner = json.loads(read_regular(self.place / OWNER, _MAX_OWNER_BYTES))
            return Owner(int(owner["pid"]), str(owner["host"]), str(owner["since"]))
        return None

    def _take_over(self) -> None:
        """Follow a holder that died; the lock is ours."""
        before = self._owner()
        if before is not None:
            self._follow(before)
        write_atomic(self.place / OWNER, _myself())

    def _follow(self, before: Owner) -> None:
        if not before.is_here and self._elsewhere == "refuse":
            raise OutputLockedError(
                f"{self._name} is held by {before}, and locks do not always reach from machine to machine; "
                f"if that process is gone, remove {self.shown} in the folder and run the command again"
            )
        self._listener(Notice("stale-lock", f"took over from {before}, which ended without finishing"))

    def _take_by_name(self) -> bool:
        """Make the file with our name, or follow the one whose name it has, where that one is gone."""
        taken = self._made() or self._taken_from_the_dead()
        if taken:
            _held_by_name.add(self.place)
        return taken

    def _made(self) -> bool:
        try:
            return write_once(self.place / OWNER, _myself())
        except SystemFailureError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # the one before us has just removed the folder
                raise error.__cause__ from None
            raise

    def _taken_from_the_dead(self) -> bool:
        before = self._owner()
        if before is None or (before.is_here and before.lives(self.place)):
            return False
        turn = self.place / _TURN
        try:
            turn.mkdir()
        except FileExistsError:
            return False
        try:
            if self._owner() != before:
                return False
            self._follow(before)
            write_atomic(self.place / OWNER, _myself())
            return True
        finally:
            with suppress(OSError):
                turn.rmdir()

    def _let_go(self, lock: FileLock) -> None:
        """Release; what is left in the folder is for the next run, and goes where there is nothing left."""
        owner = self._owner()
        _held_by_name.discard(self.place)
        with suppress(OSError):
            # In containers, processes of many machines have the same number.
            if owner is not None and owner.pid == os.getpid() and owner.is_here:
                (self.place / OWNER).unlink()
        idle = False
        with suppress(OSError):  # what failed before is to be said, not what fails on the way out
            idle = not (set(os.listdir(self.place)) - {LOCK})
        if idle and sys.platform != "win32":
            # While the lock is held: a process that opened the file before finds that its name is gone.
            with suppress(OSError):
                (self.place / LOCK).unlink()
                self.place.rmdir()
        lock.release()
        if idle and sys.platform == "win32":
            # A file that another process has opened cannot be removed there; here it would be the next one's lock.
            with suppress(OSError):
                (self.place / LOCK).unlink()
            with suppress(OSError):
                self.place.rmdir()

    def holder(self) -> str | None:
        """Who holds the folder, or None: a living process here, or one on another machine, which may live."""
        lock = FileLock(self.place / LOCK)
        owner = None
        for look in range(_LOOKS_OF_OTHERS):
            time.sleep(_LOOK_AGAIN if look else 0)
            owner = self._owner()
            if owner is None:
                return None
            if not owner.is_here:
                return str(owner)
            try:
                # Another one that asks at this moment has it no longer at the next.
                if lock.acquire():
                    lock.release()
                    return None
            except NoLocksError:
                return str(owner) if owner.lives(self.place) else None
            except OSError:
                return None
        return str(owner)


def _myself() -> bytes:
    """What the owner's file says of this process."""
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now_utc()}).encode()
