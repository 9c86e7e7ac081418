"""What masks hold is on record for each slice and for the set, and is checked, converted and shown."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import EXIT_DONE, ConfigError
from helpers import (
    LAYOUTS,
    Image,
    Prepared,
    assert_same_tree,
    build_one,
    change_meta,
    csv_columns,
    csv_rows,
    make_split,
    reference_set,
    refusal,
    rewrite_table,
    small_parts,
    tree_bytes,
)

SHAPES = [(24, 32), (24, 32), (9, 40), (24, 40)]
CONFIG = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="zero", drop="dark: max < 0.97")
Totals = dict[int, list[int]]


@pytest.fixture
def source(tmp_path: Path) -> Prepared:
    """Labels 0 to 4, of which the last lies in a corner of one slice, and none is in the third slice."""
    made = make_split(tmp_path, SHAPES, arrays={"target": "f4", "mask": "u1"})
    for number, mask in enumerate(made.images["mask"]):
        mask[mask == 4] = 0
        if number == 2:
            mask[:] = 0
        if number == 3:
            mask[0, 0] = 9
            made.images["image"][3][:16, :16] = 0
        np.save(made.file(number, "mask"), mask)
        np.save(made.file(number), made.images["image"][number])
    return made


def counted(mask: Image) -> dict[int, int]:
    labels = sorted(set(mask.ravel().tolist()) - {0})
    return {label: int((mask == label).sum()) for label in labels}


def totals(source: Prepared, kept: set[tuple[int, int, int]]) -> Totals:
    """Pixels, slices and kept windows of each label, one after the other."""
    found: Totals = {}
    for mask in source.images["mask"]:
        for label, count in counted(mask).items():
            pixels, slices, windows = found.get(label, [0, 0, 0])
            found[label] = [pixels + count, slices + 1, windows]
    where, patches = reference_set(source.images["mask"], 16, 8, "zero", dtype=np.uint8)
    for place, patch in zip(where, patches, strict=True):
        for label in counted(patch) if place in kept else ():
            found[label][2] += 1
    return found


def on_record(folder: Path) -> Totals:
    meta = json.loads((folder / "patch_meta.json").read_text())
    assert meta["label_counts"]["mask"]["uncounted"] == 0
    return as_totals(meta["label_counts"]["mask"]["labels"])


def as_totals(labels: list[dict[str, int]]) -> Totals:
    return {each["label"]: [each["pixels"], each["slices"], each["windows"]] for each in labels}


def kept_windows(folder: Path) -> set[tuple[int, int, int]]:
    return set(ctpatch.open(folder).manifest.select("slice_index", "row", "col").rows())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_of_slices_and_of_the_set(source: Prepared, layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=1, packed_windows=7)
    folder = build_one(source, CONFIG, layout=layout).folder
    rows = csv_rows(folder / "slice_manifest.csv")
    assert csv_columns(folder / "slice_manifest.csv")[-2:] == ["mask_pixels", "mask_labels"]
    masks = source.images["mask"]
    assert [row["mask_pixels"] for row in rows] == [str(int((mask > 0).sum())) for mask in masks]
    texts = [";".join(f"{label}:{count}" for label, count in counted(mask).items()) for mask in masks]
    assert [row["mask_labels"] for row in rows] == texts
    assert texts[2] == ""
    kept = kept_windows(folder)
    wanted = totals(source, kept)
    assert wanted[9] == [1, 1, 0]
    assert min(each[2] for label, each in wanted.items() if label != 9) > 0
    assert on_record(folder) == wanted
    frame = ctpatch.open(folder).label_counts("mask")
    assert frame.rows() == [(at, *each) for at, mask in enumerate(masks) for each in counted(mask).items()]
    assert frame.columns == ["slice_index", "label", "pixels"]
    assert ctpatch.verify(folder, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_converted_set_counts_its_own_windows(source: Prepared, layout: Any) -> None:
    build_one(source, CONFIG, layout=LAYOUTS[LAYOUTS.index(layout) - 1])
    other = source.out.with_name("other")
    ctpatch.convert(source.out, other, layout=layout, keep="row < 8")
    kept = kept_windows(other)
    assert 0 < len(kept) < len(kept_windows(source.out))
    assert on_record(other) == totals(source, kept)
    assert ctpatch.verify(other, deep=True).ok
    shutil.rmtree(other)
    ctpatch.convert(source.out, other, layout=layout)
    found = tree_bytes(other)
    shutil.rmtree(other)
    build_one(source, CONFIG, layout=layout, out=other)
    assert_same_tree(found, tree_bytes(other))


def test_shares_add_up(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=1)
    build_one(source, CONFIG)
    wanted = tree_bytes(source.out)
    shutil.rmtree(source.out)
    for share in ("2/3", "1/3", "3/3"):
        ctpatch.build_share(source.folder, share, CONFIG)
    ctpatch.merge(source.out)
    assert_same_tree(tree_bytes(source.out), wanted)


def test_shares_of_an_earlier_version_are_built_again(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows lack the columns of labels."""
    small_parts(monkeypatch, slices=2)
    build_one(source, CONFIG)
    wanted = tree_bytes(source.out)
    shutil.rmtree(source.out)
    with monkeypatch.context() as earlier:
        earlier.setattr("ctpatch.cutting.plan.SplitPlan.counted", ())
        ctpatch.build_share(source.folder, "1/2", CONFIG)
    ctpatch.build_share(source.folder, "2/2", CONFIG)
    with pytest.raises(ctpatch.CtPatchError, match=r"share 1/2 \(1 parts\)"):
        ctpatch.merge(source.out)
    ctpatch.build_share(source.folder, "1/2", CONFIG)
    ctpatch.merge(source.out)
    assert_same_tree(tree_bytes(source.out), wanted)


