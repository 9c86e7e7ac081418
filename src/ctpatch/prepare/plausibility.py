"""Whether the values of a series can be HU: one table of checks over its tally."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ctpatch.prepare.tally import MAX_HU, PADDING_IS_AIR_HU, Tally

_NONE = 1e-5
"""A share of pixels up to this counts as none: some defective pixels hide nothing."""
_AIR = (-1200, -200)
"""Air with its noise, lung and gas; what lies below, scanners put around their circle."""
_LITTLE_AIR = 0.01
_FAR_ABOVE_BONE = (2000, math.inf)
_MOST_ABOVE_BONE = 0.15
_WRAPPED_AIR = (2900, 4100)
_LEAST_WRAPPED = 0.05
_SOFT_TISSUE = (-200, 300)
_SHIFT = 1020
"""1024, as a multiple of the histogram's bins."""
_LEAST_TISSUE_UP = 0.1
_TWICE_SHIFTED_AIR = (-2300, -1500)
_DENSE = (300, 2000)
_MOST_DENSE = 0.1
_LEAST_AIR_DOWN, _LEAST_TISSUE_DOWN, _LITTLE_TISSUE = 0.05, 0.02, 0.02
_PADDING_AMID = 1e-4
_MOST_PADDING = 0.9


@dataclass(frozen=True, slots=True)
class Check:
    """One reason to doubt that values are HU.

    Attributes:
        kind: a short stable word.
        threshold: when it applies, in words, as the page of all checks has it.
        reason: why these numbers.
        found: whether the tally of a series gives this reason.
        message: what was seen, what was wanted and what to do; filled in from `seen_values` of a tally.
    """

    kind: str
    threshold: str
    reason: str
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
        "all values from 0 to 1",
        "HU of a slice span more than 1",
        lambda tally: tally.low >= 0 and tally.high <= 1,
        f"{_SEEN}: they look scaled to [0, 1]. Give the files from before the scaling",
    ),
    Check(
        "hu-8-bit",
        "all values whole and from 0 to 255",
        "air is near -1000 HU",
        lambda tally: tally.whole_8_bit,
        f"{_SEEN}: they are whole numbers of 8 bits, as in a picture. Give the files from before they became pictures",
    ),
    Check(
        "hu-too-high",
        "one pixel above 30,710 HU",
        "12 bits with slope 10 and intercept -10,240, the extended scale, end there",
        lambda tally: tally.too_high > 0,
        f"{{too_high}} pixels are above {MAX_HU:,} HU, the most that a CT stores, up to {{high:.6g}}: values with a "
        "sign may be read without it. Check PixelRepresentation, or the data type of the file",
    ),
    Check(
        "hu-wrapped",
        "no pixel from -1200 to -200 HU, and more than 5 % from 2900 to 4100",
        "air, lung and fat lie there once 4096 was added; metal takes 2 % of a slice",
        lambda tally: _no_air(tally) and tally.share(*_WRAPPED_AIR) > _LEAST_WRAPPED,
        f"{_SEEN}; no pixel is from -1200 to -200 and {{wrapped:.1%}} are from 2900 to 4100: negative values may be "
        "wrapped into 12 bits without a sign. Take 4096 off the wrapped values, or export the files again",
    ),
    Check(
        "hu-far-above-bone",
        "more than 15 % above 2000 HU",
        "enamel and metal are above; in real slices they take less than 1 %, two hips of metal 3 %",
        lambda tally: tally.share(*_FAR_ABOVE_BONE) > _MOST_ABOVE_BONE,
        f"{_SEEN}; {{far_above:.1%}} of the pixels are above 2000, beyond bone. Check RescaleSlope, RescaleIntercept "
        "and PixelRepresentation, or how the file was scaled",
    ),
    Check(
        "hu-shifted-up",
        "more than 10 % from 820 to 1320 HU, more than from 300 to 820; and no pixel from -1200 to -200, or "
        "less than 1 % without those of exactly -1024 and less from -200 to 300 than from 820 to 1320",
        "soft tissue lies there if 1024 was not taken off; dense bone takes less than 1 % of real slices, and "
        "a thick skull has air around it",
        _shifted_up,
        f"{_SEEN}; {{tissue_up:.1%}} of the pixels are from 820 to 1320, where soft tissue lies if 1024 was not taken "
        "off. Check RescaleIntercept (in NIfTI scl_inter), or take 1024 off the values",
    ),
    Check(
        "hu-no-air",
        "at most 1 of 100,000 pixels from -1200 to -200 HU",
        "every series shows air around or in the patient; what is lower was filled in around the circle; some "
        "pixels can be defective",
        _no_air,
        f"{_SEEN}; no pixel is from -1200 to -200, so air and lung are missing: values may be scaled, shifted, or cut "
        "off to a window. Give files in HU, or go on if the slices show nothing but tissue",
    ),
    Check(
        "hu-no-tissue",
        "less than 2 % from -200 to 300 HU and more than 10 % from 300 to 2000",
        "wherever bone is, soft tissue is around it: 15 % and more of real slices",
        _no_tissue,
        f"{_SEEN}; {{tissue:.1%}} of the pixels are from -200 to 300, where soft tissue lies, and {{dense:.1%}} from "
        "300 to 2000. Check RescaleSlope and RescaleIntercept, or go on if the slices show nothing but bone",
    ),
    Check(
        "hu-shifted-down",
        "less than 2 % from -200 to 300 HU, more than 5 % from -2300 to -1500 and more than 2 % from -1220 to -720",
        "soft tissue takes 15 % and more of real slices; -3024, which some scanners fill in, is lower",
        _shifted_down,
        f"{_SEEN}; {{tissue:.1%}} of the pixels are soft tissue, and {{air_down:.1%}} are from -2300 to -1500: 1024 "
        "may have been taken off twice. Check RescaleIntercept (in NIfTI scl_inter), or add 1024 to the values",
    ),
)
"""Reasons to doubt the scale, the most telling first: a series has the first that applies."""

PADDING_CHECKS = (
    Check(
        "hu-padding-amid-tissue",
        "padding that would be above -500 HU: more than 1 of 10,000 pixels from which no row or column of "
        "padding leads to the border, or padding of more than 90 %",
        "what surrounds the circle of a scanner reaches the border in a straight line; padding below -500 HU "
        "is air anyway",
        _padding_amid,
        "{amid} of {all_padding} pixels of the padding value ({padding}) lie amid the image instead of at its border; "
        "ctpatch makes air of them. Correct or remove PixelPaddingValue, or go on if these pixels are no tissue",
    ),
)
"""Reasons to doubt what the files declare to be no part of the image."""


def seen_values(tally: Tally) -> dict[str, float | int | str]:
    """What the messages of checks are filled in with."""
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
