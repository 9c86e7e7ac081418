"""The command line: parses, calls, prints.

Exit status: 0 done; 1 the data failed a check or some slices failed; 2 the call was wrong; 130 interrupted.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from ctpatch._version import __version__
from ctpatch.cli.build import build, build_json, merge, plan
from ctpatch.cli.evaluate import evaluate
from ctpatch.cli.inspect import inspect
from ctpatch.cli.options import DataRoot, EngineOptions, Json, Overwrite, Sets, executor_from, json_text
from ctpatch.cli.output import write_any_text
from ctpatch.cli.prepare import prepare_app
from ctpatch.errors import EXIT_DATA, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, CtPatchError, IncompleteError, UsageError
from ctpatch.words import LAYOUTS, LayoutName

app = App(
    name="ctpatch",
    version=__version__,
    help="CT slices to patch datasets with proof of where each patch came from.\n\n"
    "Exit status: 0 done; 1 the data failed a check or some slices failed; 2 the call was wrong; "
    "130 interrupted.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` says how to go on
    default_parameter=Parameter(negative=""),
)
for _command in (inspect, prepare_app, plan, build, merge, evaluate):
    app.command(_command)


@app.command
def audit(
    *splits: Annotated[
        Path, Parameter(help="A dataset's folder (all its splits), or several splits: patch sets or prepared slices.")
    ],
    threshold: Annotated[
        float, Parameter(help="Correlation of 16 x 16 block means from which two slices are alike.")
    ] = 0.98,
    detail_threshold: Annotated[
        float, Parameter(help="Detail correlation from which slices that are alike count; -1: all do.")
    ] = 0.85,
    data_root: Annotated[
        Path | None, Parameter(help="What paths in manifests are relative to. [the folder above prepared or patches]")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Processes that read. [by size]")] = None,
    show: Annotated[int, Parameter(help="Findings of each check to show; all are counted.")] = 10,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the report as JSON.")] = False,
) -> int:
    """Look for leakage between splits: patients, slices and patches that are in more than one.

    Exit status 1 where there is a leak, or a row that could not be checked though it should.
    """
    from ctpatch.checking.audit import audit as run_audit  # noqa: PLC0415
    from ctpatch.cli.audit import audit_text  # noqa: PLC0415
    from ctpatch.cli.screen import ConsoleListener, print_out  # noqa: PLC0415

    with ConsoleListener(quiet=json_output) as listener:
        report = run_audit(
            splits,
            threshold=threshold,
            detail_threshold=detail_threshold,
            data_root=data_root,
            workers=workers,
            listener=listener,
        )
    print_out(json_text(report.as_dict()) if json_output else audit_text(report, max(show, 0)))
    return EXIT_DONE if report.ok else EXIT_DATA


@Parameter(name="*")
@dataclass(frozen=True)
class CheckEngines(EngineOptions):
    """What checks are given to: as many processes as their size deserves, unless one says otherwise."""

    workers: Annotated[int | None, Parameter(help="Processes that check. [by size]")] = None


@app.command
def verify(
    *patches: Sets,
    deep: Annotated[bool, Parameter(help="Build the set again, without writing, and compare all of it.")] = False,
    source: Annotated[Path | None, Parameter(help="With --deep: the source manifest. [the one on record]")] = None,
    data_root: DataRoot = None,
    engines: CheckEngines = CheckEngines(),
    json_output: Annotated[bool, Parameter(name="--json", help="Print the findings as JSON.")] = False,
) -> int:
    """Check sets: every table, every file, every pixel; with --deep against the sources."""
    from ctpatch.checking.verify import verify as run_verify  # noqa: PLC0415
    from ctpatch.cli.screen import ConsoleListener, print_out, verify_text  # noqa: PLC0415
    from ctpatch.format.splits import find_sets  # noqa: PLC0415

    with ConsoleListener(quiet=json_output) as listener, executor_from(engines.given()) as work:
        reports = [
            (run_verify(folder, deep=deep, data_root=data_root, source=source, listener=listener, **work), folder)
            for folder in find_sets(patches)
        ]
    if json_output:
        print_out(json_text([found.as_dict() for found, _ in reports]))
    else:
        print_out("\n".join(verify_text(found, folder.resolve()) for found, folder in reports))
    return EXIT_DONE if all(found.ok for found, _ in reports) else EXIT_DATA


@app.command
def info(
    *patches: Sets, json_output: Annotated[bool, Parameter(name="--json", help="Print the meta as JSON.")] = False
) -> int:
    """Say what sets are, also unfinished ones."""
    from ctpatch.cli.screen import info_text, print_out  # noqa: PLC0415
    from ctpatch.cutting.output import PATCH_SET  # noqa: PLC0415
    from ctpatch.format.splits import find_sets  # noqa: PLC0415
    from ctpatch.reading.patchset import open_set  # noqa: PLC0415
    from ctpatch.work.folder import unfinished  # noqa: PLC0415

    texts: list[str] = []
    values: list[Any] = []
    for folder in find_sets(patches):
        try:
            ps = open_set(folder)
        except IncompleteError as error:
            begun = unfinished(folder, PATCH_SET.record)
            values.append({"status": "incomplete", "folder": str(folder), **begun})
            lines = [f"incomplete: {error.message}", *(f"  {name}: {value}" for name, value in begun.items())]
            texts.append("\n".join(lines))
        else:
            values.append({"status": "complete", "folder": str(folder), **ps.meta.model_dump(mode="json")})
            texts.append(info_text(ps.meta, ps.folder))
    print_out(json_text(values) if json_output else "\n".join(texts))
    return EXIT_DONE


@app.command
def convert(
    patches: Annotated[Path, Parameter(help="The set.")],
    out: Annotated[Path, Parameter(help="Folder of the new set.")],
    *,
    layout: Annotated[LayoutName | None, Parameter(help=f"The new layout: {', '.join(LAYOUTS)}. [as it is]")] = None,
    keep: Annotated[str | None, Parameter(help="SQL condition: keep only patches for which it holds.")] = None,
    data_root: DataRoot = None,
    engines: EngineOptions = EngineOptions(),
    overwrite: Overwrite = None,
    json_output: Json = False,
) -> int:
    """Write a set again in another layout, or with fewer patches; provenance stays."""
    from ctpatch.cli.screen import ConsoleListener, build_summary, print_out  # noqa: PLC0415
    from ctpatch.cutting.convert import convert as run_convert  # noqa: PLC0415

    if layout is None and keep is None:
        raise UsageError("nothing to do: give --layout, --keep, or both")
    with ConsoleListener(quiet=json_output) as listener, executor_from(engines.given()) as work:
        result = run_convert(
            patches,
            out,
            layout=layout,
            keep=keep,
            data_root=data_root,
            overwrite=bool(overwrite),
            listener=listener,
            **work,
        )
    print_out(json_text(build_json(result)) if json_output else build_summary(result))
    return EXIT_DONE


@app.command(name="report")
def report_command(
    *patches: Sets,
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
    from ctpatch.cli.screen import ConsoleListener, print_out, shown_path  # noqa: PLC0415
    from ctpatch.format.splits import find_sets  # noqa: PLC0415
    from ctpatch.reporting import report  # noqa: PLC0415

    with ConsoleListener() as listener:
        page = report(
            find_sets(patches), out, format=format_, slices=slices, seed=seed, data_root=data_root, listener=listener
        )
    print_out(f"report: {shown_path(page.resolve())}")
    return EXIT_DONE


@app.command
def demo(folder: Annotated[Path, Parameter(help="Where to put it.")] = Path("ctpatch-demo")) -> int:
    """Phantom CT to prepared slices to patches, verified, with a report; in seconds."""
    from ctpatch.cli.demo import run_demo  # noqa: PLC0415

    return run_demo(folder)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's own mistake ends in a sentence, not a traceback."""
    tokens = sys.argv[1:] if arguments is None else arguments
    # Python has no stream where the caller closed it (`>&-`); what is written then goes nowhere.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    write_any_text()
    try:
        result = app(tokens, exit_on_error=False, print_error=True, result_action="return_value")
        sys.stdout.flush()  # at the end of the process nothing could be done about a reader that is gone
        return int(result) if isinstance(result, int) else EXIT_DONE
    except CycloptsError:
        from ctpatch.cli.prepare import option_of_others  # noqa: PLC0415

        if said := option_of_others(tokens):
            sys.stderr.write(f"{said}\n")
        return EXIT_USAGE
    except CtPatchError as error:
        return _report(error, as_json="--json" in tokens)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_DATA
    except OSError as error:
        from ctpatch.files.atomic import explain_os_error  # noqa: PLC0415

        name = os.path.basename(os.fsdecode(error.filename)) if error.filename else "a file"
        return _report(explain_os_error(error, "working on", name), as_json="--json" in tokens)


def _report(error: CtPatchError, *, as_json: bool) -> int:
    from ctpatch.cli.screen import print_out  # noqa: PLC0415

    if as_json:
        try:
            print_out(json_text({"error": {"code": error.code, "message": error.message}}))
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
    sys.stderr.write(f"error: {error.message}\n")
    return error.exit_status


def _drop_output() -> None:
    """Send the rest of our output nowhere: the process that read it is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
