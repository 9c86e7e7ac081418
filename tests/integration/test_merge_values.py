"""What is told of very many slices is cut short and counted whole; rows that were altered are not merged."""

from pathlib import Path

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import FormatError, OutputConflictError
from helpers import SMALL, Heard, Image, Prepared, build_one, make_split

TINY = ctpatch.PatchConfig(patch_size=8, stride=8)
MANY = 103


@pytest.fixture
def many(tmp_path: Path) -> Prepared:
    """By turns a slice that cannot be used, one smaller than a patch, and one whose stated maximum is wrong."""
    rng = np.random.default_rng(6)
    images: list[Image] = []
    for _ in range(MANY):
        images += [np.full((8, 8), np.nan, np.float32), np.zeros((4, 8), np.float32), rng.random((8, 8), np.float32)]
    highest = [None, 0, 2] * MANY
    return make_split(tmp_path, images=images, columns={"min": [None, 0, None] * MANY, "max": highest})


def test_more_than_a_hundred_are_counted_and_a_hundred_are_named(many: Prepared) -> None:
    heard = Heard()
    built = build_one(many, TINY, on_error="skip", listener=heard)
    again = build_one(many, TINY, on_error="skip")
    assert (built.outcome, again.outcome) == ("built", "complete")
    for result in (built, again):
        assert (result.meta.num_skipped, result.num_without_windows) == (MANY, MANY)
        assert (result.meta.num_slices, result.meta.num_patches) == (2 * MANY, MANY)
        assert len(result.skipped) == 100
        for reason, path in zip(result.skipped, many.paths["image"][0::3], strict=False):
            assert path in reason
        assert result.slices_without_windows == many.paths["image"][1::3][:100]
    mismatches = heard.notices("stated-range")
    assert len(mismatches) == 100
    for notice, path in zip(mismatches, many.paths["image"][2::3], strict=False):
        assert path in notice


def test_shares_and_their_merge_name_a_hundred(many: Prepared) -> None:
    (share,) = ctpatch.build_share(many.folder, "1/1", TINY, on_error="skip")
    assert (share.num_skipped, len(share.skipped)) == (MANY, 100)
    merged, again = (ctpatch.merge(many.out) for _ in range(2))
    assert (merged.outcome, again.outcome) == ("merged", "complete")
    for result in (merged, again):
        assert (result.meta.num_skipped, len(result.skipped)) == (MANY, 100)
        assert (result.num_without_windows, len(result.slices_without_windows)) == (MANY, 100)


@pytest.mark.parametrize("table", ["patch_manifest.csv", "rejected_patches.csv", "slice_manifest.csv"])
def test_rows_altered_after_their_receipt_are_not_merged(prepared: Prepared, table: str) -> None:
    config = SMALL.with_rules(ctpatch.Rule.parse("corner: row = 0 and col = 0"))
    ctpatch.build_share(prepared.folder, "1/1", config)
    piece = prepared.out / ".ctpatch" / f"000000.{table}"
    content = piece.read_bytes()
    piece.write_bytes(content.replace(b"40,50", b"40,51", 1) if table[0] == "s" else content.replace(b"0.", b"1.", 1))
    assert len(piece.read_bytes()) == len(content)
    with pytest.raises(FormatError, match=f"000000.{table} is not what its receipt says; run the same command again"):
        ctpatch.merge(prepared.out)
    assert not (prepared.out / "patch_meta.json").exists()
    piece.write_bytes(content)
    assert ctpatch.merge(prepared.out).outcome == "merged"
    assert ctpatch.verify(prepared.out, deep=True).ok


def change(prepared: Prepared, *numbers: int) -> None:
    for number in numbers:
        np.save(prepared.file(number), prepared.images["image"][number][::-1])


def test_three_changed_slices_are_named_and_the_rest_is_guessed(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(16, 16)] * 6)
    build_one(prepared)
    paths = prepared.paths["image"]
    change(prepared, 1, 4)
    with pytest.raises(OutputConflictError) as two:
        build_one(prepared, strict=True)
    said = [f"{paths[number]} has changed since it was cut" for number in (1, 4)]
    assert f"made otherwise: {'; '.join(said)}; --overwrite" in two.value.message
    change(prepared, 2, 5)
    with pytest.raises(OutputConflictError) as four:
        build_one(prepared, strict=True)
    said = [f"{paths[number]} has changed since it was cut" for number in (1, 2, 4)]
    assert f"made otherwise: {'; '.join(said)}; perhaps more; --overwrite" in four.value.message
