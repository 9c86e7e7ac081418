"""The pixels of a pair as they are compared: in HU and clipped, as stored, or as labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import RangeError, SliceError
from ctpatch.evaluating.matching import Pair
from ctpatch.evaluating.sides import Side
from ctpatch.format.hu_scale import HuScale

_LARGEST_LABEL = 2**31


@dataclass(frozen=True, slots=True)
class ImagePixels:
    """Reads the images of a pair.

    Attributes:
        sides: what is read, by role.
        hu: the window that they are clipped to; None compares them as they are stored.
        scales: from stored values to HU, by role; none where `hu` is None.
    """

    sides: Mapping[str, Side]
    hu: tuple[float, float] | None
    scales: Mapping[str, HuScale]

    def __call__(self, pair: Pair) -> dict[str, NDArray[Any]]:
        """The images by role, float64 `(H, W)`.

        Raises:
            RangeError: one holds NaN or infinity.
            SliceError: one holds no numbers with a fraction, so that it is no image.
            NpyError, SourceChangedError: a file is missing or damaged, or is no longer what it was.
        """
        found = {}
        for role, side in self.sides.items():
            image = side.read(pair.rows[role])
            if image.dtype.kind != "f":
                raise SliceError(
                    f"{role}: slice {pair.slice_index} of {side.name} holds {image.dtype}, wanted an image in float; "
                    "labels are compared with labels: name the --labels"
                )
            _refuse_no_numbers(image, role, side, pair)
            if self.hu is None:
                found[role] = image.astype(np.float64)
            else:
                hu = self.scales[role].to_hu(image)
                found[role] = np.clip(hu, *self.hu, out=hu)
        return found


@dataclass(frozen=True, slots=True)
class LabelPixels:
    """Reads the labels of a pair: whole numbers from 0 on, in any dtype."""

    sides: Mapping[str, Side]

    def __call__(self, pair: Pair) -> dict[str, NDArray[Any]]:
        """The labels by role, int64 `(H, W)`.

        Raises:
            RangeError: one holds NaN or infinity.
            SliceError: one holds a number that is no label.
            NpyError, SourceChangedError: a file is missing or damaged, or is no longer what it was.
        """
        found = {}
        for role, side in self.sides.items():
            image = side.read(pair.rows[role])
            if image.dtype.kind == "f":
                _refuse_no_numbers(image, role, side, pair)
            wrong = (image < 0) | (image > _LARGEST_LABEL)
            if image.dtype.kind == "f":
                wrong |= image != np.rint(image)
            if wrong.any():
                row, col = np.argwhere(wrong)[0]
                raise SliceError(
                    f"{role}: slice {pair.slice_index} of {side.name} holds {image[row, col]:g} at ({row}, {col}), "
                    "wanted labels, whole numbers from 0 on; take the argmax of scores first, or compare images by "
                    "naming another array"
                )
            found[role] = image.astype(np.int64)
        return found


def _refuse_no_numbers(image: NDArray[Any], role: str, side: Side, pair: Pair) -> None:
    finite = np.isfinite(image)
    if not finite.all():
        row, col = np.argwhere(~finite)[0]
        raise RangeError(
            f"{role}: slice {pair.slice_index} of {side.name} holds {image[row, col]} at ({row}, {col}), in "
            f"{np.count_nonzero(~finite):,} pixels in all; wanted finite numbers: fill them, or leave the slice out"
        )
