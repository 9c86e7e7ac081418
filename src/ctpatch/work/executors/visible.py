"""Whether workers on other machines see the same files and run the same software, asked before any work is done."""

import os
import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
import xxhash

from ctpatch._version import __version__
from ctpatch.errors import UsageError
from ctpatch.events import Listener, Notice
from ctpatch.files.atomic import remove_file, system_errors, write_file
from ctpatch.work.executors.base import Executor

_HEAD_BYTES = 1 << 16
_BY_MODULE = {"ctpatch": __version__, "numpy": np.__version__, "polars": pl.__version__}
Guard = Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]


@runtime_checkable
class RemoteExecutor(Executor, Protocol):
    """An executor whose workers may be on other machines."""

    def everywhere(self, function: Callable[[Any], Any], argument: Any) -> dict[str, Any]:
        """What the function returns, or raises, in each worker that can be named, by its name."""
        ...

    def workers(self) -> int:
        """How many there are now."""
        ...


@dataclass(frozen=True, slots=True)
class Landmarks:
    """What every worker must find: files with their marks, and what decides the bytes with its version."""

    files: tuple[tuple[str, str], ...]
    software: tuple[tuple[str, str], ...]


@contextmanager
def in_sight(
    executor: Executor,
    files: Sequence[Path],
    listener: Listener,
    *,
    folder: Path | None = None,
    software: Sequence[str] = (),
) -> Iterator[Guard]:
    """Ask the workers, those there are now and each that comes later, whether they see what this process sees.

    Local executors are not asked: they are this machine.

    Args:
        executor: what the work is given to.
        files: files that the workers must see.
        listener: is told where workers are waited for.
        folder: where a token is put for the workers to see, and taken away at the end; None for work that only reads.
        software: packages that decide the bytes too, beside ctpatch, numpy and polars.

    Yields:
        What makes a function one that asks first, once in each process.

    Raises:
        UsageError: a worker does not see a file, or runs other software; it says which worker and what.
    """
    if not isinstance(executor, RemoteExecutor):
        yield lambda function: function
        return
    with _token(folder) as tokens:
        landmarks = Landmarks(
            tuple((os.path.abspath(file), _mark(file)) for file in (*tokens, *files)),
            tuple((name, _version(name)) for name in (*_BY_MODULE, *software)),
        )
        if not executor.workers():
            listener(Notice("no-workers", "the scheduler has no worker yet; waiting for the first one"))
        for worker, complaint in executor.everywhere(_complaint, landmarks).items():
            if isinstance(complaint, Exception):
                raise UsageError(
                    f"worker {worker} cannot run ctpatch ({type(complaint).__name__}: {str(complaint)[:200]}); install "
                    "the same version of ctpatch where the workers run"
                )
            if complaint is not None:
                raise UsageError(f"worker {worker} {complaint}")
        yield lambda function: partial(_guarded, function, landmarks)


@contextmanager
def _token(folder: Path | None) -> Iterator[list[Path]]:
    """A file that was never anywhere else."""
    if folder is None:
        yield []
        return
    token = folder / f"seen-{secrets.token_hex(8)}.token"
    with system_errors("writing", token.name):
        write_file(str(token), [secrets.token_bytes(32)])
    try:
        yield [token]
    finally:
        with suppress(OSError):  # what failed before is to be said, not what fails on the way out
            remove_file(token)


def _mark(path: str | Path) -> str:
    """Size, and digest of the first 64 KiB."""
    with open(path, "rb") as file:
        return f"{os.fstat(file.fileno()).st_size}-{xxhash.xxh3_64_hexdigest(file.read(_HEAD_BYTES))}"


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return _BY_MODULE.get(name) or version(name)
    return ""


def _complaint(landmarks: Landmarks) -> str | None:
    """What is wrong where this runs, or None."""
    for name, wanted in landmarks.software:
        here = _version(name)
        if wanted != here:
            has = f"runs {name} {here}" if here else f"has no {name}"
            return (
                f"{has}, the builder {wanted or 'has none'}; install the same versions everywhere, as the same bytes "
                "are only promised for them"
            )
    for path, mark in landmarks.files:
        name = "/".join(Path(path).parts[-3:])
        try:
            seen = _mark(path)
        except OSError as error:
            return (
                f"does not see …/{name} ({error.strerror}); the workers need a file system that they share with the "
                "builder, under the same path, for the sources and the output"
            )
        if seen != mark:
            return f"sees another …/{name} than the builder; the workers need the same file system under that path"
    return None


_satisfied: set[Landmarks] = set()


def _guarded(function: Callable[[Any, Any], Any], landmarks: Landmarks, shared: Any, item: Any) -> Any:
    if landmarks not in _satisfied:
        complaint = _complaint(landmarks)
        if complaint is not None:
            raise UsageError(f"a worker on {platform.node() or 'this machine'} {complaint}")
        _satisfied.add(landmarks)
    return function(shared, item)
