"""Windows that are drawn while training, against plain arithmetic on the pixels that were written."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError, RuleError
from ctpatch.loading.transforms import FlipsAndRotations
from helpers import Prepared, build_one, make_split

SHAPES = ((40, 50), (33, 41), (64, 36), (40, 50))
WINDOWS = ctpatch.RandomWindows((20, 24), per_slice=5)


@pytest.fixture
def pairs(tmp_path: Path) -> Prepared:
    """Four slices of three sizes, with targets."""
    return make_split(tmp_path, SHAPES, arrays={"target": np.float32})


def opened(made: Prepared, layout: str = "slices", **options: Any) -> ctpatch.PatchSet:
    build_one(made, layout=layout, config=ctpatch.PatchConfig(patch_size=16, stride=16), **options)
    return ctpatch.open(made.out)


def words(seed: int, epoch: int, purpose: int, draw: int, attempt: int = 0) -> list[float]:
    """The four numbers of a draw: one block of Philox."""
    generator = np.random.Philox(
        key=np.array([seed, epoch << 8 | purpose], np.uint64), counter=np.array([draw, attempt, 0, 0], np.uint64)
    )
    return [int(word >> np.uint64(11)) * 2.0**-53 for word in generator.random_raw(4)]


def place(draw: int, number: int, seed: int = 3, epoch: int = 0) -> tuple[int, int]:
    """Where a draw begins."""
    first, second, *_ = words(seed, epoch, 4, draw)
    height, width = SHAPES[number]
    return int(first * (height - 20 + 1)), int(second * (width - 24 + 1))


def drawn(loader: Any) -> list[tuple[int, int, int]]:
    """Slice, row and column of each window of an epoch."""
    return [
        each
        for batch in loader
        for each in zip(*(batch.columns[name].tolist() for name in ("slice_index", "row", "col")), strict=True)
    ]


PLACED: dict[str, Any] = {"columns": ["slice_index", "row", "col"]}


@pytest.mark.parametrize("layout", ["slices", "index"])
def test_pixels_and_places_are_those_of_a_plain_loop(pairs: Prepared, layout: str) -> None:
    ps = opened(pairs, layout)
    loader = ps.batches(6, windows=WINDOWS, seed=3, epoch=2, **PLACED)
    assert len(loader) == 4  # 20 windows in batches of 6
    draw = 0
    for batch in loader:
        for at in range(len(batch.indices)):
            number = draw // 5
            row, col = place(draw, number, epoch=2)
            assert [batch.columns[name][at] for name in PLACED["columns"]] == [number, row, col]
            for array in ("image", "target"):
                wanted = pairs.images[array][number][row : row + 20, col : col + 24]
                np.testing.assert_array_equal(batch.arrays[array][at, 0], wanted)
            draw += 1
    assert draw == 20


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_a_set_without_whole_slices_says_what_to_do(pairs: Prepared, layout: str) -> None:
    with pytest.raises(ConfigError, match=f"layout {layout} .* convert the set with ctpatch convert --layout slices"):
        opened(pairs, layout).batches(windows=WINDOWS)


def test_batch_size_ranks_prefetch_and_resuming_change_nothing(pairs: Prepared) -> None:
    ps = opened(pairs)
    options: dict[str, Any] = {"windows": WINDOWS, "seed": 3, "shuffle": True, **PLACED}
    whole = drawn(ps.batches(20, **options))
    assert drawn(ps.batches(7, prefetch=0, **options)) == whole
    shares = [drawn(ps.batches(3, rank=rank, world_size=3, **options)) for rank in range(3)]
    assert [shares[at % 3][at // 3] for at in range(20)] == whole
    for stop in range(1, 5):
        loader = ps.batches(5, **options)
        begun = iter(loader)
        before = [tuple(batch.columns["row"].tolist()) for _, batch in zip(range(stop), begun, strict=False)]
        other = ps.batches(5, **options)
        other.load_state_dict(loader.state_dict())
        rows = [*before, *(tuple(batch.columns["row"].tolist()) for batch in other)]
        assert [row for batch in rows for row in batch] == [row for _, row, _ in whole]


def test_each_epoch_has_windows_of_its_own(pairs: Prepared) -> None:
    loader = opened(pairs).batches(20, windows=WINDOWS, seed=3, **PLACED)
    first, second = drawn(loader), drawn(loader)
    assert [number for number, _, _ in first] == [number for number, _, _ in second] == sorted([0, 1, 2, 3] * 5)
    assert sum(one == other for one, other in zip(first, second, strict=True)) <= 1


def test_each_place_is_as_likely_as_any_other(tmp_path: Path) -> None:
    """Chi-square over all origins, the last row and column included; 99.9 % of such draws are below the bound."""
    made = make_split(tmp_path, [(12, 11)])
    build_one(made, layout="slices", config=ctpatch.PatchConfig(patch_size=8, stride=8))
    windows = ctpatch.RandomWindows(8, per_slice=6000)
    seen = Counter(
        (row, col) for _, row, col in drawn(ctpatch.open(made.out).batches(500, windows=windows, seed=11, **PLACED))
    )
    assert set(seen) == {(row, col) for row in range(5) for col in range(4)}
    chi_square = sum((count - 300) ** 2 / 300 for count in seen.values())
    assert chi_square < 43.8  # of 19 degrees of freedom


def test_one_patient_as_often_as_the_other(tmp_path: Path) -> None:
    patients = ["a"] * 6 + ["b"] * 2
    made = make_split(tmp_path, [(20, 20)] * 8, columns={"patient_id": patients})
    build_one(made, layout="slices", config=ctpatch.PatchConfig(patch_size=8, stride=8))
    windows = ctpatch.RandomWindows(8, per_slice=250)
    loader = ctpatch.open(made.out).batches(500, windows=windows, balance="patient_id", seed=1, **PLACED)
    seen = drawn(loader)
    assert len(seen) == 2000
    assert 900 < sum(number < 6 for number, _, _ in seen) < 1100  # 1000, of a deviation of 22
    # A slice that is drawn again has another window.
    assert len({(number, row, col) for number, row, col in seen if number == 7}) > 130


def test_the_same_flips_with_any_batch_size(pairs: Prepared) -> None:
    ps = opened(pairs)
    options: dict[str, Any] = {"windows": ctpatch.RandomWindows(20, 4), "seed": 3, "transform": FlipsAndRotations()}
    one, other = (np.concatenate([batch.arrays["image"] for batch in ps.batches(size, **options)]) for size in (5, 16))
    np.testing.assert_array_equal(one, other)
    plain = np.concatenate([batch.arrays["image"] for batch in ps.batches(16, **{**options, "transform": None})])
    assert not np.array_equal(one, plain)


def test_windows_that_a_rule_drops_are_drawn_again(pairs: Prepared) -> None:
    """The first attempt that the rule keeps is taken; what was redrawn and accepted is counted."""
    ps = opened(pairs)
    windows = ctpatch.RandomWindows((20, 24), 50, rules="dim: mean < 0.25", redraws=3)
    loader = ps.batches(8, windows=windows, seed=3, **PLACED)
    seen = drawn(loader)
    redrawn = accepted = 0
    for draw, found in enumerate(seen):
        number = draw // 50
        height, width = SHAPES[number]
        for attempt in range(4):
            first, second, *_ = words(3, 0, 4, draw, attempt)
            row, col = int(first * (height - 19)), int(second * (width - 23))
            mean = pairs.images["image"][number][row : row + 20, col : col + 24].astype(np.float64).mean()
            redrawn += attempt == 0 and mean < 0.25
            if mean >= 0.25:
                break
        else:
            accepted += 1
        assert found == (number, row, col)
    assert (loader.drawn.windows, loader.drawn.redrawn, loader.drawn.accepted) == (200, redrawn, accepted)
    assert 0 < accepted < redrawn


def test_the_rules_of_the_set(pairs: Prepared) -> None:
    build_one(pairs, layout="index", config=ctpatch.PatchConfig(patch_size=16, stride=16, drop="dim: mean < 0.25"))
    ps = ctpatch.open(pairs.out)
    by_name, by_set = (
        drawn(ps.batches(8, windows=ctpatch.RandomWindows(20, 20, rules=rules), **PLACED))
        for rules in ("dim: mean < 0.25", "set")
    )
    assert by_name == by_set != drawn(ps.batches(8, windows=ctpatch.RandomWindows(20, 20), **PLACED))


@pytest.mark.parametrize("mode", ["zero", "edge", "reflect"])
def test_a_slice_smaller_than_a_window_is_padded(pairs: Prepared, mode: Any) -> None:
    ps = opened(pairs)
    (batch,) = ps.batches(64, windows=ctpatch.RandomWindows((50, 60), 1, pad_mode=mode), **PLACED)
    names: dict[str, Any] = {"zero": "constant", "edge": "edge", "reflect": "reflect"}
    for at, image in enumerate(pairs.images["image"]):
        padded = np.pad(image, [(0, max(50 - image.shape[0], 0)), (0, max(60 - image.shape[1], 0))], mode=names[mode])
        row, col = batch.columns["row"][at], batch.columns["col"][at]
        assert col == 0
        np.testing.assert_array_equal(batch.arrays["image"][at, 0], padded[row : row + 50, col : col + 60])


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        (ctpatch.RandomWindows(64), r"slice 0 \(prepared/.* 40x50 pixels, less than a window of 64x64, as have 4 of 4"),
        (ctpatch.RandomWindows(8, rules="set"), "built without rules; give the rules themselves"),
    ],
)
def test_windows_that_do_not_fit_the_set(pairs: Prepared, windows: ctpatch.RandomWindows, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(pairs).batches(windows=windows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_size": 0}, "patch_size: wanted 1 to"),
        ({"patch_size": (8, 8, 8)}, "height and width"),
        ({"patch_size": 8.5}, "whole number"),
        ({"per_slice": 0}, "per_slice: wanted 1 to"),
        ({"redraws": -1}, "redraws: wanted 0 to"),
        ({"pad_mode": "none"}, "pad_mode: wanted edge, reflect, zero or None, got 'none'"),
    ],
)
def test_senseless_windows(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ctpatch.RandomWindows(**options)


def test_a_state_belongs_to_the_same_windows(pairs: Prepared) -> None:
    ps = opened(pairs)
    plain, random = ps.batches(4), ps.batches(4, windows=WINDOWS)
    for one, other in ((plain, random), (random, plain), (random, ps.batches(4, windows=ctpatch.RandomWindows(16, 5)))):
        with pytest.raises(ConfigError, match=r"state: (windows|patches) was"):
            one.load_state_dict(other.state_dict())


def test_slices_without_patches_are_left_out_of_both_layouts(tmp_path: Path) -> None:
    made = make_split(tmp_path, [(20, 20)] * 3, images=[np.full((20, 20), value, np.float32) for value in (0.5, 0, 1)])
    cfg = ctpatch.PatchConfig(patch_size=8, stride=8, drop="air: max == 0")
    seen = []
    for layout in ("slices", "index"):
        build_one(made, layout=layout, config=cfg, overwrite=layout == "index")
        loader = ctpatch.open(made.out).batches(8, windows=ctpatch.RandomWindows(8, 4), **PLACED)
        seen.append(drawn(loader))
    assert seen[0] == seen[1]
    assert {number for number, _, _ in seen[0]} == {0, 2}


def test_conditions_on_slices(pairs: Prepared) -> None:
    """Of the slice manifest and of columns that the set keeps; those of patches are not there."""
    made = make_split(pairs.root, SHAPES, dataset="kept", columns={"scanner": list("abab"), "dose": [1, 2, 3, 4.5]})
    ps = opened(made, keep_columns="scanner,dose")
    options: dict[str, Any] = {"windows": WINDOWS, "columns": ["slice_index", "scanner", "dose"]}
    (batch,) = ps.batches(64, subset="scanner = 'b' and dose > 2", **options)
    assert batch.columns["slice_index"].tolist() == [3] * 5
    (batch,) = ps.batches(64, **options)
    assert ps.codes("scanner") == ["a", "b"]
    assert batch.columns["scanner"].tolist() == [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5
    assert batch.columns["dose"].tolist() == np.repeat([1, 2, 3, 4.5], 5).tolist()
    with pytest.raises(RuleError, match=r"column 'std', which is not there; known are slice_index"):
        ps.batches(64, subset="std > 0", windows=WINDOWS)
