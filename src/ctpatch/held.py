"""A folder that is being written: who holds it, and what waits in it until the work is done.

While something is made in a folder, the folder `.ctpatch` in it holds the lock and what finished parts left. It is gone
when the work is done.
"""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctpatch.atomic import remove_file, sync_folder, system_errors, write_atomic
from ctpatch.errors import OutputConflictError, OutputLockedError
from ctpatch.events import Listener, Notice
from ctpatch.meta import now_utc

STATE_FOLDER = ".ctpatch"
_LOCK = "lock"
_OWNER = "owner.json"
LOCK_FILES = frozenset({_LOCK, _OWNER})
"""What stays in the state folder until it is let go."""

_LOOKS = 20
_LOOK_AGAIN = 0.1
"""Seconds between two looks at who holds a folder."""


class HeldFolder:
    """A folder while it is held by this process."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        self.folder = folder
        self.state = folder / STATE_FOLDER
        self._listener = listener

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder: no other process writes into it meanwhile.

        Raises:
            OutputLockedError: another process holds it; says which.
            SystemFailureError: the folder cannot be made or written.
        """
        existed = self.folder.exists()
        with system_errors("making the folder", self.folder.name):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.state.is_symlink():
            raise OutputConflictError(
                f"{self.folder.name}/{STATE_FOLDER} is a link, which is not followed; "
                "remove it, or choose another --out"
            )
        lock = FileLock(self.state / _LOCK, timeout=0)
        with system_errors("locking", self.folder.name):
            self._acquire(lock)
        try:
            self._take_over()
            yield
        finally:
            self._let_go(lock, remove_folder=not existed)

    def _acquire(self, lock: Any) -> None:
        """Take the lock, or say who has it.

        Who is just coming has not written its name yet, and the name of one that died may still stand there; who is
        just leaving removes the folder: only a name that stays for a moment is that of the holder.
        """
        seen = None
        for look in range(_LOOKS):
            time.sleep(_LOOK_AGAIN if look else 0)
            try:
                self.state.mkdir(parents=True, exist_ok=True)
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
            f"{self.folder.name} is being written by {seen or 'another process'}; "
            "wait until it has ended, or choose another --out"
        )

    def _owner(self) -> str | None:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            owner = json.loads((self.state / _OWNER).read_bytes())
            return f"process {int(owner['pid'])} on {str(owner['host'])[:100]!r} since {str(owner['since'])[:30]}"
        return None

    def _take_over(self) -> None:
        path = self.state / _OWNER
        before = self._owner()
        host = socket.gethostname()
        if before is not None:
            if f" on {host!r} since" not in before:
                raise OutputLockedError(
                    f"{self.folder.name} is held by {before}, and locks do not always reach from machine to machine; "
                    f"if that process is gone, remove {STATE_FOLDER}/{_OWNER} in the folder and run the command again"
                )
            self._listener(Notice("stale-lock", f"took over from {before}, which ended without finishing"))
        write_atomic(path, json.dumps({"pid": os.getpid(), "host": host, "since": now_utc()}).encode())

    def _let_go(self, lock: Any, *, remove_folder: bool) -> None:
        """Release; what is left in the state folder is for the next run, and goes where there is nothing left."""
        owner = self.state / _OWNER
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            content = json.loads(owner.read_bytes())
            # In containers, processes of many machines have the same number.
            if (content["pid"], content["host"]) == (os.getpid(), socket.gethostname()):
                owner.unlink()
        idle = False
        with suppress(OSError):  # what failed before is to be said, not what fails on the way out
            idle = not (set(os.listdir(self.state)) - {_LOCK})
        if idle and sys.platform != "win32":
            # While the lock is held: a process that opened the file before finds that its name is gone.
            with suppress(OSError):
                (self.state / _LOCK).unlink()
                self.state.rmdir()
        lock.release()
        if idle and sys.platform == "win32":
            # A file that another process has opened cannot be removed there; here it would be the next one's lock.
            with suppress(OSError):
                (self.state / _LOCK).unlink()
            with suppress(OSError):
                self.state.rmdir()
        if remove_folder:
            with suppress(OSError):
                self.folder.rmdir()

    def publish(self, name: str) -> None:
        """Give a finished table or the meta its place in the folder."""
        with system_errors("writing", name):
            os.replace(self.state / name, self.folder / name)
            sync_folder(self.folder)

    def end(self) -> None:
        """The set is complete: remove all that was needed to get there, save the lock."""
        with system_errors("removing what was needed to make", self.folder.name):
            for entry in list(self.state.iterdir()) if self.state.is_dir() else []:
                if entry.name not in LOCK_FILES:
                    if entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry)
                    else:
                        remove_file(entry)
