"""How a slice's values become those that a model is given, and its output becomes values of the slice again."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.labels import holds_labels
from ctpatch.core.mapping import ValueMap
from ctpatch.core.reassembly import ReassembledSlice
from ctpatch.errors import ConfigError, ReassemblyError
from ctpatch.predicting.options import Options
from ctpatch.predicting.outputs import Output, is_several, key_list


class Shown:
    """What `normalize` and `hu` do to a slice, and `map_back` to what a model makes of it.

    Values are mapped after the slice was padded, as loaders do, so that a model meets the same numbers there.

    Args:
        options: what was asked for.
        by: what maps the values of the image; None leaves them as they are.

    Raises:
        ConfigError: the output cannot be mapped back, or it is not said which of several outputs is to be.
    """

    def __init__(self, options: Options, by: ValueMap | None) -> None:
        self._by = by
        self._asked: Any = options.map_back
        if by is None:
            return
        if by.factor > 1:
            if self._asked:
                raise ConfigError(
                    f"map_back: the model sees {by.factor} windows of HU, so ctpatch cannot tell what HU its output "
                    "means; leave map_back out, or give one window"
                )
            if self._asked is None:
                warnings.warn(
                    f"hu: the model sees {by.factor} windows, which cannot be mapped back: results are what the model "
                    "gives; map_back=False says so too",
                    stacklevel=2,
                )
            self._asked = False
        elif self._asked is None and is_several(options.output) and options.argmax is not True:
            raise ConfigError(
                "map_back: the model gives several outputs, some of which may be no image on the scale of its input; "
                "list those that are to be mapped back, or give True or False"
            )

    def described(self) -> dict[str, Any]:
        """What of the output is mapped back, for the record; nothing where no values are mapped."""
        if self._by is None:
            return {}
        return {"mapped_back": True if self._asked is None else key_list(self._asked)}

    def apply(self, padded: NDArray[np.float32]) -> NDArray[np.float32]:
        """A slice and its neighbours `(C, H, W)` as the model is given them: each channel, or each of its windows."""
        if self._by is None:
            return padded
        made = np.empty((1, len(padded) * self._by.factor, *padded.shape[1:]), np.float32)
        self._by.apply(padded[np.newaxis], made)
        channels: NDArray[np.float32] = made[0]
        return channels

    def is_stored(self, output: Output) -> bool:
        """Whether the results of an output are on the scale of the slices: mapped back, or never mapped."""
        if self._by is None or self._asked is None or isinstance(self._asked, bool):
            return self._by is None or self._asked is not False
        return bool(self._asked == "all" or output in self._asked)

    def goes_back(self, output: Output, patches: Any, *, scores: bool) -> bool:
        """Whether patches of an output, `(B, h, w)` or `(B, C, h, w)`, are mapped back once they are put together.

        Raises:
            ReassemblyError: there are several channels, and it is not said what they are.
        """
        if self._by is None or scores or not self.is_stored(output):
            return False
        if isinstance(patches, np.ndarray) and holds_labels(patches.dtype):
            return False
        if self._asked is None and patches.ndim == 4:  # noqa: PLR2004
            raise ReassemblyError(
                f"the model gives {patches.shape[1]} channels, and ctpatch cannot tell whether they are images on the "
                "scale of its input; say map_back=True if they are, map_back=False if not, or argmax=True for scores"
            )
        return True

    def back(self, done: ReassembledSlice, fill: float) -> ReassembledSlice:
        """A finished slice, NaN where nothing covers it, in stored values, float32; `fill` is one already."""
        if self._by is None:
            return done
        image = self._by.back(done.image)
        if done.uncovered:
            image[np.isnan(image)] = fill
        return replace(done, image=image)
