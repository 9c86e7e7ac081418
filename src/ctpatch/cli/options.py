"""Groups of options, each written once for all commands that have it, and what a configuration file adds to them."""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ctpatch.core.statistics.columns import opt_in_statistics, rule_columns
from ctpatch.errors import ConfigError, UsageError
from ctpatch.words import LAYOUTS, LayoutName, OnError, PadMode

if TYPE_CHECKING:
    from ctpatch.config import PatchConfig
    from ctpatch.cutting.result import BuildResult
    from ctpatch.prepare.pipeline import PrepareResult

Sources = Annotated[str, Parameter(help="A split's folder, a dataset's folder (all its splits), or a manifest.")]
Sets = Annotated[Path, Parameter(help="A patch set's folder, or a folder of such.")]
DataRoot = Annotated[
    Path | None, Parameter(help="What paths in manifests are relative to. [the folder above prepared]")
]
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]
OnErrorOption = Annotated[
    OnError | None, Parameter(help="A slice that cannot be used: stop, or skip it and exit 1. [stop]")
]
Overwrite = Annotated[
    bool | None, Parameter(help="Start anew over an earlier set of ours; other files are never touched.")
]
Workers = Annotated[int | None, Parameter(help="Processes that work. [1]")]
ConfigFile = Annotated[Path | None, Parameter(help="A TOML file with these options; the command line overrides it.")]


_SIZES: dict[str, tuple[type[int] | type[float], str]] = {
    "patch_size": (int, "pixels as 128, or rows and cols as 128x96"),
    "stride": (int, "pixels as 128, or rows and cols as 128x96"),
    "crop": (int, "pixels as 362, or 362x362"),
    "spacing": (float, "millimetres as 0.8, or 0.8x0.8"),
}
"""The options of rows and columns: what kind of number they are, and how they are written."""


def _size(option: str, text: str) -> tuple[float, float]:
    """A size of rows and columns, from one number or two: `128`, `128x96`."""
    kind, wanted = _SIZES[option]
    try:
        found = [kind(part) for part in text.lower().replace(",", "x").split("x")]
    except ValueError:
        found = []
    if len(found) not in {1, 2}:
        raise ConfigError(f"{option}: {text!r}, wanted {wanted}")
    return found[0], found[-1]


@dataclass(frozen=True)
class OptionGroup:
    """Options that belong together; a parameter of such a type gives them to a command.

    What the docstring of a group says of an attribute is the help of the option.
    """

    def given(self) -> dict[str, Any]:
        """The options that were given or have a usual value, by name; ConfigError where a size is none."""
        found = {name: value for name in names_of(type(self)) if (value := getattr(self, name)) is not None}
        return {name: _size(name, value) if name in _SIZES else value for name, value in found.items()}


def names_of(*groups: type[OptionGroup]) -> list[str]:
    """The names of the options in groups."""
    return [each.name for group in groups for each in fields(group)]


@Parameter(name="*")
@dataclass(frozen=True)
class PatchOptions(OptionGroup):
    """What decides the patches.

    Attributes:
        patch_size: Height and width of a patch in pixels: 128, or 128x96. [128]
        stride: Pixels between window origins: 64, or 64x48. [64]
        pad_mode: The border: none drops the rest, shift moves a last window inside, even spreads windows evenly, zero,
            edge and reflect pad. [none]
        min_std: Short for --drop 'low_variance: std < X'.
        value_range: Lowest and highest value of a slice. [0 1]
        air_level: Pixels at or below it are air. [0.02]
        rules_on: The array that rules judge. [image]
        body_level: Pixels above it are tissue, for body_fraction. [the value of -500 HU, where prepare made the slices]
    """

    patch_size: str | None = None
    stride: str | None = None
    pad_mode: PadMode | None = None
    drop: Annotated[
        list[str] | None, Parameter(help=f"A rule 'name: SQL condition' on {', '.join(rule_columns())}; repeatable.")
    ] = None
    min_std: float | None = None
    value_range: tuple[float, float] | None = None
    air_level: float | None = None
    rules_on: str | None = None
    statistics: Annotated[
        list[str] | None,
        Parameter(help=f"Record {', '.join(opt_in_statistics())}, which no rule needs to name then; repeatable."),
    ] = None
    body_level: float | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class PlanOptions(OptionGroup):
    """What a build is made from, and for which layout."""

    layout: Annotated[
        LayoutName | None, Parameter(help=f"{'; '.join(f'{name}: {what}' for name, what in LAYOUTS.items())}. [files]")
    ] = None
    arrays: Annotated[
        str | None, Parameter(help="Which columns are arrays: image,target. [path and those that end in _path]")
    ] = None
    keep_columns: Annotated[
        str | None,
        Parameter(
            help="Further columns that the set keeps: series,dose:float64, or none. [all of a split that ctpatch "
            "prepare wrote, else none]"
        ),
    ] = None
    data_root: DataRoot = None
    on_error: OnErrorOption = None


