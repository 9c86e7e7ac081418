"""The same input gives the same bytes, whoever builds, wherever, in however many processes."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from helpers import LAYOUTS, SMALL, assert_same_tree, build_one, make_split, small_parts, tree_bytes

# `ctpatch.plan` is the function; the module of that name holds the sizes of parts.


@pytest.fixture(scope="module")
def four() -> Iterator[ProcessPoolExecutor]:
    """Four processes, which take a second to start, for all layouts."""
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_worker_and_four_write_the_same_tree(
    tmp_path: Path, layout: Any, four: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, slices=3, packed_windows=60)
    shapes = [(40, 50), (24, 24), (40, 50), (40, 50), (8, 8)] * 4
    config = SMALL.with_rules(ctpatch.Rule.parse("airy: air_fraction > 0.3"))
    trees = []
    for name, executor in (("one", None), ("four", four)):
        prepared = make_split(tmp_path / name, shapes, arrays={"mask": np.uint8, "target": np.float32})
        assert len(list(ctpatch.plan(prepared.folder, config=config)[0].parts(layout))) >= 4
        result = build_one(prepared, config, layout=layout, executor=executor)
        assert result.outcome == "built"
        trees.append(tree_bytes(prepared.out))
    assert_same_tree(trees[1], trees[0])
    assert not any(name.startswith(".ctpatch") for name in trees[0])


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_the_size_of_parts_does_not_show_in_the_rows(
    tmp_path: Path, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_split(tmp_path / "whole", [(40, 50)] * 6)
    build_one(whole, layout=layout)
    small_parts(monkeypatch, slices=1, shard_bytes=1)
    cut = make_split(tmp_path / "cut", [(40, 50)] * 6)
    build_one(cut, layout=layout)
    one, other = ctpatch.open(whole.out), ctpatch.open(cut.out)
    columns = ["patch_id", "min", "max", "mean", "std", "air_fraction", "digest"]
    assert one.manifest.select(columns).equals(other.manifest.select(columns))
    assert one.read(range(120)).tobytes() == other.read(range(120)).tobytes()
    assert one.meta.fingerprint == other.meta.fingerprint
    assert len(list(cut.out.rglob("*.npy"))) == (120 if layout == "files" else 6)


def test_only_created_differs_between_two_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = []
    for moment in ("0", "4102444800"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", moment)
        prepared = make_split(tmp_path / moment)
        build_one(prepared)
        trees.append(tree_bytes(prepared.out))
    metas = [json.loads(tree.pop("patch_meta.json")) for tree in trees]
    assert_same_tree(trees[1], trees[0])
    assert [meta.pop("created") for meta in metas] == ["1970-01-01T00:00:00Z", "2100-01-01T00:00:00Z"]
    assert metas[0] == metas[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_times_and_the_place_of_sources_do_not_matter(tmp_path: Path, layout: Any) -> None:
    one = make_split(tmp_path / "one")
    build_one(one, layout=layout)
    shutil.copytree(one.root / "prepared", tmp_path / "a b c/ü/prepared")
    for path in (tmp_path / "a b c/ü").rglob("*.npy"):
        os.utime(path, (4_000_000_000, 4_000_000_000))
    ctpatch.build(tmp_path / "a b c/ü/prepared/phantoms/train", config=SMALL, layout=layout)
    assert_same_tree(tree_bytes(tmp_path / "a b c/ü/patches"), tree_bytes(one.root / "patches"))


def test_source_date_epoch_of_rubbish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    prepared = make_split(tmp_path)
    with pytest.raises(ctpatch.CtPatchError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        build_one(prepared)
    assert not (prepared.out / "patch_meta.json").exists()
