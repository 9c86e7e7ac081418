"""A converted set is, to the byte, what a build would have made."""

from pathlib import Path

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import EXIT_USAGE, FormatError, OutputConflictError, RuleError, SourceChangedError, UsageError
from helpers import LAYOUTS, SMALL, Prepared, assert_same_tree, build_one, make_split, rewrite_table, tree_bytes

AIR = "air: air_fraction > 0.5"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wanted", LAYOUTS)
@pytest.mark.parametrize("pad_mode", ["none", "reflect"])
def test_every_layout_becomes_every_other(tmp_path: Path, layout: str, wanted: str, pad_mode: str) -> None:
    prepared = make_split(tmp_path, [(40, 50), (16, 16), (9, 60), (40, 50)], arrays={"target": "f4", "mask": "u1"})
    config = ctpatch.PatchConfig(patch_size=16, stride=12, pad_mode=pad_mode, drop=[AIR])  # type: ignore[arg-type]
    build_one(prepared, config, layout=layout, out=tmp_path / "patches" / "a" / "train")
    converted = tmp_path / "patches" / "c" / "train"
    result = ctpatch.convert(tmp_path / "patches" / "a" / "train", converted, layout=wanted)
    assert result.outcome == "built"
    found = tree_bytes(converted)
    converted.rename(tmp_path / "kept")
    build_one(prepared, config, layout=wanted, out=converted)
    assert_same_tree(found, tree_bytes(converted))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keep_is_a_rule_that_drops_the_rest(tmp_path: Path, layout: str) -> None:
    prepared = make_split(tmp_path)
    build_one(prepared, SMALL.with_rules(ctpatch.Rule.parse(AIR)), out=tmp_path / "patches" / "a" / "train")
    out = tmp_path / "patches" / "b" / "train"
    ctpatch.convert(tmp_path / "patches" / "a" / "train", out, layout=layout, keep="std > 0.3")
    ps = ctpatch.open(out)
    before = ctpatch.open(tmp_path / "patches" / "a" / "train")
    wanted = before.manifest.filter(before.manifest["std"] > 0.3)["patch_id"].to_list()
    assert 0 < len(wanted) < len(before)
    assert ps.manifest["patch_id"].to_list() == wanted
    assert [(rule.name, rule.condition) for rule in ps.meta.drop_rules][-1] == ("keep", "NOT (std > 0.3)")
    lost = ps.rejected.filter(ps.rejected["rule"] == "keep")["patch_id"].to_list()
    assert sorted(lost + wanted) == sorted(before.manifest["patch_id"].to_list())
    assert ps.rejected.filter(ps.rejected["rule"] == "air").height == before.rejected.height
    ids = before.manifest["patch_id"].to_list()
    pixels = before.read([ids.index(each) for each in wanted])
    assert ps.read(range(len(ps))).tobytes() == pixels.tobytes()
    assert ctpatch.verify(out, deep=True).ok


def test_keep_twice_takes_another_name(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    ctpatch.convert(prepared.out, tmp_path / "b", keep="std > 0.01", data_root=prepared.root)
    ctpatch.convert(tmp_path / "b", tmp_path / "c", keep="mean > 0.1", data_root=prepared.root)
    assert [rule.name for rule in ctpatch.open(tmp_path / "c").meta.drop_rules] == ["keep", "keep_2"]


def test_workers_and_a_second_run_change_nothing(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    ctpatch.convert(prepared.out, tmp_path / "b", layout="shards", workers=2)
    first = tree_bytes(tmp_path / "b")
    assert ctpatch.convert(prepared.out, tmp_path / "b", layout="shards").outcome == "complete"
    assert_same_tree(tree_bytes(tmp_path / "b"), first)
    with pytest.raises(OutputConflictError, match="layout"):
        ctpatch.convert(prepared.out, tmp_path / "b", layout="slices")


def test_patches_go_from_files_to_shards_without_their_sources(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared, out=tmp_path / "elsewhere" / "a")
    before = ctpatch.open(tmp_path / "elsewhere" / "a").read([0, 5, -1])
    prepared.root.joinpath("prepared").rename(tmp_path / "gone")
    (tmp_path / "elsewhere" / "a").rename(tmp_path / "moved")
    ctpatch.convert(tmp_path / "moved", tmp_path / "b", layout="shards")
    assert ctpatch.open(tmp_path / "b").read([0, 5, -1]).tobytes() == before.tobytes()
    assert ctpatch.verify(tmp_path / "b").ok
    with pytest.raises(ctpatch.CtPatchError):
        ctpatch.convert(tmp_path / "moved", tmp_path / "c", layout="slices")
    assert not (tmp_path / "c" / "patch_meta.json").exists()


def test_a_changed_source_is_no_whole_slice(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    np.save(prepared.file(1), prepared.images["image"][1] * np.float32(0.5))
    with pytest.raises(SourceChangedError, match=prepared.paths["image"][1]):
        ctpatch.convert(prepared.out, tmp_path / "b", layout="slices")


def test_what_cannot_be_converted_is_refused(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    with pytest.raises(RuleError, match="unknown column") as refused:
        ctpatch.convert(prepared.out, tmp_path / "b", keep="nonsense > 3")
    assert refused.value.exit_status == EXIT_USAGE
    with pytest.raises(RuleError, match="holds a comment"):
        ctpatch.convert(prepared.out, tmp_path / "b", keep="std > 0.1 -- enough")
    with pytest.raises(UsageError, match="overlaps"):
        ctpatch.convert(prepared.out, prepared.out / "inside", layout="shards")
    with pytest.raises(UsageError, match="no patch set"):
        ctpatch.convert(prepared.folder, tmp_path / "b", layout="shards")
    assert not (tmp_path / "b").exists()


def test_a_stored_slice_outside_the_set_is_not_read(tmp_path: Path) -> None:
    prepared = make_split(tmp_path / "root")
    build_one(prepared, layout="slices")
    np.save(tmp_path / "secret.npy", np.zeros((2, 40, 50), np.float32))
    out = prepared.out
    depth = len(out.relative_to(tmp_path).parts)
    rewrite_table(out, "patch_manifest.csv", 0, "patch_path", "../" * depth + "secret.npy")
    ps = ctpatch.open(out)
    with pytest.raises(FormatError, match="is no path below the set"):
        ps.slice(int(ps.slices["slice_index"][0]))
    with pytest.raises(FormatError, match="is no path below the set"):
        ctpatch.convert(out, tmp_path / "other", layout="shards")
    assert ctpatch.verify(out).status == "failed"
