"""Windows that are drawn: random ones, and ones that hold a label."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.rules import CompiledRules, compile_rules
from ctpatch.core.statistics.columns import named_statistics
from ctpatch.core.statistics.stacks import stack_statistics
from ctpatch.errors import ConfigError
from ctpatch.loading.columns import column_values, named_in
from ctpatch.loading.label_pixels import LabelPixels
from ctpatch.loading.options import LoaderOptions
from ctpatch.loading.places import Drawn, SlicePlaces
from ctpatch.loading.sampling import ORIGIN, below, draw_words
from ctpatch.loading.slice_maps import SliceMaps
from ctpatch.loading.whole import WholeSlices
from ctpatch.loading.windows import LabelWindows, RandomWindows

_OF_WINDOWS = ("row", "col")


class DrawnPlaces(SlicePlaces):
    """Windows drawn in whole slices, `per_slice` of each in an epoch.

    Raises:
        ConfigError: a slice is smaller than a window, the rules cannot be used, or no window can hold a label.
    """

    def __init__(self, whole: WholeSlices, windows: RandomWindows, options: LoaderOptions[Any]) -> None:
        super().__init__(whole, options, windows.size, windows.pad_mode)
        if options.group is not None and isinstance(windows, LabelWindows):
            raise ConfigError(
                f"group: LabelWindows draws a batch from the slices that hold labels, so it cannot keep it to one "
                f"{options.group}; take RandomWindows, or leave group out"
            )
        self._windows, self._seed = windows, options.seed
        allowed = self._allowed_slices()
        heights, widths = (whole.table[side].cast(pl.Int64).to_numpy() for side in ("height", "width"))
        if windows.pad_mode is None:
            _refuse_small(whole, (heights, widths), windows.size, allowed)
        # Where a slice is smaller than a window, there is one place: the slice's own origin.
        self._last = tuple(
            np.maximum(sides - wanted, 0) for sides, wanted in zip((heights, widths), windows.size, strict=True)
        )
        self.kinds, self.texts = whole.kinds, whole.texts
        # A row for each draw, so only of the columns that decide which slices are drawn.
        words = named_in(options)
        needed = [
            name for name in whole.table.columns if name.lower() in words or name in {"slice_index", options.group}
        ]
        self.table = whole.table.select(needed)[np.repeat(np.arange(whole.table.height), windows.per_slice)]
        self.allowed = np.repeat(allowed, windows.per_slice)
        self._judge = _Judge.of(whole, windows)
        self._labels: LabelPixels | None = None
        self._options = options

    def follow(self, candidates: NDArray[np.int64], weights: NDArray[np.float64] | None) -> None:
        """Take the slices in which labels are looked for from what the sampler draws."""
        windows = self._windows
        if not isinstance(windows, LabelWindows):
            return
        windows.refuse_small_batch(self._options.batch_size)
        count = self._whole.table.height
        each = np.ones(len(candidates)) if weights is None or self._options.balance else weights
        weight_of_slice = np.bincount(candidates // windows.per_slice, each, count).astype(np.float64)
        self._labels = LabelPixels(self._whole, windows, self._seed, weight_of_slice, self._options.balance)

    def set_size(self, draws: int) -> int:
        """The draws."""
        return draws

    def column(self, name: str, codes: Mapping[str, Sequence[str]]) -> Callable[[Drawn], NDArray[Any]]:
        """Of the window itself, or of its slice."""
        if name in _OF_WINDOWS:
            return lambda drawn: drawn.rows if name == "row" else drawn.cols
        values = column_values(self._whole.table, name, codes)
        return lambda drawn: values[drawn.slices]

    def at(self, epoch: int, numbers: NDArray[np.int64], draws: NDArray[np.int64]) -> Drawn:
        """Draw windows, and draw those again that a rule drops."""
        slices = numbers // self._windows.per_slice
        drawn = self._draw(epoch, slices, draws, np.arange(len(draws)), 0)
        self.counts.windows += len(draws)
        if self._judge is None:
            return drawn
        wrong = np.flatnonzero(self._judge.drops(drawn))
        self.counts.redrawn += len(wrong)
        for attempt in range(1, self._windows.redraws + 1):
            if not len(wrong):
                break
            again = self._draw(epoch, slices, draws, wrong, attempt)
            for mine, new in zip(
                (drawn.slices, drawn.rows, drawn.cols), (again.slices, again.rows, again.cols), strict=True
            ):
                mine[wrong] = new
            wrong = wrong[self._judge.drops(again)]
        self.counts.accepted += len(wrong)
        return drawn

    def _draw(
        self, epoch: int, slices: NDArray[np.int64], draws: NDArray[np.int64], slots: NDArray[np.int64], attempt: int
    ) -> Drawn:
        """Windows for some slots of a batch that draws in these slices."""
        chosen = slices[slots]
        words = draw_words(self._seed, epoch, ORIGIN, draws[slots], attempt)
        first = np.zeros((2, len(slots)), np.int64)
        last = np.stack([side[chosen] for side in self._last])
        if self._labels is not None:
            held = np.flatnonzero(self._labels.slots(len(draws))[slots])
            found, pixels = self._labels.draw(epoch, draws[slots[held]], attempt)
            chosen[held] = found
            for axis, (ends, size) in enumerate(zip(self._last, self._windows.size, strict=True)):
                first[axis, held] = np.clip(pixels[axis] - size + 1, 0, ends[found])
                last[axis, held] = np.minimum(pixels[axis], ends[found])
        rows, cols = (first[axis] + below(words[:, axis], last[axis] - first[axis] + 1) for axis in (0, 1))
        return Drawn(draws[slots], chosen, rows, cols)


def _refuse_small(
    whole: WholeSlices,
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    size: tuple[int, int],
    allowed: NDArray[np.bool_],
) -> None:
    small = allowed & ((sides[0] < size[0]) | (sides[1] < size[1]))
    if small.any():
        at = int(small.argmax())
        raise ConfigError(
            f"patch_size: {whole.called(at)} has {sides[0][at]}x{sides[1][at]} pixels, less than a window of "
            f"{size[0]}x{size[1]}, as have {int(small.sum())} of {int(allowed.sum())} slices; take a smaller "
            "patch_size, or pad_mode='reflect', 'edge' or 'zero'"
        )


class _Judge:
    """Rules that judge windows by their own pixels, and by maps of their slices where they name a statistic of one."""

    def __init__(self, whole: WholeSlices, rules: CompiledRules, config: PatchConfig, windows: RandomWindows) -> None:
        self._rules, self._air = rules, config.air_level
        self._reader = whole.reader(config.rules_on)
        self._slice_index = whole.table["slice_index"].to_numpy()
        self._dtype = np.float32 if config.rules_on not in whole.labels else None
        self._size, self._pad_mode = windows.size, windows.pad_mode
        self._maps = [SliceMaps(name, self._reader, config) for name in named_statistics(config)]

    @classmethod
    def of(cls, whole: WholeSlices, windows: RandomWindows) -> "_Judge | None":
        """What judges windows, if anything does."""
        config = whole.config
        if windows.rules is None:
            return None
        if windows.rules != "set":
            config = PatchConfig(**{**(config or PatchConfig()).options(), "drop": windows.rules})
        elif config is None:
            raise ConfigError(f"rules: {whole.name} has none, since it is no patch set; give the rules themselves")
        if not config.drop:
            raise ConfigError(f"rules: {whole.name} was built without rules; give the rules themselves")
        return cls(whole, compile_rules(config.drop), config, windows)

    def drops(self, drawn: Drawn) -> NDArray[np.bool_]:
        """Which windows a rule drops."""
        probe = self._reader.whole(int(drawn.slices[0])) if self._dtype is None else None
        pixels = np.empty((len(drawn.slices), *self._size), self._dtype if probe is None else probe.dtype)
        self._reader.read_windows(drawn.slices, drawn.rows, drawn.cols, pixels, self._pad_mode)
        values = stack_statistics(pixels, self._air)
        values |= {"slice_index": self._slice_index[drawn.slices].astype(np.float64)}
        values |= {"row": drawn.rows.astype(np.float64), "col": drawn.cols.astype(np.float64)}
        values |= {each.name: each.shares(drawn, self._size, self._pad_mode or "none") for each in self._maps}
        hits: NDArray[np.bool_] = self._rules.first_hits(values) >= 0
        return hits
