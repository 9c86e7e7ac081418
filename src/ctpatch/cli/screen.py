"""What the command line shows: a progress bar on a terminal's stderr, and summaries as text."""

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ctpatch.checking.findings import VerifyReport, counted
from ctpatch.core.label_counts import MAX_LABELS
from ctpatch.cutting.plan import SplitPlan
from ctpatch.cutting.preview import RulePreview
from ctpatch.cutting.result import BuildResult
from ctpatch.cutting.shares import ShareResult
from ctpatch.errors import printable
from ctpatch.events import Event, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.format.meta import LabelTotals, PatchMeta
from ctpatch.words import LAYOUTS, human_bytes

OUTCOMES = {
    "built": "built",
    "prepared": "prepared",
    "resumed": "resumed and finished",
    "complete": "is complete; nothing to do",
    "merged": "merged from its shares",
}
MAX_FINDINGS_SHOWN = 20
_MAX_NAMES_SHOWN = 5
_MAX_LABELS_SHOWN = 40
_Pixels = int | tuple[int, int]


class ConsoleListener:
    """Shows events: bars where stderr is a terminal, notices always, both on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._tasks: dict[str, tuple[TaskID, float, int, int, str]] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, WorkStarted):
            task = self._progress.add_task(printable(event.task), total=event.total, unit=event.unit, rate="")
            self._tasks[event.task] = (task, time.perf_counter(), 0, 0, event.unit)
        elif isinstance(event, WorkAdvanced):
            task, started, steps, patches, unit = self._tasks[event.task]
            steps += 0 if event.reused else event.steps
            patches += 0 if event.reused else event.patches
            self._tasks[event.task] = (task, started, steps, patches, unit)
            count, what = (patches, "patches") if patches else (steps, unit)
            rate = count / max(time.perf_counter() - started, 1e-9)
            self._progress.update(task, advance=event.steps, rate=f"{rate:,.0f} {what}/s" if count else "")
        elif isinstance(event, WorkFinished):
            self._progress.remove_task(self._tasks.pop(event.task)[0])
        elif not self._quiet:
            self._console.print(f"note: {printable(event.message)}", markup=False)


def shown_path(path: Path) -> str:
    """A path as the user would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def lines(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A title, and below it a line for each pair of a name and a text."""
    return "\n".join([printable(title), *(f"  {name:<11} {printable(text)}" for name, text in rows)])


def _size(pair: _Pixels) -> str:
    return f"{pair[0]}x{pair[1]}" if isinstance(pair, tuple) else f"{pair}x{pair}"


def coverage_text(
    coverage: float, stride: _Pixels, better: _Pixels | None, windows: int, better_windows: int, evenly: int
) -> str:
    """The share of pixels in some patch, and what would lose none: another stride, or fewer windows spread evenly."""
    text = f"{100 * coverage:.1f} % of the pixels are in a patch at stride {_one(stride)}"
    if better is None:
        return text
    if evenly < better_windows:
        return f"{text}; --pad-mode even covers all with {evenly:,} windows instead of {windows:,}"
    many = f"{better_windows:,} windows instead of {windows:,}" if better_windows != windows else "as many patches"
    return f"{text}; stride {_one(better)} covers all with {many}"


def _one(pair: _Pixels) -> str:
    return f"{pair[0]}x{pair[1]}" if isinstance(pair, tuple) and pair[0] != pair[1] else _size(pair).partition("x")[0]


def _cut(what: PatchMeta | ShareResult) -> str:
    return f"{what.num_slices:,} cut" + (f", {what.num_skipped:,} left out" if what.num_skipped else "")


def build_summary(result: BuildResult) -> str:
    """What a build did, as text."""
    meta = result.meta
    rows = [("slices", _cut(meta))]
    rows += [("", f"left out: {reason}") for reason in result.skipped[:_MAX_NAMES_SHOWN]]
    if meta.num_skipped > _MAX_NAMES_SHOWN:
        rows.append(("", f"and {meta.num_skipped - _MAX_NAMES_SHOWN:,} more; slice_manifest.csv lists all"))
    if result.num_without_windows:
        names = ", ".join(result.slices_without_windows[:_MAX_NAMES_SHOWN])
        more = " …" if result.num_without_windows > _MAX_NAMES_SHOWN else ""
        rows.append(("", f"{result.num_without_windows:,} smaller than a patch, without windows: {names}{more}"))
    rows += set_rows(meta)
    if not meta.num_patches:
        rows.append(("", f"the set is empty: {_why_empty(meta.num_windows)}"))
    covering = (
        result.covering_stride,
        result.planned_windows,
        result.windows_at_covering_stride,
        result.windows_spread_evenly,
    )
    rows.append(("coverage", coverage_text(meta.coverage, meta.stride, *covering)))
    if result.outcome != "complete":
        rate = f", {meta.num_patches / max(result.seconds, 1e-9):,.0f} patches/s" if result.outcome == "built" else ""
        rows.append(("time", f"{result.seconds:.1f} s{rate}"))
    return lines(f"{meta.dataset}/{meta.split} {OUTCOMES[result.outcome]}: {shown_path(result.folder)}", rows)


def _why_empty(windows: int) -> str:
    if windows:
        return "the rules drop all windows"
    return "no slice is as large as a patch: use a smaller --patch-size, or --pad-mode reflect"


def share_summary(result: ShareResult) -> str:
    """What the build of a share did, as text."""
    if result.set_complete:
        return lines(f"share {result.share}: the set is complete; nothing to do: {shown_path(result.folder)}", [])
    done = f", {result.reused:,} of them done before" if result.reused else ""
    rows = [
        ("parts", f"{result.parts:,}{done}"),
        ("slices", _cut(result)),
        *(("", f"left out: {reason}") for reason in result.skipped[:_MAX_NAMES_SHOWN]),
        ("patches", f"{result.num_patches:,}"),
        ("time", f"{result.seconds:.1f} s"),
        ("next", f"when all {result.share.of} shares are done: ctpatch merge {shown_path(result.folder)}"),
    ]
    return lines(f"share {result.share} is done: {shown_path(result.folder)}", rows)


def set_rows(meta: PatchMeta) -> list[tuple[str, str]]:
    """What a set is, a row for each property."""
    arrays = ", ".join(f"{name} ({info.dtype})" for name, info in meta.arrays.items())
    kept = f"{meta.num_patches:,} of {_size(meta.patch_size)} kept of {meta.num_windows:,} windows"
    carried = ", ".join(f"{name} ({kind})" for name, kind in (meta.carried or {}).items())
    return [
        ("patches", f"{kept}; {arrays}"),
        *(("dropped", f"{rule.dropped:,} by {rule.name} ({rule.condition})") for rule in meta.drop_rules),
        ("layout", f"{meta.layout}, {human_bytes(meta.pixel_bytes)} of pixels"),
        *([("columns", f"kept of the source manifest: {carried}")] if carried else []),
        *label_rows(meta.label_counts or {}),
    ]


def label_rows(counts: Mapping[str, LabelTotals]) -> list[tuple[str, str]]:
    """What masks hold: a row for each label, and one for the labels that no kept window holds."""
    rows: list[tuple[str, str]] = []
    for array, totals in counts.items():
        if totals.labels is None:
            rows.append(("labels", f"{array}: too many to list; slice_manifest.csv has those of each slice"))
            continue
        shown = totals.labels[:_MAX_LABELS_SHOWN]
        for place, each in enumerate(shown):
            held = f"{each.pixels:,} pixels in {each.slices:,} slices, in {each.windows:,} kept windows"
            rows.append(("" if place else "labels", f"{array} {each.label}: {held}"))
        if len(totals.labels) > len(shown):
            rows.append(("", f"{array}: and {len(totals.labels) - len(shown):,} more labels"))
        if not totals.labels and not totals.uncounted:
            rows.append(("labels", f"{array}: no pixel has a label"))
        lost = [str(each.label) for each in totals.labels if not each.windows]
        if lost:
            rows.append(("", f"no kept window holds {array} {', '.join(lost[:_MAX_LABELS_SHOWN])}"))
        if totals.uncounted:
            why = f"more than {MAX_LABELS} labels in one, or numbers that are not whole"
            rows.append(("", f"{array}: {totals.uncounted:,} slices are not counted ({why})"))
    return rows


def info_text(meta: PatchMeta, folder: Path) -> str:
    """What a finished set is, as text."""
    low, high = meta.value_range
    covered = f"{100 * meta.coverage:.1f} % of the pixels covered"
    rows = [
        ("slices", _cut(meta)),
        *set_rows(meta),
        ("windows", f"stride {_one(meta.stride)}, border {meta.pad_mode}, {covered}"),
        ("values", f"{low:g} to {high:g}; air is {meta.air_level:g} or less; statistics and rules on {meta.rules_on}"),
        *(("", line) for line in _spreads(meta)),
        ("source", meta.source_manifest),
        ("made", f"{meta.created} by ctpatch {meta.ctpatch_version}, format {meta.format_version}"),
        ("fingerprint", meta.fingerprint),
    ]
    return lines(f"{meta.dataset}/{meta.split}: {shown_path(folder)}", rows)


def _spreads(meta: PatchMeta) -> list[str]:
    """How pixels of patches are spread, a line for each array, and what values stand for in HU."""
    found = []
    for name, values in ({} if meta.values is None else meta.values.arrays).items():
        each = values.patches
        if each.mean is not None:
            found.append(
                f"{name} in patches: mean {each.mean:.6g}, std {each.std:.6g}, {each.min:.6g} to {each.max:.6g}"
            )
    if meta.hu is not None:
        found.append(f"0 to 1 stand for {meta.hu.low_hu:.6g} to {meta.hu.high_hu:.6g} HU ({meta.hu.kind})")
    return found


def plan_text(plan: SplitPlan, preview: RulePreview | None, layout: str) -> str:
    """What a build would do, as text."""
    summary = plan.summary()
    unusable = f", and {plan.num_faulty:,} that cannot be used" if plan.num_faulty else ""
    rows = [("slices", f"{plan.num_slices:,}{unusable}")]
    rows += [("", problem) for problem in plan.slices["problem"].drop_nulls().head(_MAX_NAMES_SHOWN)]
    rows.append(("arrays", ", ".join(f"{name} ({info.dtype})" for name, info in plan.arrays.items())))
    if plan.carried:
        rows.append(("columns", f"kept: {', '.join(f'{name} ({kind})' for name, kind in plan.carried.items())}"))
    for shape in plan.shapes:
        covered = f"{100 * shape.grid.coverage:.1f} % covered"
        windows = f"{shape.slices:,} slices, {len(shape.grid):,} windows each"
        rows.append(("shape", f"{_size(shape.grid.shape)}: {windows}, {covered}"))
    rows.append(("windows", f"{plan.num_windows:,} of {_size(plan.config.patch_size)}, before rules"))
    if not plan.num_windows or (preview is not None and not preview.kept):
        rows.append(("", f"the set would be empty: {_why_empty(plan.num_windows)}"))
    if preview is not None:
        for rule in plan.config.drop:
            alone, first = preview.alone[rule.name], preview.first[rule.name]
            hits = f"{alone:,} windows on its own, {first:,} as the first that hits"
            rows.append(("rule", f"{rule.name} ({rule.condition}) would drop {hits}"))
        rows.append(("kept", f"{preview.kept:,} patches"))
        rows += [("left out", reason) for reason in preview.skipped[:_MAX_NAMES_SHOWN]]
        rows += label_rows(preview.label_counts())
    elif plan.counted:
        rows.append(("labels", f"of {', '.join(plan.counted)}: --count-labels reads them and shows how many there are"))
    sizes = ", ".join(f"{name} {human_bytes(summary['pixel_bytes'][name])}" for name in LAYOUTS)
    rows.append(("pixels", f"{sizes} (before rules)"))
    rows.append(("first", ", ".join(f"{each}.npy" for each in summary["first_patch_ids"]) or "no window at all"))
    covering = (
        plan.covering_stride,
        plan.num_windows,
        plan.windows_at_covering_stride(),
        plan.windows_spread_evenly(),
    )
    rows.append(("coverage", coverage_text(plan.coverage, plan.config.stride, *covering)))
    if hint := plan.many_files_hint(layout):
        rows.append(("hint", hint))
    return lines(f"{plan.source.name}: {plan.source.manifest_path}", rows)


def verify_text(report: VerifyReport, folder: Path) -> str:
    """What a verification found, as text."""
    if report.status == "incomplete":
        return printable(f"incomplete: {report.findings[0].message}")
    how = "every table, file and pixel" + (", all as a build from its sources gives it" if report.deep else "")
    patches = counted(report.num_patches, "patch", "patches")
    seen = f"{patches} of {counted(report.num_slices, 'slice', 'slices')}"
    if report.ok:
        return printable(f"ok: {report.name}: {seen}: {how} ({shown_path(folder)})")
    shown = [str(finding) for finding in report.findings[:MAX_FINDINGS_SHOWN]]
    if report.num_findings > MAX_FINDINGS_SHOWN:
        shown.append(f"and {report.num_findings - MAX_FINDINGS_SHOWN:,} more")
    counts = ", ".join(f"{count:,} {check}" for check, count in report.counts.most_common())
    shown.append(f"failed: {report.name}: {counted(report.num_findings, 'finding', 'findings')} in {seen} ({counts})")
    return "\n".join(map(printable, shown))


def print_out(text: str) -> None:
    r"""A result, on stdout; bytes of a path that are no UTF-8 as `\udcfc`, which programs that read JSON take back."""
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
