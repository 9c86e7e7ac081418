"""Loaders that show slices through windows of HU, held against plain arithmetic on the raw files' own values."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pydicom", reason="pydicom is not installed")

import ctpatch
from ctpatch.cli.app import main
from ctpatch.core.attenuation import MAX_HU, MU_MAX, MU_PER_HU, MU_WATER
from ctpatch.errors import ConfigError
from ctpatch.prepare.api import prepare_dicom
from dicom_files import write_series
from helpers import SMALL, change_meta, make_split, refusal


def prepared(where: Path, **options: Any) -> tuple[Path, NDArray[np.float64]]:
    """A set from raw slices, and its patches in HU, one after the other."""
    write_series(where / "raw", 2)
    key = where / "my.key"
    key.write_bytes(b"0123456789abcdef" * 4)
    prepare_dicom(where / "raw", where / "root", "set", split=["train=1"], key=key, **options)
    (result,) = ctpatch.build(where / "root/prepared/set/train", config=SMALL, layout="slices")
    ps = ctpatch.open(result.folder)
    low, high = options.get("window", (-1024.0, 3072.0))
    stored = ps.read(range(len(ps))).astype(np.float64)
    if options.get("preset") == "lodopab":
        return result.folder, (stored * MU_MAX - MU_WATER) / MU_PER_HU
    return result.folder, stored * (high - low) + low


def shown(folder: Path, **options: Any) -> NDArray[Any]:
    return np.concatenate([batch.arrays["image"] for batch in ctpatch.open(folder).batches(13, **options)])


def seen(hu: NDArray[np.float64], low: float, high: float) -> NDArray[np.float32]:
    return np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)


@pytest.mark.filterwarnings("ignore:hu. set/train stores:UserWarning")  # lung begins at -1350 HU
def test_one_window_and_several(tmp_path: Path) -> None:
    folder, hu = prepared(tmp_path)
    assert np.array_equal(shown(folder, hu=(-160, 240))[:, 0], seen(hu, -160, 240))
    assert np.array_equal(shown(folder, hu="lung")[:, 0], shown(folder, hu=(-1350, 150))[:, 0])
    several = shown(folder, hu=["abdomen", (-160, 240), "bone"])
    assert several.shape[1] == 3
    for channel, (low, high) in enumerate([(-160, 240), (-160, 240), (-500, 1300)]):
        assert np.array_equal(several[:, channel], seen(hu, low, high))


def test_the_scale_of_lodopab(tmp_path: Path) -> None:
    folder, hu = prepared(tmp_path, preset="lodopab")
    assert np.abs(shown(folder, hu=(-160, 240))[:, 0] - seen(hu, -160, 240)).max() < 1e-6
    meta = json.loads((folder / "patch_meta.json").read_text())
    assert meta["hu"] == {"kind": "lodopab", "low_hu": -MU_WATER / MU_PER_HU, "high_hu": MAX_HU}


def test_what_was_clipped_is_said(tmp_path: Path) -> None:
    folder, hu = prepared(tmp_path, window=(-100.0, 1000.0))
    with pytest.warns(UserWarning, match="set/train stores -100 to 1000 HU, asked is -160 to 240: what is outside was"):
        found = shown(folder, hu=(-160, 240))
    assert np.array_equal(found[:, 0], seen(hu, -160, 240))


def test_the_scale_goes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, hu = prepared(tmp_path)
    ctpatch.convert(folder, tmp_path / "elsewhere", layout="shards")
    shutil.rmtree(tmp_path / "root/prepared")
    assert np.array_equal(shown(tmp_path / "elsewhere", hu=(0, 80))[:, 0], seen(hu, 0, 80))
    assert main(["info", str(tmp_path / "elsewhere")]) == 0
    assert "0 to 1 stand for -1024 to 3072 HU (window)" in capsys.readouterr().out


def test_sets_of_earlier_versions_ask_the_prepared_split(tmp_path: Path) -> None:
    folder, hu = prepared(tmp_path)
    change_meta(folder, lambda meta: meta.pop("hu"))
    assert np.array_equal(shown(folder, hu=(0, 80))[:, 0], seen(hu, 0, 80))
    assert ctpatch.verify(folder, deep=True).ok
    windows = ctpatch.RandomWindows(patch_size=16, per_slice=2)
    slices = ctpatch.open_slices(tmp_path / "root/prepared/set/train")
    stored, found = (
        np.concatenate([batch.arrays["image"] for batch in slices.batches(windows=windows, hu=window)])
        for window in (None, (0, 80))
    )
    assert np.array_equal(found, seen(stored.astype(np.float64) * 4096 - 1024, 0, 80))


def test_context_and_windows_of_hu_together(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    plain = shown(folder, context=1).astype(np.float64) * 4096 - 1024
    found = shown(folder, context=1, hu=[(0, 80), (-500, 1300)])
    assert found.shape[1] == 6
    for channel in range(3):
        assert np.array_equal(found[:, 2 * channel], seen(plain[:, channel], 0, 80))
        assert np.array_equal(found[:, 2 * channel + 1], seen(plain[:, channel], -500, 1300))


def test_verify_finds_another_scale(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    change_meta(folder, lambda meta: meta["hu"].update(high_hu=3071.0))
    assert not ctpatch.verify(folder, deep=True).ok


def test_a_manifest_in_the_folder_has_the_scale_whatever_columns_it_was_given(tmp_path: Path) -> None:
    """The files in the folder are those that were prepared; those of a manifest elsewhere may be others."""
    prepared(tmp_path)
    manifest = next((tmp_path / "root/prepared/set/train").glob("*_manifest.csv"))
    first, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{first},scanner", *(f"{row},A" for row in rows)]) + "\n")
    (result,) = ctpatch.build(manifest, config=SMALL, out=tmp_path / "more")
    assert result.meta.hu is not None
    assert (result.meta.hu.low_hu, result.meta.hu.high_hu) == (-1024.0, 3072.0)
    elsewhere = tmp_path / "train_manifest.csv"
    elsewhere.write_text(manifest.read_text())
    (result,) = ctpatch.build(elsewhere, config=SMALL, data_root=tmp_path / "root", out=tmp_path / "other")
    assert result.meta.hu is None


def test_it_is_refused_where_nothing_is_on_record(tmp_path: Path) -> None:
    unknown = make_split(tmp_path)
    ctpatch.build(unknown.folder, config=SMALL)
    message = refusal(ConfigError, lambda: ctpatch.open(unknown.out).batches(hu="lung"))
    assert "nothing on record says what the values of phantoms/train stand for in HU" in message


@pytest.mark.parametrize(
    "asked", ["lungs", "", [], (240, -160), (0, 0), (float("nan"), 1), [5], 5, ["lung", 3], {1: 2}]
)
def test_windows_that_make_no_sense(tmp_path: Path, asked: Any) -> None:
    unknown = make_split(tmp_path)
    ctpatch.build(unknown.folder, config=SMALL)
    assert "hu: " in refusal(ConfigError, lambda: ctpatch.open(unknown.out).batches(hu=asked))


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    unknown = make_split(tmp_path)
    ctpatch.build(unknown.folder, config=SMALL)
    message = refusal(ConfigError, lambda: ctpatch.open(unknown.out).batches(hu="lungs"))
    assert "there is no window 'lungs'; windows with names are lung (-1350 to 150), mediastinum" in message


def test_a_state_goes_on_with_the_same_windows_only(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    ps = ctpatch.open(folder)
    state = json.loads(json.dumps(ps.batches(hu=(0, 80)).state_dict()))
    ps.batches(hu="brain").load_state_dict(state)
    for other in (ps.batches(), ps.batches(hu=(0, 81))):
        with pytest.raises(ConfigError, match="state: hu was"):
            other.load_state_dict(state)
