"""The files below a source folder, in a fixed order; links that leave it are not followed."""

import os
from collections.abc import Iterator
from pathlib import Path

from ctpatch.errors import UsageError
from ctpatch.files.atomic import system_errors
from ctpatch.files.paths import Root
from ctpatch.prepare.readers.base import LeftOut


def source_folder(root: Path) -> Path:
    """The folder that names of files are relative to: the root, or the folder a single file lies in."""
    return root if root.is_dir() else root.parent


def source_file(root: Path, file: str) -> Path:
    """A file below the root by its name there; UsageError where the name leads out of the root."""
    folder = source_folder(root)
    if not Root(folder).holds(file):
        raise UsageError(f"{file} leads out of the source folder; copy the file into it")
    return folder / file


def find_files(root: Path) -> tuple[list[str], list[LeftOut]]:
    """List the regular files below a folder, or the one file that is given: relative to the folder, with `/`, sorted.

    Returns with them what was passed over: links out of the folder or to another folder, links to nothing (a fault: a
    slice may be missing), and what is no regular file.

    Raises:
        UsageError: there is no such folder or file.
        SystemFailureError: a folder cannot be listed.
    """
    if not root.exists():
        raise UsageError(f"{root.name} does not exist; wanted a folder or a file of raw CT")
    if not root.is_dir():
        return [root.name], []
    names: list[str] = []
    left_out: list[LeftOut] = []
    inside = Root(root)
    for name, entry in _walk(root):
        link = entry.is_symlink()
        if link and not inside.holds(name):
            left_out.append(LeftOut(name, "outside-link", "it is a link that leads out of the source folder"))
        elif entry.is_file():
            names.append(name)
        elif link and entry.is_dir():
            left_out.append(LeftOut(name, "linked-folder", "it is a link to a folder, which is not entered"))
        elif link and not os.path.exists(entry.path):
            left_out.append(LeftOut(name, "broken-link", "it is a link to a file that is not there", fault=True))
        else:
            left_out.append(LeftOut(name, "no-file", "it is no regular file: a pipe or a socket"))
    return sorted(names), sorted(left_out, key=lambda each: each.where)


def _walk(root: Path) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Everything below a folder that is no folder, by its name there; linked folders are named, not entered."""
    waiting = [("", str(root))]
    while waiting:
        prefix, folder = waiting.pop()
        with system_errors("listing", os.path.basename(folder)), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                else:
                    yield prefix + entry.name, entry
