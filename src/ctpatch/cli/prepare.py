"""`ctpatch prepare dicom|lodopab|nifti`: raw CT to prepared slices, on the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from ctpatch.cli.engine import EngineOptions, executor_from
from ctpatch.errors import EXIT_DATA, EXIT_DONE, ConfigError

if TYPE_CHECKING:
    from ctpatch.prepare.pipeline import PrepareResult

prepare_app = App(
    name="prepare",
    help="Raw CT to prepared slices in [0, 1], in splits by patient, with nothing private in them.",
    help_format="markdown",
    default_parameter=Parameter(negative=""),
)

MAX_SHOWN = 20
"""Slices left out that are named on the screen; `left_out.csv` has all, under pseudonyms."""

_SPLITS = Group("Splits")
_VALUES = Group("Values and size")
_PRIVACY = Group("Privacy")

Source = Annotated[Path, Parameter(help="The folder of the raw files.")]
Out = Annotated[Path, Parameter(help="The data root: the set goes to prepared/DATASET in it.")]
Dataset = Annotated[str, Parameter(help="Name of the data set.")]
Target = Annotated[Path | None, Parameter(help="A second source, whose slices become the array target.")]
Mask = Annotated[Path | None, Parameter(help="A source of masks, kept as they are.")]
Series = Annotated[
    str | None, Parameter(help="Which series become image: a pattern of paths, descriptions or kernels, `*B70f*`.")
]
TargetSeries = Annotated[str | None, Parameter(help="Which series become target, of --target or of the same source.")]
Match = Annotated[
    Literal["position", "path"] | None,
    Parameter(
        name="--match", help="Partners by patient and position, or by the same path. [dicom position, nifti path]"
    ),
]
Window = Annotated[
    tuple[float, float] | None, Parameter(group=_VALUES, help="Lowest and highest HU, mapped to 0 and 1. [-1024 3072]")
]
Preset = Annotated[
    Literal["full", "abdomen", "lung", "liver", "brain", "lodopab"] | None,
    Parameter(group=_VALUES, help="A usual window, or LoDoPaB-CT's attenuation, instead of --window."),
]
Crop = Annotated[
    str | None, Parameter(group=_VALUES, help="Pixels cut out of the middle, after resampling: 362, or 362x362.")
]
Spacing = Annotated[
    str | None, Parameter(group=_VALUES, help="Millimetres between pixels to resample to: 0.8, or 0.8x0.8.")
]
Split = Annotated[
    list[str] | None,
    Parameter(
        group=_SPLITS,
        consume_multiple=True,
        help="Shares of the patients. [train=0.8 validation=0.1 test=0.1]",
    ),
]
Seed = Annotated[int, Parameter(group=_SPLITS, help="Chooses who goes where.")]
Patients = Annotated[
    Path | None,
    Parameter(group=_SPLITS, help="A CSV with patient_id (or pseudonym) and split, for splits that are given."),
]
Stratify = Annotated[
    str | None, Parameter(group=_SPLITS, help="A column of --patients within whose values the shares are kept.")
]
Key = Annotated[
    Path | None, Parameter(group=_PRIVACY, help="The key pseudonyms are made with. [made once, in your settings]")
]
NewKey = Annotated[bool, Parameter(group=_PRIVACY, help="Make the key that --key names, where it is not there.")]
Names = Annotated[
    Path | None, Parameter(group=_PRIVACY, help="A CSV for your eyes alone: what stands for whom. [none]")
]
Workers = Annotated[int | None, Parameter(help="Processes that work. [1]")]
Engines = EngineOptions()
OnError = Annotated[
    Literal["stop", "skip"], Parameter(help="A slice that cannot be used: stop, or skip it and exit 1.")
]
Overwrite = Annotated[bool, Parameter(help="Start anew over an earlier set of ours.")]
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]
KeepOrientation = Annotated[bool, Parameter(group=_VALUES, help="Leave slices as they are stored, not upright.")]


@prepare_app.command
def dicom(
    source: Source,
    *,
    out: Out,
    dataset: Dataset,
    target: Target = None,
    mask: Mask = None,
    series: Series = None,
    target_series: TargetSeries = None,
    match: Match = None,
    window: Window = None,
    preset: Preset = None,
    crop: Crop = None,
    spacing: Spacing = None,
    keep_orientation: KeepOrientation = False,
    split: Split = None,
    seed: Seed = 0,
    patients: Patients = None,
    stratify: Stratify = None,
    group_by: Annotated[
        Literal["patient", "study", "series", "folder", "top-folder"],
        Parameter(group=_SPLITS, help="What no two splits share; where it is blank, the next of these."),
    ] = "patient",
    key: Key = None,
    new_key: NewKey = False,
    names: Names = None,
    allow_deflated: Annotated[
        bool, Parameter(help="Read deflated files, which could be bombs, within bounds.")
    ] = False,
    workers: Workers = None,
    engines: EngineOptions = Engines,
    on_error: OnError = "stop",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> int:
    """CT slices in any tree of DICOM files; goes on where an earlier run was cut off."""
    from ctpatch.prepare.api import prepare_dicom  # noqa: PLC0415

    common = _common(
        split, seed, patients, stratify, crop, spacing, key, names, on_error, new_key=new_key, overwrite=overwrite
    )

    def work(**given: Any) -> "PrepareResult":
        return prepare_dicom(
            source,
            out,
            dataset,
            target=target,
            mask=mask,
            series=series,
            target_series=target_series,
            match_by=match or "position",
            window=window,
            preset=preset,
            group_by=group_by,
            keep_orientation=keep_orientation,
            allow_deflated=allow_deflated,
            **given,
            **common,
        )

    return _run(work, workers, engines, json_output=json_output)


@prepare_app.command
def nifti(
    source: Source,
    *,
    out: Out,
    dataset: Dataset,
    target: Target = None,
    mask: Mask = None,
    series: Series = None,
    target_series: TargetSeries = None,
    match: Match = None,
    window: Window = None,
    preset: Preset = None,
    crop: Crop = None,
    spacing: Spacing = None,
    split: Split = None,
    seed: Seed = 0,
    patients: Patients = None,
    stratify: Stratify = None,
    group_by: Annotated[
        Literal["folder", "file"],
        Parameter(group=_SPLITS, help="What no two splits share, where no name such as sub-01 tells the patient."),
    ] = "folder",
    key: Key = None,
    new_key: NewKey = False,
    names: Names = None,
    workers: Workers = None,
    engines: EngineOptions = Engines,
    on_error: OnError = "stop",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> int:
    """Axial slices of NIfTI volumes in HU; goes on where an earlier run was cut off."""
    from ctpatch.prepare.api import prepare_nifti  # noqa: PLC0415

    common = _common(
        split, seed, patients, stratify, crop, spacing, key, names, on_error, new_key=new_key, overwrite=overwrite
    )

    def work(**given: Any) -> "PrepareResult":
        return prepare_nifti(
            source,
            out,
            dataset,
            target=target,
            mask=mask,
            series=series,
            target_series=target_series,
            match_by=match or "path",
            window=window,
            preset=preset,
            group_by=group_by,
            **given,
            **common,
        )

    return _run(work, workers, engines, json_output=json_output)


@prepare_app.command
def lodopab(
    source: Source,
    *,
    out: Out,
    dataset: Dataset,
    pairs: Annotated[
        bool, Parameter(help="Reconstruct the observations as image, with the ground truth as target.")
    ] = False,
    filter_name: Annotated[
        Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"],
        Parameter(name="--filter", group=_VALUES, help="Filter of the reconstruction."),
    ] = "hann",
    frequency_scaling: Annotated[
        float, Parameter(group=_VALUES, help="Share of the frequencies the filter lets pass, up to 1.")
    ] = 1.0,
    crop: Crop = None,
    spacing: Spacing = None,
    keep_orientation: KeepOrientation = False,
    split: Split = None,
    seed: Seed = 0,
    patients: Patients = None,
    stratify: Stratify = None,
    key: Key = None,
    new_key: NewKey = False,
    names: Names = None,
    workers: Workers = None,
    engines: EngineOptions = Engines,
    on_error: OnError = "stop",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> int:
    """LoDoPaB-CT's HDF5 files, in the splits they come in; goes on where an earlier run was cut off."""
    from ctpatch.prepare.api import prepare_lodopab  # noqa: PLC0415

    common = _common(
        split, seed, patients, stratify, crop, spacing, key, names, on_error, new_key=new_key, overwrite=overwrite
    )

    def work(**given: Any) -> "PrepareResult":
        return prepare_lodopab(
            source,
            out,
            dataset,
            pairs=pairs,
            filter_name=filter_name,
            frequency_scaling=frequency_scaling,
            keep_orientation=keep_orientation,
            **given,
            **common,
        )

    return _run(work, workers, engines, json_output=json_output)


