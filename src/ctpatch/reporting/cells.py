"""The tile that stands for a window in a picture: windows overlap, tiles do not."""

from collections.abc import Iterable, Sequence
from itertools import pairwise


def tiles(starts: Iterable[int], size: int, length: int) -> dict[int, tuple[float, float]]:
    """For each origin along an axis, where the tile of its window begins and ends.

    A tile reaches from midway to the window before to midway to the window behind, by their centres, so it lies in
    the middle of its window; the outermost are as long on both sides. Nothing reaches beyond the slice.

    >>> tiles([0, 64, 128], 128, 362)
    {0: (32.0, 96.0), 64: (96.0, 160.0), 128: (160.0, 224.0)}
    """
    origins: Sequence[int] = sorted(set(starts))
    centres = [start + size / 2 for start in origins]
    between = [(before + after) / 2 for before, after in pairwise(centres)]
    found = {}
    for at, (start, centre) in enumerate(zip(origins, centres, strict=True)):
        before = between[at - 1] if at else None
        after = between[at] if at < len(between) else None
        reach = size / 2
        if before is None and after is not None:
            reach = min(reach, after - centre)
        elif after is None and before is not None:
            reach = min(reach, centre - before)
        begin = max(start, centre - reach if before is None else before)
        end = min(start + size, centre + reach if after is None else after)
        found[start] = (max(min(begin, length - 1), 0.0), max(min(end, float(length)), 0.0))
    return found
