"""Values outside the range by rounding are clipped, once and everywhere the same way; those further out are refused."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.core.rounding import inner_bounds, is_rounding, rounding_margin, shown_number, without_rounding
from ctpatch.errors import RangeError
from helpers import LAYOUTS, SMALL, Heard, Image, Prepared, build_one, change_meta, csv_rows, make_split, small_parts

ABOVE = float.fromhex("0x1.000002p+0")
"""The float32 after 1."""


def with_values(values: dict[tuple[int, int], float], seed: int = 0) -> Image:
    image = np.random.default_rng(seed).random((40, 48), dtype=np.float32) * np.float32(0.9)
    for place, value in values.items():
        image[place] = value
    return image


def rounded(root: Path, **more: Any) -> Prepared:
    """Three slices: one in the range, with a negative zero; one above it; one below it."""
    images = [
        with_values({(0, 0): -0.0}, 1),
        with_values({(3, 4): ABOVE, (39, 47): ABOVE, (5, 5): -0.0, (6, 6): 1.0}, 2),
        with_values({(8, 9): -1e-7, (20, 20): 0.0}, 3),
    ]
    return make_split(root, images=images, **more)


def clipped(image: Image) -> Image:
    """An independent reference: pixel by pixel, in Python."""
    wanted = image.copy()
    for place, value in np.ndenumerate(image):
        if value > 1:
            wanted[place] = 1.0
        elif value < 0:
            wanted[place] = 0.0
    return wanted


def patches_of(image: Image) -> list[bytes]:
    return [
        image[row : row + 16, col : col + 16].tobytes()
        for row in range(0, image.shape[0] - 15, 8)
        for col in range(0, image.shape[1] - 15, 8)
    ]


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        (ABOVE, True),
        (1 + 4 * 2**-23, True),
        (1 + 5 * 2**-23, False),
        (1.00001, False),
        (-1e-7, True),
        (-4 * 2**-23, True),
        (-5e-7, False),
        (float("nan"), False),
        (float("inf"), False),
    ],
)
def test_how_far_rounding_reaches(value: float, inside: bool) -> None:
    assert is_rounding(value, value, (0.0, 1.0)) is inside
    image = np.array([[0.5, value]], np.float32)
    result = without_rounding(image, (0.0, 1.0))
    assert (result is not image) is inside
    if inside:
        assert result[0, 0] == 0.5
        assert result[0, 1] == (1.0 if value > 0 else 0.0)


@pytest.mark.parametrize(
    ("values", "steps"),
    [((0.0, 1.0), 4 * 2**-23), ((-1024.0, 3071.0), 4 * 2**-12), ((-1000.0, 0.0), 4 * 2**-14), ((0.0, 1e300), 0.0)],
)
def test_the_margin_is_four_steps_at_the_larger_bound(values: tuple[float, float], steps: float) -> None:
    assert rounding_margin(values) == steps


def test_bounds_that_are_no_float32_are_taken_inwards() -> None:
    low, high = inner_bounds((0.1, 0.7))
    assert float(np.nextafter(low, np.float32(0))) < 0.1 <= float(low)
    assert float(high) <= 0.7 < float(np.nextafter(high, np.float32(1)))
    assert [float(bound) for bound in inner_bounds((0.0, 1.0))] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("value", "text"), [(np.float32(ABOVE), "1.0000001"), (np.float32(0.1), "0.1"), (3071.0, "3071"), (0.25, "0.25")]
)
def test_numbers_are_shown_with_all_their_digits(value: float, text: str) -> None:
    assert shown_number(value) == text


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad_mode", ["none", "shift", "zero", "edge"])
def test_a_set_holds_clipped_values_and_says_so_once(tmp_path: Path, layout: Any, pad_mode: Any) -> None:
    prepared, heard = rounded(tmp_path), Heard()
    config = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=pad_mode)
    result = build_one(prepared, config, layout=layout, listener=heard)
    (notice,) = heard.notices("clipped")
    assert "train_000001.npy holds 1.0000001192092896 at row 3, col 4 (2 such pixels), outside 0 to 1" in notice
    assert result.meta.num_clipped == 2
    assert json.loads((prepared.out / "patch_meta.json").read_text())["num_clipped"] == 2
    assert [(float(row["min"]), float(row["max"])) for row in csv_rows(prepared.out / "slice_manifest.csv")][1:] == [
        (0.0, 1.0),
        (0.0, float(prepared.images["image"][2].max())),
    ]
    ps = ctpatch.open(prepared.out)
    for number, image in enumerate(prepared.images["image"]):
        assert ps.slice(number).tobytes() == clipped(image).tobytes()
    if pad_mode == "none":
        wanted = [patch for image in prepared.images["image"] for patch in patches_of(clipped(image))]
        assert [np.asarray(patch).tobytes() for patch in ps] == wanted
        kept = ctpatch.open(prepared.out, in_memory=True)
        assert [patch.tobytes() for patch in kept.read(range(len(kept)))] == wanted
    report = ctpatch.verify(prepared.out, deep=True)
    assert report.findings == []
    assert build_one(prepared, config, layout=layout, strict=True).outcome == "complete"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("from_layout", ["files", "index"])
def test_a_conversion_gives_the_bytes_of_a_build(tmp_path: Path, layout: Any, from_layout: Any) -> None:
    prepared = rounded(tmp_path)
    build_one(prepared, layout=from_layout)
    wanted = build_one(prepared, layout=layout, out=tmp_path / "patches/phantoms/built")
    made = ctpatch.convert(prepared.out, tmp_path / "patches/phantoms/converted", layout=layout)
    assert made.meta.num_clipped == wanted.meta.num_clipped == 2
    assert (made.meta.fingerprint, made.meta.source_digest) == (wanted.meta.fingerprint, wanted.meta.source_digest)
    assert ctpatch.verify(made.folder, deep=True).findings == []
    first, second = ctpatch.open(wanted.folder), ctpatch.open(made.folder)
    assert first.read(range(len(first))).tobytes() == second.read(range(len(second))).tobytes()


def test_the_layout_index_without_its_note_would_give_other_pixels(tmp_path: Path) -> None:
    """What `num_clipped` is for: it is the one thing that tells a reader of sources to clip."""
    prepared = rounded(tmp_path)
    build_one(prepared, layout="index")
    change_meta(prepared.out, lambda meta: meta.pop("num_clipped"))
    report = ctpatch.verify(prepared.out, deep=True)
    assert not report.ok
    assert any("num_clipped is None" in each.message for each in report.findings)


def test_a_build_that_was_cut_off_goes_on_and_keeps_its_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=1)
    prepared = rounded(tmp_path)
    np.save(prepared.file(2), with_values({(1, 1): 2.0}))
    with pytest.raises(RangeError):
        build_one(prepared)
    np.save(prepared.file(2), prepared.images["image"][2])
    heard = Heard()
    result = build_one(prepared, listener=heard)
    assert (result.outcome, result.meta.num_clipped) == ("resumed", 2)
    assert len(heard.notices("clipped")) == 1
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_ordinary_sets_and_receipts_do_not_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=1)
    prepared = make_split(tmp_path)
    np.save(prepared.file(2), prepared.images["image"][2] + np.float32(1))
    with pytest.raises(ctpatch.CtPatchError):
        build_one(prepared)
    for receipt in (prepared.out / ".ctpatch").glob("*.receipt.json"):
        assert "clipped" not in json.loads(receipt.read_bytes())
    np.save(prepared.file(2), prepared.images["image"][2])
    meta = json.loads((build_one(prepared).folder / "patch_meta.json").read_text())
    assert {"num_clipped", "source_paths"}.isdisjoint(meta)


def test_a_target_is_clipped_and_a_mask_is_not(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, arrays={"target": np.float32, "mask": np.float32})
    target, mask = prepared.images["target"][1], prepared.images["mask"][1]
    target[2, 2], mask[3, 3] = ABOVE, ABOVE
    np.save(prepared.file(1, "target"), target)
    np.save(prepared.file(1, "mask"), mask)
    for layout in LAYOUTS:
        out = tmp_path / "patches/phantoms" / layout
        assert build_one(prepared, layout=layout, out=out).meta.num_clipped == 1
        found = ctpatch.open(out).slice(1)
        assert isinstance(found, dict)
        assert found["target"].max() == 1.0
        assert found["mask"][3, 3] == np.float32(ABOVE)
        assert ctpatch.verify(out, deep=True).findings == []


def test_values_beyond_rounding_are_refused_with_their_digits(tmp_path: Path) -> None:
    image = with_values({(3, 4): ABOVE, (5, 6): 1.00001})
    prepared = make_split(tmp_path, images=[image])
    with pytest.raises(RangeError) as caught:
        build_one(prepared)
    assert "holds 1.0000100135803223 at row 5, col 6 (1 such pixels), wanted values from 0 to 1" in str(caught.value)
    with pytest.raises(RangeError, match=r"wanted values from 0 to 0\.1234567;"):
        build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, value_range=(0, 0.1234567)))


def test_a_bound_that_is_no_float32(tmp_path: Path) -> None:
    """0.1 as float32 is above 0.1: a slice that was clipped to 0.1 in float32 is in the range 0 to 0.1."""
    image = with_values({}) * np.float32(0.1)
    image[4, 4] = 0.1
    prepared = make_split(tmp_path, images=[image])
    result = build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, value_range=(0, 0.1)))
    assert result.meta.num_clipped == 1
    assert float(ctpatch.open(prepared.out).slice(0).max()) <= 0.1
    assert ctpatch.verify(prepared.out, deep=True).findings == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rules", [(), ("some: max > 3",)])
def test_a_float_mask_that_rules_look_at_is_finite(tmp_path: Path, bad: float, rules: tuple[str, ...]) -> None:
    prepared = make_split(tmp_path, arrays={"mask": np.float32})
    mask = prepared.images["mask"][1]
    mask[7, 9] = bad
    np.save(prepared.file(1, "mask"), mask)
    config = ctpatch.PatchConfig(patch_size=16, stride=8, rules_on="mask", drop=rules)
    with pytest.raises(RangeError) as caught:
        build_one(prepared, config)
    assert f"train_000001_mask.npy holds {bad} at row 7, col 9 (1 such pixels)" in str(caught.value)
    assert "rules look at mask" in str(caught.value)
    result = build_one(prepared, config, on_error="skip", overwrite=True)
    assert result.meta.num_skipped == 1
    assert ctpatch.verify(prepared.out, deep=True).findings == []


def test_a_float_mask_that_rules_do_not_look_at_may_hold_anything(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, arrays={"mask": np.float32})
    mask = prepared.images["mask"][1]
    mask[7, 9] = np.nan
    np.save(prepared.file(1, "mask"), mask)
    build_one(prepared, SMALL)
    assert ctpatch.verify(prepared.out, deep=True).findings == []


def test_lodopab_values_that_rounding_put_above_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    with h5py.File(raw / "ground_truth_test_000.hdf5", "w") as file:
        data = file.create_dataset("data", (128, 362, 362), "f4", chunks=(1, 362, 362), compression="gzip")
        data[0] = np.full((362, 362), ABOVE, np.float32)
        data[1] = np.full((362, 362), 0.5, np.float32)
    arguments = ["prepare", "lodopab", str(raw), "--out", str(out), "--dataset", "x", "--key", str(tmp_path / "key")]
    assert main([*arguments, "--new-key"]) == 0
    assert capsys.readouterr().err.count("takes this for rounding and clips them (said once)") == 1
    rows = csv_rows(out / "prepared/x/test/test_manifest.csv")
    assert [(row["min"], row["max"]) for row in rows] == [("1.0", "1.0"), ("0.5", "0.5")]
    with h5py.File(raw / "ground_truth_test_000.hdf5", "r+") as file:
        file["data"][1] = np.full((362, 362), 1.00001, np.float32)
    assert main([*arguments, "--overwrite"]) == 1
    assert "reaches from 1.00001 to 1.00001, wanted LoDoPaB-CT's [0, 1]" in capsys.readouterr().err
