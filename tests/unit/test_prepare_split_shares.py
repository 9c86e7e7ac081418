"""How many patients of a small stratum go to each split, and where rounding leaves the end of the unit interval."""

import math
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import pytest

from ctpatch.prepare.splits import PatientTable, Shares, assign


def counts(tmp_path: Path, patients: int, texts: list[str]) -> list[int]:
    """Patients in each split where all are of one stratum; each split gets a run of them in the order of places."""
    names = [f"p{number}" for number in range(patients)]
    path = tmp_path / "patients.csv"
    path.write_text("patient_id,sex\n" + "".join(f"{name},f\n" for name in names), encoding="utf-8")
    shares = Shares.parse(texts)
    split = assign({name: f"P-{name}" for name in names}, shares, PatientTable.read(path), "sex")
    order = [name for name, _ in shares.splits]
    found = [order.index(split[name]) for name in sorted(names, key=shares.place)]
    assert found == sorted(found)
    return [found.count(number) for number in range(len(order))]


@pytest.mark.parametrize(
    ("patients", "shares", "wanted"),
    [
        (1, ["a=0.5", "b=0.5"], [0, 1]),
        (2, ["a=0.5", "b=0.5"], [1, 1]),
        (3, ["a=0.5", "b=0.5"], [1, 2]),
        (5, ["a=0.5", "b=0.5"], [2, 3]),
        (3, ["a=0.75", "b=0.25"], [2, 1]),
        (5, ["a=0.8", "b=0.1", "c=0.1"], [4, 0, 1]),
        (10, ["a=0.8", "b=0.1", "c=0.1"], [8, 1, 1]),
        (4, ["a=0.25", "b=0.5", "c=0.25"], [1, 2, 1]),
    ],
)
def test_a_stratum_is_cut_at_the_rounded_shares(
    tmp_path: Path, patients: int, shares: list[str], wanted: list[int]
) -> None:
    assert counts(tmp_path, patients, shares) == wanted


@pytest.mark.parametrize("patients", [1, 2, 3, 7, 8, 9, 20, 50])
def test_no_split_is_more_than_a_patient_off_its_share(tmp_path: Path, patients: int) -> None:
    shares = [Fraction(5, 8), Fraction(1, 4), Fraction(1, 8)]
    found = counts(tmp_path, patients, [f"s{number}={float(share)}" for number, share in enumerate(shares)])
    for ends, share in zip(accumulate(found), accumulate(shares), strict=True):
        assert abs(ends - share * patients) <= Fraction(1, 2)


ALMOST_ONE = math.nextafter(1.0, 0.0)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([*(f"s{number}=0.1" for number in range(10)), "none=0"], "s9"),  # ten times 0.1 sum to less than 1
        (["a=0.5", "b=0.4999995", "none=0"], "b"),
        (["none=0", "a=0.9999995", "nothing=0", "nowhere=0"], "a"),
    ],
)
def test_what_rounding_leaves_at_the_end_goes_to_the_last_split_that_has_a_share(texts: list[str], wanted: str) -> None:
    shares = Shares.parse(texts)
    upper = 0.0
    for _, share in shares.splits:
        upper += share
    assert upper <= ALMOST_ONE
    assert shares.split_at(ALMOST_ONE) == wanted
