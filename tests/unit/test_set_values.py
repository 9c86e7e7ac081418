"""Sums of parts for the record of values: damaged ones are refused, and parts without any leave a set without."""

import pytest

from ctpatch.config import PatchConfig
from ctpatch.core.spread import Moments
from ctpatch.cutting.values import SetValues, Sums, bins_of
from ctpatch.errors import FormatError
from ctpatch.format.meta import ArrayInfo

ARRAYS = {"image": ArrayInfo(dtype="float32", labels=False), "mask": ArrayInfo(dtype="uint8", labels=True)}
EMPTY = Sums().on_record()


def test_sums_come_back_from_a_receipt() -> None:
    sums = Sums(7, Moments(3, 0.1, 0.2, -1.0, 2.5))
    sums.counts[[0, 5, 2047]] = 1, 70_000, 2**40
    again = Sums.from_record(sums.on_record())
    assert (again.count, again.moments) == (7, sums.moments)
    assert again.counts.tolist() == sums.counts.tolist()


def test_a_part_without_sums_leaves_the_set_without() -> None:
    """It was cut by an earlier version."""
    values = SetValues()
    values.add(0, {"image": {"patches": EMPTY, "slices": EMPTY}})
    assert values.record(PatchConfig(), ARRAYS, 1) is not None
    values.add(1, {})
    assert values.record(PatchConfig(), ARRAYS, 1) is None


@pytest.mark.parametrize(
    "scopes",
    [
        {"patches": EMPTY},
        {"patches": EMPTY, "slices": (0, None, "3<x9AA==")},
        {"patches": EMPTY, "slices": (0, None, "<")},
    ],
)
def test_damaged_sums_are_refused(scopes: dict[str, tuple[int, None, str]]) -> None:
    with pytest.raises(FormatError, match="the receipt of part 4 is damaged"):
        SetValues().add(4, {"image": scopes})


def test_bins_are_over_the_range_and_the_padding() -> None:
    assert bins_of(PatchConfig(value_range=(0.5, 2)))[:2] == (0.5, 2)
    assert bins_of(PatchConfig(value_range=(0.5, 2), pad_mode="zero"))[:2] == (0.0, 2)
    assert bins_of(PatchConfig(value_range=(-2, -1), pad_mode="zero"))[:2] == (-2, 0.0)
    assert bins_of(PatchConfig(value_range=(-2, -1), pad_mode="edge"))[:2] == (-2, -1)
