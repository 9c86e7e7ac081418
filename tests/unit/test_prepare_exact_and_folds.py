"""Splits of exact size, and folds: every patient in one, none empty, and nobody moved where that is promised."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ctpatch.errors import ConfigError
from ctpatch.prepare.exact_shares import exact_counts
from ctpatch.prepare.splits import DEFAULT_SPLITS, PatientTable, Shares, assign

IDS = st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=60)


def of(patients: set[str] | list[str]) -> dict[str, str]:
    return {patient: f"P-{patient}" for patient in patients}


def table_of(strata: dict[str, str]) -> PatientTable:
    rows = {patient: {"sex": value} for patient, value in strata.items()}
    return PatientTable("patients.csv", rows, ("patient_id", "sex"))


@given(some=IDS, more=IDS, seed=st.integers(0, 2**31), count=st.integers(2, 12))
def test_adding_patients_moves_nobody_to_another_fold(some: set[str], more: set[str], seed: int, count: int) -> None:
    folds = Shares.of_folds(count, seed)
    before, after = assign(of(some), folds), assign(of(some | more), folds)
    assert {patient: after[patient] for patient in some} == before
    assert set(after) == some | more
    assert set(after.values()) <= {f"fold{number}" for number in range(count)}


@given(parts=st.lists(st.integers(0, 100), min_size=1, max_size=6), patients=st.integers(0, 300))
def test_exact_counts_are_shares_to_rounding(parts: list[int], patients: int) -> None:
    assume(sum(parts) > 0 and patients >= sum(part > 0 for part in parts))
    shares = [(f"s{at}", part / sum(parts)) for at, part in enumerate(parts)]
    counts = exact_counts(shares, patients)
    quotas = [Fraction(part * patients, sum(parts)) for part in parts]
    assert sum(counts) == patients
    assert [count > 0 for count in counts] == [part > 0 for part in parts]
    if all(quota >= 1 or quota == 0 for quota in quotas):
        assert all(abs(count - quota) < 1 for count, quota in zip(counts, quotas, strict=True))
    for count, quota in zip(counts, quotas, strict=True):
        assert count >= int(quota) or count == max(counts) or quota > 1


@pytest.mark.parametrize(
    ("patients", "wanted"), [(3, (1, 1, 1)), (5, (3, 1, 1)), (10, (8, 1, 1)), (30, (24, 3, 3)), (34, (27, 4, 3))]
)
def test_exact_shares_of_known_numbers(patients: int, wanted: tuple[int, ...]) -> None:
    ids = [f"p{number}" for number in range(patients)]
    counted = Counter(assign(of(ids), Shares.parse(DEFAULT_SPLITS, exact=True)).values())
    assert tuple(counted[name] for name in ("train", "validation", "test")) == wanted


@given(ids=IDS, seed=st.integers(0, 99))
def test_every_patient_is_in_one_exact_split_whatever_the_order(ids: set[str], seed: int) -> None:
    assume(len(ids) > 1)
    shares = Shares.parse(["train=0.7", "test=0.3"], seed, exact=True)
    found = assign(of(sorted(ids)), shares)
    assert found == assign(of(sorted(ids, reverse=True)), shares)
    assert set(found) == ids
    assert set(found.values()) == {"train", "test"}


def test_exact_refuses_fewer_patients_than_splits() -> None:
    with pytest.raises(ConfigError, match="2 patients for 3 splits"):
        assign(of(["a", "b"]), Shares.parse(DEFAULT_SPLITS, exact=True))
    with pytest.raises(ConfigError, match="4 patients for 5 splits"):
        assign(of(list("abcd")), Shares.of_folds(5, exact=True))


@given(
    strata=st.dictionaries(st.text(min_size=1, max_size=6), st.sampled_from("abc"), min_size=4), count=st.integers(2, 4)
)
def test_stratified_folds_differ_by_one_patient_in_each_value_and_in_all(strata: dict[str, str], count: int) -> None:
    found = assign(of(list(strata)), Shares.of_folds(count), table_of(strata), "sex")
    names = [f"fold{number}" for number in range(count)]
    assert set(found) == set(strata)
    for value in (None, *"abc"):
        sizes = Counter(fold for patient, fold in found.items() if value in {None, strata[patient]})
        assert max(sizes[name] for name in names) - min(sizes[name] for name in names) <= 1


@pytest.mark.parametrize("count", [-1, 0, 1, 101])
def test_a_number_of_folds_that_makes_no_sense_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"folds: {count}, wanted 2 to 100"):
        Shares.of_folds(count)
