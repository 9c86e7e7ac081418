"""Options, checked once and frozen."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from ctpatch.errors import ConfigError, RuleError
from ctpatch.words import LayoutName, OnError, PadMode, known_layout

MAX_PIXELS_PER_AXIS = 16384
"""Largest height or width of a slice or a patch, in pixels."""

DEFAULT_AIR_LEVEL = 0.02
"""In [0, 1]: -942 HU under the window -1024..3072 and -920 HU under LoDoPaB's mapping, between air and lung."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NAME_RULE = "letters, digits, '_', '-' and '.', at most 100, beginning with a letter or digit"
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
"""Names that Windows keeps for itself, with any suffix."""

MAX_CONDITION_CHARACTERS = 2000
MAX_CARRIED_CHARACTERS = 1000
"""Of a cell of the source manifest that a set keeps."""

LATER_OPTIONS = frozenset({"statistics", "body_level"})
"""Options of patches that records leave out where they say nothing."""

KnownLayout = Annotated[LayoutName, AfterValidator(known_layout)]


def check_name(name: str, what: str) -> str:
    """Return a name that is safe in a path and in a CSV cell, or refuse it.

    Raises:
        ConfigError: the name is empty, too long, or holds other characters.
    """
    if not _NAME.fullmatch(name) or name.partition(".")[0].upper() in _DEVICES:
        raise ConfigError(f"{what} {name[:60]!r} cannot be used as a name: use {_NAME_RULE}, and no device of Windows")
    return name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(*_explain(error, type(self))) from None


def _explain(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False):
        field = ".".join(part for part in fault["loc"] if isinstance(part, str) and part.isidentifier())
        seen = repr(fault["input"])[:80]
        message = fault["msg"].removeprefix("Value error, ").replace("Input should", "must")
        if fault["type"] == "extra_forbidden":
            known = ", ".join(sorted(kind.model_fields))
            message = f"there is no such option in {kind.__name__}; options are {known}"
            if kind is PatchConfig and field in BuildConfig.model_fields:
                message += f" ({field} decides no patch: give it to ctpatch.build)"
        lines.append(f"{field}: {message}, got {seen}" if field else message)
    return list(dict.fromkeys(lines))


