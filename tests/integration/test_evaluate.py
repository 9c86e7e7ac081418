"""Images evaluated as a user does: numbers by value, what is matched, what is refused, and what is written."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import ConfigError, NpyError, OutputConflictError, RangeError, SliceError, UsageError
from evaluations import FULL, PATIENTS, pair_split, soft, write_meta
from helpers import SMALL, Heard, Prepared, build_one, make_split, refusal, write_manifest

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install ctpatch[evaluate]")

TWO_EACH = (PATIENTS[0], PATIENTS[0], PATIENTS[1], PATIENTS[1], PATIENTS[1])


def in_hu(image: NDArray[Any], low: float = -1024.0, high: float = 3072.0) -> NDArray[np.float64]:
    return np.clip(image.astype(np.float64) * (high - low) + low, -160, 240)


def psnr(image: NDArray[Any], target: NDArray[Any], data_range: float) -> float:
    return 10 * math.log10(data_range**2 / float(np.mean((image - target) ** 2)))


def of_pairs(made: Prepared, **options: Any) -> ctpatch.Evaluation:
    return ctpatch.evaluate(made.folder, made.folder, array="target", **{"hu": (-160, 240), **options})


def test_numbers_of_slices_patients_and_the_set(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    heard = Heard()
    found = of_pairs(made, listener=heard, draws=100)
    wanted = [
        psnr(in_hu(image), in_hu(target), 400)
        for image, target in zip(made.images["image"], made.images["target"], strict=True)
    ]
    assert found.slices["psnr"].to_list() == pytest.approx(wanted, rel=1e-9)
    rmse = [400 / 10 ** (each / 20) for each in wanted]
    assert found.slices["rmse"].to_list() == pytest.approx(rmse, rel=1e-9)
    assert found.slices["patient"].to_list() == list(TWO_EACH)
    by_patient = [sum(wanted[:2]) / 2, sum(wanted[2:]) / 3]
    assert found.patients["psnr"].to_list() == pytest.approx(by_patient, rel=1e-9)
    assert found["psnr"].mean == pytest.approx(sum(by_patient) / 2, rel=1e-9)
    assert found["psnr"].mean_over_slices == pytest.approx(sum(wanted) / 5, rel=1e-9)
    assert found["psnr"].mean != pytest.approx(found["psnr"].mean_over_slices, rel=1e-3)
    assert (found["psnr"].low, found["psnr"].patients) == (None, 2)
    assert found.frame() == "window -160 to 240 HU, data range 400 HU"
    assert "2 patients are too few for an interval; wanted 5 or more." in found.notes
    assert sum(getattr(event, "steps", 0) for event in heard.events) == 5


def test_threads_change_nothing(tmp_path: Path) -> None:
    made = pair_split(tmp_path, [f"P{at:016x}" for at in range(7)])
    one, three = of_pairs(made), of_pairs(made, workers=3)
    assert one.as_dict() == three.as_dict()
    assert one["psnr"].low is not None
    assert of_pairs(made, seed=1)["psnr"].low != one["psnr"].low


def test_a_patch_set_is_compared_by_its_slices_whatever_its_layout(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    wanted = of_pairs(made)
    for layout in ("slices", "index", "shards"):
        ps = ctpatch.open(build_one(made, SMALL, layout=layout, out=tmp_path / "patches" / "phantoms" / "test").folder)
        assert wanted.slices.equals(ctpatch.evaluate(ps, ps, array="target", hu=(-160, 240)).slices)
        opened = ctpatch.open_slices(made.folder)
        assert wanted.slices.equals(ctpatch.evaluate(ps, opened, array="target", hu=(-160, 240)).slices)
        folder = str(ps.folder)
        assert wanted.slices.equals(ctpatch.evaluate(folder, made.manifest, array="target", hu=(-160, 240)).slices)
        ps.close()
        for path in sorted(ps.folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()


def test_a_prediction_has_the_scale_of_the_set_it_was_made_from(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    ps = ctpatch.open(build_one(made).folder)
    folder = ctpatch.predict(lambda batch: 0.25 + (batch - 0.25) / 2, ps, out=tmp_path, model_id="half")
    found = ctpatch.evaluate(folder, made.folder, input=ps, array="target", hu=(-160, 240))
    low = [
        psnr(in_hu(image), in_hu(target), 400)
        for image, target in zip(made.images["image"], made.images["target"], strict=True)
    ]
    assert found.slices["input_psnr"].to_list() == pytest.approx(low, rel=1e-9)
    halved = [np.load(folder / f"test_{number:06d}.npy") for number in range(5)]
    own = [psnr(in_hu(image), in_hu(target), 400) for image, target in zip(halved, made.images["target"], strict=True)]
    assert found.slices["psnr"].to_list() == pytest.approx(own, rel=1e-9)
    gains = [one - other for one, other in zip(own, low, strict=True)]
    assert found.slices["gain_psnr"].to_list() == pytest.approx(gains, rel=1e-9)
    assert min(found.slices["gain_rmse"]) > 0  # above 0 is better
    assert found["gain_psnr"].mean == pytest.approx(found["psnr"].mean - found["input_psnr"].mean, rel=1e-9)  # type: ignore[operator]
    # Another set of that name is not the one the model was given.
    ctpatch.build(made.folder, config=ctpatch.PatchConfig(patch_size=8, stride=8), overwrite=True)
    said = refusal(UsageError, lambda: ctpatch.evaluate(folder, made.folder, array="target", hu=(-160, 240)))
    assert "predicted (phantoms_predicted/test)" in said
    assert "--values-hu" in said


def test_each_side_is_mapped_by_its_own_scale(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    narrow = [(np.clip(in_hu(image), -160, 240) + 160) / 400 for image in made.images["image"]]
    images = [image.astype(np.float32) for image in narrow]
    other = make_split(tmp_path, images=images, dataset="narrow", split="test")
    write_meta(other.folder.parent, "test", {"kind": "window", "low_hu": -160.0, "high_hu": 240.0})
    found = ctpatch.evaluate(other.folder, made.folder, array="target", hu=(-160, 240))
    assert found.slices["psnr"].to_list() == pytest.approx(of_pairs(made).slices["psnr"].to_list(), rel=1e-4)
    said = refusal(UsageError, lambda: ctpatch.evaluate(other.folder, made.folder, array="target", data_range=1))
    assert "0 to 1 stand for other HU on each side (predicted -160 to 240 HU, target -1024 to 3072 HU)" in said
    wide = ctpatch.evaluate(other.folder, made.folder, array="target", hu=(-500, 500))
    assert any(note.startswith("predicted: the window reaches beyond the stored range") for note in wide.notes)


def test_scale_that_is_not_on_record(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH, known=False)
    said = refusal(UsageError, lambda: of_pairs(made))
    assert "predicted (phantoms/test) and target (phantoms/test)" in said
    found = of_pairs(made, values_hu=(-1024, 3072))
    assert any("as values_hu says; it is not on record" in note for note in found.notes)
    write_meta(made.folder.parent, "test", FULL)
    assert found.slices.equals(of_pairs(made).slices)
    assert "leave it out" in refusal(ConfigError, lambda: of_pairs(made, values_hu=(-1024, 3072)))
    plain = of_pairs(made, hu=None, data_range=1.0)
    assert plain.unit == "stored values"
    image, target = (made.images[name][0].astype(np.float64) for name in ("image", "target"))
    assert plain.slices["psnr"][0] == pytest.approx(psnr(image, target, 1.0), rel=1e-9)


def test_some_slices_of_a_prepared_split(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    some = other_table(made, index=[0, 1, 2])
    found = ctpatch.evaluate(some, some, array="target", hu=(-160, 240))
    assert found.slices["psnr"].to_list() == of_pairs(made).slices["psnr"].to_list()[:3]
    stray = make_split(tmp_path, images=soft(3), dataset="stray", split="test")
    other = other_table(made, path=stray.paths["image"])
    said = refusal(UsageError, lambda: ctpatch.evaluate(other, some, array="target", hu=(-160, 240)))
    assert "predicted (phantoms/other) are in HU is not on record" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hu": None}, "hu: missing"),
        ({"hu": (240, -160)}, "wanted the lowest and then a higher HU"),
        ({"hu": (math.nan, 1)}, "wanted the lowest and then a higher HU"),
        ({"data_range": 1.0}, "both are given"),
        ({"hu": None, "data_range": 0.0}, "wanted a number above 0"),
        ({"seed": -1}, "seed: -1"),
        ({"draws": 10}, "draws: 10"),
        ({"workers": 0}, "workers: 0"),
        ({"labels": [1]}, "leave out hu and data_range"),
        ({"array": None}, "has the arrays image, target; say which one is compared (--array)"),
        ({"array": "mask"}, "there is no array 'mask'"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    given = {"hu": (-160, 240), "array": "target", **options}
    assert said in refusal(ConfigError, lambda: ctpatch.evaluate(made.folder, made.folder, **given))


def test_what_is_compared_with_itself(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    said = refusal(UsageError, lambda: ctpatch.evaluate(made.folder, made.manifest, array="image", hu=(-160, 240)))
    assert "compared with itself" in said


def other_table(made: Prepared, **changed: list[Any]) -> Path:
    """A manifest of the same slices, with other columns."""
    with made.manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]} | changed
    count = min(len(values) for values in table.values())
    path = made.folder / "other_manifest.csv"
    write_manifest(path, {name: values[:count] for name, values in table.items()})
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"index": [0, 1, 2, 3]}, "1 of 5 slices of target (phantoms/test) are not in predicted"),
        ({"index": [0, 1, 2, 3, 9]}, "slice 9 (prepared/phantoms/test/test_000004.npy)"),
        ({"index": [1, 0, 2, 3, 4]}, "path differs in 2 of 5 slices; slice 0 has 'prepared/"),
        (
            {"patient_id": [*TWO_EACH[:4], "another"]},
            "patient_id differs in 1 of 5 slices; slice 4 has 'another' in predicted",
        ),
        ({"position_mm": [0, 1, 2, 3, 4.5]}, "position_mm differs in 1 of 5 slices; slice 4 has 4.5"),
        ({"spacing_row_mm": [0.7] * 4 + [0.8]}, "spacing_row_mm differs in 1 of 5 slices; slice 4 has 0.8"),
        ({"series": ["a", "a", "b", "b", "a"]}, "a series of"),
    ],
)
def test_slices_that_do_not_match_one_to_one(tmp_path: Path, changed: dict[str, list[Any]], said: str) -> None:
    columns = {"position_mm": [0, 1, 2, 3, 4], "spacing_row_mm": [0.7] * 5, "spacing_col_mm": [0.7] * 5}
    made = pair_split(tmp_path, TWO_EACH, columns={**columns, "series": ["s", "s", "t", "t", "t"]})
    other = other_table(made, **changed)
    assert said in refusal(UsageError, lambda: ctpatch.evaluate(other, made.manifest, array="target", data_range=1))
    assert ctpatch.evaluate(other_table(made), made.manifest, array="target", data_range=1).slices.height == 5


def test_rows_in_another_order_are_the_same_slices(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH, columns={"index": [4, 3, 2, 1, 0]})
    found = of_pairs(made)
    assert found.slices["slice_index"].to_list() == [0, 1, 2, 3, 4]
    wanted = [
        psnr(in_hu(image), in_hu(target), 400)
        for image, target in zip(made.images["image"], made.images["target"], strict=True)
    ]
    assert found.slices["psnr"].to_list() == pytest.approx(wanted[::-1], rel=1e-9)


def test_slices_of_different_shapes(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    np.save(made.file(3, "target"), np.zeros((24, 27), np.float32))
    with pytest.raises(SliceError, match="slice 3 has different shapes: predicted 24x28, target 24x27 pixels"):
        of_pairs(made)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    made.images["target"][2][4, 5] = value
    np.save(made.file(2, "target"), made.images["target"][2])
    with pytest.raises(RangeError, match=rf"target: slice 2 of phantoms/test holds {value} at \(4, 5\), in 1 pixels"):
        of_pairs(made)


def test_slices_that_equal_their_target_are_in_no_mean_of_psnr(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    for number in (0, 1):  # all of the first patient
        np.save(made.file(number, "target"), made.images["image"][number])
    found = of_pairs(made)
    assert found.slices["psnr"][0] == math.inf
    assert (found["psnr"].patients, found["psnr"].slices, found["psnr"].left_out) == (1, 3, 2)
    assert (found["ssim"].patients, found["ssim"].left_out) == (2, 0)
    assert found["psnr"].mean == found["psnr"].mean_over_slices
    assert any(note.startswith("2 slices equal their target") for note in found.notes)
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["slices"][0]["psnr"] is None
    assert found.worst(9)[-2:] == [0, 1]


def test_small_slices_have_no_ssim(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH, images=soft(5, (10, 30)))
    found = of_pairs(made)
    assert (found["ssim"].mean, found["ssim"].left_out) == (None, 5)
    assert "5 slices are smaller than SSIM's window and have no SSIM." in found.notes


def test_ids_stay_inside(tmp_path: Path) -> None:
    made = pair_split(tmp_path, ["Miller^Jane", "Miller^Jane", "Smith", "Smith", "Smith"])
    found = of_pairs(made)
    assert found.slices["patient"].to_list() == ["patient 1"] * 2 + ["patient 2"] * 3
    path = found.write_csv(tmp_path / "numbers.csv")
    written = path.read_text() + json.dumps(found.as_dict()) + repr(found) + found._repr_html_()
    assert not any(word in written for word in ("Miller", "Smith", str(tmp_path), ".npy"))


def test_without_patients(tmp_path: Path) -> None:
    made = pair_split(tmp_path, [PATIENTS[0], "", "", "", ""])
    found = of_pairs(made)
    assert (found["psnr"].mean, found.patients.height) == (None, 0)
    assert found["psnr"].mean_over_slices is not None
    assert any(note.startswith("4 slices name no patient") for note in found.notes)


def test_images_are_those_that_were_compared(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    found = of_pairs(made)
    images = found.images(2)
    assert sorted(images) == ["predicted", "target"]
    assert np.array_equal(images["target"], in_hu(made.images["target"][2]))
    with pytest.raises(KeyError, match="there is no slice 7"):
        found.images(7)
    with pytest.raises(KeyError, match="there is no number 'dice'"):
        found["dice"]
    assert found.worst(2) == [4, 3]
    assert repr(found).startswith("Evaluation(phantoms/test image against phantoms/test target: PSNR (dB) ")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    numbers = tmp_path / "numbers.csv"
    words = ["evaluate", str(made.folder), str(made.folder), "--array", "target", "--hu", "-160", "240"]
    assert main([*words, "--csv", str(numbers), "--draws", "200"]) == 0
    shown = capsys.readouterr().out
    found = of_pairs(made, draws=200)
    assert "window -160 to 240 HU, data range 400 HU" in shown
    assert f"{found['psnr'].mean:.2f}" in shown
    assert "percentile bootstrap over patients, 200 draws, seed 0" in shown
    table = pl.read_csv(numbers)
    assert table["psnr"].to_list() == pytest.approx(found.slices["psnr"].to_list())
    assert table.select("window_low_hu", "window_high_hu", "data_range", "unit").unique().rows() == [
        (-160.0, 240.0, 400.0, "HU")
    ]
    assert main([*words, "--json", "--csv", str(numbers)]) == 0  # an earlier table is replaced
    content = json.loads(capsys.readouterr().out)
    assert (content["window_hu"], content["data_range"], content["unit"]) == ([-160, 240], 400, "HU")
    assert content["set"][0]["mean"] == pytest.approx(found["psnr"].mean)
    assert content["interval"] == {"confidence": 0.95, "method": "percentile", "draws": 10_000, "seed": 0}
    numbers.write_text("mine\n")
    assert main([*words, "--csv", str(numbers)]) == 2
    assert "no table of slices of ctpatch" in capsys.readouterr().err
    assert numbers.read_text() == "mine\n"
    with pytest.raises(OutputConflictError):
        found.write_csv(numbers)


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    assert main(["evaluate", str(made.folder), str(tmp_path / "nowhere"), "--hu", "-160", "240"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["evaluate", str(made.folder), str(made.folder), "--labels", "1;2"]) == 2
    assert "wanted whole numbers above 0 as 1,2" in capsys.readouterr().err


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    np.save(made.file(1, "target"), np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(NpyError, match="holds pickled objects"):
        of_pairs(made)


def test_paths_stay_below_their_root(tmp_path: Path) -> None:
    made = pair_split(tmp_path, TWO_EACH)
    np.save(tmp_path.parent / "secret.npy", soft(1)[0])
    other = other_table(made, path=["../secret.npy", *made.paths["image"][1:]])
    with pytest.raises(ctpatch.CtPatchError, match="leaves the data root"):
        ctpatch.evaluate(other, made.manifest, array="target", data_range=1)