@Parameter(name="*")
@dataclass(frozen=True)
class BuildOptions(PlanOptions):
    """The same, and what is written.

    Attributes:
        out: Folder of the set. [DATA_ROOT/patches/DATASET/SPLIT]
        strict: Compare digests of all sources before an earlier result is trusted.
    """

    out: Path | None = None
    overwrite: Overwrite = None
    strict: bool | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions(OptionGroup):
    """What the work is given to.

    Attributes:
        engine: What runs the work: serial, processes, dask. [processes where --workers is above 1]
        scheduler: Address of a Dask scheduler: tcp://host:8786. [a cluster on this machine]
        scheduler_file: The file a Dask scheduler wrote its address to.
    """

    workers: Workers = None
    engine: Literal["serial", "processes", "dask"] | None = None
    scheduler: str | None = None
    scheduler_file: Path | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class HuOptions(OptionGroup):
    """What only raw CT in HU has: other arrays, the series of each, and how HU become values in [0, 1].

    Attributes:
        target: A second source, whose slices become the array target.
        mask: A source of masks, kept as they are.
        series: Which series become image: a pattern of the path, the description or the kernel, `*B70f*`.
        target_series: Which series become target, of --target or of the same source.
        mask_series: Which series become mask, of --mask or of the same source.
        naming: How images and masks are named: auto, nnunet, decathlon, amos, kits, btcv or totalsegmentator.
        pair: Names of your own instead: `{case}_0000.nii.gz={case}.nii.gz`.
        structures: Which structures of TotalSegmentator become labels 1, 2 and so on. [all, by name]
        match_by: Partners by patient and position, or by the same path. [dicom position, others path]
        window: Lowest and highest HU, mapped to 0 and 1. [-1024 3072]
        preset: A usual window, or LoDoPaB-CT's attenuation, instead of --window.
    """

    target: Path | None = None
    mask: Path | None = None
    series: str | None = None
    target_series: str | None = None
    mask_series: str | None = None
    naming: str | None = None
    pair: str | None = None
    structures: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    match_by: Annotated[Literal["position", "path"] | None, Parameter(name="--match")] = None
    window: Annotated[tuple[float, float] | None, Parameter(group="Values and size")] = None
    preset: Annotated[
        Literal["full", "abdomen", "lung", "liver", "brain", "lodopab"] | None, Parameter(group="Values and size")
    ] = None


@Parameter(name="*", group="Values and size")
@dataclass(frozen=True)
class SizeOptions(OptionGroup):
    """Size of the prepared slices, and of their pixels.

    Attributes:
        crop: Pixels cut out of the middle, after resampling: 362, or 362x362.
        spacing: Millimetres between pixels to resample to: 0.8, or 0.8x0.8.
    """

    crop: str | None = None
    spacing: str | None = None


@Parameter(name="*", group="Splits")
@dataclass(frozen=True)
class SplitOptions(OptionGroup):
    """Which split a patient goes to.

    Attributes:
        split: Shares of the patients. [train=0.8 validation=0.1 test=0.1]
        seed: Chooses who goes where.
        exact: Meet the shares exactly, to rounding; adding patients can then move others.
        folds: So many folds of one size, fold0 and so on, instead of --split.
        patients: A CSV with patient_id (or pseudonym) and split, for splits that are given.
        stratify: A column of --patients within whose values the shares are kept.
    """

    split: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    seed: int = 0
    exact: bool | None = None
    folds: int | None = None
    patients: Path | None = None
    stratify: str | None = None


@Parameter(name="*", group="Privacy")
@dataclass(frozen=True)
class PrivacyOptions(OptionGroup):
    """What stands for names, and who can tell.

    Attributes:
        key: The key pseudonyms are made with. [made once, in your settings]
        new_key: Make the key that --key names, where it is not there.
        names: Write the table of pseudonyms to this CSV file, for you alone. [none]
    """

    key: Path | None = None
    new_key: bool = False
    names: Path | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions(OptionGroup):
    """When a preparation stops, and what an earlier output is worth.

    Attributes:
        strict: A series whose values are hardly HU is an error, and nothing is published. [it is reported]
    """

    on_error: OnErrorOption = None
    strict: bool | None = None
    overwrite: Overwrite = None


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
    known = sorted(names_of(PatchOptions, BuildOptions, EngineOptions))
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"{path.name}: there is no option {unknown[0]!r}; options are {', '.join(known)}")
    return options


def patch_config(options: dict[str, Any]) -> "PatchConfig":
    """The options that decide the patches; ConfigError names one that makes no sense."""
    from ctpatch.config import PatchConfig, Rule, min_std_rule  # noqa: PLC0415

    values = {name: options[name] for name in names_of(PatchOptions) if options.get(name) is not None}
    drop = values.pop("drop", [])
    drop = [drop] if isinstance(drop, str) else drop
    if not isinstance(drop, list | tuple) or not all(isinstance(rule, str) for rule in drop):
        raise ConfigError(f"drop: {drop!r}, wanted rules as 'name: condition'")
    rules: list[str | Rule] = list(drop)
    min_std = values.pop("min_std", None)
    if min_std is not None:
        if isinstance(min_std, bool) or not isinstance(min_std, int | float):
            raise ConfigError(f"min_std: {min_std!r}, wanted a number")
        rules.append(min_std_rule(float(min_std)))
    return PatchConfig(**values, drop=tuple(rules))


def with_file(config: Path | None, *groups: OptionGroup) -> dict[str, Any]:
    """Options of the file, overridden by those of the command line."""
    options = _from_file(config)
    for group in groups:
        options |= group.given()
    return options


@contextmanager
def executor_from(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a function with the arguments `workers` and `executor` is to be given, while it runs.

    `options` are those of `EngineOptions`, among others; what is missing was not chosen.
    """
    from ctpatch.work.executors.choose import engine_executor  # noqa: PLC0415 - the help is quick without it

    chosen = {name: options[name] for name in names_of(EngineOptions) if name in options}
    with engine_executor(**chosen) as executor:
        yield {"executor": executor} if executor is not None else {k: v for k, v in chosen.items() if k == "workers"}


def json_text(value: Any) -> str:
    """A result as JSON, for programs."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)


def result_json(result: "BuildResult | PrepareResult", **own: Any) -> dict[str, Any]:
    """What a run did, as plain values; `own` is what only such runs have."""
    return {
        "folder": str(result.folder),
        "outcome": result.outcome,
        "seconds": result.seconds,
        "complete": result.complete,
        **own,
        "meta": result.meta.model_dump(mode="json"),
    }
