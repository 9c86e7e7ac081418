"""Slices to resample whose values are arithmetic, so that only what becomes of them is kept in a file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helpers import Image


@dataclass(frozen=True)
class Case:
    """A slice and where it is to go: spacings are `(row, col)` in mm."""

    shape: tuple[int, int]
    spacing: tuple[float, float]
    wanted: tuple[float, float]
    labels: bool = False
    dtype: str = "float32"


CASES = {
    "finer": Case((18, 25), (0.8, 0.8), (0.5, 0.5)),
    "half": Case((40, 54), (0.8, 0.8), (1.6, 1.6)),
    "a third": Case((41, 37), (0.7, 0.7), (2.0, 2.0)),
    "a tenth": Case((60, 60), (0.4, 0.4), (4.1, 4.1)),
    "finer rows, coarser columns": Case((15, 40), (1.3, 0.7), (1.0, 1.0)),
    "columns alone": Case((17, 40), (0.5, 0.5), (0.5, 2.1)),
    "one row": Case((1, 30), (1.0, 1.0), (1.0, 1.7)),
    "to one pixel": Case((9, 11), (1.0, 1.0), (30.0, 30.0)),
    "float64": Case((20, 22), (1.0, 1.0), (1.3, 1.3), dtype="float64"),
    "int16": Case((20, 22), (1.0, 1.0), (1.3, 1.3), dtype="int16"),
    "finer labels": Case((13, 17), (0.8, 0.8), (0.5, 0.5), labels=True),
    "coarser labels": Case((41, 37), (0.7, 0.7), (1.6, 1.6), labels=True),
    "labels by half": Case((24, 30), (1.0, 1.0), (2.0, 2.0), labels=True),
    "int16 labels": Case((30, 31), (1.0, 0.8), (1.3, 0.5), labels=True, dtype="int16"),
}


def picture(case: Case) -> Image:
    """HU from -1024 to 2971 without order, or for labels 0 to 6: whole numbers, the same on every machine."""
    rows, cols = np.indices(case.shape)
    mixed: NDArray[np.int64] = (rows * rows * 131 + cols * cols * 37 + rows * cols * 71 + rows * 17 + cols) % 3996
    return (mixed % 7 if case.labels else mixed - 1024).astype(case.dtype)