def _common(
    split: list[str] | None,
    seed: int,
    patients: Path | None,
    stratify: str | None,
    crop: str | None,
    spacing: str | None,
    key: Path | None,
    names: Path | None,
    on_error: str,
    *,
    new_key: bool,
    overwrite: bool,
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "seed": seed,
        "patients": patients,
        "stratify": stratify,
        "key": key,
        "new_key": new_key,
        "names": names,
        "on_error": on_error,
        "overwrite": overwrite,
    }
    if split:
        options["split"] = split
    if crop is not None:
        options["crop"] = tuple(int(each) for each in _pair(crop, "crop", "pixels as 362, or 362x362", whole=True))
    if spacing is not None:
        options["spacing"] = _pair(spacing, "spacing", "millimetres as 0.8, or 0.8x0.8", whole=False)
    return options


def _pair(text: str, option: str, wanted: str, *, whole: bool) -> tuple[float, float]:
    try:
        numbers = [float(int(part)) if whole else float(part) for part in text.lower().replace(",", "x").split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in {1, 2}:
        raise ConfigError(f"{option}: {text!r}, wanted {wanted}")
    return numbers[0], numbers[-1]


def _run(
    work: Callable[..., "PrepareResult"], workers: int | None, engines: EngineOptions, *, json_output: bool
) -> int:
    from ctpatch.cli.screen import ConsoleListener, print_out  # noqa: PLC0415

    # Whatever the engine, headers are looked at by this many processes here.
    here = {} if workers is None else {"workers": workers}
    options = {"workers": workers, **engines.given()}
    # What is printed anywhere else than on a terminal is kept, and read by others.
    names_shown = not json_output and sys.stdout.isatty() and sys.stderr.isatty()
    with ConsoleListener(quiet=json_output) as listener, executor_from(options) as given:
        result = work(listener=listener, names_shown=names_shown, **{**here, **given})
    if json_output:
        print_out(json.dumps(_as_dict(result), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_out(summary(result))
    return EXIT_DONE if result.complete else EXIT_DATA


def _as_dict(result: "PrepareResult") -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "outcome": result.outcome,
        "seconds": result.seconds,
        "complete": result.complete,
        "faults": result.faults,
        "left_out": result.left_out,
        "meta": result.meta.model_dump(mode="json"),
    }


def summary(result: "PrepareResult") -> str:
    """What a preparation did, as text."""
    from ctpatch.cli.screen import printable, shown_path  # noqa: PLC0415

    meta = result.meta
    verb = {"prepared": "prepared", "resumed": "gone on with and finished", "complete": "is complete; nothing to do"}
    rows = [
        (name, f"{_many(info.num_slices, 'slice')} of {_many(info.num_patients, 'patient')}: {info.manifest}")
        for name, info in meta.splits.items()
    ]
    arrays = ", ".join(f"{name} ({dtype})" for name, dtype in meta.arrays.items())
    rows.append(("arrays", arrays))
    rows.append(("values", _values(meta.mapping)))
    if meta.num_left_out:
        rows.append(("left out", ", ".join(f"{count:,} {kind}" for kind, count in meta.num_left_out.items())))
    rows += [("", each) for each in result.left_out[:MAX_SHOWN]]
    if len(result.left_out) > MAX_SHOWN:
        rows.append(("", f"and {len(result.left_out) - MAX_SHOWN:,} more; left_out.csv has all, under pseudonyms"))
    rows += [("failed", each) for each in result.faults[:MAX_SHOWN]]
    if result.outcome != "complete":
        rows.append(("time", f"{result.seconds:.1f} s"))
    rows.append(("next", f"ctpatch build {shown_path(result.folder)}"))
    lines = [f"{meta.dataset} {verb[result.outcome]}: {shown_path(result.folder)}"]
    lines += [f"  {name:<11} {text}" for name, text in rows]
    return "\n".join(printable(line) for line in lines)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _values(mapping: dict[str, Any]) -> str:
    if mapping["kind"] == "window":
        return f"{mapping['low_hu']:g} to {mapping['high_hu']:g} HU become 0 to 1"
    return "attenuation as in LoDoPaB-CT" if mapping["kind"] == "lodopab" else "as stored, 0 to 1"
