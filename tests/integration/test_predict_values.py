"""What `predict` writes for a whole set, value by value: clipped or not, covered or not, and which slices."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import UsageError
from ctpatch.events import WorkAdvanced, WorkStarted
from helpers import SMALL, Heard, Image, Prepared, build_one, csv_rows, make_split

RESULTS = Path("prepared/phantoms_predicted/train")


def stretched(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """A model whose output leaves [0, 1] at both ends."""
    return batch * np.float32(3) - np.float32(1)


def results(root: Path, count: int) -> list[Image]:
    return [np.load(root / RESULTS / f"train_{number:06d}.npy") for number in range(count)]


def test_results_are_clipped_to_the_value_range_of_the_set(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    out = tmp_path / "results"
    ctpatch.predict(stretched, ctpatch.open(prepared.out), out=out)
    for found, source in zip(results(out, 3), prepared.images["image"], strict=True):
        np.testing.assert_allclose(found, np.minimum(np.maximum(3 * source - 1, 0), 1), atol=1e-5)
        assert (found.min(), found.max()) == (0, 1)
    rows = csv_rows(out / RESULTS / "train_manifest.csv")
    assert [(float(row["min"]), float(row["max"])) for row in rows] == [(0, 1)] * 3


def test_without_clip_results_keep_their_values(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    out = tmp_path / "results"
    ctpatch.predict(stretched, ctpatch.open(prepared.out), out=out, clip=False)
    for found, source in zip(results(out, 3), prepared.images["image"], strict=True):
        np.testing.assert_allclose(found, 3 * source - 1, atol=1e-5)
        assert found.min() < -0.9
        assert found.max() > 1.9
    rows = csv_rows(out / RESULTS / "train_manifest.csv")
    stated = [(np.float32(row["min"]), np.float32(row["max"])) for row in rows]
    assert stated == [(found.min(), found.max()) for found in results(out, 3)]


def test_pixels_that_no_window_covers_need_a_fill(tmp_path: Path, prepared: Prepared) -> None:
    """Windows of 16 at a stride of 8 reach the last of 40 rows, and 48 of 50 columns."""
    build_one(prepared)
    ps = ctpatch.open(prepared.out)
    assert SMALL.pad_mode == "none"
    with pytest.raises(UsageError, match=r"slice 0: 80 pixels are in no window of pad_mode 'none'"):
        ctpatch.predict(stretched, ps, SMALL, out=tmp_path / "refused")
    assert list((tmp_path / "refused").rglob("*.npy")) == []
    ctpatch.predict(stretched, ps, SMALL, out=tmp_path / "filled", fill=0.25)
    for found, source in zip(results(tmp_path / "filled", 3), prepared.images["image"], strict=True):
        assert (found[:, 48:] == np.float32(0.25)).all()
        np.testing.assert_allclose(found[:, :48], np.clip(3 * source - 1, 0, 1)[:, :48], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_slice_smaller_than_a_patch_has_no_result(tmp_path: Path, batch_size: int) -> None:
    prepared = make_split(tmp_path, [(40, 50), (9, 60), (17, 18), (40, 50)])
    build_one(prepared)
    out = tmp_path / "results"
    ctpatch.predict(lambda batch: batch[:, 0], ctpatch.open(prepared.out), out=out, batch_size=batch_size)
    rows = csv_rows(out / RESULTS / "train_manifest.csv")
    assert [row["index"] for row in rows] == ["0", "2", "3"]
    assert sorted(path.name for path in (out / RESULTS).glob("*.npy")) == [
        f"train_00000{number}.npy" for number in (0, 2, 3)
    ]
    for row in rows:
        number = int(row["index"])
        assert row["path"] == f"{RESULTS.as_posix()}/train_00000{number}.npy"
        np.testing.assert_allclose(np.load(out / row["path"]), prepared.images["image"][number], atol=1e-6)


def test_slices_without_windows_are_neither_counted_nor_read(tmp_path: Path) -> None:
    """A set that holds its slices holds no slice smaller than a patch; the others suffice."""
    prepared = make_split(tmp_path / "root", [(40, 50), (9, 60), (40, 50)])
    build_one(prepared, layout="slices")
    prepared.folder.rename(tmp_path / "gone")
    heard = Heard()
    ctpatch.predict(lambda batch: batch, ctpatch.open(prepared.out), out=tmp_path / "results", listener=heard)
    assert [event.total for event in heard.events if isinstance(event, WorkStarted)] == [2]
    assert sum(event.steps for event in heard.events if isinstance(event, WorkAdvanced)) == 2
    found = [np.load(tmp_path / "results" / RESULTS / f"train_00000{number}.npy") for number in (0, 2)]
    for image, number in zip(found, (0, 2), strict=True):
        np.testing.assert_allclose(image, prepared.images["image"][number], atol=1e-6)
