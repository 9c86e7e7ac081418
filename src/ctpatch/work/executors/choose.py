"""The executor that a user means: by a number of workers, by the name of an engine, or one that is handed over."""

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor as Pool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ctpatch.errors import ConfigError, UsageError
from ctpatch.work.executors.base import Executor
from ctpatch.work.executors.futures import FuturesExecutor
from ctpatch.work.executors.processes import ProcessExecutor, refuse_unguarded_script
from ctpatch.work.executors.serial import SerialExecutor

Engine = Literal["serial", "processes", "dask"]
AnyExecutor = Any
"""An `Executor`, a `concurrent.futures.Executor`, or a `distributed.Client`."""

_CONNECT_SECONDS = "30s"
_NO_PAGES: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
"""Nobody asked for Dask's pages, which anyone on this machine could read: names of files, logs, Python objects."""


def local_executor(workers: int) -> Executor:
    """One worker works in this process, more in processes of their own."""
    refuse_unguarded_script()
    return SerialExecutor() if workers == 1 else ProcessExecutor(workers)


def as_executor(given: AnyExecutor | None, workers: int) -> Executor:
    """The executor that was handed over, or a local one with so many workers.

    Raises:
        UsageError: it is none of those that `AnyExecutor` names.
    """
    if given is None:
        return local_executor(workers)
    refuse_unguarded_script()
    if isinstance(given, Pool):
        return FuturesExecutor(given)
    # A client can only be there where its module is.
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(given, distributed.Client):
        if given.asynchronous:
            raise UsageError("executor: an asynchronous dask Client cannot be waited for here; give a synchronous one")
        from ctpatch.work.executors.dask import DaskExecutor  # noqa: PLC0415

        return DaskExecutor(given)
    if not callable(getattr(given, "run", None)):
        raise UsageError(
            f"executor: got a {type(given).__name__}, wanted a concurrent.futures.Executor or a dask Client"
        )
    executor: Executor = given
    return executor


@contextmanager
def engine_executor(
    engine: Engine | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    scheduler_file: str | os.PathLike[str] | None = None,
) -> Iterator[Executor | None]:
    """The executor of a named engine, while it is used; None where none is named.

    Args:
        engine: `serial`, `processes` or `dask`.
        workers: processes on this machine; None takes one for each core.
        scheduler: address of a Dask scheduler, as `tcp://host:8786`; None, with no file, starts a cluster here.
        scheduler_file: the file that a Dask scheduler wrote its address to.

    Raises:
        ConfigError: the options do not fit together.
        UsageError: Dask is not installed, or no scheduler answers.
    """
    if engine != "dask" and (scheduler is not None or scheduler_file is not None):
        raise ConfigError("scheduler, scheduler_file: these are for the engine dask; add --engine dask")
    if engine is None:
        yield None
    elif engine == "serial":
        if workers not in {None, 1}:
            raise ConfigError(f"workers: the engine serial works in this process alone, got {workers}; leave it out")
        yield SerialExecutor()
    elif engine == "processes":
        yield ProcessExecutor(workers or os.cpu_count() or 1)
    elif engine == "dask":
        with _dask(workers, scheduler, scheduler_file) as executor:
            yield executor
    else:
        raise ConfigError(f"engine: {engine!r}, wanted serial, processes or dask")


@contextmanager
def _dask(
    workers: int | None, scheduler: str | None, scheduler_file: str | os.PathLike[str] | None
) -> Iterator[Executor]:
    if scheduler is not None and scheduler_file is not None:
        raise ConfigError("scheduler, scheduler_file: one or the other says where the scheduler is; give only one")
    try:
        import dask  # noqa: PLC0415
        from distributed import Client, LocalCluster  # noqa: PLC0415
        from distributed.security import Security  # noqa: PLC0415

        from ctpatch.work.executors.dask import DaskExecutor  # noqa: PLC0415
    except ImportError:
        raise UsageError("the engine dask needs Dask: pip install 'ctpatch[dask]'") from None
    if scheduler is None and scheduler_file is None:
        try:
            # Whoever reaches a scheduler can have its workers run code. Its port is open to every account of this
            # machine, so only who has this key gets an answer; it lies in the memory of our processes alone.
            closed = Security.temporary()
        except ImportError:
            raise UsageError(
                "the engine dask needs the package cryptography, to keep others of this machine out of the cluster "
                "that it starts: pip install 'ctpatch[dask]', or name a scheduler of your own (--scheduler)"
            ) from None
        with (
            # Dask looks this long after each death whether the worker is there again, and gives it up permanently where
            # it is not: one that died a second time, or is slow to start, would be missing from then on.
            dask.config.set({**_NO_PAGES, "distributed.deploy.lost-worker-timeout": "7 days"}),
            LocalCluster(
                n_workers=workers or os.cpu_count() or 1,
                threads_per_worker=1,  # patches are cut by Python: threads of one process would wait for each other
                host="127.0.0.1",
                security=closed,
                # Without an address it would take port 8787 all the same, and complain where that is taken.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
                preload=DaskExecutor.__module__,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield DaskExecutor(client)
        return
    if workers is not None:
        raise ConfigError("workers: a scheduler has the workers that were started for it; leave --workers out")
    if scheduler_file is not None and not Path(scheduler_file).is_file():
        raise UsageError(
            f"the scheduler file {str(scheduler_file)!r} is not there; start the scheduler first "
            "(dask scheduler --scheduler-file FILE)"
        )
    where = {"address": scheduler} if scheduler is not None else {"scheduler_file": str(scheduler_file)}
    try:
        client = Client(**where, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {scheduler or str(scheduler_file)!r} ({str(error)[:200]}); "
            "check the address, as tcp://host:8786, and that the scheduler runs"
        ) from None
    with client:
        yield DaskExecutor(client)
