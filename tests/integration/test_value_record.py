"""The record of how pixels are spread: by value against all patches at once, and the same however a set came to be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.cli.app import main
from ctpatch.core.spread import PERCENTS
from ctpatch.cutting import values as cutting_values
from helpers import (
    LAYOUTS,
    PAD_MODES,
    SMALL,
    Prepared,
    build_one,
    change_meta,
    make_split,
    reference_set,
    small_parts,
)

SHAPES = [(40, 50)] * 5 + [(33, 47), (10, 12)]
RULES = SMALL.with_rules(ctpatch.Rule(name="air", condition="air_fraction > 0.6"))


def record(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "patch_meta.json").read_text())["values"]
    return values


def assert_spread(found: dict[str, Any], pixels: NDArray[Any], sampled: NDArray[Any], width: float) -> None:
    """`sampled` is what percentiles come from; all pixels, where all are sampled."""
    values = pixels.astype(np.float64)
    assert (found["count"], found["sampled"]) == (values.size, sampled.size)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-9)
    assert found["std"] == pytest.approx(values.std(), rel=1e-9)
    wanted = [float(np.percentile(sampled, percent, method="inverted_cdf")) for percent in PERCENTS]
    assert np.abs(np.array(found["percentiles"]) - wanted).max() <= width * (1 + 1e-6)


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_it_is_that_of_all_patches_and_slices(tmp_path: Path, pad_mode: Any) -> None:
    prepared = make_split(tmp_path, SHAPES, arrays={"target": "f4", "mask": "u1"})
    config = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=pad_mode)
    build_one(prepared, config, layout="index")
    found = record(prepared.out)
    assert (found["every"], found["bins"]) == (1, {"low": 0.0, "high": 1.0, "number": 2048})
    assert found["percents"] == list(PERCENTS)
    assert list(found["arrays"]) == ["image", "target"]
    for array, spreads in found["arrays"].items():
        images = prepared.images[array]
        _, patches = reference_set(images, pad_mode=pad_mode)
        assert_spread(spreads["patches"], patches, patches, 1 / 2048)
        whole = np.concatenate([image.ravel() for image in images])
        assert_spread(spreads["slices"], whole, whole, 1 / 2048)


@pytest.mark.parametrize("rules_on", ["image", "target", "mask"])
def test_dropped_windows_are_not_in_it(tmp_path: Path, rules_on: str) -> None:
    prepared = make_split(tmp_path, SHAPES, arrays={"target": "f4", "mask": "u1"})
    condition = "mean < 2" if rules_on == "mask" else "air_fraction > 0.6"
    config = ctpatch.PatchConfig(patch_size=16, stride=8, drop=f"few: {condition}", rules_on=rules_on)
    result = build_one(prepared, config, layout="slices")
    assert result.meta.num_rejected > 0
    ps = ctpatch.open(prepared.out, arrays=["image", "target"])
    for array, patches in ps.read(range(len(ps))).items():
        assert_spread(record(prepared.out)["arrays"][array]["patches"], patches, patches, 1 / 2048)


@pytest.mark.parametrize("config", [SMALL, RULES], ids=["all", "rules"])
def test_rows_are_sampled_as_the_record_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: ctpatch.PatchConfig
) -> None:
    monkeypatch.setattr(cutting_values, "_SAMPLED_IN_ALL", 1)
    monkeypatch.setattr(cutting_values, "_SAMPLED_PER_SLICE", 300)
    monkeypatch.setattr(cutting_values, "_RUN_SAMPLES", 500)
    prepared = make_split(tmp_path, [(40, 50)] * 6, arrays={"target": "f4"}, columns={"index": [3, 4, 8, 9, 11, 12]})
    build_one(prepared, config)
    found = record(prepared.out)
    every = found["every"]
    assert every == 40 * 50 // 300
    ps = ctpatch.open(prepared.out, arrays=["image", "target"])
    for array in ("image", "target"):
        rows, kept = [], []
        for index, image in zip([3, 4, 8, 9, 11, 12], prepared.images[array], strict=True):
            rows += [image[row] for row in range(40) if (row + index) % every == 0]
        for number, patch in zip(ps.manifest.rows(named=True), ps.read(range(len(ps)))[array], strict=True):
            kept += [
                line for row, line in enumerate(patch, number["row"]) if (row + number["slice_index"]) % every == 0
            ]
        spreads = found["arrays"][array]
        assert spreads["slices"]["sampled"] == np.concatenate(rows).size
        assert spreads["slices"]["mean"] == pytest.approx(np.concatenate(rows).astype(np.float64).mean(), rel=1e-9)
        assert (spreads["slices"]["min"], spreads["slices"]["max"]) == (
            min(image.min() for image in prepared.images[array]),
            max(image.max() for image in prepared.images[array]),
        )
        sampled = np.concatenate(kept)
        patches = ps.read(range(len(ps)))[array]
        if array == "image":  # rules look at it: its window statistics are there, and count every pixel
            assert_spread(spreads["patches"], patches, sampled, 1 / 2048)
        else:
            assert spreads["patches"]["count"] == patches.size
            assert_spread({**spreads["patches"], "count": sampled.size}, sampled, sampled, 1 / 2048)
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_workers_shares_and_layouts_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting_values, "_RUN_SAMPLES", 3000)
    prepared = make_split(tmp_path, [(40, 50)] * 5, arrays={"target": "f4"})
    small_parts(monkeypatch, slices=2, packed_windows=40)
    build_one(prepared, RULES, layout="index", out=tmp_path / "one")
    wanted = record(tmp_path / "one")
    build_one(prepared, RULES, layout="index", out=tmp_path / "two", workers=2)
    for share in ("2/2", "1/2"):
        ctpatch.build_share(prepared.folder, share, RULES, layout="index", out=tmp_path / "shares")
    ctpatch.merge(tmp_path / "shares", data_root=tmp_path)
    assert record(tmp_path / "two") == record(tmp_path / "shares") == wanted


def test_layouts_and_conversions_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make_split(tmp_path, [(40, 50)] * 5, arrays={"target": "f4"})
    small_parts(monkeypatch, slices=2, packed_windows=40)
    for layout in LAYOUTS:
        build_one(prepared, RULES, layout=layout, out=tmp_path / layout)
        assert record(tmp_path / layout)["arrays"]["image"]["patches"]["count"] > 0
    for start, layout in (("index", "files"), ("files", "shards"), ("shards", "slices"), ("slices", "index")):
        ctpatch.convert(tmp_path / start, tmp_path / "converted", layout=layout, data_root=tmp_path, overwrite=True)
        assert record(tmp_path / "converted") == record(tmp_path / layout)


def test_converted_with_fewer_patches_it_is_that_of_those(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, SHAPES, arrays={"target": "f4"})
    build_one(prepared, layout="shards")
    ctpatch.convert(prepared.out, tmp_path / "kept", keep="air_fraction <= 0.6", layout="files")
    ps = ctpatch.open(tmp_path / "kept", arrays=["image", "target"])
    assert 0 < len(ps) < len(ctpatch.open(prepared.out, arrays=["image", "target"]))
    for array, patches in ps.read(range(len(ps))).items():
        assert_spread(record(tmp_path / "kept")["arrays"][array]["patches"], patches, patches, 1 / 2048)
        assert record(tmp_path / "kept")["arrays"][array]["slices"] == record(prepared.out)["arrays"][array]["slices"]
    assert ctpatch.verify(tmp_path / "kept", deep=True, data_root=tmp_path).ok


def test_a_set_without_patches_has_a_record_without_numbers(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(8, 9)])
    build_one(prepared)
    found = record(prepared.out)["arrays"]["image"]
    assert found["patches"]["mean"] is found["patches"]["percentiles"] is None
    assert found["patches"]["count"] == 0
    assert found["slices"]["count"] == 72
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.fixture
def pairs(tmp_path: Path) -> Prepared:
    prepared = make_split(tmp_path, SHAPES, arrays={"target": "f4"})
    build_one(prepared, RULES, layout="index")
    return prepared


FORGED = [
    ("image", "patches", "mean", True),
    ("image", "patches", "std", True),
    ("image", "patches", "max", True),
    ("image", "patches", "count", True),
    ("target", "patches", "count", True),
    ("image", "slices", "min", True),
    ("target", "slices", "count", True),
    ("image", "slices", "mean", False),
    ("target", "patches", "mean", False),
    ("target", "patches", "sampled", False),
    ("target", "slices", "max", False),
]


@pytest.mark.parametrize(("array", "scope", "name", "plain"), FORGED)
def test_verify_finds_what_was_changed(pairs: Prepared, array: str, scope: str, name: str, plain: bool) -> None:
    def forge(meta: dict[str, Any]) -> None:
        spread = meta["values"]["arrays"][array][scope]
        spread[name] += 1 if isinstance(spread[name], int) else 1e-6

    change_meta(pairs.out, forge)
    assert ctpatch.verify(pairs.out).ok is not plain
    report = ctpatch.verify(pairs.out, deep=True)
    assert any(f"values.arrays.{array}.{scope}.{name}" in each.message for each in report.findings)


def test_verify_finds_other_percentiles(pairs: Prepared) -> None:
    change_meta(pairs.out, lambda meta: meta["values"]["arrays"]["image"]["slices"]["percentiles"].reverse())
    assert not ctpatch.verify(pairs.out).ok
    change_meta(pairs.out, lambda meta: meta["values"]["arrays"]["image"]["slices"]["percentiles"].sort())
    assert ctpatch.verify(pairs.out, deep=True).ok
    change_meta(pairs.out, lambda meta: meta["values"].update(every=2))
    assert ctpatch.verify(pairs.out).ok
    assert not ctpatch.verify(pairs.out, deep=True).ok


def test_a_record_of_other_arrays_does_not_fit(pairs: Prepared) -> None:
    change_meta(pairs.out, lambda meta: meta["values"]["arrays"].pop("target"))
    with pytest.raises(ctpatch.CtPatchError, match="values: wanted those of image, target"):
        ctpatch.open(pairs.out)


def test_sets_without_it_are_sets(pairs: Prepared) -> None:
    """As earlier versions wrote them."""
    change_meta(pairs.out, lambda meta: meta.pop("values"))
    assert ctpatch.verify(pairs.out, deep=True).ok
    ctpatch.convert(pairs.out, pairs.root / "converted", layout="slices", data_root=pairs.root)
    assert "values" not in json.loads((pairs.root / "converted/patch_meta.json").read_text())


def test_info_shows_it(pairs: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(pairs.out)]) == 0
    found = record(pairs.out)["arrays"]
    said = capsys.readouterr().out
    for array in ("image", "target"):
        spread = found[array]["patches"]
        assert f"{array} in patches: mean {spread['mean']:.6g}, std {spread['std']:.6g}" in said
