"""Patches put together on the device where the model works: one copy of each finished slice comes back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.blending import MAX_CLASSES, class_dtype, warn_of_class_numbers, weights_of_grid, window_weights
from ctpatch.core.labels import label_fill
from ctpatch.core.placing import Blend
from ctpatch.core.reassembly import ReassembledSlice
from ctpatch.errors import ReassemblyError


class DeviceReassembler:
    """What `Reassembler` does for patches that are floats, with sums on the device of the patches.

    Sums are float64, float32 where the device has no float64 (mps). Windows come once each and in order. Patches with
    NaN or infinity are found when their slice is whole, since looking at each would wait for the device.

    Args:
        slice_index: for each patch, by number, its slice, `(N,)`.
        origins: where the part begins that the patch covers, `(N, 2)`, in the slice's pixels.
        shapes: height and width of each slice.
        size: height and width of that part.
        blend: how patches are put together.
    """

    def __init__(
        self,
        slice_index: NDArray[np.int64],
        origins: NDArray[np.int64],
        shapes: Mapping[int, tuple[int, int]],
        size: tuple[int, int],
        blend: Blend,
    ) -> None:
        self._slices, self._origins = slice_index.tolist(), (origins * blend.scale).tolist()
        self._shapes = {index: blend.shape(shape) for index, shape in shapes.items()}
        self._size, self._blend = (size[0] * blend.scale, size[1] * blend.scale), blend
        self._last = {index: number for number, index in enumerate(self._slices)}
        self._first = {index: number for number, index in reversed(list(enumerate(self._slices)))}
        self._next = 0
        self._sums: dict[int, Any] = {}
        self._all_whole: Any = not blend.argmax
        self._weights: Any = None
        self._totals: tuple[Any, Any] = (None, None)

    def add(self, numbers: Sequence[int], patches: Any) -> list[ReassembledSlice]:
        """Take a batch, tensors `(B, h, w)` or `(B, C, h, w)`; returns the slices that it completes."""
        import torch  # noqa: PLC0415 - it is there where such patches are

        wide = torch.float32 if patches.device.type == "mps" else torch.float64
        if self._weights is None:
            weights = window_weights(self._size, self._blend.window)
            self._weights = torch.from_numpy(weights.copy()).to(wide).to(patches.device)
        dtype = np.dtype(np.float64 if patches.dtype == torch.float64 else np.float32)
        if self._all_whole is not False:
            # A tensor: to look at it here would wait for the device.
            self._all_whole = (patches == patches.round()).all() & self._all_whole
        weighted = patches.to(wide) * self._weights
        finished = []
        for number, patch in zip(numbers, weighted, strict=True):
            index = self._slices[number]
            if index not in self._sums:
                lead = patches.shape[1:-2]
                self._sums[index] = torch.zeros((*lead, *self._shapes[index]), dtype=wide, device=patches.device)
            row, col = self._origins[number]
            there = self._sums[index][..., row : row + self._size[0], col : col + self._size[1]]
            there += patch[..., : there.shape[-2], : there.shape[-1]]
            if number == self._last[index]:
                finished.append(self._whole(index, dtype))
        self._next = numbers[-1] + 1
        return finished

    def _whole(self, index: int, dtype: np.dtype[Any]) -> ReassembledSlice:
        import torch  # noqa: PLC0415

        sums, shape, fill = self._sums.pop(index), self._shapes[index], self._blend.fill
        of_slice = self._origins[self._first[index] : self._last[index] + 1]
        places = sorted((row, col) for row, col in of_slice)
        total, covered = weights_of_grid(tuple(places), shape, self._size, self._blend.window)
        uncovered = int(covered.size - np.count_nonzero(covered))
        if not bool(torch.isfinite(sums).all()):
            at = (~torch.isfinite(sums)).nonzero()[0].tolist()
            raise ReassemblyError(
                f"slice {index}: the patches on its pixel ({at[-2]}, {at[-1]}) hold NaN or infinity; check the model's "
                "output"
            )
        if self._blend.argmax:
            kind = class_dtype(len(sums))
            self._blend.refuse_fill(kind, places, shape, self._size, f"slice {index}")
            classes = sums.argmax(dim=0).to(torch.uint8 if kind == np.uint8 else torch.int32).cpu().numpy()
            if uncovered:
                classes[~covered] = label_fill(fill, kind)
            return ReassembledSlice(index, classes, uncovered)
        if self._totals[0] is not total:  # the slices of a set mostly share it
            self._totals = total, torch.from_numpy(np.where(covered, total, 1.0)).to(sums.dtype).to(sums.device)
        image = (sums / self._totals[1]).to(torch.float64 if dtype == np.float64 else torch.float32).cpu().numpy()
        if self._all_whole is not False and not bool(self._all_whole):
            self._all_whole = False
        if self._all_whole is not False:
            means = image[..., covered]
            kinds = len(np.unique(np.rint(means)))
            if kinds <= MAX_CLASSES:
                warn_of_class_numbers(means, kinds)
        if uncovered:
            image[..., ~covered] = fill
        return ReassembledSlice(index, image, uncovered)

    def finish(self) -> None:
        """Make sure that every patch has come; ReassemblyError where some have not."""
        if self._next != len(self._slices):
            raise ReassemblyError(f"{len(self._slices) - self._next} patches have not come")
