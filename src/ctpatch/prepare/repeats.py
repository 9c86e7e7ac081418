"""Slices of one patient that lie at one place in several series: likely one body, reconstructed twice."""

from collections import defaultdict
from collections.abc import Sequence

from ctpatch.prepare.pairs import POSITION_TOLERANCE_MM
from ctpatch.prepare.planning import Row


def repeated_places(rows: Sequence[Row]) -> str | None:
    """What to say where series of a patient share places and are prepared as slices of their own, else None."""
    places: dict[tuple[str, int, tuple[int, ...]], set[str]] = defaultdict(set)
    counts: dict[tuple[str, int, tuple[int, ...]], int] = defaultdict(int)
    for raw, *_ in rows:
        if raw.position_mm is None or raw.origin_mm is None:
            continue
        origin = tuple(round(each / POSITION_TOLERANCE_MM) for each in raw.origin_mm)
        place = (raw.group, round(raw.position_mm / POSITION_TOLERANCE_MM), origin)
        places[place].add(raw.series)
        counts[place] += 1
    shared = [place for place, series in places.items() if len(series) > 1]
    if not shared:
        return None
    slices = sum(counts[place] for place in shared)
    most = max(len(places[place]) for place in shared)
    return (
        f"{slices} slices lie where one of another series of the same patient lies (up to {most} series at a place); "
        "each is prepared as a slice of its own: --series takes the series that are meant, --target-series makes "
        "pairs of two"
    )
