"""How patches lie on disk: an object for each layout, which writes, reads and checks, and one reader for all.

Every patch has an address: a file, an item in it where the file holds many, a window in that item where it holds
whole slices. A writer returns the addresses of what it wrote; the reader needs nothing else.

A new layout is a module here that holds a `Layout` as `LAYOUT`, and its line in `ctpatch.words.LAYOUTS`.
`ctpatch.testing.LayoutContract` says whether it does what all others rely on.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ctpatch.errors import ConfigError
from ctpatch.words import LAYOUTS, known_layout

if TYPE_CHECKING:
    from ctpatch.layouts.base import Layout

_LOADED: dict[str, "Layout"] = {}


def layout_of(name: str) -> "Layout":
    """The layout of a name.

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    if name not in _LOADED:
        try:
            known_layout(name)
        except ValueError as error:
            raise ConfigError(f"layout: {error}, got {name!r}") from None
        _LOADED[name] = import_module(f"{__name__}.{name}").LAYOUT
    return _LOADED[name]


def register(layout: "Layout", summary: str) -> None:
    """Make a layout known that is not part of ctpatch; a process that reads or writes with it must do so too.

    Args:
        layout: the layout; it replaces one of the same name.
        summary: what it is in a few words, for help texts.
    """
    LAYOUTS[layout.name] = summary
    _LOADED[layout.name] = layout


def unregister(name: str) -> None:
    """Forget a layout that was registered."""
    LAYOUTS.pop(name, None)
    _LOADED.pop(name, None)
