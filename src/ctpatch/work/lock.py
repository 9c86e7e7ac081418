"""Who holds a folder: a lock that ends with its holder, and beside it a name that other machines can read."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctpatch.errors import OutputLockedError
from ctpatch.events import Listener, Notice
from ctpatch.files.atomic import made_folder, system_errors, write_atomic
from ctpatch.format.meta import now_utc

LOCK = "lock"
OWNER = "owner.json"
_LOOKS = 20
_LOOKS_OF_OTHERS = 5
_LOOK_AGAIN = 0.1
"""Seconds between two looks at who holds a folder."""


class Hold:
    """Holds a folder for this process.

    Args:
        folder: what is held, or of which a share is; made when it is held, gone where it is new and stays empty.
        place: the folder in it that the lock and the name lie in; made when it is held, gone when it is idle.
        name: what messages call that which is held.
        listener: is told where a dead holder was followed.
        elsewhere: what a name from another machine means: `refuse`, as its process may live, or `follow`, where two
            may do the same work without harm.
    """

    def __init__(self, folder: Path, place: Path, name: str, listener: Listener, *, elsewhere: str = "refuse") -> None:
        self.place = place
        self.shown = (place / OWNER).relative_to(folder).as_posix()
        self._folder, self._name, self._listener, self._elsewhere = folder, name, listener, elsewhere

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder: no other process does meanwhile; OutputLockedError says which one holds it already."""
        lock = FileLock(self.place / LOCK, timeout=0)
        with made_folder(self._folder):
            try:
                with system_errors("locking", self._name):
                    self._acquire(lock)
                try:
                    self._take_over()
                    yield
                finally:
                    self._let_go(lock)
            finally:
                if self.place.parent != self._folder:
                    with suppress(OSError):  # it stays where there is anything in it
                        self.place.parent.rmdir()

    def _acquire(self, lock: Any) -> None:
        """Take the lock, or say who has it.

        Who is just coming has not written its name yet, and the name of one that died may still stand there; who is
        just leaving removes the folder: only a name that stays for a moment is that of the holder.
        """
        seen = None
        for look in range(_LOOKS):
            time.sleep(_LOOK_AGAIN if look else 0)
            try:
                self.place.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                return
            except Timeout:  # an OSError itself
                owner = self._owner()
                if owner is not None and owner == seen:
                    break
                seen = owner
            except FileNotFoundError:
                seen = None
        raise OutputLockedError(
            f"{self._name} is being written by {seen or 'another process'}; "
            "wait until it has ended, or choose another --out"
        )

    def _owner(self) -> str | None:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            owner = json.loads((self.place / OWNER).read_bytes())
            return f"process {int(owner['pid'])} on {str(owner['host'])[:100]!r} since {str(owner['since'])[:30]}"
        return None

    def _take_over(self) -> None:
        before = self._owner()
        host = socket.gethostname()
        if before is not None:
            if f" on {host!r} since" not in before and self._elsewhere == "refuse":
                raise OutputLockedError(
                    f"{self._name} is held by {before}, and locks do not always reach from machine to machine; "
                    f"if that process is gone, remove {self.shown} in the folder and run the command again"
                )
            self._listener(Notice("stale-lock", f"took over from {before}, which ended without finishing"))
        write_atomic(self.place / OWNER, json.dumps({"pid": os.getpid(), "host": host, "since": now_utc()}).encode())

    def _let_go(self, lock: Any) -> None:
        """Release; what is left in the folder is for the next run, and goes where there is nothing left."""
        owner = self.place / OWNER
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            content = json.loads(owner.read_bytes())
            # In containers, processes of many machines have the same number.
            if (content["pid"], content["host"]) == (os.getpid(), socket.gethostname()):
                owner.unlink()
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
        owner = None
        for look in range(_LOOKS_OF_OTHERS):
            time.sleep(_LOOK_AGAIN if look else 0)
            owner = self._owner()
            if owner is None:
                return None
            if f" on {socket.gethostname()!r} since" not in owner:
                return owner
            try:
                # Another one that asks at this moment has it no longer at the next.
                with FileLock(self.place / LOCK, timeout=0):
                    return None
            except Timeout:
                continue
            except OSError:
                return None
        return owner
