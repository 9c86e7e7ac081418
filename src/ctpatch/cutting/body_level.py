"""Which value of a set lies between air and tissue: given, known from how the slices were prepared, or refused."""

from collections.abc import Mapping

from ctpatch.config import PatchConfig
from ctpatch.core.statistics.body import NEEDS_SCIPY
from ctpatch.core.statistics.columns import STATISTICS, named_statistics, opt_in_statistics
from ctpatch.errors import ConfigError
from ctpatch.extras import library
from ctpatch.format.hu_scale import HuScale
from ctpatch.format.meta import ArrayInfo
from ctpatch.format.prepared_meta import prepared_scale
from ctpatch.format.splits import SplitSource

BODY_HU = -500.0
"""Half way between air and soft tissue: a pixel that is filled half by the patient counts."""
_HIGHEST_HU = -300.0
"""Fat is near -100 HU, and in thin slices and under sharp kernels its noise reaches 200 HU below."""
_AIR_HU, _LUNG_HU = -1000.0, -940.0
_DIGITS = 4


def with_body_level(config: PatchConfig, source: SplitSource, arrays: Mapping[str, ArrayInfo]) -> PatchConfig:
    """The options with the level that the statistics named in them need, or as they are where none needs it.

    Raises:
        ConfigError: there is no such statistic, the level is not known or makes no sense, or the array that statistics
            are computed of holds labels.
        UsageError: scipy is not installed.
        FormatError: the record of the preparation is damaged.
    """
    for name in config.statistics:
        if name not in opt_in_statistics():
            fault = "is recorded always; leave it out" if name in STATISTICS else "is no statistic"
            raise ConfigError(f"statistics: {name[:60]!r} {fault}; wanted one of {', '.join(opt_in_statistics())}")
    named = [name for name in named_statistics(config) if STATISTICS[name].needs_body_level]
    if not named:
        if config.body_level is not None:
            raise ConfigError(
                f"body_level: {config.body_level:g} is given and nothing uses it; name body_fraction in a rule or in "
                "statistics, or leave it out"
            )
        return config
    if arrays[config.rules_on].labels:
        raise ConfigError(
            f"{named[0]}: rules_on is {config.rules_on!r}, which holds labels; it needs CT values, such as those of "
            "'image'"
        )
    library("scipy.ndimage", NEEDS_SCIPY)
    low, high = config.value_range
    if config.body_level is None:
        return PatchConfig(**{**config.options(), "body_level": _known_level(config, source)})
    if not low <= config.body_level < high:
        raise ConfigError(
            f"body_level: {config.body_level:g} lies outside the value range {low:g} to {high:g}; give the value that "
            f"{BODY_HU:g} HU have in these slices"
        )
    return config


def _known_level(config: PatchConfig, source: SplitSource) -> float:
    scale = prepared_scale(source.manifest)
    if scale is None:
        raise ConfigError(
            "body_level: body_fraction needs the level between air and tissue, and nothing on record says which HU "
            f"the values of {source.manifest_path} stand for; give the value of {BODY_HU:g} HU (--body-level): 0.123 "
            "on LoDoPaB-CT's scale, 0.128 where 0 to 1 stand for -1024 to 3072 HU"
        )
    if scale.low_hu > _HIGHEST_HU:
        raise ConfigError(
            f"body_level: 0 stands for {scale.low_hu:g} HU in {source.manifest_path}, so grainy fat cannot be told "
            f"from air; prepare the slices with a window that begins at {_HIGHEST_HU:g} HU or below, or give a level "
            "that you have looked at (--body-level)"
        )
    air = _value(scale, _AIR_HU)
    if air > config.air_level:
        raise ConfigError(
            f"air_level: air is {air:g} in {source.manifest_path}, above the air level {config.air_level:g}, so "
            f"body_fraction cannot tell lungs from air; give --air-level {_value(scale, _LUNG_HU):g}"
        )
    return _value(scale, max(BODY_HU, scale.low_hu))


def _value(scale: HuScale, hu: float) -> float:
    return round(min(max((hu - scale.low_hu) / (scale.high_hu - scale.low_hu), 0.0), 1.0), _DIGITS)
