"""Rows that are wrong by a little are found; values that look wrong and are right are not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from helpers import LAYOUTS, Prepared, build_one, csv_rows, make_split, rewrite_table

CONFIG = ctpatch.PatchConfig(patch_size=8, stride=4, drop=("top: row = 0 and col = 0",))


@pytest.fixture
def tiny(tmp_path: Path) -> Prepared:
    """Two slices of 12x12 in one shard: four windows each, the first one dropped."""
    prepared = make_split(tmp_path, [(12, 12)] * 2)
    build_one(prepared, CONFIG, layout="shards")
    return prepared


def findings(folder: Path, check: str) -> list[tuple[str, int | None, str]]:
    report = ctpatch.verify(folder)
    assert not report.ok
    return [(each.file, each.row, each.message) for each in report.findings if each.check == check]


def test_an_item_that_no_row_names_is_found(tiny: Prepared) -> None:
    """Six rows name the items 0 to 4 and 6."""
    rows = csv_rows(tiny.out / "patch_manifest.csv")
    assert [row["patch_index"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    rewrite_table(tiny.out, "patch_manifest.csv", 5, "patch_index", "6")
    shard = rows[0]["patch_path"]
    assert findings(tiny.out, "items") == [(shard, None, "6 rows name items 0 to 6, 6 different")]


@pytest.mark.parametrize(
    ("row", "index", "message"),
    [
        (0, "-1", "6 rows name items -1 to 5, 6 different"),
        (0, "3", "6 rows name items 1 to 5, 5 different"),
        (5, "4", "6 rows name items 0 to 4, 5 different"),
    ],
)
def test_items_that_are_none_or_named_twice_are_found(tiny: Prepared, row: int, index: str, message: str) -> None:
    rewrite_table(tiny.out, "patch_manifest.csv", row, "patch_index", index)
    assert [found[2] for found in findings(tiny.out, "items")] == [message]


@pytest.mark.parametrize(("table", "row"), [("patch_manifest.csv", 3), ("rejected_patches.csv", 1)])
@pytest.mark.parametrize("value", ["1.5", "-0.25", "100.0"])
def test_a_share_of_air_is_between_none_and_all(tiny: Prepared, table: str, row: int, value: str) -> None:
    rewrite_table(tiny.out, table, row, "air_fraction", value)
    assert findings(tiny.out, "range") == [
        (table, row + 2, f"air_fraction is {float(value)!r}, wanted a share from 0 to 1")
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("low", "high"), [(0.5, 1.0), (-2.0, -1.0)])
def test_padding_with_zeros_may_leave_the_value_range(tmp_path: Path, layout: Any, low: float, high: float) -> None:
    rng = np.random.default_rng(5)
    images = [rng.uniform(low, high, (20, 20)).astype(np.float32) for _ in range(2)]
    prepared = make_split(tmp_path, images=images)
    config = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="zero", value_range=(low, high))
    build_one(prepared, config, layout=layout)
    rows = csv_rows(prepared.out / "patch_manifest.csv")
    padded = [row for row in rows if (row["row"], row["col"]) != ("0", "0")]
    assert len(padded) == 6
    extreme = "min" if low > 0 else "max"
    assert {float(row[extreme]) for row in padded} == {0.0}
    for deep in (False, True):
        report = ctpatch.verify(prepared.out, deep=deep)
        assert (report.ok, report.findings) == (True, [])


@pytest.mark.parametrize("pad_mode", ["none", "zero"])
def test_what_no_padding_explains_is_outside_the_value_range(tmp_path: Path, pad_mode: Any) -> None:
    images = [np.full((20, 20), 0.75, np.float32)]
    prepared = make_split(tmp_path, images=images)
    build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=pad_mode, value_range=(0.5, 1)))
    lowest = 0.5 if pad_mode == "none" else 0
    rewrite_table(prepared.out, "patch_manifest.csv", 0, "min", "-0.5")
    message = f"min is -0.5, wanted {lowest:g} or more"
    assert ("patch_manifest.csv", 2, message) in findings(prepared.out, "range")
