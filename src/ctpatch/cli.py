"""The command line: parses, calls, prints.

Exit status: 0 done; 1 the data failed a check or some slices failed; 2 the call was wrong; 130 interrupted.
"""

import json
import os
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from ctpatch._version import __version__
from ctpatch.cli_audit import audit
from ctpatch.cli_prepare import prepare_app
from ctpatch.engine_options import ENGINE_OPTIONS, EngineOptions, executor_from
from ctpatch.errors import EXIT_DATA, EXIT_DONE, EXIT_USAGE, ConfigError, CtPatchError, UsageError

if TYPE_CHECKING:
    from ctpatch.config import PatchConfig
    from ctpatch.make import BuildResult

EXIT_INTERRUPTED = 130

PadMode = Literal["none", "shift", "even", "zero", "edge", "reflect"]
Layout = Literal["files", "shards", "slices", "index"]
OnError = Literal["stop", "skip"]

app = App(
    name="ctpatch",
    version=__version__,
    help="CT slices to patch datasets with proof of where each patch came from.\n\n"
    "Exit status: 0 done; 1 the data failed a check or some slices failed; 2 the call was wrong.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` says how to go on
    default_parameter=Parameter(negative=""),
)
app.command(prepare_app)
app.command(audit)


def _pixels(text: str | None, option: str) -> int | tuple[int, int] | None:
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


_PATCH_OPTIONS = {"patch_size", "stride", "pad_mode", "value_range", "air_level", "drop", "min_std", "rules_on"}
_BUILD_OPTIONS = {"layout", "out", "data_root", "overwrite", "on_error", "strict"}
_WORK_OPTIONS = {"workers", *ENGINE_OPTIONS}


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
    unknown = sorted(set(options) - _PATCH_OPTIONS - _BUILD_OPTIONS - _WORK_OPTIONS)
    if unknown:
        known = ", ".join(sorted(_PATCH_OPTIONS | _BUILD_OPTIONS | _WORK_OPTIONS))
        raise ConfigError(f"{path.name}: there is no option {unknown[0]!r}; options are {known}")
    return options


def _patch_config(options: dict[str, Any]) -> "PatchConfig":
    from ctpatch.config import PatchConfig, Rule, min_std_rule  # noqa: PLC0415

    values = {name: options[name] for name in _PATCH_OPTIONS if options.get(name) is not None}
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


