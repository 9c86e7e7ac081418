"""What an executor takes and gives back."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done(Generic[Item, Result]):
    """The function returned."""

    item: Item
    result: Result


@dataclass(frozen=True, slots=True)
class Failed(Generic[Item]):
    """The function raised."""

    item: Item
    error: Exception


@dataclass(frozen=True, slots=True)
class Lost(Generic[Item]):
    """The item killed the process that worked on it, twice, alone."""

    item: Item


class Executor(Protocol):
    """Runs `function(shared, item)` for every item and yields what came of each, in any order.

    No item is lost without a word, and closing the iterator early stops the work.
    """

    def run(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Done[Item, Result] | Failed[Item] | Lost[Item]]:
        """Run the function on all items."""
        ...


@contextmanager
def ending(outcomes: Iterator[Result]) -> Iterator[Iterator[Result]]:
    """Stop the work where the block is left early, at once: an error keeps what it passed through from being ended."""
    try:
        yield outcomes
    finally:
        if isinstance(outcomes, Generator):
            outcomes.close()
