"""Who goes into which split: by patient, for good, and as asked."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpatch.errors import ConfigError, SourceManifestError
from ctpatch.prepare.splits import DEFAULT_SPLITS, PatientTable, Shares, assign

IDS = st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=60)


def of(patients: set[str] | list[str]) -> dict[str, str]:
    return {patient: f"P-{patient}" for patient in patients}


def table(tmp_path: Path, text: str) -> PatientTable:
    path = tmp_path / "patients.csv"
    path.write_text(text, encoding="utf-8")
    return PatientTable.read(path)


@given(some=IDS, more=IDS, seed=st.integers(0, 2**31))
def test_adding_patients_moves_nobody(some: set[str], more: set[str], seed: int) -> None:
    shares = Shares.parse(DEFAULT_SPLITS, seed)
    before, after = assign(of(some), shares), assign(of(some | more), shares)
    assert {patient: after[patient] for patient in some} == before
    assert set(after) == some | more


def test_shares_hold_over_many_patients_and_seeds_differ() -> None:
    patients = of([f"patient {number}" for number in range(20_000)])
    first = assign(patients, Shares.parse(DEFAULT_SPLITS, 0))
    # three standard deviations of a binomial of 20,000 at 0.1: 127
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(list(first.values()).count(name) - share * 20_000) < 180
    assert first != assign(patients, Shares.parse(DEFAULT_SPLITS, 1))


def test_the_assignment_is_the_same_for_ever() -> None:
    shares = Shares.parse(["train=0.5", "test=0.5"], 0)
    assert [shares.split_at(shares.place(name)) for name in ("a", "b", "c", "d", "e", "f")] == [
        "test",
        "train",
        "test",
        "test",
        "train",
        "train",
    ]
    assert shares.place("a") == pytest.approx(0.6707293274547758, abs=1e-15)


@given(place=st.floats(0, 1, exclude_max=True))
def test_a_split_of_share_0_stays_empty(place: float) -> None:
    assert Shares.parse(["none=0", "all=1", "nothing=0"]).split_at(place) == "all"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["train"], "'train', wanted a name and a share"),
        (["train=x"], "'train=x', wanted a name and a share"),
        (["train=1.5", "test=-0.5"], "'train=1.5'"),
        (["train=nan"], "'train=nan'"),
        (["train=0.5", "test=0.4"], "sum to 0.9, wanted 1"),
        (["train=0.5", "train=0.5"], "each split once"),
        ([], "each split once"),
        (["../up=1"], "cannot be used as a name"),
    ],
)
def test_shares_that_make_no_sense_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        Shares.parse(texts)
    assert said in caught.value.message


def test_given_splits_by_id_or_pseudonym(tmp_path: Path) -> None:
    given_table = table(tmp_path, "patient_id,split\nann,test\nP-bob,train\nunused,train\n")
    assert assign(of(["ann", "bob"]), Shares.parse(DEFAULT_SPLITS), given_table) == {"ann": "test", "bob": "train"}


def test_a_patient_who_is_not_in_the_table_is_named(tmp_path: Path) -> None:
    given_table = table(tmp_path, "patient_id,split\nann,test\n")
    with pytest.raises(SourceManifestError, match=r"column split for 1 of 2 patients: 'bob'"):
        assign(of(["ann", "bob"]), Shares.parse(DEFAULT_SPLITS), given_table)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient_id,split\nann,test\nann,train\n", "row 3: its patient stands there before"),
        ("id,split\nann,test\n", "wanted patient_id"),
        ("patient_id,split\n,test\n", "row 2, column patient_id: it is empty"),
        ("", "is not a CSV"),
    ],
)
def test_a_table_that_breaks_the_rules_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SourceManifestError, match=r".") as caught:
        table(tmp_path, text)
    assert said in caught.value.message


def test_stratified_shares_hold_within_each_value(tmp_path: Path) -> None:
    patients = [f"p{number}" for number in range(100)]
    rows = "".join(f"{patient},{'f' if number < 30 else 'm'}\n" for number, patient in enumerate(patients))
    sexes = table(tmp_path, f"patient_id,sex\n{rows}")
    split = assign(of(patients), Shares.parse(DEFAULT_SPLITS), sexes, "sex")
    women, men = [split[patient] for patient in patients[:30]], [split[patient] for patient in patients[30:]]
    assert [women.count(name) for name in ("train", "validation", "test")] == [24, 3, 3]
    assert [men.count(name) for name in ("train", "validation", "test")] == [56, 7, 7]


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'age' must be a column"):
        assign(of(["a"]), Shares.parse(DEFAULT_SPLITS), table(tmp_path, "patient_id,sex\na,f\n"), "age")
    with pytest.raises(ConfigError, match="no column split"):
        assign(of(["a"]), Shares.parse(DEFAULT_SPLITS), table(tmp_path, "patient_id,sex\na,f\n"))