def test_a_set_of_an_earlier_version_has_none(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("ctpatch.cutting.plan.SplitPlan.counted", ())
        build_one(source, CONFIG)
    ps = ctpatch.open(source.out)
    assert ps.meta.label_counts is None
    assert ctpatch.verify(source.out, deep=True).ok
    assert build_one(source, CONFIG).outcome == "complete"
    ctpatch.convert(source.out, source.out.with_name("other"), layout="shards")
    assert ctpatch.open(source.out.with_name("other")).meta.label_counts is None
    assert ctpatch.verify(source.out.with_name("other"), deep=True).ok
    said = refusal(ConfigError, lambda: ps.label_counts("mask"))
    assert "the set has no counts of 'mask'" in said
    assert "build it again (--overwrite)" in said


@pytest.mark.parametrize("array", ["image", "target", "lung"])
def test_what_holds_no_labels_has_no_counts(source: Prepared, array: str) -> None:
    folder = build_one(source, CONFIG).folder
    said = refusal(ConfigError, lambda: ctpatch.open(folder).label_counts(array))
    assert f"{array!r} is no array of labels; the set has mask" in said


def test_a_slice_that_is_left_out_has_no_counts(source: Prepared) -> None:
    np.save(source.file(1), source.images["image"][1] * 5)
    folder = build_one(source, CONFIG, on_error="skip").folder
    row = csv_rows(folder / "slice_manifest.csv")[1]
    assert (row["status"], row["mask_pixels"], row["mask_labels"]) == ("skipped", "", "")
    assert set(ctpatch.open(folder).label_counts("mask")["slice_index"]) == {0, 3}
    assert ctpatch.verify(folder, deep=True).ok


def test_a_mask_of_many_instances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_split(tmp_path, [(16, 16)] * 2, arrays={"mask": "u1"})
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.save(source.file(0, "mask"), mask)
    np.save(source.file(1, "mask"), mask % 3)
    folder = build_one(source).folder
    rows = csv_rows(folder / "slice_manifest.csv")
    assert [(row["mask_pixels"], row["mask_labels"]) for row in rows] == [("255", ""), ("170", "1:85;2:85")]
    slices = ctpatch.open(folder).slices
    assert slices["mask_labels"].to_list() == [None, "1:85;2:85"]
    assert ctpatch.verify(folder, deep=True).ok
    assert main(["info", str(folder)]) == EXIT_DONE
    assert "mask: 1 slices are not counted (more than 32 labels in one" in capsys.readouterr().out


def test_a_set_of_too_many_labels_has_no_list(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctpatch.cutting.label_totals.MAX_LABELS_OF_SET", 3)
    folder = build_one(source, CONFIG).folder
    counts = ctpatch.open(folder).meta.label_counts
    assert counts is not None
    assert counts["mask"].labels is None
    assert ctpatch.verify(folder, deep=True).ok


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("mask_labels", "1:5", "mask_labels has 5 above 0"),
        ("mask_labels", "x", "mask_labels is invalid literal"),
        ("mask_labels", "2:1;1:1", "wanted labels and their pixels"),
        ("mask_pixels", "5000", "mask_pixels is 5000, wanted 0 to the slice's 24x32"),
        ("mask_pixels", "", "mask_pixels is None"),
    ],
)
def test_forged_counts_of_a_slice_are_found(source: Prepared, column: str, value: str, words: str) -> None:
    folder = build_one(source, CONFIG).folder
    rewrite_table(folder, "slice_manifest.csv", 0, column, value)
    report = ctpatch.verify(folder)
    assert any(words in each.message and each.row == 2 and each.check == "labels" for each in report.findings)


