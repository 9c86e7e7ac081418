"""`ps.weights` and the column of batches, in sets whose windows overlap, are padded, or were dropped."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError
from helpers import LAYOUTS, PAD_MODES, build_one, make_split


def plain_weights(ps: ctpatch.PatchSet, shapes: list[tuple[int, int]]) -> list[float]:
    places = ps.manifest.select("slice_index", "row", "col").rows()
    covers = [np.zeros(shape) for shape in shapes]
    for index, row, col in places:
        covers[index][row : row + 16, col : col + 16] += 1
    return [float((1 / covers[i][row : row + 16, col : col + 16]).sum() / 256) for i, row, col in places]


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_weights_add_up_to_the_pixels_that_patches_hold(tmp_path: Path, pad_mode: Any) -> None:
    shapes = [(40, 50), (33, 47), (40, 50)]
    config = ctpatch.PatchConfig(patch_size=16, stride=(8, 11), pad_mode=pad_mode, drop="dull: std < 0.2")
    ps = ctpatch.open(build_one(make_split(tmp_path, shapes), config).folder)
    assert len(ps.rejected)
    assert ps.weights.tolist() == pytest.approx(plain_weights(ps, shapes), rel=1e-13)
    covered = [np.zeros(shape, bool) for shape in shapes]
    for index, row, col in ps.manifest.select("slice_index", "row", "col").iter_rows():
        covered[index][row : row + 16, col : col + 16] = True
    assert ps.weights.sum() * 256 == pytest.approx(sum(int(each.sum()) for each in covered))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_bring_them(tmp_path: Path, layout: str) -> None:
    config = ctpatch.PatchConfig(patch_size=16, stride=8, drop="dull: std < 0.2")
    out = build_one(make_split(tmp_path), config, layout=layout).folder
    ps = ctpatch.open(out)
    seen = 0
    for batch in ps.batches(5, shuffle=True, columns=["weight", "row"], arrays="image"):
        assert batch.columns["weight"].dtype == np.float64
        assert batch.columns["weight"].tolist() == ps.weights[batch.indices].tolist()
        seen += len(batch.indices)
    assert seen == len(ps)
    assert "weight" not in ps.manifest.columns
    assert pickle.loads(pickle.dumps(ps)).weights.tolist() == ps.weights.tolist()
    other = tmp_path / "patches" / "other" / "train"
    ctpatch.convert(out, other, keep="row < 16")
    fewer = ctpatch.open(other)
    assert fewer.weights.tolist() == pytest.approx(plain_weights(fewer, [(40, 50)] * 3), rel=1e-13)


def test_a_set_without_patches_has_none(tmp_path: Path) -> None:
    config = ctpatch.PatchConfig(patch_size=16, drop="all: std >= 0")
    assert ctpatch.open(build_one(make_split(tmp_path), config).folder).weights.shape == (0,)


def test_a_kept_column_of_this_name_is_not_taken_for_them(tmp_path: Path) -> None:
    made = make_split(tmp_path, columns={"weight": [70, 82, 64]})
    ps = ctpatch.open(build_one(made, ctpatch.PatchConfig(patch_size=16), keep_columns="weight").folder)
    with pytest.raises(ConfigError, match=r"'weight' is a column that phantoms/train keeps of its slices"):
        ps.batches(4, columns=["weight"])
    assert ps.weights.shape == (len(ps),)
