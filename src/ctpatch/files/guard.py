"""Who is asked, after a file was opened, whether it is still one of the files that were meant."""

import os
from typing import Any

from numpy.typing import NDArray

Identity = tuple[int, ...]


class Guard:
    """Asked after each opening of a file; this one lets everything pass."""

    def refuse_other_set(self) -> None:
        """Raise where the folder no longer holds what it held when it was opened."""

    def refuse_other_pixels(self, path: str, status: os.stat_result, stored: NDArray[Any]) -> None:
        """Raise where an opened file, of this status, holds other pixels than those on record."""


NO_GUARD = Guard()


def identity(status: os.stat_result) -> Identity:
    """What changes when a file is written, replaced, or put in place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def tells_changes(status: os.stat_result) -> bool:
    """Whether the times of a file are fine enough to tell a change by; on some systems they are whole seconds."""
    return status.st_ctime_ns % 1_000_000_000 != 0
