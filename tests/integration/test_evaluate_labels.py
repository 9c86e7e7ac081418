"""Labels evaluated as a user does: Dice of volumes, HD95 of slices, and what is absent."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import ConfigError, SliceError, UsageError
from evaluations import PATIENTS, soft
from helpers import Prepared, build_one, make_split, refusal

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install ctpatch[evaluate]")

SPACING: dict[str, list[Any]] = {"spacing_row_mm": [0.5] * 4, "spacing_col_mm": [2.0] * 4}
Labels = NDArray[np.uint8]


def box(*where: tuple[int, int, int, int, int]) -> Labels:
    """Boxes of labels: label, first and last row and column, half-open."""
    image = np.zeros((20, 24), np.uint8)
    for label, top, bottom, left, right in where:
        image[top:bottom, left:right] = label
    return image


TARGETS = [
    box((1, 2, 8, 2, 8), (2, 10, 14, 3, 9)),
    box((1, 2, 8, 2, 8)),
    box((1, 4, 12, 4, 12)),
    box(),
]
PREDICTED = [
    box((1, 4, 10, 2, 8), (2, 10, 14, 3, 9)),  # label 1 is 2 rows lower
    box((1, 2, 8, 5, 11), (2, 15, 16, 1, 3)),  # label 1 is 3 columns to the right; label 2 on this side alone
    box(),  # label 1 on the other side alone
    box(),
]


def label_split(root: Path, masks: list[Labels], dataset: str, **columns: list[Any]) -> Prepared:
    """A split of slices with masks."""
    who = {"patient_id": [PATIENTS[0]] * 2 + [PATIENTS[1]] * 2, **columns}
    made = make_split(
        root, images=soft(4, (20, 24)), arrays={"mask": np.uint8}, dataset=dataset, split="test", columns=who
    )
    for number, mask in enumerate(masks):
        np.save(made.file(number, "mask"), mask)
    return made


def sides(root: Path, **columns: list[Any]) -> tuple[Prepared, Prepared]:
    return label_split(root, PREDICTED, "predicted"), label_split(root, TARGETS, "target", **columns)


def compare(predicted: Any, target: Any, **options: Any) -> ctpatch.Evaluation:
    return ctpatch.evaluate(predicted, target, array="mask", predicted_array="mask", **options)


def test_dice_and_distances(tmp_path: Path) -> None:
    predicted, target = sides(tmp_path, **SPACING)
    found = compare(predicted.folder, target.folder)
    assert (found.kind, found.unit, found.frame()) == ("labels", "mm", "distances in mm")
    rows = {(row["slice_index"], row["label"]): row for row in found.slices.iter_rows(named=True)}
    assert sorted(rows) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]  # no row where neither side has it
    assert rows[0, 1]["dice"] == 2 * 24 / 72
    assert rows[0, 2] == rows[0, 2] | {"dice": 1.0, "hd95": 0.0}
    assert rows[1, 1]["dice"] == 2 * 18 / 72
    assert (rows[1, 2]["dice"], rows[1, 2]["hd95"]) == (0.0, None)
    assert (rows[2, 1]["dice"], rows[2, 1]["hd95"], rows[2, 1]["target_pixels"]) == (0.0, None, 64)
    # 2 rows of 0.5 mm lower: the 6 pixels of an end are 30 % of an outline of 20, more than the 5 % left out.
    assert rows[0, 1]["hd95"] == pytest.approx(1.0)
    assert rows[1, 1]["hd95"] == pytest.approx(6.0)  # 3 columns of 2 mm
    volumes = {(row["patient"], row["label"]): row for row in found.patients.iter_rows(named=True)}
    assert sorted(volumes) == [(PATIENTS[0], 1), (PATIENTS[0], 2), (PATIENTS[1], 1)]
    assert volumes[PATIENTS[0], 1]["dice"] == 2 * (24 + 18) / (72 + 72)
    assert volumes[PATIENTS[0], 1]["hd95"] == pytest.approx(3.5)
    assert volumes[PATIENTS[0], 2]["dice"] == 2 * 24 / (24 + 26)
    assert volumes[PATIENTS[1], 1]["dice"] == 0.0
    one = found["dice", 1]
    assert one.mean == pytest.approx((volumes[PATIENTS[0], 1]["dice"] + 0.0) / 2)
    assert one.mean_over_slices == pytest.approx((48 / 72 + 36 / 72 + 0.0) / 3)
    distance = found["hd95", 1]
    assert distance.mean == pytest.approx(3.5)
    assert (distance.patients, distance.left_out) == (1, 1)
    assert "2 times a slice has a label on one side alone: Dice 0 there, and no HD95." in found.notes
    assert found.worst(1) == [2]
    assert set(found.images(0)) == {"predicted", "target"}


def test_distances_are_in_pixels_where_a_spacing_is_not_known(tmp_path: Path) -> None:
    predicted, target = sides(tmp_path, **(SPACING | {"spacing_row_mm": [0.5, 0.5, 0.5, ""]}))
    found = compare(predicted.folder, target.folder)
    assert found.unit == "pixels"
    assert found.slices["hd95"].to_list()[:3] == [2.0, 0.0, 3.0]
    assert "Distances are in pixels: only 3 of 4 slices have a spacing." in found.notes


def test_a_patch_set_takes_the_spacing_of_its_manifest(tmp_path: Path) -> None:
    predicted, target = sides(tmp_path, **SPACING)
    wanted = compare(predicted.folder, target.folder)
    found = compare(build_one(predicted).folder, ctpatch.open(build_one(target).folder))
    assert found.slices.equals(wanted.slices)


def test_labels_that_were_named(tmp_path: Path) -> None:
    predicted, target = sides(tmp_path)
    found = compare(predicted.folder, target.folder, labels=[2, 5])
    assert found.slices["label"].unique().to_list() == [2]
    assert "Label 5 is in no slice." in found.notes
    assert "holds a label of 5" in refusal(UsageError, lambda: compare(predicted.folder, target.folder, labels=[5]))
    for labels in ([], [0], [1, 1], [1.0]):
        assert "labels:" in refusal(ConfigError, partial(compare, predicted.folder, target.folder, labels=labels))


def test_predicted_labels_in_float_are_labels_where_they_are_whole(tmp_path: Path) -> None:
    predicted, target = sides(tmp_path)
    wanted = compare(predicted.folder, target.folder)
    for number, mask in enumerate(PREDICTED):
        np.save(predicted.file(number, "mask"), mask.astype(np.float32))
    assert compare(predicted.folder, target.folder).slices.equals(wanted.slices)
    np.save(predicted.file(1, "mask"), np.full((20, 24), 0.5, np.float32))
    with pytest.raises(SliceError, match=r"predicted: slice 1 of predicted/test holds 0.5 at \(0, 0\), wanted labels"):
        compare(predicted.folder, target.folder)
    np.save(predicted.file(1, "mask"), np.full((20, 24), -1, np.int16))
    with pytest.raises(SliceError, match=r"holds -1 at \(0, 0\)"):
        compare(predicted.folder, target.folder)


def test_a_model_that_gives_labels(tmp_path: Path) -> None:
    _, target = sides(tmp_path)
    ps = ctpatch.open(build_one(target).folder)
    folder = ctpatch.predict(
        lambda batch: (batch > 0.25).astype(np.uint8), ps, out=tmp_path, dataset="seg", model_id="x"
    )
    found = ctpatch.evaluate(folder, target.folder, array="mask")
    wanted = np.load(target.file(0)) > 0.25
    both = np.count_nonzero(wanted & (TARGETS[0] == 1))
    row = found.slices.row(0, named=True)
    assert row["dice"] == 2 * both / (np.count_nonzero(wanted) + np.count_nonzero(TARGETS[0] == 1))


def test_options_of_images(tmp_path: Path) -> None:
    predicted, target = sides(tmp_path)
    given: list[dict[str, Any]] = [{"hu": (-160, 240)}, {"data_range": 1.0}]
    for options in given:
        said = refusal(ConfigError, partial(compare, predicted.folder, target.folder, **options))
        assert "the array mask of target/test holds labels" in said
    said = refusal(ConfigError, lambda: compare(predicted.folder, target.folder, input=target.folder))
    assert said.startswith("input: labels are compared")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predicted, target = sides(tmp_path, **SPACING)
    words = ["evaluate", str(predicted.folder), str(target.folder), "--array", "mask", "--predicted-array", "mask"]
    assert main([*words, "--labels", "1", "--csv", str(tmp_path / "labels.csv")]) == 0
    shown = capsys.readouterr().out
    assert "Dice, label 1" in shown
    assert "HD95 (mm), label 1" in shown
    assert "is measured in each slice (2-D), in mm" in shown
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(each["metric"], each["label"]) for each in content["set"]] == [
        ("dice", 1),
        ("hd95", 1),
        ("dice", 2),
        ("hd95", 2),
    ]
    assert (content["unit"], content["window_hu"], content["data_range"]) == ("mm", None, None)
