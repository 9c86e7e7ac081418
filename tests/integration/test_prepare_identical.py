"""Slices with the same pixels are counted in a prepared set's meta."""

from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from ctpatch import prepare_dicom
from dicom_files import write_series


@pytest.mark.parametrize(
    ("seeds", "wanted"),
    [((0, 100), 0), ((0, 2), 2), ((0, 1), 4), ((0, 2, 2), 7), ((0, 0, 0), 9)],
    ids=["none", "one pair", "two pairs", "a triplet and two pairs", "all three times"],
)
def test_slices_of_equal_pixels_are_counted(tmp_path: Path, seeds: tuple[int, ...], wanted: int) -> None:
    """Three slices a patient, whose pixels are those of the seed and the next two numbers."""
    for number, seed in enumerate(seeds):
        write_series(tmp_path / f"raw/{number}", 3, patient=f"patient-{number}", uid=str(number + 1), seed=seed)
    key = tmp_path / "my.key"
    key.write_bytes(b"0123456789abcdef" * 4)
    meta = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", split=["train=1"], key=key).meta
    assert meta.splits["train"].num_slices == 3 * len(seeds)
    assert meta.num_identical == wanted
