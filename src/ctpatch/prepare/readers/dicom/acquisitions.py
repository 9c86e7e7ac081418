"""Several acquisitions in one series: told apart where they cover the same range, reported where that is not sure."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

from ctpatch.prepare.readers.base import SeriesNote
from ctpatch.prepare.readers.dicom.series import SAME_POSITION_MM, Placed

_TELLS_APART = ("AcquisitionNumber", "TemporalPositionIdentifier", "ConvolutionKernel", "AcquisitionTime")
_TIME = 3
_SHARED = 0.5
"""Acquisitions that share this part of the shorter one's range are interleaved; below, one follows the other."""

_FEWEST = 3
"""Slices of a time of day, or of a run of numbers, that can be an acquisition of its own."""


@dataclass(frozen=True, slots=True)
class _Acquisition:
    """The range that slices with one label cover, in mm."""

    label: str
    low: float
    high: float

    def shares(self, other: "_Acquisition") -> float:
        """Length of the common range."""
        return min(self.high, other.high) - max(self.low, other.low)

    def interleaves(self, other: "_Acquisition") -> bool:
        """Whether the two cover the same range, more or less."""
        shared = self.shares(other)
        return shared > SAME_POSITION_MM and shared >= _SHARED * min(self.high - self.low, other.high - other.low)


def told_apart(name: str, series: list[Placed]) -> tuple[dict[str, list[Placed]], list[SeriesNote]]:
    """Divide a series whose acquisitions cover the same range; by its name, where there is only one.

    One scan can have many acquisition numbers, one after the other; that divides nothing.
    """
    one_pass = _is_one_pass(series)
    for place, tag in enumerate(_TELLS_APART):
        acquisitions = _acquisitions(series, place)
        if place == _TIME and len(acquisitions) * _FEWEST > len(series):
            continue
        stack_of = _stack_of(acquisitions)
        count = max(stack_of.values(), default=0) + 1
        if count > 1 and not one_pass:
            parts: dict[str, list[Placed]] = {}
            for each in series:
                number = stack_of[each.header.acquired[place]]
                parts.setdefault(f"{name} {tag} {number}", []).append(each)
            message = (
                f"its {len(series)} slices are {count} acquisitions over the same range ({tag} tells them apart); "
                "each is a series of its own"
            )
            return parts, [SeriesNote("interleaved", part, message) for part in parts]
    return {name: series}, [] if one_pass else list(_doubtful(name, series))


def _acquisitions(series: list[Placed], place: int) -> list[_Acquisition]:
    """The acquisitions by one tag, along the normal; none where a slice does not say its own, or where it lies."""
    ranges: dict[str, list[float]] = {}
    for each in series:
        if each.position_mm is None:
            return []
        ranges.setdefault(each.header.acquired[place], []).append(each.position_mm)
    if "" in ranges:
        return []
    found = [_Acquisition(label, min(positions), max(positions)) for label, positions in ranges.items()]
    return sorted(found, key=lambda each: (each.low, each.high, each.label))


def _stack_of(acquisitions: list[_Acquisition]) -> dict[str, int]:
    """Number the stacks: acquisitions that follow each other have one number, those over the same range have others."""
    stack_of: dict[str, int] = {}
    stacks: list[list[_Acquisition]] = []
    for one in acquisitions:
        number = 0
        if one.high > one.low:  # a single place is in nobody's way
            free = (at for at, stack in enumerate(stacks) if not any(one.interleaves(other) for other in stack))
            number = next(free, len(stacks))
            stacks[number:] = stacks[number:] or [[]]
            stacks[number].append(one)
        stack_of[one.label] = number
    return stack_of


def _is_one_pass(series: list[Placed]) -> bool:
    """Whether the times of day run one way along the normal, as they do in one scan, whatever its numbers say."""
    times = [each.header.acquired[_TIME] for each in series]
    if "" in times or len(set(times)) * 2 <= len(times):
        return False
    values = [float(each) if each.replace(".", "", 1).isdigit() else 0.0 for each in times]
    steps = [after - before for before, after in pairwise(values)]
    return all(step >= 0 for step in steps) or all(step <= 0 for step in steps)


def _doubtful(name: str, series: list[Placed]) -> Iterator[SeriesNote]:
    """What to say where there may be several acquisitions, and nothing tells them apart for sure."""
    long = [each for each in _acquisitions(series, 0) if each.high > each.low]
    overlaps = [one.shares(other) for one, other in combinations(long, 2)]
    largest = max(overlaps, default=0.0)
    if largest > SAME_POSITION_MM:
        message = f"its acquisitions (AcquisitionNumber) overlap by up to {largest:g} mm, where their slices alternate"
        yield SeriesNote("acquisitions-overlap", name, message)
    elif (runs := _runs_of_numbers(series)) > 1:
        message = (
            f"its InstanceNumber runs {runs} times over the same range: it may be {runs} acquisitions, interleaved; "
            "check it, and divide its files into folders of their own where it is"
        )
        yield SeriesNote("interleaved-numbers", name, message)


def _runs_of_numbers(series: list[Placed]) -> int:
    """How often slices, in the order of their numbers, run over the same range; 1 where that is not clear."""
    known = [(each.header.number, each.position_mm) for each in series]
    numbered = [(number, place) for number, place in known if number is not None and place is not None]
    if len(numbered) < len(series) or len({number for number, _ in numbered}) < len(numbered):
        return 1
    places = [place for _, place in sorted(numbered)]
    runs = [[place] for place in places[:1]]
    for place in places[1:]:
        run = runs[-1]
        if len(run) > 1 and (place - run[-1]) * (run[-1] - run[-2]) <= 0:
            runs.append([place])
        else:
            run.append(place)
    if len(runs) == 1 or any(len(run) < _FEWEST for run in runs):
        return 1
    ranges = [_Acquisition("", min(run), max(run)) for run in runs]
    return len(runs) if all(one.interleaves(other) for one, other in combinations(ranges, 2)) else 1
