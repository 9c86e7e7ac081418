"""The commands `plan`, `build` and `merge`: from prepared slices to patch sets."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ctpatch.cli.options import (
    BuildOptions,
    ConfigFile,
    DataRoot,
    EngineOptions,
    Json,
    PatchOptions,
    PlanOptions,
    Sources,
    Workers,
    executor_from,
    json_text,
    names_of,
    patch_config,
    result_json,
    with_file,
)
from ctpatch.errors import EXIT_DATA, EXIT_DONE, ConfigError
from ctpatch.words import OnError

if TYPE_CHECKING:
    from ctpatch.cutting.result import BuildResult


def build(
    *sources: Sources,
    patches: PatchOptions = PatchOptions(),
    output: BuildOptions = BuildOptions(),
    engines: EngineOptions = EngineOptions(),
    share: Annotated[
        str | None,
        Parameter(help="Build only this share of the parts, as 3/16; ctpatch merge makes all shares one set."),
    ] = None,
    config: ConfigFile = None,
    report: Annotated[
        bool, Parameter(help="Write report.html beside the tables (of several splits: into the folder above them).")
    ] = False,
    json_output: Json = False,
) -> int:
    """Cut slices into patch sets; goes on where an earlier run was cut off."""
    from ctpatch.cli.screen import ConsoleListener  # noqa: PLC0415
    from ctpatch.cutting.api import build as run_build  # noqa: PLC0415

    options = with_file(config, patches, output, engines)
    cfg = patch_config(options)
    how = {name: options[name] for name in names_of(BuildOptions) if name in options}
    if report and share is not None:
        raise ConfigError("share, report: a share is no set yet; ctpatch merge makes it one, then ctpatch report")
    if report:
        from ctpatch.reporting import check_installed, report_along  # noqa: PLC0415

        check_installed()
    page = None
    with ConsoleListener(quiet=json_output) as listener, executor_from(options) as work:
        if share is not None:
            return _build_share(sources, share, {**how, **work, "config": cfg, "listener": listener}, json_output)
        results = run_build(sources, config=cfg, listener=listener, **how, **work)
        if report:
            page = report_along([each.folder for each in results], how.get("data_root"), listener)
    return show_builds(results, page, as_json=json_output)


def show_builds(results: "list[BuildResult]", page: Path | None = None, *, as_json: bool) -> int:
    """Print what builds did; the exit status."""
    from ctpatch.cli.screen import build_summary, print_out, shown_path  # noqa: PLC0415

    if as_json:
        print_out(json_text([build_json(result) for result in results]))
    else:
        print_out("\n".join(build_summary(result) for result in results))
        if page is not None:
            print_out(f"report: {shown_path(page)}")
    return EXIT_DONE if all(result.complete and result.meta.num_patches for result in results) else EXIT_DATA


def _build_share(sources: tuple[str, ...], share: str, how: dict[str, Any], as_json: bool) -> int:
    from ctpatch.cli.screen import print_out, share_summary  # noqa: PLC0415
    from ctpatch.cutting.shares import build_share  # noqa: PLC0415

    if how.pop("overwrite", False):
        raise ConfigError(
            "share, overwrite: a share cannot tell what the other shares have just written from what is to go; "
            "remove the folder before the first share begins, or choose another --out"
        )
    results = build_share(sources, share, **how)
    print_out(json_text([asdict(each) for each in results]) if as_json else "\n".join(map(share_summary, results)))
    return EXIT_DATA if any(each.num_skipped for each in results) else EXIT_DONE


def merge(
    *patches: Annotated[Path, Parameter(help="The folder that shares were built into, or a folder of such.")],
    source: Annotated[Path | None, Parameter(help="The source manifest. [the one on record]")] = None,
    data_root: DataRoot = None,
    json_output: Json = False,
) -> int:
    """Make the shares of a build one set; names the shares that are missing."""
    from ctpatch.cli.screen import ConsoleListener  # noqa: PLC0415
    from ctpatch.cutting.shares import merge as run_merge  # noqa: PLC0415
    from ctpatch.format.splits import find_sets  # noqa: PLC0415

    with ConsoleListener(quiet=json_output) as listener:
        results = [
            run_merge(folder, source=source, data_root=data_root, listener=listener) for folder in find_sets(patches)
        ]
    return show_builds(results, as_json=json_output)


def build_json(result: "BuildResult") -> dict[str, Any]:
    """What a build did, as plain values."""
    return result_json(
        result,
        skipped=result.skipped,
        covering_stride=result.covering_stride,
        slices_without_windows=result.num_without_windows,
    )


def plan(
    *sources: Sources,
    patches: PatchOptions = PatchOptions(),
    source: PlanOptions = PlanOptions(),
    workers: Workers = None,
    count_labels: Annotated[
        bool, Parameter(help="Read the masks, and show each label with its pixels, slices and windows.")
    ] = False,
    config: ConfigFile = None,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the plan as JSON.")] = False,
) -> int:
    """Show what a build would do: counts, bytes, names, coverage, what rules would drop; writes nothing."""
    from ctpatch.cli.screen import ConsoleListener, plan_text, print_out  # noqa: PLC0415
    from ctpatch.cutting.plan import plan as make_plan  # noqa: PLC0415
    from ctpatch.cutting.preview import preview_rules  # noqa: PLC0415

    options = with_file(config, patches, source, EngineOptions(workers))
    cfg = patch_config(options)
    mode: OnError = options.get("on_error", "stop")
    how = {name: options.get(name) for name in ("data_root", "arrays", "keep_columns")}
    preview = partial(preview_rules, workers=options.get("workers", 1), on_error=mode)
    with ConsoleListener(quiet=json_output) as listener:
        plans = make_plan(sources, config=cfg, skip_faulty=mode == "skip", listener=listener, **how)
        shown = [
            (each, preview(each, listener=listener) if cfg.drop or (count_labels and each.counted) else None)
            for each in plans
        ]
    if json_output:
        print_out(json_text([{**each.summary(), "rules": seen.as_dict() if seen else None} for each, seen in shown]))
    else:
        print_out("\n".join(plan_text(each, seen, options.get("layout", "files")) for each, seen in shown))
    empty = any(not each.num_windows or (seen and not seen.kept) for each, seen in shown)
    faulty = any(each.num_faulty or (seen and seen.skipped) for each, seen in shown)
    return EXIT_DATA if empty or faulty else EXIT_DONE
