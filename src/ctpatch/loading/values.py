"""From the options `normalize` and `hu` of a loader to what maps its values."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctpatch.core.hu_windows import WINDOWS, window_bounds
from ctpatch.core.mapping import HuWindows, Normalization, ValueMap
from ctpatch.errors import ConfigError
from ctpatch.format.hu_scale import HuScale
from ctpatch.format.meta import PatchMeta

_PAIR = 2
_HELD_OUT = {"test", "val", "valid", "validation", "eval", "holdout"}


@dataclass(frozen=True, slots=True)
class ChosenMaps:
    """What maps the values of each array, and what a state must agree with to go on; nothing where nothing is asked."""

    maps: Mapping[str, ValueMap] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)


def given_normalization(pair: Sequence[float], arrays: Sequence[str]) -> ChosenMaps:
    """The map for a mean and a standard deviation that were given, for all these arrays.

    Raises:
        ConfigError: they are no two finite numbers, or the second is not above 0.
    """
    try:
        mean, std = (float(each) for each in pair)
    except (TypeError, ValueError):
        raise ConfigError(f"normalize: wanted (mean, std), got {pair!r}") from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ConfigError(f"normalize: wanted a finite mean and a std above 0, got {pair!r}")
    return _normalized({name: Normalization(mean, std) for name in arrays}, None, None)


def normalization_from(train: PatchMeta, arrays: Sequence[str], user: str) -> ChosenMaps:
    """The maps from what a set of the split train has on record, for arrays of the set `user`.

    Raises:
        ConfigError: the set was held out from training, or has nothing on record that can be used.
    """
    name = f"{train.dataset}/{train.split}"
    if _HELD_OUT & set(train.split.lower().replace("-", "_").replace(".", "_").split("_")):
        raise ConfigError(
            f"normalize: {name} is the split {train.split!r}, whose values must not enter training; give the set of "
            "the split train, or (mean, std)"
        )
    if train.values is None:
        raise ConfigError(
            f"normalize: {name} has no values on record, since an earlier version of ctpatch built it (or began it); "
            "build it again with --overwrite, or give normalize=(mean, std)"
        )
    maps = {}
    for array in arrays:
        found = train.values.arrays.get(array)
        if found is None:
            raise ConfigError(
                f"normalize: {name} has no values of {array}, which {user} has; it has "
                f"{', '.join(train.values.arrays)}; give arrays=… or normalize=(mean, std)"
            )
        mean, std = found.patches.mean, found.patches.std
        if mean is None or std is None:
            raise ConfigError(
                f"normalize: {name} has no patches, or no pixel of {array} in them was looked at; give "
                "normalize=(mean, std)"
            )
        if std == 0:
            raise ConfigError(f"normalize: all pixels of {array} in {name} are {mean:g}; give normalize=(mean, std)")
        maps[array] = Normalization(mean, std)
    return _normalized(maps, name, train.fingerprint)


def _normalized(maps: Mapping[str, Normalization], source: str | None, fingerprint: str | None) -> ChosenMaps:
    numbers = {name: each.described() for name, each in maps.items()}
    return ChosenMaps(maps, {"normalize": {"source": source, "fingerprint": fingerprint, "arrays": numbers}})


def hu_maps(asked: Any, scale: HuScale | None, arrays: Sequence[str], user: str) -> ChosenMaps:
    """The maps for a window of HU or a list of them, for arrays of the set `user`, whose values have this scale.

    Warns where a window reaches beyond what is stored.

    Raises:
        ConfigError: a window makes no sense, or the scale is not known.
    """
    windows = _windows(asked)
    if scale is None:
        raise ConfigError(
            f"hu: nothing on record says what the values of {user} stand for in HU; prepare the slices with ctpatch "
            "prepare and build the set from its manifest as it was written, or map values in a transform of your own"
        )
    low, high = scale.low_hu, scale.high_hu
    for one, other in windows:
        if one < low or other > high:
            warnings.warn(
                f"hu: {user} stores {low:g} to {high:g} HU, asked is {one:g} to {other:g}: what is outside was clipped "
                "when the slices were prepared",
                stacklevel=2,
            )
    each = HuWindows((low, high), windows)
    return ChosenMaps(dict.fromkeys(arrays, each), {"hu": {"arrays": list(arrays), **each.described()}})


def _windows(asked: Any) -> list[tuple[float, float]]:
    listed: Any = [asked] if isinstance(asked, str) or _is_pair(asked) else asked
    if not isinstance(listed, Sequence) or not listed:
        raise ConfigError(f"hu: wanted a window or a list of windows, got {asked!r}; {_known()}")
    return [_window(each) for each in listed]


def _is_pair(asked: Any) -> bool:
    return isinstance(asked, Sequence) and len(asked) == _PAIR and all(isinstance(each, int | float) for each in asked)


def _window(each: Any) -> tuple[float, float]:
    if isinstance(each, str):
        if each not in WINDOWS:
            raise ConfigError(f"hu: there is no window {each!r}; {_known()}")
        return window_bounds(each)
    if not _is_pair(each):
        raise ConfigError(f"hu: wanted a name or (lowest, highest) HU, got {each!r}; {_known()}")
    low, high = float(each[0]), float(each[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"hu: wanted the lowest and then a higher HU, such as (-160, 240), got {each!r}")
    return low, high


def _known() -> str:
    named = (f"{name} ({low:g} to {high:g})" for name in WINDOWS for low, high in [window_bounds(name)])
    return f"windows with names are {', '.join(named)} HU"
