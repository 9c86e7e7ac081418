"""Files that are there whole or not at all, and bytes that survive a power cut."""

import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctpatch.errors import SystemFailureError, UsageError

_Buffer = bytes | memoryview
_HAS_WRITEV = hasattr(os, "writev")
_OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# A link planted under a name of ours must not lead a write elsewhere.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


_WINDOWS_IN_USE = frozenset({32, 33, 1224})
"""Its numbers for a file that another process has opened, locked or mapped."""
_WINDOWS_DENIED = 5
"""What it says of permissions, and where a mapped file is to be removed."""


def explain_os_error(error: OSError, doing: str, name: str) -> SystemFailureError:
    """Turn an error of the system into a sentence: what was being done, to which file, and the cure."""
    cure = {
        errno.ENOSPC: "free some space, then run the same command again to go on",
        errno.EDQUOT: "your quota is used up: free some space, then run the same command again to go on",
        errno.EACCES: "check the permissions of the file and its folder",
        errno.EPERM: "check the permissions of the file and its folder",
        errno.EROFS: "the file system is read-only: choose another --out",
        errno.EMFILE: "too many open files: raise the limit (ulimit -n) or use fewer workers",
        errno.ENFILE: "too many open files on this machine: close some programs",
        errno.EIO: "the device reports a fault: check the disk, then run the same command again",
        errno.ELOOP: "the path runs through a link that is not followed: remove the link",
        errno.ENAMETOOLONG: "the name is too long for this file system",
    }.get(error.errno or 0, "check the file and its folder, then run the same command again")
    windows = getattr(error, "winerror", None)
    if windows in _WINDOWS_IN_USE or (windows == _WINDOWS_DENIED and doing == "removing"):
        cure = (
            "a program has a file open, and Windows removes none that is: end that program, then run the command again"
        )
    reason = error.strerror or type(error).__name__
    return SystemFailureError(f"{doing} {name} failed: {reason}; {cure}")


@contextmanager
def system_errors(doing: str, name: str) -> Iterator[None]:
    """Raise errors of the system inside the block as `SystemFailureError`."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, doing, name) from error


def given_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user gave it; UsageError where the system can make nothing of it: a NUL, links in a circle."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        raise UsageError(f"{ascii(os.fspath(path))[:200]} cannot be used as a path: {reason}") from None
    return Path(path)


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a file of ours, of at most `limit`; an OSError for links and pipes, which are not waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | _NO_FOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, which is not followed") from None
        raise
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, which no such file has; is it damaged?")
        return file.read()


def open_for_writing(path: str) -> int:
    """Open a file for writing from its start, following no link; returns the descriptor.

    What the file holds is not cut off first: where work is done twice, even at the same time, the same bytes are
    written over the same bytes and the file is never less than whole. `end_file` cuts off what is too much.
    """
    return os.open(path, _OPEN_FLAGS | _NO_FOLLOW, 0o666)


def write_buffers(fd: int, buffers: Sequence[_Buffer]) -> int:
    """Write all buffers in order, however often the system writes only a part; returns the bytes written."""
    written = os.writev(fd, buffers) if _HAS_WRITEV else 0
    total = 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        rest = view[max(written - total, 0) :]
        total += view.nbytes
        while rest.nbytes:
            rest = rest[os.write(fd, rest) :]
    return total


def end_file(fd: int, size: int) -> None:
    """Cut off what an earlier, longer file left behind `size` bytes."""
    if os.fstat(fd).st_size != size:
        os.ftruncate(fd, size)


def write_file(path: str, buffers: Sequence[_Buffer], *, durable: bool = False) -> int:
    """Write a file in one go (not atomic; where it is not durable, a receipt says when it counts); returns its size."""
    fd = open_for_writing(path)
    try:
        size = write_buffers(fd, buffers)
        end_file(fd, size)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    return size


@contextmanager
def _written(path: Path, content: bytes) -> Iterator[Path]:
    """A durable file beside `path`, gone afterwards; errors of the system are raised as `SystemFailureError`.

    Whoever else writes the same file at the same time, a thread here or a process on another machine, has a temporary
    name of its own.
    """
    temporary = path.with_name(f"{path.name}.{secrets.randbits(64)}.tmp")
    with system_errors("writing", path.name):
        try:
            write_file(str(temporary), [content], durable=True)
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut; of several, the last one stays."""
    with _written(path, content) as temporary:
        publish(temporary, path)


