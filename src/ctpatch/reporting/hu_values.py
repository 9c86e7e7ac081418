"""How the values of each series were spread in HU before the window, as its prepared set has them on record."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctpatch.errors import CtPatchError
from ctpatch.files.paths import PathError, Root
from ctpatch.format.hu_values import BIN_HU, HU_VALUES, SeriesValues, read_hu_values
from ctpatch.format.prepared_meta import PREPARE_META, PreparedMeta, read_dataset_meta
from ctpatch.prepare.doubts import is_doubt
from ctpatch.reporting.windows import AllWindows, SetWindows

MOST_SERIES = 12
"""So many are drawn, those that are doubted first."""
_LOW, _HIGH = -1600, 4300
_HEIGHT = 40
_MARKS = (-1000, 0, 1000, 2000, 3000, 4000)


def hu_histograms(windows: AllWindows) -> dict[str, Any] | None:
    """What the page shows of values in HU; None where no set has them: they were not in HU, or are not to be had."""
    found = {
        (each.name, row.series, row.array): (row, doubts) for each in windows.sets for row, doubts in _series(each)
    }
    if not found:
        return None
    chosen = sorted(found.items(), key=lambda item: not item[1][1])[:MOST_SERIES]
    return {
        "series": [_drawn(name, row, doubts) for (name, _, _), (row, doubts) in chosen],
        "more": len(found) - len(chosen),
        "width": (_HIGH - _LOW) // BIN_HU,
        "height": _HEIGHT,
        "marks": [(f"{hu:,}", (hu - _LOW) // BIN_HU) for hu in _MARKS],
    }


def _series(each: SetWindows) -> Iterator[tuple[SeriesValues, list[str]]]:
    """Each series of a set's split with what is doubted of it; nothing where the prepared set is gone or damaged."""
    try:
        manifest = Path(each.ps.sources.resolve(each.ps.meta.source_manifest))
        folder = manifest.parent.parent
        if not all(Root(folder).holds(name) for name in (HU_VALUES, PREPARE_META)):
            return
        rows = read_hu_values(folder)
        notes = read_dataset_meta(folder / PREPARE_META, PreparedMeta).notes if rows else []
        used = set(pl.read_csv(manifest, columns=["series"], infer_schema=False)["series"]) if rows else set()
    except (CtPatchError, PathError, OSError, pl.exceptions.PolarsError):
        return
    for row in rows:
        if row.series in used and row.array in each.ps.arrays:
            doubts = [note.message for note in notes if note.series == row.series and is_doubt(note)]
            yield row, [message for message in doubts if _array_of(message, each.ps.arrays) == row.array]


def _array_of(message: str, arrays: Sequence[str]) -> str:
    """The array that a doubt is about: its message begins with the name, unless it is `image`."""
    return next((name for name in arrays if message.startswith(f"{name}: ")), "image")


def _drawn(name: str, row: SeriesValues, doubts: list[str]) -> dict[str, Any]:
    """One histogram: bars as a path of an SVG, as high as the square root of their counts, so that few are seen too."""
    first = (row.first_hu - _LOW) // BIN_HU
    counts = np.zeros((_HIGH - _LOW) // BIN_HU)
    for place, count in enumerate(row.counts, first):
        if 0 <= place < len(counts):
            counts[place] = count
    outside = 1 - counts.sum() / row.pixels if row.pixels else 0.0
    heights = np.sqrt(counts / max(counts.max(), 1)) * _HEIGHT
    bars = "".join(f"M{at} {_HEIGHT}v-{height:.4g}h1V{_HEIGHT}z" for at, height in enumerate(heights) if height)
    span = "all padding" if row.min_hu is None else f"{row.min_hu:,.6g} to {row.max_hu:,.6g} HU"
    beyond = f"; {100 * outside:.1f} % lie beyond the picture" if outside > 0.0005 else ""  # noqa: PLR2004
    slices = "1 slice" if row.slices == 1 else f"{row.slices:,} slices"
    return {
        "title": f"{name}, {row.array} of series {row.series}",
        "about": f"{slices}, {span}{beyond}",
        "bars": bars,
        "doubts": doubts,
    }
