"""Labels from segmentations and structure sets: the right number at the right place, or a refusal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, SliceError, UsageError
from ctpatch.prepare.api import prepare_dicom
from ctpatch.prepare.pipeline import PrepareResult
from dicom_files import ROOT, write_ct, write_series
from label_files import FRAME, item, write_seg, write_structures

SHAPE = (40, 50)
ORIGIN = (-20.0, -16.0)
COUNT = 4


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    write_series(tmp_path / "ct", COUNT, FrameOfReferenceUID=FRAME)
    return tmp_path


def prepared(folder: Path, **options: Any) -> PrepareResult:
    key = folder / "my.key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    asked: dict[str, Any] = {"mask": folder / "labels", "split": ["train=1"], "key": key, **options}
    return prepare_dicom(folder / "ct", folder / "data", "set", **asked)


def masks(result: PrepareResult) -> dict[float, NDArray[Any]]:
    rows = pl.read_csv(result.folder / "train/train_manifest.csv").to_dicts()
    root = result.folder.parents[1]
    return {row["position_mm"]: np.load(root / row["mask_path"]) for row in rows}


def at(number: float) -> tuple[float, float, float]:
    return (*ORIGIN, 2.0 * number)


def marks(seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(SHAPE) < 0.3


def apart() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return marks(1), marks(2) & ~marks(1)


def test_binary_segments_with_empty_frames_left_out(ct: Path) -> None:
    one, two = apart()
    write_seg(
        ct / "labels/seg.dcm", [(2, at(2), two), (1, at(1), marks(3)), (1, at(2), one)], names={1: "liver", 2: "tumour"}
    )
    result = prepared(ct)
    found = masks(result)
    assert sorted(found) == [0.0, 2.0, 4.0, 6.0]
    assert found[0.0].dtype == np.int16
    np.testing.assert_array_equal(found[0.0], np.zeros(SHAPE))
    np.testing.assert_array_equal(found[2.0], marks(3))
    np.testing.assert_array_equal(found[4.0], one + 2 * two)
    np.testing.assert_array_equal(found[6.0], np.zeros(SHAPE))
    assert result.meta.options["labels"] == [1, 2]
    assert "liver" not in (result.folder / "prepare_meta.json").read_text()


def test_label_maps_and_fractions(ct: Path) -> None:
    values = np.random.default_rng(5).integers(0, 3, SHAPE)
    write_seg(ct / "labels/seg.dcm", [(0, at(1), values)], names={1: "a", 2: "b"}, kind="LABELMAP")
    np.testing.assert_array_equal(masks(prepared(ct))[2.0], values)
    values = np.random.default_rng(5).integers(0, 256, SHAPE)
    write_seg(ct / "labels/seg.dcm", [(1, at(1), values)], names={1: "a"}, kind="FRACTIONAL")
    with pytest.raises(SliceError, match=r"fractions, not labels; --fraction"):
        prepared(ct, overwrite=True)
    np.testing.assert_array_equal(masks(prepared(ct, overwrite=True, fraction=0.5))[2.0], values >= 127.5)


def test_names_choose_and_merge(ct: Path) -> None:
    one, two = apart()
    names = {7: "Liver  left", 8: "liver right", 9: "tumour", 3: "other"}
    frames = [(7, at(0), one), (8, at(0), two), (9, at(1), one), (3, at(2), one)]
    write_seg(ct / "labels/seg.dcm", frames, names=names)
    result = prepared(ct, labels="2=LIVER *,1=tumour")
    found = masks(result)
    np.testing.assert_array_equal(found[0.0], 2 * (one | two))
    np.testing.assert_array_equal(found[2.0], one)
    assert not found[4.0].any()
    assert result.meta.options["labels"] == [[2, "LIVER *"], [1, "tumour"]]
    with pytest.raises(UsageError, match="called like 1=spleen; there are 'Liver  left'"):
        prepared(ct, labels="1=spleen", overwrite=True)
    with pytest.raises(UsageError) as caught:
        prepared(ct, labels="1=spleen", overwrite=True, names_shown=False)
    assert "Liver" not in str(caught.value)
    with pytest.raises(SliceError, match="fits the patterns of labels 1 and 2"):
        prepared(ct, labels="1=liver*,2=liver r*", overwrite=True)


def test_overlap_is_refused_or_ordered(ct: Path) -> None:
    one, two = marks(1), marks(2)
    write_seg(ct / "labels/seg.dcm", [(1, at(1), one), (2, at(1), two)], names={1: "liver", 2: "tumour"})
    with pytest.raises(SliceError, match=rf"1 \(liver\) and 2 \(tumour\) overlap in {(one & two).sum()} pixels"):
        prepared(ct, labels="1=liver,2=tumour")
    last = prepared(ct, labels="2=tumour,1=liver", later_label_wins=True, overwrite=True)
    np.testing.assert_array_equal(masks(last)[2.0], np.where(one, 1, 2 * two))


def test_the_same_number_for_two_names_is_refused(ct: Path) -> None:
    write_series(ct / "ct/b", 2, seed=50, patient="b", uid="2", FrameOfReferenceUID=FRAME)
    write_seg(ct / "labels/a.dcm", [(1, at(0), marks(1))], names={1: "liver"})
    write_seg(ct / "labels/b.dcm", [(1, at(0), marks(2))], names={1: "kidney"}, series=f"{ROOT}2.1")
    with pytest.raises(UsageError, match="segment 1 has several names"):
        prepared(ct)
    assert len(pl.read_csv(prepared(ct, labels="1=liver,2=kidney").folder / "train/train_manifest.csv")) == COUNT + 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"z": 1.5}, r"frame 1 lies 1\.00 mm from the nearest slice"),
        ({"spacing": (0.8, 0.7)}, "another grid"),
        ({"shape": (40, 49)}, "another grid"),
        ({"FrameOfReferenceUID": f"{ROOT}78"}, "another frame of reference"),
        ({"NumberOfFrames": 2}, "promises 500 bytes of pixels, it holds 250"),
        ({"Rows": 60000}, "wanted at most"),
        ({"PixelData": b"\0\0"}, "promises 250 bytes"),
        ({"SegmentSequence": []}, "segment 1, which is not described"),
        ({"x": -19.5}, "another grid"),
        ({"x": float("1e30")}, "no 3 plausible numbers"),
    ],
)
def test_what_does_not_fit_is_refused(ct: Path, change: dict[str, Any], said: str) -> None:
    position = (change.pop("x", ORIGIN[0]), ORIGIN[1], 2 * change.pop("z", 1))
    pixels = np.ones(change.pop("shape", SHAPE))
    write_seg(ct / "labels/seg.dcm", [(1, position, pixels)], names={1: "a"}, **change)
    with pytest.raises(SliceError, match=said):
        prepared(ct)


def test_slices_of_a_series_that_no_object_covers_are_left_out(ct: Path) -> None:
    write_series(ct / "ct/b", 2, seed=50, uid="2", FrameOfReferenceUID=FRAME)
    write_seg(ct / "labels/seg.dcm", [(1, at(0), marks(1))], names={1: "a"})
    result = prepared(ct)
    assert len(masks(result)) == COUNT
    assert result.meta.num_left_out == {"unmatched": 2}


def test_without_references_it_covers_what_it_marks(ct: Path) -> None:
    write_seg(ct / "labels/seg.dcm", [(1, at(2), marks(1))], names={1: "a"}, series=None)
    found = masks(prepared(ct))
    assert list(found) == [4.0]
    np.testing.assert_array_equal(found[4.0], marks(1))


def test_frames_of_slices_that_are_not_there_are_reported(ct: Path) -> None:
    sources = [f"{ROOT}1.1.1", f"{ROOT}1.1.99"]
    frames = [(1, at(0), marks(1)), (1, at(9), marks(2))]
    write_seg(ct / "labels/seg.dcm", frames, names={1: "a"}, sources=sources)
    result = prepared(ct)
    np.testing.assert_array_equal(masks(result)[0.0], marks(1))
    assert {note.kind for note in result.meta.notes} >= {"labels-unmatched", "labels-partial"}


def test_two_objects_of_one_series_are_refused(ct: Path) -> None:
    for name in "ab":
        write_seg(ct / f"labels/{name}.dcm", [(1, at(0), marks(1))], names={1: "a"})
    with pytest.raises(SliceError, match="one of 2 label objects of a series"):
        prepared(ct)


def test_in_the_same_tree(ct: Path) -> None:
    write_seg(ct / "ct/seg.dcm", [(1, at(1), marks(1))], names={1: "a"})
    result = prepared(ct, mask=ct / "ct")
    np.testing.assert_array_equal(masks(result)[2.0], marks(1))
    assert not result.meta.num_left_out
    assert prepared(ct, mask=ct / "ct").outcome == "complete"


def test_prone_slices_and_frames_stored_another_way(tmp_path: Path) -> None:
    """Labels lie on the voxels that SimpleITK finds at the same millimetres."""
    sitk = pytest.importorskip("SimpleITK")
    pixels = np.zeros(SHAPE, np.int16)
    pixels[3, 7], pixels[30, 40] = 3000, 2000
    write_ct(
        tmp_path / "ct/a.dcm", pixels, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0], ImagePositionPatient=[20, 16, 0],
        FrameOfReferenceUID=FRAME,
    )  # fmt: skip
    image = sitk.ReadImage(str(tmp_path / "ct/a.dcm"))
    point = image.TransformIndexToPhysicalPoint((7, 3, 0))
    # The segmentation is stored upright: its first pixel is the last one of the slice.
    corner = np.array(image.TransformIndexToPhysicalPoint((SHAPE[1] - 1, SHAPE[0] - 1, 0)))
    col, row = np.rint((np.array(point) - corner)[:2] / 0.8).astype(int)
    marked = np.zeros(SHAPE, bool)
    marked[row, col] = True
    write_seg(tmp_path / "labels/seg.dcm", [(1, corner.tolist(), marked)], names={1: "a"})
    for keep in (False, True):
        result = prepared(tmp_path, keep_orientation=keep, overwrite=True)
        (mask,) = masks(result).values()
        ct_image = np.load(result.folder / "train/train_000000.npy")
        assert np.argwhere(mask).tolist() == [list(np.unravel_index(ct_image.argmax(), SHAPE))]


def in_mm(contour: NDArray[Any], number: int, shift: float = 0.0) -> NDArray[np.float64]:
    """(row, col) to millimetres."""
    rows, cols = contour.T
    z = np.full(len(rows), 2.0 * number + shift)
    return np.stack([ORIGIN[0] + 0.8 * cols, ORIGIN[1] + 0.8 * rows, z], axis=1)


def square(low: float, high: float) -> NDArray[np.float64]:
    return np.array([(low, low), (low, high), (high, high), (high, low)])


def test_contours_with_holes(ct: Path) -> None:
    draw = pytest.importorskip("skimage.draw")
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 30))
    star = np.stack([20.03 + 12 * np.sin(angles), 24.07 + 15 * np.cos(angles)], axis=1)
    contours = [(4, in_mm(star, 1)), (5, in_mm(square(0.5, 6.5), 2)), (5, in_mm(square(2.5, 4.5), 2))]
    write_structures(ct / "labels/rs.dcm", contours, names={4: "Heart", 5: "Ring", 6: "empty"})
    found = masks(prepared(ct))
    np.testing.assert_array_equal(found[2.0], 4 * draw.polygon2mask(SHAPE, star))
    ring = np.zeros(SHAPE, int)
    ring[1:7, 1:7] = 5
    ring[3:5, 3:5] = 0
    np.testing.assert_array_equal(found[4.0], ring)
    assert not found[0.0].any()
    assert not found[6.0].any()


@pytest.mark.parametrize(
    ("change", "shift", "said"),
    [
        ({}, 0.9, r"0\.90 mm from the plane"),
        ({"points": 1000000}, 0, "says 1000000 points and holds 12 numbers"),
        ({"names": {2: "b"}}, 0, "contours of ROI 1, which is not described"),
        ({"frame": f"{ROOT}78"}, 0, "another frame of reference"),
        ({"names": {1: "a", 40000: "b"}}, 0, "number 40000 is no label"),
    ],
)
def test_contours_that_do_not_fit_are_refused(ct: Path, change: dict[str, Any], shift: float, said: str) -> None:
    contours = [(1, in_mm(square(1, 5), 1, shift))]
    write_structures(ct / "labels/rs.dcm", contours, **({"names": {1: "a"}} | change))
    with pytest.raises(SliceError, match=said):
        prepared(ct)


def test_contours_that_mark_no_area_are_counted(ct: Path) -> None:
    write_structures(ct / "labels/rs.dcm", [(1, in_mm(square(1, 5), 1))], names={1: "a"}, kind="OPEN_PLANAR")
    result = prepared(ct)
    assert not any(mask.any() for mask in masks(result).values())
    assert [note.message for note in result.meta.notes] == [
        "1 contours of another kind than CLOSED_PLANAR mark no area and are not used"
    ]


def test_too_many_points_are_refused(ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctpatch.prepare.readers.dicom.labels.structures.MAX_POINTS", 7)
    contours = [(1, in_mm(square(1, 5), 1)), (1, in_mm(square(1, 5), 2))]
    write_structures(ct / "labels/rs.dcm", contours, names={1: "a"})
    with pytest.raises(SliceError, match="more than 7 points"):
        prepared(ct)


def test_options_that_make_no_sense(ct: Path) -> None:
    write_seg(ct / "labels/seg.dcm", [(1, at(1), marks(1))], names={1: "a"})
    for options in (
        {"labels": "liver"}, {"labels": "0=a"}, {"labels": "1="}, {"labels": "99999=a"}, {"fraction": 0.0},
        {"later_label_wins": True}, {"labels": "1=a", "mask": None}, {"labels": "1=a", "mask": ct / "ct"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            prepared(ct, **options)


def test_names_never_reach_the_set(ct: Path) -> None:
    write_seg(ct / "labels/seg.dcm", [(1, at(1), marks(1)), (2, at(1), marks(1))], names={1: "Jane Doe", 2: "b"})
    result = prepared(ct, on_error="skip")
    written = "".join(path.read_text() for path in result.folder.rglob("*") if path.suffix in {".csv", ".json"})
    assert "overlap" in written
    assert "Jane" not in written
    assert "seg.dcm" not in written
    assert json.loads((result.folder / "prepare_meta.json").read_text())["options"]["labels"] == [1, 2]


def test_a_hand_made_reference_to_nothing_is_left_out(ct: Path) -> None:
    write_seg(ct / "labels/a.dcm", [(1, at(1), marks(1))], names={1: "a"})
    write_seg(ct / "labels/b.dcm", [(1, at(1), marks(1))], names={1: "a"}, series=f"{ROOT}5", sources=[f"{ROOT}6"],
              ReferencedSeriesSequence=[item()])  # fmt: skip
    result = prepared(ct)
    np.testing.assert_array_equal(masks(result)[2.0], marks(1))
    assert result.meta.num_left_out == {"unmatched": 1}
