"""Where sets lie: in the data root and out of it, moved, several at once."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import ctpatch
from ctpatch.errors import UsageError
from helpers import LAYOUTS, SMALL, Prepared, assert_bits, build_one, csv_rows, make_split, reference_set, tree_bytes


def assert_set(folder: Path, prepared: Prepared, **options: Any) -> None:
    patches = reference_set(prepared.images["image"])[1]
    assert_bits(ctpatch.open(folder, **options).read(range(len(patches))), patches)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_inside_the_data_root_moves_with_it(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path / "here")
    build_one(prepared, layout=layout)
    shutil.move(prepared.root, tmp_path / "there")
    moved = tmp_path / "there/patches/phantoms/train"
    assert_set(moved, prepared)
    assert ctpatch.verify(moved, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_inside_the_data_root(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path)
    result = build_one(prepared, layout=layout, out=tmp_path / "my sets/first")
    assert (result.meta.patch_dir, result.meta.paths_relative_to) == ("my sets/first", "data_root")
    row = csv_rows(tmp_path / "my sets/first/patch_manifest.csv")[0]
    if layout != "index":
        assert row["patch_path"].startswith("my sets/first/")
    assert (tmp_path / row["patch_path"]).is_file()
    assert ctpatch.verify(tmp_path / "my sets/first", deep=True).ok
    assert not (tmp_path / "patches").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_root", [False, True])
def test_out_outside_the_data_root(tmp_path: Path, layout: Any, is_root: bool) -> None:
    prepared = make_split(tmp_path / "root")
    out = prepared.root if is_root else tmp_path / "out"
    result = build_one(prepared, layout=layout, out=out)
    assert (result.meta.patch_dir, result.meta.paths_relative_to) == (".", "patch_dir")
    row = csv_rows(out / "patch_manifest.csv")[0]
    assert (
        row["patch_path"]
        == {
            "files": "train_000000_000_000.npy",
            "shards": "shards/train_00000.npy",
            "slices": "shards/train_00000.npy",
            "index": prepared.paths["image"][0],
        }[layout]
    )
    for name in ("patch_meta.json", "patch_manifest.csv", "slice_manifest.csv"):
        assert str(tmp_path) not in (out / name).read_text()
    with pytest.raises(UsageError, match="give the data root"):
        ctpatch.verify(out, deep=True)
    assert ctpatch.verify(out, deep=True, data_root=prepared.root).ok
    assert_set(out, prepared, data_root=prepared.root)
    if layout == "index":
        with pytest.raises(UsageError, match="give the data root"):
            ctpatch.open(out).read([0])
    else:
        assert_set(out, prepared)
    assert build_one(prepared, layout=layout, out=out).outcome == "complete"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_taken_out_of_its_data_root(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path / "root")
    build_one(prepared, layout=layout)
    shutil.copytree(prepared.out, tmp_path / "usb")
    assert_set(tmp_path / "usb", prepared, data_root=prepared.root)
    assert ctpatch.verify(tmp_path / "usb", deep=True, data_root=prepared.root).ok
    if layout != "index":
        assert_set(tmp_path / "usb", prepared)
        assert ctpatch.verify(tmp_path / "usb").ok


def test_a_given_data_root(tmp_path: Path) -> None:
    prepared = make_split(tmp_path / "root")
    elsewhere = tmp_path / "lists/mine"
    elsewhere.mkdir(parents=True)
    shutil.copy(prepared.manifest, elsewhere / "val_manifest.csv")
    result = ctpatch.build(elsewhere / "val_manifest.csv", config=SMALL, data_root=prepared.root)[0]
    assert result.folder == prepared.root / "patches/mine/val"
    assert (result.meta.dataset, result.meta.split) == ("mine", "val")
    assert result.meta.source_manifest == "val_manifest.csv"
    assert_set(result.folder, prepared)
    with pytest.raises(UsageError, match="is not a folder"):
        ctpatch.build(elsewhere, config=SMALL, data_root=tmp_path / "nowhere")


def test_a_plain_manifest_and_a_file(tmp_path: Path) -> None:
    prepared = make_split(tmp_path)
    prepared.manifest.rename(prepared.folder / "manifest.csv")
    first = build_one(prepared)
    assert first.meta.source_manifest == "prepared/phantoms/train/manifest.csv"
    again = ctpatch.build(prepared.folder / "manifest.csv", config=SMALL)[0]
    assert (again.outcome, again.folder) == ("complete", first.folder)


def test_all_splits_of_a_dataset(tmp_path: Path) -> None:
    splits = {name: make_split(tmp_path, split=name, seed=k) for k, name in enumerate(("test", "train", "validation"))}
    results = ctpatch.build(tmp_path / "prepared/phantoms", config=SMALL, layout="shards")
    assert [result.meta.split for result in results] == ["test", "train", "validation"]
    for name, prepared in splits.items():
        assert_set(prepared.out, prepared)
        assert json.loads((prepared.out / "patch_meta.json").read_text())["split"] == name
    assert [each.num_windows for each in ctpatch.plan(tmp_path / "prepared/phantoms", config=SMALL)] == [60] * 3
    out = ctpatch.build(tmp_path / "prepared/phantoms", config=SMALL, layout="shards", out=tmp_path / "out")
    assert [result.folder for result in out] == [tmp_path / "out" / name for name in splits]
    shutil.copy(splits["train"].manifest, splits["test"].folder / "train_manifest.csv")
    splits["test"].manifest.unlink()
    with pytest.raises(UsageError, match="the split phantoms/train comes twice"):
        ctpatch.build(tmp_path / "prepared/phantoms", config=SMALL)


def test_relative_paths_and_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make_split(tmp_path)
    monkeypatch.chdir(prepared.folder)
    assert ctpatch.build(".", config=SMALL)[0].outcome == "built"
    monkeypatch.chdir(tmp_path)
    assert ctpatch.build("prepared/phantoms/train", config=SMALL)[0].outcome == "complete"
    assert_set(Path("patches/phantoms/train"), prepared)
    os.symlink(prepared.out, tmp_path / "link")
    assert ctpatch.verify("link", deep=True).ok


@pytest.mark.parametrize("name", ["a b", "-x", "é", "a,b", "=1", "a\nb"])
def test_names_that_would_hurt_in_a_table_are_refused(tmp_path: Path, name: str) -> None:
    prepared = make_split(tmp_path, split=name)
    with pytest.raises(ctpatch.CtPatchError, match="cannot be used as a name"):
        ctpatch.build(prepared.folder, config=SMALL)
    assert not any(path.startswith("patches") for path in tree_bytes(tmp_path))