@pytest.mark.parametrize(("name", "deep"), [("pixels", False), ("slices", False), ("label", False), ("windows", True)])
def test_forged_counts_of_the_set_are_found(source: Prepared, name: str, deep: bool) -> None:
    folder = build_one(source, CONFIG).folder

    def forge(meta: dict[str, Any]) -> None:
        meta["label_counts"]["mask"]["labels"][-1][name] += 1

    change_meta(folder, forge)
    assert ctpatch.verify(folder).ok is deep
    assert any("label_counts" in each.message for each in ctpatch.verify(folder, deep=True).findings)


@pytest.mark.parametrize("array", ["image", "target", "lung"])
def test_counts_of_what_is_no_mask_are_refused(source: Prepared, array: str) -> None:
    folder = build_one(source, CONFIG).folder
    change_meta(folder, lambda meta: meta["label_counts"].update({array: {"uncounted": 0, "labels": []}}))
    with pytest.raises(ctpatch.CtPatchError, match="is no array of labels"):
        ctpatch.open(folder)


def test_summaries_show_labels_and_those_that_no_window_holds(
    source: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(source.folder), "--patch-size", "16", "--stride", "8", "--pad-mode", "zero"]
    assert main(["plan", *command]) == EXIT_DONE
    assert "of mask: --count-labels reads them" in capsys.readouterr().out
    command += ["--drop", "dark: max < 0.97"]
    assert main(["plan", *command]) == EXIT_DONE
    planned = capsys.readouterr().out
    assert main(["build", *command]) == EXIT_DONE
    built = capsys.readouterr().out
    assert main(["info", str(source.out)]) == EXIT_DONE
    shown = capsys.readouterr().out
    wanted = totals(source, kept_windows(source.out))
    for label, (pixels, slices, windows) in wanted.items():
        line = f"mask {label}: {pixels:,} pixels in {slices} slices, in {windows} kept windows"
        assert [line in text for text in (planned, built, shown)] == [True] * 3
    assert ["no kept window holds mask 9\n" in text for text in (planned, built, shown)] == [True] * 3


def test_plan_counts_labels_where_it_is_asked(source: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", str(source.folder), "--patch-size", "16", "--stride", "8", "--pad-mode", "zero"]
    assert main([*command, "--count-labels", "--json"]) == EXIT_DONE
    counts = json.loads(capsys.readouterr().out)[0]["rules"]["label_counts"]["mask"]
    every = set(reference_set(source.images["mask"], 16, 8, "zero")[0])
    assert as_totals(counts["labels"]) == totals(source, every)


def test_the_report_shows_labels(source: Prepared) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("PIL")
    folder = build_one(source, CONFIG).folder
    assert "mask label 9" in ctpatch.report(folder, source.root / "page.html").read_text()
