"""What values stand for in HU, by the mapping on record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import FormatError
from ctpatch.evaluating.scale import scale_of_manifest
from ctpatch.format.hu_scale import LODOPAB, HuScale
from ctpatch.prepare.values import PRESETS, STORED
from evaluations import PATIENTS, pair_split, write_meta
from helpers import build_one, change_meta

FULL = HuScale(kind="window", low_hu=-1024.0, high_hu=3072.0)


def manifest(tmp_path: Path, mapping: dict[str, Any], source: str = "dicom") -> Path:
    folder = tmp_path / "prepared" / "chest" / "test"
    folder.mkdir(parents=True)
    write_meta(folder.parent, "test", mapping, source)
    return folder / "test_manifest.csv"


@pytest.mark.parametrize("preset", list(PRESETS))
def test_undoes_what_prepare_did(tmp_path: Path, preset: str) -> None:
    mapping = PRESETS[preset]
    scale = scale_of_manifest(manifest(tmp_path, mapping.as_dict()), [tmp_path])
    assert scale is not None
    assert (scale.low_hu, scale.high_hu) == pytest.approx((mapping.low_hu, mapping.high_hu), abs=1e-9)
    hu = np.linspace(mapping.low_hu, mapping.high_hu, 50).reshape(5, 10)
    assert scale.to_hu(mapping.apply(hu)) == pytest.approx(hu, abs=3e-4)


def test_lodopab_is_stored_in_its_own_scale(tmp_path: Path) -> None:
    assert scale_of_manifest(manifest(tmp_path, STORED.as_dict(), "lodopab"), [tmp_path]) == LODOPAB
    # (HU * 0.01998 + 20) / 81.35858
    assert LODOPAB.to_hu(np.array([20 / 81.35858])) == pytest.approx([0.0], abs=1e-9)


@pytest.mark.parametrize(
    "mapping",
    [
        STORED.as_dict(),
        {"kind": "other", "low_hu": 0.0, "high_hu": 1.0},
        {"kind": "window", "low_hu": 3.0, "high_hu": 3.0},
        {"kind": "window", "low_hu": "0", "high_hu": 1.0},
        {},
    ],
)
def test_what_says_nothing_of_hu(tmp_path: Path, mapping: dict[str, Any]) -> None:
    assert scale_of_manifest(manifest(tmp_path, mapping), [tmp_path]) is None


def test_only_splits_on_record_have_it(tmp_path: Path) -> None:
    path = manifest(tmp_path, PRESETS["full"].as_dict())
    other = path.parents[1] / "extra" / "extra_manifest.csv"
    assert scale_of_manifest(path, []) == FULL
    assert scale_of_manifest(other, []) is None


def test_predictions_that_name_each_other_in_a_circle_have_none(tmp_path: Path) -> None:
    made = pair_split(tmp_path, PATIENTS)
    ps = ctpatch.open(build_one(made).folder)
    folder = ctpatch.predict(lambda batch: batch, ps, out=tmp_path, model_id="same")
    path = folder / "test_manifest.csv"
    assert scale_of_manifest(path, [tmp_path / "elsewhere", tmp_path]) == HuScale(
        kind="window", low_hu=-1024.0, high_hu=3072.0
    )
    assert scale_of_manifest(path, [tmp_path / "elsewhere"]) is None
    change_meta(
        ps.folder, lambda meta: meta.update(source_manifest="prepared/phantoms_predicted/test/test_manifest.csv")
    )
    assert scale_of_manifest(path, [tmp_path]) is None
    change_meta(ps.folder, lambda meta: meta.update(source_manifest="../outside/test_manifest.csv"))
    assert scale_of_manifest(path, [tmp_path]) is None


def test_a_damaged_record_is_no_scale(tmp_path: Path) -> None:
    path = manifest(tmp_path, PRESETS["full"].as_dict())
    meta = path.parents[1] / "prepare_meta.json"
    content = json.loads(meta.read_text())
    content["mapping"]["high_hu"] = 1.0
    meta.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="its digest does not hold"):
        scale_of_manifest(path, [])
