"""The options that choose what work is given to, the same for every command that has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

ENGINE_OPTIONS = ("engine", "scheduler", "scheduler_file")


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """`--engine`, `--scheduler` and `--scheduler-file`; a parameter of this type gives them to a command.

    Attributes:
        engine: what runs the work; None leaves it to the number of workers.
        scheduler, scheduler_file: where a Dask scheduler is.
    """

    engine: Annotated[
        Literal["serial", "processes", "dask"] | None,
        Parameter(help="What runs the work: serial, processes, dask. [processes where --workers is above 1]"),
    ] = None
    scheduler: Annotated[
        str | None, Parameter(help="Address of a Dask scheduler: tcp://host:8786. [a cluster on this machine]")
    ] = None
    scheduler_file: Annotated[Path | None, Parameter(help="The file a Dask scheduler wrote its address to.")] = None

    def given(self) -> dict[str, Any]:
        """The options by name."""
        return {name: getattr(self, name) for name in ENGINE_OPTIONS}


@contextmanager
def executor_from(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a function with the arguments `workers` and `executor` is to be given, while it runs.

    Args:
        options: by name, `workers` and those of `EngineOptions`; what is missing or None was not chosen.

    Raises:
        ConfigError: the options do not fit together.
        UsageError: Dask is not installed, or no scheduler answers.
    """
    from ctpatch.work.executors.choose import engine_executor  # noqa: PLC0415 - the help is quick without it

    chosen = {name: options.get(name) for name in ENGINE_OPTIONS}
    workers = options.get("workers")
    with engine_executor(workers=workers, **chosen) as executor:
        yield {"executor": executor} if executor is not None else {"workers": workers} if workers is not None else {}
