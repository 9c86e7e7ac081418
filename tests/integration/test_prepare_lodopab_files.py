"""Rows of LoDoPaB-CT's files without a slice: only the last file of a split has any."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="h5py is not installed")

from ctpatch.prepare.readers.lodopab.reader import LodopabReader
from helpers import Image
from lodopab_files import write_ground_truth


def even(value: float) -> Image:
    return np.full((362, 362), value, np.float32)


def test_black_slices_at_the_end_of_a_middle_file_stay(tmp_path: Path) -> None:
    """Files 0 and 1 end in rows of zeros; those of file 0 are slices, for the numbers of file 1 begin after them."""
    write_ground_truth(tmp_path, "train", 0, [even(0.25), even(0.5)])
    write_ground_truth(tmp_path, "train", 1, [even(0.75), even(0.0), even(1.0)])
    reader = LodopabReader()
    found = reader.scan(tmp_path, lambda _: None)
    assert [(each.file, each.item) for each in found.slices] == [
        *(("ground_truth_train_000.hdf5", row) for row in range(128)),
        *(("ground_truth_train_001.hdf5", row) for row in range(3)),
    ]
    assert [each.order for each in found.slices] == list(range(131))
    assert [(each.where, each.kind, each.reason) for each in found.left_out] == [
        ("ground_truth_train_001.hdf5", "fill", "rows 3 to 127 lie behind the split's last slice")
    ]
    chosen = [found.slices[number] for number in (1, 2, 127, 128, 129, 130)]
    levels = [np.unique(image).tolist() for image in reader.read(tmp_path, chosen)]
    assert levels == [[0.5], [0.0], [0.0], [0.75], [0.0], [1.0]]
