"""The words that options are chosen from, and how amounts are worded."""

from typing import Literal

PadMode = Literal["none", "shift", "even", "zero", "edge", "reflect"]
OnError = Literal["stop", "skip"]
MatchBy = Literal["position", "path", "order"]
LayoutName = str
"""One of `LAYOUTS`; what takes one checks it."""

LAYOUTS: dict[str, str] = {
    "files": "one .npy a patch",
    "shards": "many in one",
    "slices": "whole slices",
    "index": "no pixels",
}
"""The registry of layouts: each name, which is also that of its module in `ctpatch.layouts`, and what it is."""


def known_layout(name: str) -> LayoutName:
    """Return the name of a layout, or refuse it.

    Raises:
        ValueError: there is no such layout; lists them.
    """
    if name not in LAYOUTS:
        *others, last = (repr(known) for known in LAYOUTS)
        raise ValueError(f"must be {', '.join(others)} or {last}")
    return name


def human_bytes(count: float) -> str:
    """Bytes as people read them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
