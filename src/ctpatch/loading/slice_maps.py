"""Statistics of drawn windows that are shares of a map of their whole slice."""

import numpy as np
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.patches import window_of
from ctpatch.core.statistics.api import slice_maps
from ctpatch.core.statistics.columns import STATISTICS, levels_of
from ctpatch.errors import ConfigError
from ctpatch.loading.places import Drawn
from ctpatch.loading.whole import SliceReader
from ctpatch.words import PadMode

_MOST_BYTES = 256 << 20
"""Of maps that are kept, a bit for each pixel: 8,000 slices of 512 x 512. The others are computed again."""


class SliceMaps:
    """The maps of one statistic, each computed when a window of its slice is first judged.

    Args:
        name: the statistic.
        reader: of the array that rules judge.
        config: options with the levels that the maps need.

    Raises:
        ConfigError: the options have no level between air and tissue.
    """

    def __init__(self, name: str, reader: SliceReader, config: PatchConfig) -> None:
        if config.body_level is None and STATISTICS[name].needs_body_level:
            raise ConfigError(
                f"rules: {name} needs the level between air and tissue, which only a set has that was built with it; "
                f"build the set with statistics={name!r} (--statistics {name}) and draw windows from it"
            )
        self.name = name
        self._reader = reader
        self._levels = levels_of(config)
        self._known: dict[int, NDArray[np.uint8]] = {}
        self._bytes = 0

    def shares(self, drawn: Drawn, size: tuple[int, int], pad_mode: PadMode) -> NDArray[np.float64]:
        """The share of each drawn window that counts, `(N,)`; added pixels count as those that they repeat."""
        found = np.empty(len(drawn.slices), np.float64)
        for at, (number, row, col) in enumerate(zip(drawn.slices, drawn.rows, drawn.cols, strict=True)):
            window = window_of(self._map(int(number)), int(row), int(col), size, pad_mode)
            assert window is not None
            found[at] = np.count_nonzero(window) / window.size
        return found

    def _map(self, number: int) -> NDArray[np.bool_]:
        image = self._reader.whole(number)
        packed = self._known.get(number)
        if packed is None:
            packed = np.packbits(slice_maps([self.name], image, self._levels)[self.name])
            if self._bytes + packed.nbytes <= _MOST_BYTES:
                self._known[number] = packed
                self._bytes += packed.nbytes
        return np.unpackbits(packed, count=image.size).reshape(image.shape).view(np.bool_)
