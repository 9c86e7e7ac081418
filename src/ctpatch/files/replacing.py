"""A single file that a command writes for people: what may be written over, and what may not."""

import os
from pathlib import Path

from ctpatch.errors import OutputConflictError, UsageError
from ctpatch.files.atomic import given_path

_WITHIN = 4096


def file_to_write(
    path: str | os.PathLike[str], mark: bytes, what: str, usual: str, option: str, within: int = _WITHIN
) -> Path:
    """The file to write, unless it is a folder, has none, or is there and was not written as this one is.

    Args:
        path: the file, as a user gave it.
        mark: stands within the first `within` bytes of every such file, and of no other.
        what: what such a file is, for messages.
        usual: its usual name, for messages.
        option: that names it on the command line, for messages.
        within: bytes that are looked at.

    Raises:
        UsageError: it is a folder, or its folder does not exist.
        OutputConflictError: something else is there.
    """
    target = given_path(path)
    if target.is_dir():
        raise UsageError(f"{str(target)!r} is a folder; name the file to write, as {target / usual}")
    if not target.parent.is_dir():
        raise UsageError(f"the folder of {str(target)!r} does not exist; make it first, or choose another {option}")
    if target.exists():
        with target.open("rb") as file:
            if mark not in file.read(within):
                raise OutputConflictError(
                    f"{str(target)!r} is there and is no {what} of ctpatch; choose another {option}, or remove it"
                )
    return target
