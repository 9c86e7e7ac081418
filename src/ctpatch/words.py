"""The words that options are chosen from, and how amounts are worded."""

from typing import Literal

PadMode = Literal["none", "shift", "even", "zero", "edge", "reflect"]
LayoutName = Literal["files", "shards", "slices", "index"]
OnError = Literal["stop", "skip"]
MatchBy = Literal["position", "path", "order"]


def human_bytes(count: float) -> str:
    """Bytes as people read them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
