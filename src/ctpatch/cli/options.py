"""Options that several commands take, and what they mean together with a configuration file."""

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ctpatch.cli.engine import ENGINE_OPTIONS, EngineOptions
from ctpatch.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from ctpatch.config import PatchConfig

PadMode = Literal["none", "shift", "even", "zero", "edge", "reflect"]
Layout = str
OnError = Literal["stop", "skip"]


def pixels(text: str | None, option: str) -> int | tuple[int, int] | None:
    """`128`, or rows and cols as `128x96`."""
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in {1, 2}:
        raise ConfigError(f"{option}: {text!r}, wanted pixels as 128, or rows and cols as 128x96")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


PATCH_OPTIONS = {"patch_size", "stride", "pad_mode", "value_range", "air_level", "drop", "min_std", "rules_on"}
BUILD_OPTIONS = {"layout", "out", "data_root", "overwrite", "on_error", "strict"}
WORK_OPTIONS = {"workers", *ENGINE_OPTIONS}


def _from_file(path: Path | None) -> dict[str, Any]:
    """The options in a TOML file, at its top or in a table `build`; names with `-` or `_`."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {str(path)!r} is not valid TOML: {error}") from None
    table = content.get("build", content)
    options = {str(name).replace("-", "_"): value for name, value in table.items()} if isinstance(table, dict) else {}
    unknown = sorted(set(options) - PATCH_OPTIONS - BUILD_OPTIONS - WORK_OPTIONS)
    if unknown:
        known = ", ".join(sorted(PATCH_OPTIONS | BUILD_OPTIONS | WORK_OPTIONS))
        raise ConfigError(f"{path.name}: there is no option {unknown[0]!r}; options are {known}")
    return options


def patch_config(options: dict[str, Any]) -> "PatchConfig":
    """The options that decide the patches.

    Raises:
        ConfigError: an option makes no sense; names it.
    """
    from ctpatch.config import PatchConfig, Rule, min_std_rule  # noqa: PLC0415

    values = {name: options[name] for name in PATCH_OPTIONS if options.get(name) is not None}
    drop = values.pop("drop", [])
    if isinstance(drop, str):
        drop = [drop]
    if not isinstance(drop, list | tuple) or not all(isinstance(rule, str) for rule in drop):
        raise ConfigError(f"drop: {drop!r}, wanted rules as 'name: condition'")
    rules = [Rule.parse(rule) for rule in drop]
    min_std = values.pop("min_std", None)
    if min_std is not None:
        if isinstance(min_std, bool) or not isinstance(min_std, int | float):
            raise ConfigError(f"min_std: {min_std!r}, wanted a number")
        rules.append(min_std_rule(float(min_std)))
    if "value_range" in values:
        values["value_range"] = tuple(values["value_range"])
    return PatchConfig(**values, drop=tuple(rules))


def with_file(config: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Options of the file, overridden by those of the command line."""
    return {**_from_file(config), **{name: value for name, value in given.items() if value is not None}}


def json_text(value: Any) -> str:
    """A result as JSON, for programs."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)


def sets_meant(paths: tuple[Path, ...]) -> list[Path]:
    """The sets that are meant: each folder itself, or the sets in it where it is none."""
    from ctpatch.files.atomic import given_path  # noqa: PLC0415
    from ctpatch.format.meta import PATCH_META  # noqa: PLC0415
    from ctpatch.work.folder import STATE_FOLDER  # noqa: PLC0415

    if not paths:
        raise UsageError("no patch set given: name its folder")
    found: list[Path] = []
    for path in paths:
        given_path(path)
        marks = (PATCH_META, STATE_FOLDER)
        if not path.is_dir() or any((path / mark).exists() for mark in marks):
            found.append(path)
            continue
        below = [each for each in sorted(path.iterdir()) if any((each / mark).exists() for mark in marks)]
        found.extend(below or [path])
    return found


Sources = Annotated[str, Parameter(help="A split's folder, a dataset's folder (all its splits), or a manifest.")]
PatchSize = Annotated[str | None, Parameter(help="Height and width of a patch in pixels: 128, or 128x96. [128]")]
Stride = Annotated[str | None, Parameter(help="Pixels between window origins: 64, or 64x48. [64]")]
Pad = Annotated[
    PadMode | None,
    Parameter(
        help="The border: none drops the rest, shift moves a last window inside, even spreads windows evenly, "
        "zero, edge and reflect pad. [none]"
    ),
]
Drop = Annotated[
    list[str] | None,
    Parameter(
        help="A rule 'name: SQL condition' on min, max, mean, std, air_fraction, row, col, slice_index; repeatable."
    ),
]
MinStd = Annotated[float | None, Parameter(help="Short for --drop 'low_variance: std < X'.")]
ValueRange = Annotated[tuple[float, float] | None, Parameter(help="Lowest and highest value of a slice. [0 1]")]
AirLevel = Annotated[float | None, Parameter(help="Pixels at or below it are air. [0.02]")]
RulesOn = Annotated[str | None, Parameter(help="The array that rules judge. [image]")]
DataRoot = Annotated[
    Path | None, Parameter(help="What paths in manifests are relative to. [the folder above prepared]")
]
Workers = Annotated[int | None, Parameter(help="Processes that work. [1]")]
Engines = EngineOptions()
ConfigFile = Annotated[Path | None, Parameter(help="A TOML file with these options; the command line overrides it.")]
