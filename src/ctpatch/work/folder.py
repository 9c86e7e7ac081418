"""A folder that is being written: held by one process, with a folder in it for what waits until the work is done.

While something is made in a folder, the folder `.ctpatch` in it holds the lock and what finished parts left. It is gone
when the work is done.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ctpatch.errors import OutputConflictError
from ctpatch.events import Listener
from ctpatch.files.atomic import remove_file, sync_folder, system_errors
from ctpatch.format.meta import STATE_FOLDER
from ctpatch.work.lock import LOCK, OWNER, Hold

LOCK_FILES = frozenset({LOCK, OWNER})
"""What stays in the state folder until it is let go."""


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
        with self._made(), self._whole().held():
            yield

    @contextmanager
    def _made(self) -> Iterator[None]:
        """Make the folder; remove it again where it is empty in the end and was not there before."""
        existed = self.folder.exists()
        with system_errors("making the folder", self.folder.name):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.state.is_symlink():
            raise OutputConflictError(
                f"{self.folder.name}/{STATE_FOLDER} is a link, which is not followed; "
                "remove it, or choose another --out"
            )
        try:
            yield
        finally:
            if not existed:
                with suppress(OSError):
                    self.folder.rmdir()

    def _whole(self) -> Hold:
        return Hold(self.state, self.folder.name, f"{STATE_FOLDER}/{OWNER}", self._listener)

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
                    remove_entry(entry)


def remove_entry(entry: Path) -> None:
    """Remove a file, a link, or a folder with what is in it."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        remove_file(entry)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two sets of options, one line each."""
    names = [name for name in now if before.get(name) != now[name]]
    return [f"{name} was {_shown(before.get(name))}, now {_shown(now[name])}" for name in names]


def _shown(value: Any) -> str:
    return json.dumps(value)[:200]
