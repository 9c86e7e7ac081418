"""A loader takes columns that a set keeps of its slices: as numbers or codes, to draw by and to choose by."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError, RuleError
from helpers import build_one, make_split, refusal

COLUMNS: dict[str, list[Any]] = {
    "patient_id": ["p2", "p1", "", "p2"],
    "scanner": ["B", "A", "", "it's"],
    "Dose": ["1.5", "", "0.25", "3"],
    "age": ["61", "7", "61", "80"],
    "year": ["2020", "", "2021", "2020"],
    "group": ["x", "x", "y", "y"],
}
SHAPES = [(16, 16), (24, 16), (16, 32), (24, 24)]
WINDOWS = [1, 2, 3, 4]
"""Of each slice."""


@pytest.fixture
def ps(tmp_path: Path) -> ctpatch.PatchSet:
    source = make_split(tmp_path, SHAPES, columns=COLUMNS)
    build_one(source, keep_columns="scanner,Dose,age,year,group")
    return ctpatch.open(source.out)


def column(ps: ctpatch.PatchSet, name: str, **options: Any) -> Any:
    batches = ps.batches(3, columns=[name, "slice_index"], **options)
    found = [(batch.columns["slice_index"], batch.columns[name]) for batch in batches]
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def slices_of(ps: ctpatch.PatchSet, **options: Any) -> list[int]:
    """The slice of each patch of an epoch, in order."""
    drawn = np.concatenate([batch.indices for batch in ps.batches(4, **options)])
    found: list[int] = ps.manifest["slice_index"].to_numpy()[drawn].tolist()
    return found


@pytest.mark.parametrize(
    ("name", "dtype", "values"),
    [
        ("Dose", np.float64, [1.5, np.nan, 0.25, 3.0]),
        ("age", np.int64, [61, 7, 61, 80]),
        ("year", np.float64, [2020, np.nan, 2021, 2020]),
        ("scanner", np.int64, [1, 0, -1, 2]),
        ("group", np.int64, [0, 0, 1, 1]),
        ("patient_id", np.int64, [1, 0, -1, 1]),
    ],
)
def test_columns_come_with_each_batch(ps: ctpatch.PatchSet, name: str, dtype: Any, values: list[Any]) -> None:
    slices, found = column(ps, name, shuffle=True, seed=3)
    assert found.dtype == dtype
    assert Counter(slices.tolist()) == dict(enumerate(WINDOWS))
    np.testing.assert_array_equal(found, np.array(values, dtype)[slices])


def test_codes_have_their_texts(ps: ctpatch.PatchSet) -> None:
    loader = ps.batches(4, columns=["scanner", "age", "patient_id"], subset="scanner = 'B'")
    assert loader.codes == {"scanner": ["A", "B", "it's"], "patient_id": ["p1", "p2"]}
    assert ps.codes("scanner") == ["A", "B", "it's"]
    assert ps.codes("patient_id") == ["p1", "p2"]


@pytest.mark.parametrize("name", ["age", "std", "kernel"])
def test_what_is_no_text_has_no_codes(ps: ctpatch.PatchSet, name: str) -> None:
    said = refusal(ConfigError, lambda: ps.codes(name))
    assert f"no column {name!r} of texts; it has patient_id, scanner, group" in said


@pytest.mark.parametrize(
    ("subset", "slices"),
    [
        ("scanner = 'A'", [1]),
        ("'A' = Scanner", [1]),
        ("scanner <> 'A'", [0, 3]),
        ("scanner != 'A' OR scanner = 'A'", [0, 1, 3]),
        ("scanner IN ('A', 'B', 'C')", [0, 1]),
        ("scanner NOT IN ('A')", [0, 2, 3]),
        ("scanner = 'it''s'", [3]),
        ("patient_id = 'p2' AND dose > 2", [3]),
        ("dose >= 0.25", [0, 2, 3]),
        ("DOSE < 1 OR age = 7", [1, 2]),
        ("\"group\" = 'y' AND year = 2020", [3]),
        ("age BETWEEN 60 AND 70 AND std >= 0", [0, 2]),
    ],
)
def test_a_subset_by_slices(ps: ctpatch.PatchSet, subset: str, slices: list[int]) -> None:
    assert slices_of(ps, subset=subset) == [index for index in slices for _ in range(WINDOWS[index])]


@pytest.mark.parametrize(
    ("subset", "words"),
    [
        ("scanner = 3", "compares the text 'scanner' with something else; wanted texts in single quotes"),
        ('scanner = "A"', "compares the text 'scanner' with something else; wanted texts in single quotes"),
        ("scanner = patient_id", "compares the text"),
        ("scanner IN (1, 'A')", "compares the text"),
        ("scanner > 'A'", "takes 'scanner' for a number, it is a text"),
        ("scanner", "takes 'scanner' for a number"),
        ("dose = 'A'", "which rules do not know"),
        ("kernel = 'A'", "names an unknown column"),
        ("t.scanner = 'A'", "names an unknown column"),
    ],
)
def test_subsets_that_make_no_sense(ps: ctpatch.PatchSet, subset: str, words: str) -> None:
    assert words in refusal(RuleError, lambda: ps.batches(4, subset=subset))


def test_a_text_that_no_slice_has_leaves_nothing(ps: ctpatch.PatchSet) -> None:
    assert "no patch of 10 meets" in refusal(ConfigError, lambda: ps.batches(4, subset="scanner = 'C'"))


def test_weights_may_be_numbers_of_slices(ps: ctpatch.PatchSet) -> None:
    drawn = slices_of(ps, weight="age - 61", subset="age >= 61", seed=1)
    assert set(drawn) == {3}
    said = refusal(ConfigError, lambda: ps.batches(4, weight="dose"))
    assert "'dose' is nan for patch 1" in said
    assert "takes 'scanner' for a number" in refusal(RuleError, lambda: ps.batches(4, weight="scanner"))


def test_balance_by_a_kept_column(ps: ctpatch.PatchSet) -> None:
    """Each value comes as often as every other, whatever the number of its patches; no value is a value as well."""
    epochs = ps.batches(10, balance="scanner", seed=5)
    drawn: Counter[int] = Counter()
    for epoch in range(200):
        epochs.set_epoch(epoch)
        for batch in epochs:
            drawn.update(ps.manifest["slice_index"].to_numpy()[batch.indices].tolist())
    assert sum(drawn.values()) == 2000
    assert all(abs(drawn[index] - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for index in range(4))


def test_state_goes_on_with_the_same_patches(ps: ctpatch.PatchSet) -> None:
    options: dict[str, Any] = {"subset": "scanner <> 'B'", "shuffle": True, "columns": ["scanner"], "seed": 2}
    whole = [batch.columns["scanner"].tolist() for batch in ps.batches(2, **options)]
    first = ps.batches(2, **options)
    pass_ = iter(first)
    begun = [next(pass_).columns["scanner"].tolist()]
    second = ps.batches(2, **options)
    second.load_state_dict(first.state_dict())
    assert [*begun, *(batch.columns["scanner"].tolist() for batch in second)] == whole


def test_the_slice_manifest_is_only_read_where_a_column_of_it_is_named(ps: ctpatch.PatchSet) -> None:
    list(ps.batches(4, subset="std >= 0", weight="mean + 1", columns=["row"]))
    assert "slices" not in ps.__dict__
    list(ps.batches(4, columns=["age"]))
    assert "slices" in ps.__dict__


def test_a_set_that_keeps_nothing_has_patients(tmp_path: Path) -> None:
    source = make_split(tmp_path, SHAPES, columns={"patient_id": COLUMNS["patient_id"]})
    build_one(source)
    ps = ctpatch.open(source.out)
    slices, codes = column(ps, "patient_id")
    assert codes.tolist() == [[1, 0, -1, 1][index] for index in slices]
    assert slices_of(ps, subset="patient_id = 'p1'") == [1, 1]
    assert "no numeric column 'scanner'" in refusal(ConfigError, lambda: ps.batches(4, columns=["scanner"]))


def test_a_column_without_any_text(tmp_path: Path) -> None:
    source = make_split(tmp_path, SHAPES, columns={"site": [""] * 4})
    build_one(source, keep_columns="site")
    ps = ctpatch.open(source.out)
    assert set(column(ps, "site")[1].tolist()) == {-1}
    assert ps.codes("site") == []


def test_tensors(ps: ctpatch.PatchSet) -> None:
    torch = pytest.importorskip("torch")
    from ctpatch.torch import PatchLoader

    loader = PatchLoader(ps, 10, columns=["scanner", "Dose"])
    assert loader.codes == {"scanner": ["A", "B", "it's"]}
    (batch,) = loader
    assert batch["scanner"].dtype == torch.int64
    assert batch["scanner"].tolist() == [1, 0, 0, -1, -1, -1, 2, 2, 2, 2]
    assert batch["Dose"].tolist()[3:] == [0.25] * 3 + [3.0] * 4
