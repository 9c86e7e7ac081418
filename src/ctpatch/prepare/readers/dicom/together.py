"""Numbers that are the same but for rounding: which of them belong together does not depend on their order."""

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

Point = TypeVar("Point", bound=tuple[float, ...])


def common_points(points: Iterable[Point], tolerance: float, vectors: int = 1) -> dict[Point, Point]:
    """Give each point another one that stands for all around it.

    The point with most others around it comes first, of several the smallest; it takes all that are within the
    tolerance and not taken yet. So no chain of small steps leads further than the tolerance, and the order of the
    points makes no difference.

    Args:
        points: tuples of one length.
        tolerance: the largest distance to the point that stands for another.
        vectors: how many vectors stand in a point one after the other; the distance of each counts.
    """
    counts = Counter(points)
    unique = sorted(counts)
    if len(unique) < 2:  # noqa: PLR2004
        return {each: each for each in unique}
    values = np.array(unique).reshape(len(unique), vectors, -1)
    weights = np.array([counts[each] for each in unique])

    def near(number: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        found: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
            np.linalg.norm(values - values[number], axis=2) <= tolerance
        ).all(axis=1)
        return found

    if (np.linalg.norm(values - values[0], axis=2) <= tolerance / 2).all():  # then each is around each other
        return dict.fromkeys(unique, unique[0])
    crowds = [int(weights[near(number)].sum()) for number in range(len(unique))]
    stands_for = np.full(len(unique), -1)
    for number in sorted(range(len(unique)), key=lambda each: (-crowds[each], each)):
        if stands_for[number] < 0:
            stands_for[near(number) & (stands_for < 0)] = number
    return {point: unique[number] for point, number in zip(unique, stands_for.tolist(), strict=True)}