class Rule(_Frozen):
    """A named condition that drops a window, for example `low_variance: std < 0.01`.

    Attributes:
        name: recorded as the reason of each window it drops.
        condition: SQL expression over the manifest's numeric columns, true where the window is to be dropped.
    """

    name: str
    condition: str

    @field_validator("name")
    @classmethod
    def _name_is_safe(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a rule's name needs {_NAME_RULE}")
        return name

    @field_validator("condition")
    @classmethod
    def _condition_is_text(cls, condition: str) -> str:
        condition = condition.strip()
        if not condition or len(condition) > MAX_CONDITION_CHARACTERS:
            raise ValueError(f"a rule's condition has 1 to {MAX_CONDITION_CHARACTERS} characters")
        return condition

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name: condition`.

        Raises:
            RuleError: there is no colon, or nothing on one side of it.
        """
        name, colon, condition = text.partition(":")
        if not colon or not name.strip() or not condition.strip():
            raise RuleError(
                f"rule {text[:80]!r} has not the form 'name: condition'; "
                'write for example --drop "low_variance: std < 0.01"'
            )
        return cls(name=name.strip(), condition=condition.strip())


def _whole(value: Any) -> Any:
    """A NumPy integer as Python's; anything else as it is."""
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def _pair(value: Any) -> Any:
    """One number is both."""
    if isinstance(value, list | tuple):
        return tuple(_whole(side) for side in value)
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    raise ValueError("must be a whole number of pixels, or a pair (rows, cols)")


_Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS_PER_AXIS, strict=True)]
_Pair = Annotated[tuple[_Pixels, _Pixels], BeforeValidator(_pair)]


class PatchConfig(_Frozen):
    """What decides the patches: geometry, range and rules.

    Attributes:
        patch_size: height and width of a patch in pixels; one number, or a pair (rows, cols).
        stride: pixels between window origins; one number, or a pair (rows, cols).
        pad_mode: what happens at the border where windows do not fit; see `ctpatch.core.grid`.
        value_range: lowest and highest value a slice may hold, in the slice's own unit.
        air_level: pixels at or below it count as air in `air_fraction`.
        drop: rules, tried in this order; the first that hits is recorded.
        rules_on: the array whose statistics the manifest holds and the rules judge.
        statistics: statistics to record that are computed only where they are named (`body_fraction`); those that a
            rule names are recorded too.
        body_level: pixels above it are tissue, for `body_fraction`; None takes the value of -500 HU, which is known of
            slices that `ctpatch prepare` made.

    Raises:
        ConfigError: a value makes no sense; the message names the field.

    >>> PatchConfig(patch_size=128, stride=(64, 32)).stride
    (64, 32)
    """

    patch_size: _Pair = (128, 128)
    stride: _Pair = (64, 64)
    pad_mode: PadMode = "none"
    value_range: tuple[float, float] = (0.0, 1.0)
    air_level: FiniteFloat = DEFAULT_AIR_LEVEL
    drop: tuple[Rule, ...] = ()
    rules_on: str = "image"
    statistics: tuple[str, ...] = ()
    body_level: FiniteFloat | None = None

    def __init__(
        self,
        *,
        patch_size: int | tuple[int, int] = 128,
        stride: int | tuple[int, int] = 64,
        pad_mode: PadMode = "none",
        value_range: tuple[float, float] = (0.0, 1.0),
        air_level: float = DEFAULT_AIR_LEVEL,
        drop: "Rule | str | Sequence[Rule | str]" = (),
        rules_on: str = "image",
        statistics: str | Sequence[str] = (),
        body_level: float | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            stride=stride,
            pad_mode=pad_mode,
            value_range=value_range,
            air_level=air_level,
            drop=tuple(
                Rule.parse(rule) if isinstance(rule, str) else rule
                for rule in ([drop] if isinstance(drop, str | Rule) else drop)
            ),
            rules_on=rules_on,
            statistics=(statistics,) if isinstance(statistics, str) else tuple(statistics),
            body_level=body_level,
            **unknown,
        )

    @field_validator("value_range")
    @classmethod
    def _range_ascends(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -math.inf < value[0] < value[1] < math.inf:
            raise ValueError("must be two finite numbers, the lower first")
        return value

    @field_validator("statistics")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(value)))

    @field_validator("rules_on")
    @classmethod
    def _array_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"must be the name of an array: {_NAME_RULE}")
        return value

    @model_validator(mode="after")
    def _rule_names_differ(self) -> Self:
        names = [rule.name for rule in self.drop]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"drop: two rules are named {twice[0]!r}; a name is the recorded reason, use two names")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Options that came later are left out where they say nothing: digests of options are what they were."""
        values: dict[str, Any] = handler(self)
        return {
            name: value for name, value in values.items() if name not in LATER_OPTIONS or value not in (None, (), [])
        }

    def with_rules(self, *more: Rule) -> "PatchConfig":
        """The same options with rules added behind those that are there."""
        return PatchConfig(**{**self.options(), "drop": (*self.drop, *more)})

    def options(self) -> dict[str, Any]:
        """The options by name, as they were checked."""
        return dict(self)


def min_std_rule(threshold: float) -> Rule:
    """The rule that `--min-std` is short for.

    Raises:
        ConfigError: the threshold is no finite number, or negative.
    """
    if not 0 <= threshold < math.inf:
        raise ConfigError(f"min_std: must be a finite number, 0 or more, got {threshold!r}")
    return Rule(name="low_variance", condition=f"std < {threshold!r}")


class BuildConfig(_Frozen):
    """How a build is carried out; nothing here changes a pixel.

    Attributes:
        layout: how patches lie on disk.
        workers: processes that cut; 1 works in this process.
        on_error: what a slice that cannot be used does: `stop` the build, or `skip` the slice.
        overwrite: start anew over an earlier set of ours.
        strict: compare digests of all sources, not size and time, before an earlier result is trusted.
    """

    layout: KnownLayout = "files"
    workers: Annotated[int, Field(ge=1, le=1024, strict=True)] = 1
    on_error: OnError = "stop"
    overwrite: bool = False
    strict: bool = False
