"""The files below a source folder, in a fixed order; links that leave it are followed on request alone."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ctpatch.errors import UsageError
from ctpatch.files.atomic import system_errors
from ctpatch.files.paths import Root
from ctpatch.prepare.readers.base import LeftOut


def source_folder(root: Path) -> Path:
    """The folder that names of files are relative to: the root, or the folder a single file lies in."""
    return root if root.is_dir() else root.parent


def source_file(root: Path, file: str, *, follow_links: bool = False) -> Path:
    """A file below the root by its name there; UsageError where the name leads out of the root by a link."""
    folder = source_folder(root)
    if not follow_links and not Root(folder).holds(file):
        raise UsageError(f"{file} leads out of the source folder; copy the file into it")
    return folder / file


APPLE_DOUBLE = ("apple-double", "it is what macOS leaves beside a file (AppleDouble), with no voxels in it")
"""Kind and reason of what `is_apple_double` finds."""


def is_apple_double(name: str) -> bool:
    """Whether a file is what macOS leaves beside `a.nii.gz` on other file systems and in archives: `._a.nii.gz`."""
    return name.rpartition("/")[2].startswith("._")


def find_files(root: Path, *, follow_links: bool = False) -> tuple[list[str], list[LeftOut]]:
    """List the regular files below a folder, or the one file that is given: relative to the folder, with `/`, sorted.

    Returns with them what was passed over: links out of the folder or to another folder, links to nothing (a fault: a
    slice may be missing), and what is no regular file. With `follow_links` links are followed wherever they lead, under
    their own names. Each folder is entered once, so that links in a circle come to an end and no slice is found twice.

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
    inside = None if follow_links else Root(root)
    for name, entry in _walk_links(root, left_out) if follow_links else _walk(root):
        link = entry.is_symlink()
        if link and inside is not None and not inside.holds(name):
            left_out.append(LeftOut(name, "outside-link", "it is a link that leads out of the source folder"))
        elif _is(entry.is_file):
            names.append(name)
        elif link and _is(entry.is_dir):
            left_out.append(LeftOut(name, "linked-folder", "it is a link to a folder, which is not entered"))
        elif link and not os.path.exists(entry.path):
            left_out.append(LeftOut(name, "broken-link", "it is a link to a file that is not there", fault=True))
        else:
            left_out.append(LeftOut(name, "no-file", "it is no regular file: a pipe or a socket"))
    return sorted(names), sorted(left_out, key=lambda each: each.where)


_Found = tuple[str, "os.DirEntry[str]"]


def _walk(root: Path) -> Iterator[_Found]:
    """Everything below a folder that is no folder, by its name there; linked folders are named, not entered."""
    waiting = [("", str(root))]
    while waiting:
        prefix, folder = waiting.pop()
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False):
                waiting.append((f"{prefix}{entry.name}/", entry.path))
            else:
                yield prefix + entry.name, entry


def _walk_links(root: Path, left_out: list[LeftOut]) -> Iterator[_Found]:
    """The same, and what is in linked folders; folders that were entered under another name go to `left_out`.

    What lies in the source itself has its own name: linked folders come after it, in the order of their names.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [("", str(root))]
    while waiting:
        linked: list[tuple[str, str]] = []
        while waiting:
            prefix, folder = waiting.pop()
            with system_errors("listing", os.path.basename(folder)):
                status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                reason = "it leads to a folder that is found under another name"
                left_out.append(LeftOut(prefix.removesuffix("/"), "linked-folder", reason))
                continue
            entered.add((status.st_dev, status.st_ino))
            for entry in _entries(folder):
                if not _is(entry.is_dir):
                    yield prefix + entry.name, entry
                else:
                    places = linked if entry.is_symlink() else waiting
                    places.append((f"{prefix}{entry.name}/", entry.path))
        waiting = sorted(linked, reverse=True)


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link in a circle, or to where we may not look, is of none."""
    try:
        return kind()
    except OSError:
        return False


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    with system_errors("listing", os.path.basename(folder)), os.scandir(folder) as entries:
        yield from entries
