"""Whether the values of a series can be HU: one table of checks over its tally."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ctpatch.errors import DoubtfulValuesError
from ctpatch.format.hu_values import BIN_HU, LOW_HU, SeriesValues
from ctpatch.format.prepared_meta import NoteInfo
from ctpatch.prepare.tally import MAX_HU, PADDING_IS_AIR_HU, Tally

Tallies = dict[tuple[str, str], Tally]
"""Of each series, by its pseudonym, and array."""

_NONE = 1e-5
"""A share of pixels up to this counts as none: some defective pixels hide nothing."""
_AIR = (-1200, -200)
"""Air with its noise, lung and gas; what lies below, scanners put around their circle."""
_LITTLE_AIR = 0.01
_FAR_ABOVE_BONE = (2000, math.inf)
_MOST_ABOVE_BONE = 0.15
"""Metal and its streaks take a few percent of a slice at most."""
_WRAPPED_AIR = (2900, 4100)
"""Where air, lung and fat are once 4096 was added to them."""
_LEAST_WRAPPED = 0.05
_SOFT_TISSUE = (-200, 300)
_SHIFT = 1020
"""1024, as a multiple of the histogram's bins."""
_LEAST_TISSUE_UP = 0.1
"""Bone as dense as 820 to 1320 HU takes less than 1 % of usual slices, and some percent of the densest."""
_TWICE_SHIFTED_AIR = (-2300, -1500)
"""Air 1024 too low, and not the -3024 HU of what some scanners put around their circle."""
_DENSE = (300, 2000)
_MOST_DENSE = 0.1
_LEAST_AIR_DOWN, _LEAST_TISSUE_DOWN, _LITTLE_TISSUE = 0.05, 0.02, 0.02
_PADDING_AMID = 1e-4
_MOST_PADDING = 0.9
_SERIES_SHOWN = 20
_KIND_PREFIX = "hu-"
_BITS_KINDS = frozenset({"unused-bits", "left-justified", "high-bit", "stream-sign"})


@dataclass(frozen=True, slots=True)
class Check:
    """One reason to doubt that values are HU.

    Attributes:
        kind: a short stable word.
        found: whether the tally of a series, which has pixels, gives this reason.
        message: what was seen, what was wanted and what to do; filled in from `values_of` a tally.
    """

    kind: str
    found: Callable[[Tally], bool]
    message: str


def _no_air(tally: Tally) -> bool:
    return tally.share(*_AIR) <= _NONE


def _tissue_moved(tally: Tally, by: int) -> float:
    """Share of pixels where soft tissue lies if values are off by so many HU."""
    return tally.share(_SOFT_TISSUE[0] + by, _SOFT_TISSUE[1] + by)


def _shifted_up(tally: Tally) -> bool:
    tissue, between = _tissue_moved(tally, _SHIFT), tally.share(_SOFT_TISSUE[1], _SOFT_TISSUE[0] + _SHIFT)
    if tissue <= max(_LEAST_TISSUE_UP, between):
        return False
    # A thick skull lies there too, but then there is air, or more tissue than skull.
    little_air = tally.number(*_AIR) - tally.at_air < _LITTLE_AIR * tally.pixels
    return _no_air(tally) or (little_air and tissue > _tissue_moved(tally, 0))


def _shifted_down(tally: Tally) -> bool:
    return (
        _tissue_moved(tally, 0) < _LITTLE_TISSUE
        and tally.share(*_TWICE_SHIFTED_AIR) > _LEAST_AIR_DOWN
        and _tissue_moved(tally, -_SHIFT) > _LEAST_TISSUE_DOWN
    )


def _no_tissue(tally: Tally) -> bool:
    return _tissue_moved(tally, 0) < _LITTLE_TISSUE and tally.share(*_DENSE) > _MOST_DENSE


