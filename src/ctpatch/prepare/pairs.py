"""Slices to their partners: by patient and place, or by path; every one without a partner is named."""

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from ctpatch.prepare.readers.base import LeftOut, RawSlice
from ctpatch.words import MatchBy

POSITION_TOLERANCE_MM = 0.1
_AXES_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3
_position = attrgetter("position_mm")
_PARTNER = {"mask": "mask"}
_CHANNEL_AND_ENDING = re.compile(r"(_0000)?\.(nii(\.gz)?|mh[ad]|nrrd|nhdr|np[yz]|png|tiff?)$", re.IGNORECASE)
"""nnU-Net names the first channel of `case` `case_0000.nii.gz`, and its labels `case.nii.gz`."""


@dataclass(slots=True)
class Matching:
    """The partner of each slice that has one; and the slices and others that have none, and why."""

    partners: dict[RawSlice, RawSlice] = field(default_factory=dict)
    images_left: list[LeftOut] = field(default_factory=list)
    others_left: list[LeftOut] = field(default_factory=list)


def match(images: Sequence[RawSlice], others: Sequence[RawSlice], by: MatchBy, array: str = "target") -> Matching:
    """Find for each slice the one that shows the same place, with the same shape, spacing and place in the plane.

    `by` is `position`: the same patient and place along the normal, to 0.1 mm; `path`: the same path in its tree; or
    `order`: the same series and place in it. `array` is what the others become, for messages.
    """
    found = Matching()
    candidates = _by_position(others) if by == "position" else _by_key(others, by)
    for image in images:
        near = candidates(image)
        fitting = [other for other in near if difference(image, other) is None]
        if len(fitting) == 1:
            found.partners[image] = fitting[0]
        else:
            found.images_left.append(_left(image, near, fitting, by, array))
    claims = Counter(found.partners.values())
    for image, other in list(found.partners.items()):
        if claims[other] > 1:
            del found.partners[image]
            reason = "its partner is that of another slice as well; name the series that are meant (--series)"
            found.images_left.append(_left_out(image, "pair-ambiguous", reason))
    taken = set(found.partners.values())
    found.others_left = [
        _left_out(other, "unmatched", "it is nobody's partner") for other in others if other not in taken
    ]
    return found


def say_which(array: str) -> str:
    """What a user does where several slices could be the partner."""
    if array == "mask":
        # A mask that is taken for a target is mapped from HU: 0 and 1 become 0.25 and 0.2502.
        return "name the masks that are meant (--mask-series)"
    return "name the series that are meant (--target-series)"


def _left_out(one: RawSlice, kind: str, reason: str) -> LeftOut:
    return LeftOut(f"{one.file}[{one.item}]" if one.item else one.file, kind, reason)


def _left(image: RawSlice, near: list[RawSlice], fitting: list[RawSlice], by: MatchBy, array: str) -> LeftOut:
    if len(fitting) > 1:
        reason = f"{len(fitting)} slices could be its {_PARTNER.get(array, 'partner')}; {say_which(array)}"
        return _left_out(image, "pair-ambiguous", reason)
    if near:
        return _left_out(image, "pair-differs", f"its partner differs: {difference(image, near[0])}")
    if by == "position" and image.position_mm is None:
        return _left_out(image, "unmatched", "it does not say where it lies; --match path takes paths instead")
    return _left_out(image, "unmatched", f"it has no partner of the same {by}")


def _by_key(others: Sequence[RawSlice], by: MatchBy) -> Callable[[RawSlice], list[RawSlice]]:
    keys: list[Callable[[RawSlice], Any]] = [attrgetter("series", "order")]
    if by == "path":
        keys = [attrgetter("file", "item"), lambda each: (_CHANNEL_AND_ENDING.sub("", each.file), each.item)]
    places: list[dict[Any, list[RawSlice]]] = []
    for key in keys:
        places.append(defaultdict(list))
        for other in others:
            places[-1][key(other)].append(other)

    def near(image: RawSlice) -> list[RawSlice]:
        found = (there.get(key(image), []) for key, there in zip(keys, places, strict=True))
        return next(filter(None, found), [])

    return near


def _by_position(others: Sequence[RawSlice]) -> Callable[[RawSlice], list[RawSlice]]:
    groups: dict[str, list[RawSlice]] = defaultdict(list)
    for other in sorted((each for each in others if each.position_mm is not None), key=_position):
        groups[other.who].append(other)

    def near(image: RawSlice) -> list[RawSlice]:
        if image.position_mm is None:
            return []
        group = groups.get(image.who, [])
        low = bisect_left(group, image.position_mm - POSITION_TOLERANCE_MM, key=_position)
        return group[low : bisect_right(group, image.position_mm + POSITION_TOLERANCE_MM, key=_position)]

    return near


def difference(image: RawSlice, other: RawSlice) -> str | None:
    """What keeps two slices from lying on each other, pixel on pixel; None where nothing does."""
    if image.shape != other.shape:
        return f"{other.shape[0]}x{other.shape[1]} pixels instead of {image.shape[0]}x{image.shape[1]}"
    if image.spacing_mm and other.spacing_mm and _apart(image.spacing_mm, other.spacing_mm) > _SPACING_TOLERANCE:
        return f"a spacing of {other.spacing_mm[0]:g} mm instead of {image.spacing_mm[0]:g} mm"
    if image.axes and other.axes and _apart(image.axes, other.axes) > _AXES_TOLERANCE:
        return "another orientation"
    if image.origin_mm and other.origin_mm:
        shift = _apart(image.origin_mm, other.origin_mm)
        if shift > POSITION_TOLERANCE_MM:
            return f"it is shifted by {shift:.2f} mm"
    return None


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def repeated_places(images: Sequence[RawSlice]) -> str | None:
    """What to say where series of a patient share places, likely one body reconstructed twice; None where none do."""
    places: dict[tuple[str, int, tuple[int, ...]], list[str]] = defaultdict(list)
    for raw in images:
        if raw.position_mm is not None and raw.origin_mm is not None:
            position, *origin = (round(each / POSITION_TOLERANCE_MM) for each in (raw.position_mm, *raw.origin_mm))
            places[raw.who, position, tuple(origin)].append(raw.series)
    shared = [series for series in places.values() if len(set(series)) > 1]
    if not shared:
        return None
    return (
        f"{sum(map(len, shared))} slices lie where one of another series of the same patient lies (up to "
        f"{max(len(set(series)) for series in shared)} series at a place); each is prepared as a slice of its own: "
        "--series takes the series that are meant, --target-series makes pairs of two; masks are no series of CT: they "
        "are named by --mask-series, or go into a folder of their own, for --mask"
    )
