"""Which series a pattern means, and which there are where it means none."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from ctpatch.prepare.readers.base import RawSlice

_MAX_SERIES = 20
_MAX_NAME = 60


def of_series(slices: Sequence[RawSlice], pattern: str | None) -> list[RawSlice]:
    """The slices that a pattern means, or all.

    It is to fit the path of a slice or of its folder, the description or the kernel of its series, or both of these;
    letter case does not matter. What is the same as the pattern fits it, whatever signs stand in it.
    """
    if pattern is None:
        return list(slices)
    wanted = pattern.lower().strip()
    return [raw for raw in slices if any(each == wanted or fnmatchcase(each, wanted) for each in _called(raw))]


def _called(raw: RawSlice) -> Iterator[str]:
    folder = raw.file.rpartition("/")[0]
    return (each.lower() for each in (raw.file, folder, raw.label, *raw.names) if each)


def none_fits(array: str, pattern: str, slices: Sequence[RawSlice], *, paths_shown: bool) -> str:
    """What to say where a pattern means no slice: the series that are there, as a pattern could name them.

    A series is listed as `description / kernel`. Where it has neither, its path stands for it, with `paths_shown`.
    """
    counts = Counter(_listed(raw, paths_shown=paths_shown) for raw in slices)
    shown = [f"{name} ({_slices(count)})" for name, count in sorted(counts.items())]
    more = f" and {len(shown) - _MAX_SERIES} more" if len(shown) > _MAX_SERIES else ""
    return (
        f"no slice of {array} fits {pattern!r}; there are: {'; '.join(shown[:_MAX_SERIES])}{more}. "
        "A pattern is to fit the path, the description or the kernel, such as '*B40f*'"
    )


def _listed(raw: RawSlice, *, paths_shown: bool) -> str:
    if raw.names:
        return " / ".join(_quoted(name) for name in raw.names)
    if not paths_shown:
        return "slices without description and kernel, whose paths are shown on a terminal alone"
    return _quoted(raw.label or raw.file.rpartition("/")[0] or raw.file)


def _quoted(name: str) -> str:
    return repr(name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…")


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"