def _padding_amid(tally: Tally) -> bool:
    everything = tally.pixels + tally.padding
    swallowed = tally.padding > _MOST_PADDING * everything and tally.padding_high > PADDING_IS_AIR_HU
    return swallowed or tally.padding_amid > _PADDING_AMID * everything


_SEEN = "values run from {low:.6g} to {high:.6g}, wanted HU, where air is near -1000 and water near 0"
SCALE_CHECKS = (
    Check(
        "hu-unit-range",
        lambda tally: tally.low >= 0 and tally.high <= 1,
        f"{_SEEN}: they look scaled to [0, 1]. Give the files from before the scaling",
    ),
    Check(
        "hu-8-bit",
        lambda tally: tally.whole_8_bit,
        f"{_SEEN}: they are whole numbers of 8 bits, as in a picture. Give the files from before they became pictures",
    ),
    Check(
        "hu-too-high",
        lambda tally: tally.too_high > 0,
        f"{{too_high}} pixels are above {MAX_HU:,} HU, the most that a CT stores, up to {{high:.6g}}: values with a "
        "sign may be read without it. Check PixelRepresentation, or the data type of the file",
    ),
    Check(
        "hu-wrapped",
        lambda tally: _no_air(tally) and tally.share(*_WRAPPED_AIR) > _LEAST_WRAPPED,
        f"{_SEEN}; no pixel is from -1200 to -200 and {{wrapped:.1%}} are from 2900 to 4100: negative values may be "
        "wrapped into 12 bits without a sign. Take 4096 off the wrapped values, or export the files again",
    ),
    Check(
        "hu-far-above-bone",
        lambda tally: tally.share(*_FAR_ABOVE_BONE) > _MOST_ABOVE_BONE,
        f"{_SEEN}; {{far_above:.1%}} of the pixels are above 2000, beyond bone. Check RescaleSlope, RescaleIntercept "
        "and PixelRepresentation, or how the file was scaled",
    ),
    Check(
        "hu-shifted-up",
        _shifted_up,
        f"{_SEEN}; {{tissue_up:.1%}} of the pixels are from 820 to 1320, where soft tissue lies if 1024 was not taken "
        "off. Check RescaleIntercept (in NIfTI scl_inter), or take 1024 off the values",
    ),
    Check(
        "hu-no-air",
        _no_air,
        f"{_SEEN}; no pixel is from -1200 to -200, so air and lung are missing: values may be scaled, shifted, or cut "
        "off to a window. Give files in HU, or go on if the slices show nothing but tissue",
    ),
    Check(
        "hu-no-tissue",
        _no_tissue,
        f"{_SEEN}; {{tissue:.1%}} of the pixels are from -200 to 300, where soft tissue lies, and {{dense:.1%}} from "
        "300 to 2000. Check RescaleSlope and RescaleIntercept, or go on if the slices show nothing but bone",
    ),
    Check(
        "hu-shifted-down",
        _shifted_down,
        f"{_SEEN}; {{tissue:.1%}} of the pixels are soft tissue, and {{air_down:.1%}} are from -2300 to -1500: 1024 "
        "may have been taken off twice. Check RescaleIntercept (in NIfTI scl_inter), or add 1024 to the values",
    ),
)
"""Reasons to doubt the scale, the most telling first: a series has the first that applies."""

PADDING_CHECKS = (
    Check(
        "hu-padding-amid-tissue",
        _padding_amid,
        "{amid} of {all_padding} pixels of the padding value ({padding}) lie amid the image instead of at its border; "
        "ctpatch makes air of them. Correct or remove PixelPaddingValue, or go on if these pixels are no tissue",
    ),
)
"""Reasons to doubt what the files declare to be no part of the image."""