def write_once(path: Path, content: bytes) -> bool:
    """Write a file as `write_atomic` does, unless it is there; returns whether it was not.

    Of all who do this at the same time, on any machine, one is first.
    """
    with _written(path, content) as temporary:
        first = _link(temporary, path)
        if first:
            sync_folder(path.parent)
    return first


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        # Some file systems have no links: there the name comes first, and its content a moment later.
        try:
            os.close(os.open(path, _OPEN_FLAGS | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        os.replace(temporary, path)
    return True


def publish(temporary: Path, path: Path) -> None:
    """Give a durable temporary file its name, durably."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_file(path: str | Path) -> None:
    """Make a file's bytes durable. A failed fsync is never retried: the pages may be gone."""
    _sync(path, os.O_RDWR | getattr(os, "O_BINARY", 0))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows has no such call and orders them itself."""
    if sys.platform != "win32":
        _sync(folder, os.O_RDONLY)


def _sync(path: str | Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_outputs(folder: Path, files: Sequence[str] | Sequence[Path]) -> None:
    """Make files below `folder` durable, with their names.

    One or two files are synced by themselves. More are synced by one `syncfs` of their file system, which costs half
    of an fsync for each of four and a thirtieth for each of a thousand; where there is none, each is synced. Where the
    system reports a fault, the files must be written again.
    """
    with system_errors("making durable", folder.name or str(folder)):
        if len(files) > _FEW_FILES and _syncfs(folder):
            return
        for file in files:
            sync_file(file)
        for each in sorted({os.path.dirname(file) for file in files}):
            sync_folder(Path(each))


_FEW_FILES = 2


def _load_syncfs() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    with suppress(OSError, AttributeError):
        return ctypes.CDLL(None, use_errno=True).syncfs
    return None


_SYNCFS = _load_syncfs()


def _syncfs(folder: Path) -> bool:
    """Sync the file system that holds a folder; False where the system has no such call."""
    if _SYNCFS is None:
        return False
    fd = os.open(folder, os.O_RDONLY)
    try:
        if _SYNCFS(fd) == 0:
            return True
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return False
        raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def remove_file(path: Path) -> None:
    """Remove a file; one that is gone already is what was wanted."""
    with suppress(FileNotFoundError):
        path.unlink()


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder; remove it again where it is empty in the end and was not there before."""
    existed = folder.exists()
    with system_errors("making the folder", folder.name):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not existed:
            with suppress(OSError):
                folder.rmdir()


def remove_all(folder: Path, *, but: Collection[str]) -> None:
    """Remove everything that is in a folder except some names; a folder that is not there holds nothing."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if entry.name in but:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            remove_file(entry)


@dataclass(frozen=True, slots=True)
class Clearing:
    """What goes from a folder before other files are written there.

    Attributes:
        marker: a file that stands while anything goes, so that the next run finishes what was cut off.
        aside: files that lead to the others, each with the place where it is kept until those are gone.
        files: the others.
        folders: where they were; one that holds anything else stays.
        stays: names in the marker's folder; the rest there goes last.
    """

    marker: Path
    aside: Sequence[tuple[Path, Path]]
    files: Sequence[Path]
    folders: Sequence[Path]
    stays: Collection[str]


def ready_folder(
    folder: Path,
    folders: Sequence[Path],
    record: tuple[Path, bytes] | None = None,
    clearing: Clearing | None = None,
) -> None:
    """Make a folder ready for new files: old ones go, then a record is written, then folders are made.

    Whenever this is cut off, the marker or the record says what is to be done next.
    """
    if clearing is not None:
        _clear(folder, clearing)
    if record is not None:
        write_atomic(*record)
    for each in folders:
        with system_errors("making the folder", each.name):
            each.mkdir(exist_ok=True)
    with system_errors("making durable", folder.name):
        sync_folder(folder)


def _clear(folder: Path, clearing: Clearing) -> None:
    if not clearing.marker.exists():
        write_atomic(clearing.marker, b"{}")
    # What is here stops being complete before its first file goes.
    for path, place in clearing.aside:
        with system_errors("removing", path.name), suppress(FileNotFoundError):
            os.replace(path, place)
    with system_errors("removing", folder.name):
        sync_folder(folder)
        for path in clearing.files:
            remove_file(path)
        for path in clearing.folders:
            with suppress(OSError):
                path.rmdir()
        remove_all(clearing.marker.parent, but=clearing.stays)
        sync_folder(folder)
        remove_file(clearing.marker)