def _merge(config: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Options of the file, overridden by those of the command line."""
    return {**_from_file(config), **{name: value for name, value in given.items() if value is not None}}


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)


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


@app.command
def build(
    *sources: Sources,
    patch_size: PatchSize = None,
    stride: Stride = None,
    pad_mode: Pad = None,
    layout: Annotated[
        Layout | None,
        Parameter(help="files: one .npy a patch; shards: many in one; slices: whole slices; index: no pixels. [files]"),
    ] = None,
    drop: Drop = None,
    min_std: MinStd = None,
    value_range: ValueRange = None,
    air_level: AirLevel = None,
    rules_on: RulesOn = None,
    out: Annotated[Path | None, Parameter(help="Folder of the set. [DATA_ROOT/patches/DATASET/SPLIT]")] = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    overwrite: bool | None = None,
    on_error: Annotated[
        OnError | None, Parameter(help="A slice that cannot be used: stop, or skip it and exit 1. [stop]")
    ] = None,
    strict: bool | None = None,
    share: str | None = None,
    engines: EngineOptions = Engines,
    config: ConfigFile = None,
    report: bool = False,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Cut slices into patch sets; goes on where an earlier run was cut off.

    Parameters
    ----------
    overwrite
        Start anew over an earlier set of ours; other files are never touched.
    strict
        Compare digests of all sources before an earlier result is trusted.
    report
        Write report.html beside the tables (of several splits: into the folder above them).
    share
        Build only this share of the parts, as 3/16; ctpatch merge makes all shares one set.
    json_output
        Print the result as JSON.
    """
    from ctpatch.build import build as run_build  # noqa: PLC0415
    from ctpatch.console import ConsoleListener  # noqa: PLC0415

    given = {
        "patch_size": _pixels(patch_size, "patch_size"),
        "stride": _pixels(stride, "stride"),
        "pad_mode": pad_mode,
        "layout": layout,
        "drop": drop,
        "min_std": min_std,
        "value_range": value_range,
        "air_level": air_level,
        "rules_on": rules_on,
        "out": out,
        "data_root": data_root,
        "workers": workers,
        "overwrite": overwrite,
        "on_error": on_error,
        "strict": strict,
        **engines.given(),
    }
    options = _merge(config, given)
    cfg = _patch_config(options)
    how = {name: options[name] for name in _BUILD_OPTIONS if name in options}
    if report and share is not None:
        raise ConfigError("share, report: a share is no set yet; ctpatch merge makes it one, then ctpatch report")
    if report:
        from ctpatch.report import check_installed, report_along  # noqa: PLC0415

        check_installed()
    page = None
    with ConsoleListener(quiet=json_output) as listener, executor_from(options) as work:
        if share is not None:
            return _build_share(sources, share, {**how, **work, "config": cfg, "listener": listener}, json_output)
        results = run_build(sources, config=cfg, listener=listener, **how, **work)
        if report:
            page = report_along([each.folder for each in results], how.get("data_root"), listener)
    return _show_builds(results, page, as_json=json_output)


def _show_builds(results: "list[BuildResult]", page: Path | None = None, *, as_json: bool) -> int:
    from ctpatch.console import build_summary, print_out, shown_path  # noqa: PLC0415

    if as_json:
        print_out(_as_json([_build_json(result) for result in results]))
    else:
        print_out("\n".join(build_summary(result) for result in results))
        if page is not None:
            print_out(f"report: {shown_path(page)}")
    return EXIT_DONE if all(result.complete for result in results) else EXIT_DATA


def _build_share(sources: tuple[str, ...], share: str, how: dict[str, Any], as_json: bool) -> int:
    from ctpatch.console import print_out, share_summary  # noqa: PLC0415
    from ctpatch.shares import build_share  # noqa: PLC0415

    if how.pop("overwrite", False):
        raise ConfigError(
            "share, overwrite: a share cannot tell what the other shares have just written from what is to go; "
            "remove the folder before the first share begins, or choose another --out"
        )
    results = build_share(sources, share, **how)
    print_out(_as_json([asdict(each) for each in results]) if as_json else "\n".join(map(share_summary, results)))
    return EXIT_DATA if any(each.num_skipped for each in results) else EXIT_DONE


@app.command
def merge(
    *patches: Annotated[Path, Parameter(help="The folder that shares were built into, or a folder of such.")],
    source: Annotated[Path | None, Parameter(help="The source manifest. [the one on record]")] = None,
    data_root: DataRoot = None,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")] = False,
) -> int:
    """Make the shares of a build one set; names the shares that are missing."""
    from ctpatch.console import ConsoleListener  # noqa: PLC0415
    from ctpatch.shares import merge as run_merge  # noqa: PLC0415

    with ConsoleListener(quiet=json_output) as listener:
        results = [
            run_merge(folder, source=source, data_root=data_root, listener=listener) for folder in _sets(patches)
        ]
    return _show_builds(results, as_json=json_output)


def _build_json(result: "BuildResult") -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "outcome": result.outcome,
        "seconds": result.seconds,
        "complete": result.complete,
        "skipped": result.skipped,
        "covering_stride": result.covering_stride,
        "slices_without_windows": result.num_without_windows,
        "meta": result.meta.model_dump(mode="json"),
    }


