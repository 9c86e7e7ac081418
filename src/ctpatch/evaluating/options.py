"""What decides an evaluation, checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ctpatch.errors import ConfigError

Labels = Sequence[int]
MOST_DRAWS = 1_000_000
_FEWEST_DRAWS = 100
_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """See `ctpatch.evaluate`.

    Raises:
        ConfigError: an option makes no sense, or contradicts another one.
    """

    hu: tuple[float, float] | None = None
    data_range: float | None = None
    values_hu: tuple[float, float] | None = None
    labels: tuple[int, ...] | None = None
    seed: int = 0
    draws: int = 10_000
    workers: int = 1

    def __post_init__(self) -> None:
        for name, example in (("hu", "-160 240"), ("values_hu", "-1024 3072")):
            window = getattr(self, name)
            if window is not None and not _is_window(window):
                raise ConfigError(f"{name}: {window!r}, wanted the lowest and then a higher HU, such as {example}")
        if self.data_range is not None and not (_is_number(self.data_range) and self.data_range > 0):
            raise ConfigError(f"data_range: {self.data_range!r}, wanted a number above 0, such as 1")
        if self.hu is not None and self.data_range is not None:
            raise ConfigError(
                "hu, data_range: both are given; the data range of a window is its width, so give data_range only for "
                "values that are compared as they are stored"
            )
        if self.values_hu is not None and self.hu is None:
            raise ConfigError("values_hu: it says what stored values are in HU; give hu, the window to compare in")
        for name, least, most in (
            ("seed", 0, _SEEDS - 1),
            ("draws", _FEWEST_DRAWS, MOST_DRAWS),
            ("workers", 1, 256),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"{name}: {value!r}, wanted a whole number from {least} to {most}")
        if self.labels is not None:
            _check_labels(self.labels)
            if self.hu is not None or self.data_range is not None:
                raise ConfigError("labels: labels have neither a window nor a data range; leave out hu and data_range")


def _check_labels(labels: Labels) -> None:
    if not labels or any(type(each) is not int or each < 1 for each in labels) or len(set(labels)) < len(labels):
        raise ConfigError(f"labels: {labels!r}, wanted whole numbers above 0, each once; 0 is what has no label")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_window(window: object) -> bool:
    return (
        isinstance(window, tuple)
        and len(window) == 2  # noqa: PLR2004
        and all(map(_is_number, window))
        and window[0] < window[1]
    )
