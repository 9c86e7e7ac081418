"""Everything in this process, in order."""

from collections.abc import Callable, Iterable, Iterator

from ctpatch.work.executors.base import Done, Failed, Item, Lost, Result, Shared


class SerialExecutor:
    """Runs one item after the other in this process."""

    def run(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Done[Item, Result] | Failed[Item] | Lost[Item]]:
        """Run the function on all items."""
        for item in items:
            try:
                result = function(shared, item)
            except Exception as error:  # noqa: BLE001 - handed on, never swallowed
                yield Failed(item, error)
            else:
                yield Done(item, result)