@app.command
def plan(
    *sources: Sources,
    patch_size: PatchSize = None,
    stride: Stride = None,
    pad_mode: Pad = None,
    layout: Annotated[Layout | None, Parameter(help="The layout that is meant. [files]")] = None,
    drop: Drop = None,
    min_std: MinStd = None,
    value_range: ValueRange = None,
    air_level: AirLevel = None,
    rules_on: RulesOn = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    on_error: Annotated[
        OnError | None, Parameter(help="A slice that cannot be used: stop, or count it. [stop]")
    ] = None,
    config: ConfigFile = None,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the plan as JSON.")] = False,
) -> int:
    """Show what a build would do: counts, bytes, names, coverage, what rules would drop; writes nothing."""
    from ctpatch.console import ConsoleListener, plan_text, print_out  # noqa: PLC0415
    from ctpatch.plan import plan as make_plan  # noqa: PLC0415
    from ctpatch.preview import preview_rules  # noqa: PLC0415

    given = {
        "patch_size": _pixels(patch_size, "patch_size"),
        "stride": _pixels(stride, "stride"),
        "pad_mode": pad_mode,
        "layout": layout,
        "drop": drop,
        "min_std": min_std,
        "value_range": value_range,
        "air_level": air_level,
        "rules_on": rules_on,
        "data_root": data_root,
        "workers": workers,
        "on_error": on_error,
    }
    options = _merge(config, given)
    cfg = _patch_config(options)
    mode: OnError = options.get("on_error", "stop")
    plans = make_plan(sources, config=cfg, data_root=options.get("data_root"), skip_faulty=mode == "skip")
    shown = []
    failed = False
    with ConsoleListener(quiet=json_output) as listener:
        for each in plans:
            preview = None
            if cfg.drop:
                preview = preview_rules(each, workers=options.get("workers", 1), on_error=mode, listener=listener)
            failed = failed or each.num_faulty > 0 or bool(preview and preview.skipped)
            shown.append((each, preview))
    if json_output:
        print_out(_as_json([{**each.summary(), "rules": seen.as_dict() if seen else None} for each, seen in shown]))
    else:
        print_out("\n".join(plan_text(each, seen, options.get("layout", "files")) for each, seen in shown))
    return EXIT_DATA if failed else EXIT_DONE


@app.command
def verify(
    *patches: Annotated[Path, Parameter(help="A patch set's folder, or a folder of such.")],
    deep: Annotated[bool, Parameter(help="Cut each patch again from its source and compare bits.")] = False,
    data_root: DataRoot = None,
    workers: Annotated[int | None, Parameter(help="Processes that check. [by size]")] = None,
    engines: EngineOptions = Engines,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the findings as JSON.")] = False,
) -> int:
    """Check sets: every table, every file, every pixel; with --deep against the sources."""
    from ctpatch.console import ConsoleListener, print_out, verify_text  # noqa: PLC0415
    from ctpatch.verify import verify as run_verify  # noqa: PLC0415

    reports = []
    options = {"workers": workers, **engines.given()}
    with ConsoleListener(quiet=json_output) as listener, executor_from(options) as work:
        for folder in _sets(patches):
            found = run_verify(folder, deep=deep, data_root=data_root, listener=listener, **work)
            reports.append((found, folder))
    if json_output:
        print_out(_as_json([found.as_dict() for found, _ in reports]))
    else:
        print_out("\n".join(verify_text(found, folder.resolve()) for found, folder in reports))
    return EXIT_DONE if all(found.ok for found, _ in reports) else EXIT_DATA


def _sets(paths: tuple[Path, ...]) -> list[Path]:
    """The sets that are meant: each folder itself, or the sets in it where it is none."""
    from ctpatch.atomic import given_path  # noqa: PLC0415
    from ctpatch.held import STATE_FOLDER  # noqa: PLC0415
    from ctpatch.meta import PATCH_META  # noqa: PLC0415

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


@app.command
def info(
    *patches: Annotated[Path, Parameter(help="A patch set's folder, or a folder of such.")],
    json_output: Annotated[bool, Parameter(name="--json", help="Print the meta as JSON.")] = False,
) -> int:
    """Say what sets are, also unfinished ones."""
    from ctpatch.console import info_text, print_out  # noqa: PLC0415
    from ctpatch.dataset import open_set  # noqa: PLC0415
    from ctpatch.errors import IncompleteError  # noqa: PLC0415
    from ctpatch.output import unfinished_build  # noqa: PLC0415

    texts: list[str] = []
    values: list[Any] = []
    for folder in _sets(patches):
        try:
            ps = open_set(folder)
        except IncompleteError as error:
            begun = unfinished_build(folder)
            values.append({"status": "incomplete", "folder": str(folder), **begun})
            lines = [f"incomplete: {error.message}", *(f"  {name}: {value}" for name, value in begun.items())]
            texts.append("\n".join(lines))
        else:
            values.append({"status": "complete", "folder": str(folder), **ps.meta.model_dump(mode="json")})
            texts.append(info_text(ps.meta, ps.folder))
    print_out(_as_json(values) if json_output else "\n".join(texts))
    return EXIT_DONE


