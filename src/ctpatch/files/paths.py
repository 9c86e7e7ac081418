"""Whether a path stays below its root: first as a text, then on disk.

Tables name files by paths relative to a root, and a table may come from anyone. A *plain* path is relative, with `/`
between its parts, without `.`, `..` and empty parts, a drive letter, a backslash or a control character, and not longer
than systems take. No plain path leads out of its root, on any system, unless through a link; `Root` looks for those.
"""

import os
import posixpath
import re
from typing import TYPE_CHECKING

from ctpatch.errors import CtPatchError

if TYPE_CHECKING:
    import polars as pl

MAX_PATH_BYTES = 4096
"""Longest path that is taken, in bytes of UTF-8: Linux takes no longer one."""

_SHOWN = 200
_KNOWN_FOLDERS = 10_000
_CONTROL = r"[\x00-\x1f\x7f]"
_ABSOLUTE = r"^/|^[A-Za-z]:"
# For Python and for polars: both read it the same way.
_NOT_PLAIN = rf"{_CONTROL}|{_ABSOLUTE}|\\|//|/$|(^|/)\.{{1,2}}(/|$)|^$"


class PathError(CtPatchError):
    """A path does not stay below its root; who reads the table says in which row, by an error of its own."""

    code = "path"


def not_plain(paths: "pl.Series") -> "pl.Series":
    """Which paths of a column are not plain, as booleans; null where there is none."""
    return paths.str.contains(_NOT_PLAIN) | (paths.str.len_bytes() > MAX_PATH_BYTES)


def plain_path(text: str | None, folder: str = "") -> str:
    r"""Write a path of a table as a plain one: with `/` for a backslash, without `.` and `..`.

    It is relative to the root, or to a `folder` of it, which is named by its own plain path.

    Raises:
        PathError: it is empty, too long, absolute, holds a control character, or does not lead below the root.

    >>> plain_path(r"train\old\..\a.npy")
    'train/a.npy'
    >>> plain_path("../images/a.npy", folder="train")
    'images/a.npy'
    """
    if not text:
        raise PathError("the path is empty; wanted a path relative to the data root")
    shown = repr(text[:_SHOWN])
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_PATH_BYTES:
        raise PathError(
            f"the path is too long: {size} bytes, wanted at most {MAX_PATH_BYTES}; it begins with {text[:60]!r}"
        )
    if re.search(_CONTROL, text):
        raise PathError(f"{shown} holds a control character; rename the file")
    slashed = text.replace("\\", "/")
    if folder and not re.match(_ABSOLUTE, slashed):
        slashed = f"{folder}/{slashed}"
    plain = posixpath.normpath(slashed)
    # A drive letter may come to the front only when `..` has taken away what stood before it.
    if re.match(_ABSOLUTE, slashed) or re.match(_ABSOLUTE, plain):
        raise PathError(f"{shown} is an absolute path; wanted one relative to the data root")
    if plain == ".." or plain.startswith("../"):
        raise PathError(f"{shown} leaves the data root; wanted a path below it")
    if plain == ".":
        raise PathError(f"{shown} is the data root itself; wanted the path of a slice")
    return plain


class Root:
    """A folder, maybe a link itself, that paths are relative to; tells whether links lead out of it.

    It remembers the folders it has looked at: one is made for each reading of a table. With `links` those are followed
    that stay below the root; without, a folder or file that is one, or lies behind one, is not below it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, links: bool = True) -> None:
        self._real = os.path.realpath(folder)
        self._inside = self._real.rstrip(os.sep) + os.sep
        self._links = links
        self._folders: dict[str, bool] = {}

    def holds(self, path: str) -> bool:
        """Whether a plain path leads below the root on disk. Only links are looked at: the file need not be there."""
        folder = path.rpartition("/")[0]
        if not (self._folders.get(folder) or self.holds_folder(folder)):
            return False
        full = f"{self._inside}{path}"
        return not os.path.islink(full) or (self._links and os.path.realpath(full).startswith(self._inside))

    def holds_folder(self, folder: str) -> bool:
        """Whether a folder, by its plain path, is the root or leads below it on disk; `""` is the root."""
        if folder not in self._folders:
            if len(self._folders) == _KNOWN_FOLDERS:
                self._folders.clear()
            full = os.path.normpath(self._inside + folder)
            real = os.path.realpath(full)
            below = real == self._real or real.startswith(self._inside)
            self._folders[folder] = below and (self._links or real == full)
        return self._folders[folder]

    def resolve(self, text: str | None) -> str:
        """Say where the file is that a table names, or raise PathError; the file itself is not touched."""
        plain = plain_path(text)
        if not self.holds(plain):
            raise PathError(f"{plain[:_SHOWN]!r} leaves the data root through a link, which is not followed")
        return self._inside + plain
