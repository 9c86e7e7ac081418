"""The pixels that are shown, from wherever they still are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.patches import window_of
from ctpatch.errors import CtPatchError
from ctpatch.reading.patchset import AnySet

Arrays = dict[str, NDArray[Any]]
_SLICES_KEPT = 64


@dataclass(frozen=True, slots=True)
class ShownSlice:
    """A slice as it can be shown.

    Attributes:
        arrays: `(H, W)` for each array; empty where no pixel is to be had.
        whole: whether they are the slice itself, not put together from its kept patches (NaN elsewhere).
        why: why it is not whole.
    """

    arrays: Arrays
    whole: bool
    why: str = ""


class SetPixels:
    """Slices and patches of one set, read when asked for; a fault is told, and is not the end of the report."""

    def __init__(self, ps: AnySet) -> None:
        self._ps = ps
        self._slices: dict[int, ShownSlice] = {}
        self.faults: list[str] = []

    def slice(self, slice_index: int) -> ShownSlice:
        """A slice: from the set or its source, else from its kept patches, else without pixels."""
        if slice_index not in self._slices:
            if len(self._slices) >= _SLICES_KEPT:
                self._slices.clear()
            self._slices[slice_index] = self._read_slice(slice_index)
        return self._slices[slice_index]

    def _read_slice(self, slice_index: int) -> ShownSlice:
        try:
            return ShownSlice(self._ps.slice(slice_index, arrays=self._ps.arrays), whole=True)
        except CtPatchError as error:
            why = error.message
        if self._ps.layout.holds_patches:
            try:
                arrays = {
                    name: self._ps.reassemble(slice_index, array=name, window="uniform")
                    for name, info in self._ps.meta.arrays.items()
                    if not info.labels
                }
            except CtPatchError as error:
                why = error.message
            else:
                return ShownSlice(arrays, whole=False, why=why)
        self._note(why)
        return ShownSlice({}, whole=False, why=why)

    def patch(self, record: Mapping[str, Any]) -> Arrays | None:
        """The pixels of a window, kept or dropped, for each array; None where they are nowhere.

        Args:
            record: a row of the table of windows.
        """
        if record["at"] is not None:
            try:
                read = self._ps.read([int(record["at"])], arrays=self._ps.arrays)
                return {name: patches[0] for name, patches in read.items()}
            except CtPatchError as error:
                self._note(error.message)
                return None
        shown = self.slice(int(record["slice_index"]))
        if not shown.whole:
            return None
        row, col, size, mode = int(record["row"]), int(record["col"]), self._ps.patch_size, self._ps.config.pad_mode
        found = {name: window_of(image, row, col, size, mode) for name, image in shown.arrays.items()}
        return {name: patch for name, patch in found.items() if patch is not None} or None

    def _note(self, message: str) -> None:
        if message not in self.faults:
            self.faults.append(message)


def without_gaps(image: NDArray[Any], low: float) -> NDArray[np.float32]:
    """Pixels as float32, with `low` where there are none."""
    shown = np.array(image, np.float32)
    shown[~np.isfinite(shown)] = low
    return shown
