"""A lock on a file: the system lets go of it when its holder ends, however that ends.

The file is opened under its own name alone. Anyone who may write into a shared folder can plant a link there; nothing
is opened, made or changed through one.
"""

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from ctpatch.errors import OutputConflictError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HELD_ELSEWHERE = frozenset({errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""What file systems without locks answer: NFS without its lock daemon, Lustre mounted without `flock`, FUSE."""
_FLAGS = os.O_RDWR | os.O_CREAT
# A pipe planted under the name is not waited for.
_FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_TRIES = 20

_held: set[int] = set()
"""Descriptors of locks that this process holds."""


class NoLocksError(OSError):
    """The file system knows no locks; `errno` and `strerror` are its own."""


class FileLock:
    """A lock that one process at a time holds; it is not waited for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> bool:
        """Take the lock, making its file where there is none; False where another holds it.

        Raises:
            OutputConflictError: the name is that of a link, symbolic or hard, or of no regular file.
            NoLocksError: the file system has no locks.
            FileNotFoundError: the folder is gone.
            OSError: the system does not open the file.
        """
        for _ in range(_TRIES):
            try:
                fd = self._open()
            except PermissionError:
                if sys.platform == "win32":  # its holder is just removing it
                    return False
                raise
            taken = False
            try:
                if not _lock(fd):
                    return False
                # The holder before removes the file as it leaves: a lock on a file without its name holds nothing.
                taken = self._has_its_name(fd)
            finally:
                if not taken:
                    os.close(fd)
            if taken:
                self._fd = fd
                _held.add(fd)
                return True
        return False

    def release(self) -> None:
        """Let go of the lock; nothing where it is not held."""
        if self._fd in _held:
            _held.discard(self._fd)
            _unlock(self._fd)
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> int:
        with suppress(FileNotFoundError):
            self._refuse_link(os.lstat(self._path))
        try:
            fd = os.open(self._path, _FLAGS, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:  # it was planted a moment ago
                raise self._planted("a symbolic link") from None
            raise
        try:
            self._refuse_link(os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _refuse_link(self, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            raise self._planted("a symbolic link")
        if not stat.S_ISREG(status.st_mode):
            raise self._planted("no regular file")
        if status.st_nlink > 1:
            raise self._planted(f"a hard link: the file has {status.st_nlink} names")

    def _planted(self, what: str) -> OutputConflictError:
        name = f"{self._path.parent.name}/{self._path.name}"
        return OutputConflictError(f"{name} is {what}, which ctpatch never makes nor opens; remove it, then run again")

    def _has_its_name(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self._path))
        except FileNotFoundError:
            return False


def _lock(fd: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_ELSEWHERE:
            return False
        if error.errno in _NO_LOCKS:
            raise NoLocksError(error.errno, error.strerror) from None
        raise
    return True


def _unlock(fd: int) -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        else:
            # Closing would leave it to a process that was forked meanwhile.
            fcntl.flock(fd, fcntl.LOCK_UN)


def _forget_in_a_fork() -> None:
    """A process that was forked does not keep the locks of one that is gone."""
    for fd in _held:
        with suppress(OSError):
            os.close(fd)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_a_fork)