@app.command
def convert(
    patches: Annotated[Path, Parameter(help="The set.")],
    out: Annotated[Path, Parameter(help="Folder of the new set.")],
    *,
    layout: Annotated[Layout | None, Parameter(help="The new layout. [as it is]")] = None,
    keep: Annotated[str | None, Parameter(help="SQL condition: keep only patches for which it holds.")] = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    engines: EngineOptions = Engines,
    overwrite: Annotated[bool, Parameter(help="Start anew over an earlier set of ours.")] = False,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")] = False,
) -> int:
    """Write a set again in another layout, or with fewer patches; provenance stays."""
    from ctpatch.console import ConsoleListener, build_summary, print_out  # noqa: PLC0415
    from ctpatch.convert import convert as run_convert  # noqa: PLC0415

    if layout is None and keep is None:
        raise UsageError("nothing to do: give --layout, --keep, or both")
    options = {"workers": workers, **engines.given()}
    with ConsoleListener(quiet=json_output) as listener, executor_from(options) as work:
        result = run_convert(
            patches,
            out,
            layout=layout,
            keep=keep,
            data_root=data_root,
            overwrite=overwrite,
            listener=listener,
            **work,
        )
    print_out(_as_json(_build_json(result)) if json_output else build_summary(result))
    return EXIT_DONE


@app.command(name="report")
def report_command(
    *patches: Annotated[Path, Parameter(help="A patch set's folder, or a folder of such.")],
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="The file to write. [report.html or report.png]")
    ] = None,
    format_: Annotated[
        Literal["html", "png"], Parameter(name="--format", help="html: one page; png: an overview as a picture.")
    ] = "html",
    slices: Annotated[int, Parameter(help="Slices to show, of all sets together.")] = 24,
    seed: Annotated[int, Parameter(help="Decides what is shown where that is left to chance.")] = 0,
    data_root: DataRoot = None,
) -> int:
    """Show sets on one page without a network, and try other rules on it by eye."""
    from ctpatch.console import ConsoleListener, print_out, shown_path  # noqa: PLC0415
    from ctpatch.report import report  # noqa: PLC0415

    with ConsoleListener() as listener:
        page = report(
            _sets(patches), out, format=format_, slices=slices, seed=seed, data_root=data_root, listener=listener
        )
    print_out(f"report: {shown_path(page.resolve())}")
    return EXIT_DONE


@app.command
def demo(
    folder: Annotated[Path, Parameter(help="Where to put it.")] = Path("ctpatch-demo"),
) -> int:
    """Phantom CT to prepared slices to patches, verified, with a report; in seconds."""
    from ctpatch.demo import run_demo  # noqa: PLC0415

    return run_demo(folder)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's own mistake ends in a sentence, not a traceback."""
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(tokens, exit_on_error=False, print_error=True, result_action="return_value")
        return int(result) if isinstance(result, int) else EXIT_DONE
    except CycloptsError:
        return EXIT_USAGE
    except CtPatchError as error:
        return _report(error, as_json="--json" in tokens)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has enough; nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DATA
    except OSError as error:
        from ctpatch.atomic import explain_os_error  # noqa: PLC0415

        name = os.path.basename(os.fsdecode(error.filename)) if error.filename else "a file"
        return _report(explain_os_error(error, "working on", name), as_json="--json" in tokens)


def _report(error: CtPatchError, *, as_json: bool) -> int:
    from ctpatch.console import print_out, printable  # noqa: PLC0415

    if as_json:
        print_out(_as_json({"error": {"code": error.code, "message": error.message}}))
    lines = [printable(line) for line in error.message.splitlines()]
    sys.stderr.write("\n".join(["error: " + lines[0], *lines[1:]]) + "\n")
    return error.exit_status


def entry() -> None:
    """Run the command line and end the process."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
