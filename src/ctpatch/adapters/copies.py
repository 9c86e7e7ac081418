"""Copies of a transform that keeps random numbers in itself."""

import copy
import threading
from typing import Any, Generic, TypeVar

Transform = TypeVar("Transform")


class OwnCopies(Generic[Transform]):
    """A copy of a transform for each thread.

    Passes over a loader may run at the same time, each with a thread of its own. With one transform for all, a pass
    would set the random numbers while another draws them. The user's own transform stays as it is.
    """

    def __init__(self, original: Transform) -> None:
        self._original = original
        self._of_thread = threading.local()

    def get(self) -> Transform:
        """The copy of the thread that asks."""
        try:
            own: Transform = self._of_thread.copy
        except AttributeError:
            own = self._of_thread.copy = copy.deepcopy(self._original)
        return own

    def __getstate__(self) -> dict[str, Any]:
        return {"_original": self._original}  # a thread's copies cannot go to another process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_original"])  # type: ignore[misc]