def doubts(tally: Tally) -> list[tuple[str, str]]:
    """Kind and sentence of each reason to doubt a series, by its values and by what its reader says of its slices."""
    found = []
    for checks, there in ((SCALE_CHECKS, tally.pixels), (PADDING_CHECKS, tally.padding)):
        first = next((check for check in checks if there and check.found(tally)), None)
        if first is not None:
            found.append((first.kind, first.message.format(**_values(tally))))
    for kind in sorted({remark.kind for remark in tally.remarks}):
        said = {remark.message: slices for remark, slices in tally.remarks.items() if remark.kind == kind}
        commonest = max(said, key=lambda message: (said[message], message))
        found.append((kind, f"{commonest} ({sum(said.values())} of {tally.slices} slices)"))
    return found


def doubtful_notes(tallies: Tallies) -> list[NoteInfo]:
    """The doubts of all series as notes, in order of series and array."""
    return [
        NoteInfo(kind=kind, series=series, message=message if array == "image" else f"{array}: {message}")
        for (series, array), tally in sorted(tallies.items())
        for kind, message in doubts(tally)
    ]


def series_values(tallies: Tallies) -> list[SeriesValues]:
    """The rows of `hu_values.csv`, in order of series and array."""
    return [_series_values(*where, tally) for where, tally in sorted(tallies.items())]


def _series_values(series: str, array: str, tally: Tally) -> SeriesValues:
    inside = tally.counts[1:-1]
    filled = np.flatnonzero(inside)
    start, end = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    return SeriesValues(
        series=series,
        array=array,
        slices=tally.slices,
        pixels=tally.pixels,
        padding=tally.padding,
        min_hu=tally.low if tally.pixels else None,
        max_hu=tally.high if tally.pixels else None,
        below=int(tally.counts[0]),
        above=int(tally.counts[-1]),
        first_hu=LOW_HU + start * BIN_HU,
        counts=tuple(inside[start:end].tolist()),
    )


def _values(tally: Tally) -> dict[str, float | int | str]:
    low, high = tally.padding_low, tally.padding_high
    return {
        "low": tally.low,
        "high": tally.high,
        "too_high": tally.too_high,
        "far_above": tally.share(*_FAR_ABOVE_BONE),
        "wrapped": tally.share(*_WRAPPED_AIR),
        "tissue": _tissue_moved(tally, 0),
        "dense": tally.share(*_DENSE),
        "tissue_up": _tissue_moved(tally, _SHIFT),
        "air_down": tally.share(*_TWICE_SHIFTED_AIR),
        "amid": tally.padding_amid,
        "all_padding": tally.padding,
        "padding": f"{low:g} HU" if low == high else f"{low:g} to {high:g} HU",
    }


def is_doubt(note: NoteInfo) -> bool:
    """Whether a note of a prepared set is a reason to doubt its values."""
    return note.kind.startswith(_KIND_PREFIX) or note.kind in _BITS_KINDS


def doubt_messages(notes: Iterable[NoteInfo]) -> list[str]:
    """One message for each series that is doubted, the first of them, and how many more there are."""
    by_series: dict[str, list[str]] = {}
    for note in notes:
        if is_doubt(note):
            by_series.setdefault(note.series, []).append(note.message)
    messages = [f"series {series}: {'; also: '.join(each)}" for series, each in by_series.items()]
    more = len(messages) - _SERIES_SHOWN
    return (
        messages if more <= 0 else [*messages[:_SERIES_SHOWN], f"{more} more series are doubted, see prepare_meta.json"]
    )


def refuse_doubts(notes: Sequence[NoteInfo], *, finished: bool = False) -> None:
    """Refuse a set of which a series is doubted.

    Args:
        notes: of the set.
        finished: whether an earlier run has published it.

    Raises:
        DoubtfulValuesError: names the series.
    """
    messages = doubt_messages(notes)
    if messages:
        outcome = "the set was made without --strict and stays as it is" if finished else "ctpatch published nothing"
        raise DoubtfulValuesError(
            f"{' | '.join(messages)}. Under --strict that is an error: {outcome}. Correct the files, or give the same "
            "command without --strict (in Python strict=False)"
        )
