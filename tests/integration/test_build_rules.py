"""Every dropped window is on record with the first rule that hit; rules that cannot be are refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import RuleError
from helpers import LAYOUTS, SMALL, assert_bits, build_one, csv_rows, make_split, reference_set, reference_statistics

CONFIG = SMALL.with_rules(
    ctpatch.Rule.parse("airy: air_fraction >= 0.25"),
    ctpatch.Rule.parse("quiet: std < 0.1 or mean < 0.48"),
    ctpatch.Rule.parse("corner: row = 24 and col = 32"),
    ctpatch.Rule.parse("never: max > 2"),
)


def first_rule(origin: tuple[int, int, int], numbers: dict[str, float]) -> str | None:
    _slice, row, col = origin
    if numbers["air_fraction"] >= 0.25:
        return "airy"
    if numbers["std"] < 0.1 or numbers["mean"] < 0.48:
        return "quiet"
    if (row, col) == (24, 32):
        return "corner"
    return None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_window_is_kept_or_on_record_with_its_first_rule(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path)
    # One slice without air or quiet parts, so that the third rule gets its turn.
    prepared.images["image"][1] = np.random.default_rng(5).random((40, 50), dtype=np.float32)
    np.save(prepared.file(1), prepared.images["image"][1])
    result = build_one(prepared, CONFIG, layout=layout)
    where, patches = reference_set(prepared.images["image"])
    numbers = [reference_statistics(patch) for patch in patches]
    rules = [first_rule(origin, each) for origin, each in zip(where, numbers, strict=True)]
    kept = [at for at, rule in enumerate(rules) if rule is None]
    dropped = [at for at, rule in enumerate(rules) if rule is not None]
    assert {rules.count(name) > 0 for name in ("airy", "quiet", "corner", None)} == {True}
    manifest = csv_rows(prepared.out / "patch_manifest.csv")
    rejected = csv_rows(prepared.out / "rejected_patches.csv")
    assert [place(row) for row in manifest] == [where[at] for at in kept]
    assert [(*place(row), row["rule"]) for row in rejected] == [(*where[at], rules[at]) for at in dropped]
    for row, at in zip([*manifest, *rejected], [*kept, *dropped], strict=True):
        assert row["patch_id"] == "train_{:06d}_{:03d}_{:03d}".format(*where[at])
        assert row["src_path"] == prepared.paths["image"][where[at][0]]
        for name in ("min", "max", "air_fraction"):
            assert float(row[name]) == numbers[at][name]
        assert float(row["mean"]) == pytest.approx(numbers[at]["mean"], rel=1e-12)
        assert float(row["std"]) == pytest.approx(numbers[at]["std"], rel=1e-9)
    for row in rejected:
        assert (row["patch_path"], row["patch_index"], row["digest"]) == ("", "", "")
    assert [(rule.name, rule.dropped) for rule in result.meta.drop_rules] == [
        (name, rules.count(name)) for name in ("airy", "quiet", "corner", "never")
    ]
    assert (result.meta.num_patches, result.meta.num_rejected) == (len(kept), len(dropped))
    ps = ctpatch.open(prepared.out)
    assert_bits(ps.read(range(len(ps))), patches[kept])
    per_slice = [row["num_patches"] for row in csv_rows(prepared.out / "slice_manifest.csv")]
    assert per_slice == [str(sum(where[at][0] == number for at in kept)) for number in range(3)]
    assert ctpatch.verify(prepared.out, deep=True).ok


def place(row: dict[str, str]) -> tuple[int, int, int]:
    return int(row["slice_index"]), int(row["row"]), int(row["col"])


def test_the_order_of_rules_decides_the_reason(tmp_path: Path) -> None:
    reasons = {}
    for order in ("ab", "ba"):
        prepared = make_split(tmp_path / order)
        rules = {"a": "a: air_fraction > 0.2", "b": "b: std < 0.3"}
        config = ctpatch.PatchConfig(patch_size=16, stride=8, drop=tuple(rules[name] for name in order))
        build_one(prepared, config, layout="index")
        rows = csv_rows(prepared.out / "rejected_patches.csv")
        reasons[order] = {row["patch_id"]: row["rule"] for row in rows}
    assert reasons["ab"].keys() == reasons["ba"].keys()
    both = [name for name in reasons["ab"] if reasons["ab"][name] != reasons["ba"][name]]
    assert both
    assert {reasons["ab"][name] for name in both} == {"a"}
    assert {reasons["ba"][name] for name in both} == {"b"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_of_which_nothing_is_left(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path)
    result = build_one(prepared, SMALL.with_rules(ctpatch.Rule.parse("all: max >= 0")), layout=layout)
    assert (result.meta.num_patches, result.meta.num_rejected, result.meta.pixel_bytes) == (0, 60, 0)
    assert list(prepared.out.rglob("*.npy")) == []
    ps = ctpatch.open(prepared.out)
    assert len(ps) == 0
    assert ps.read([]).shape == (0, 16, 16)
    assert list(ps) == []
    assert_bits(ps.slice(1), prepared.images["image"][1])
    report = ctpatch.verify(prepared.out, deep=True)
    assert (report.status, report.findings) == ("ok", [])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("low std < 0.01", "has not the form 'name: condition'"),
        ("low: std <", "syntax error"),
        ("low: std < 0.01 )", "syntax error"),
        ("low: sdt < 0.01", "unknown column 'sdt'; known are slice_index, row, col, min, max, mean, std, air_fraction"),
        ("low: digest = 1", "unknown column 'digest'"),
        ("low: std < avg(std)", "looks at more than one row"),
        ("low: std < (select 1)", "condition on one row"),
        ("low: row_number() over (order by std) < 3", "looks at more than one row"),
        ("low: std", "is a number, not a condition"),
        ("low: random() < 0.5", "which rules do not know"),
        ("low/../x: std < 1", "a rule's name needs"),
    ],
)
def test_rules_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path, rule: str, said: str) -> None:
    prepared = make_split(tmp_path)
    with pytest.raises(ctpatch.CtPatchError) as error:
        build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, drop=(rule,)))
    assert re.search(re.escape(said), error.value.message), error.value.message
    assert error.value.exit_status == 2
    assert not prepared.out.exists()


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ctpatch.CtPatchError, match="two rules are named 'a'"):
        ctpatch.PatchConfig(drop=("a: std < 1", "a: std < 2"))
    with pytest.raises(RuleError):
        ctpatch.Rule.parse("no colon")
