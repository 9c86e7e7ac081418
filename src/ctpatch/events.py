"""What happens during long work, as typed records; progress bars and logs are listeners."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ctpatch.errors import one_line


@dataclass(frozen=True, slots=True)
class WorkStarted:
    """Long work begins: `total` steps of the named unit are ahead; None where that is not known."""

    task: str
    total: int | None
    unit: str


@dataclass(frozen=True, slots=True)
class WorkAdvanced:
    """`steps` more are done; `reused` says that an earlier run had done them."""

    task: str
    steps: int
    patches: int = 0
    reused: bool = False


@dataclass(frozen=True, slots=True)
class WorkFinished:
    """The named work is over."""

    task: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know; `code` is stable, `message` is for people."""

    code: str
    message: str

    def __post_init__(self) -> None:
        # It may quote a cell or the name of a file, which may come from anyone.
        object.__setattr__(self, "message", one_line(self.message))


Event = WorkStarted | WorkAdvanced | WorkFinished | Notice
Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The listener of those who do not want to know."""


@contextmanager
def working(listener: Listener, task: str, total: int | None, unit: str) -> Iterator[None]:
    """Tell that work begins, and at the end of the block that it is over, whatever came of it."""
    listener(WorkStarted(task, total, unit))
    try:
        yield
    finally:
        listener(WorkFinished(task))
