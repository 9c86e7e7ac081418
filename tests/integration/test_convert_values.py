"""A conversion of a set that is not as it should be, or of slices that were left out, or onto another set."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

import ctpatch
from ctpatch.errors import FormatError, OutputConflictError
from helpers import (
    LAYOUTS,
    SMALL,
    Prepared,
    assert_same_tree,
    build_one,
    change_meta,
    csv_columns,
    csv_rows,
    make_split,
    random_image,
    tree_bytes,
)


def remove_row(folder: Path, table: str, at: int) -> None:
    """Take one row out of a set's table, and let the meta agree."""
    path = folder / table
    names, rows = csv_columns(path), csv_rows(path)
    del rows[at]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    content = path.read_bytes()

    def agree(meta: dict[str, Any]) -> None:
        meta["num_patches" if table == "patch_manifest.csv" else "num_rejected"] -= 1
        meta["tables"][table].update(bytes=len(content), digest=xxhash.xxh3_128(content).hexdigest())

    change_meta(folder, agree)


def test_a_slice_with_a_window_too_few_is_not_converted(tmp_path: Path, prepared: Prepared) -> None:
    """Each slice of 40x50 has 4 x 5 windows; the second loses one."""
    build_one(prepared)
    remove_row(prepared.out, "patch_manifest.csv", 27)
    with pytest.raises(FormatError, match="slice 1 has 19 windows on record, its grid has 20; run ctpatch verify"):
        ctpatch.convert(prepared.out, tmp_path / "b", layout="shards")
    assert not (tmp_path / "b" / "patch_meta.json").exists()


def test_a_dropped_window_that_is_not_on_record_is_missed_too(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared, SMALL.with_rules(ctpatch.Rule.parse("corner: row = 0 and col = 0")))
    assert [row["slice_index"] for row in csv_rows(prepared.out / "rejected_patches.csv")] == ["0", "1", "2"]
    remove_row(prepared.out, "rejected_patches.csv", 2)
    with pytest.raises(FormatError, match="slice 2 has 19 windows on record, its grid has 20"):
        ctpatch.convert(prepared.out, tmp_path / "b", layout="shards")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_slice_that_was_left_out_stays_left_out(tmp_path: Path, layout: Any) -> None:
    rng = np.random.default_rng(4)
    images = [random_image(rng, (24, 32)) for _ in range(4)]
    images[2][5, 6] = np.nan
    prepared = make_split(tmp_path, images=images, columns={"patient_id": ["a", "b", "c", "d"]})
    build_one(prepared, on_error="skip", out=tmp_path / "patches" / "a" / "train")
    out = tmp_path / "patches" / "b" / "train"
    result = ctpatch.convert(tmp_path / "patches" / "a" / "train", out, layout=layout)
    assert (result.meta.num_slices, result.meta.num_skipped, result.meta.num_patches) == (3, 1, 18)
    assert not result.complete
    (reason,) = result.skipped
    assert "train_000002.npy" in reason
    rows = csv_rows(out / "slice_manifest.csv")
    assert [row["status"] for row in rows] == ["ok", "ok", "skipped", "ok"]
    left_out = {name: value for name, value in rows[2].items() if value}
    assert left_out == {
        "slice_index": "2",
        "src_path": prepared.paths["image"][2],
        "height": "24",
        "width": "32",
        "src_dtype": "float32",
        "num_windows": "0",
        "num_patches": "0",
        "status": "skipped",
        "reason": reason,
        "patient_id": "c",
    }
    found = tree_bytes(out)
    out.rename(tmp_path / "kept")
    build_one(prepared, layout=layout, on_error="skip", out=out)
    assert_same_tree(found, tree_bytes(out))


def test_a_conversion_of_other_slices_is_a_conflict(tmp_path: Path, prepared: Prepared) -> None:
    """Same paths, same options: only the pixels of one slice are others."""
    build_one(prepared)
    ctpatch.convert(prepared.out, tmp_path / "b", layout="shards")
    before = tree_bytes(tmp_path / "b")
    np.save(prepared.file(1), prepared.images["image"][1][::-1])
    build_one(prepared, overwrite=True)
    with pytest.raises(OutputConflictError, match="made otherwise: it was made from other slices; --overwrite"):
        ctpatch.convert(prepared.out, tmp_path / "b", layout="shards")
    assert_same_tree(tree_bytes(tmp_path / "b"), before)
    assert ctpatch.convert(prepared.out, tmp_path / "b", layout="shards", overwrite=True).outcome == "built"
    pixels = ctpatch.open(tmp_path / "b").read(range(20, 40))
    assert pixels.tobytes() == ctpatch.open(prepared.out).read(range(20, 40)).tobytes()
