"""The command `audit`, and its report as text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ctpatch.cli.options import json_text
from ctpatch.errors import EXIT_DATA, EXIT_DONE, printable

if TYPE_CHECKING:
    from ctpatch.checking.audit.report import AuditReport, Leak, SplitSummary

_SHOWN = 10
_FAULTS_SHOWN = 10


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
    show: Annotated[int, Parameter(help="Findings of each check to show; all are counted.")] = _SHOWN,
    json_output: Annotated[bool, Parameter(name="--json", help="Print the report as JSON.")] = False,
) -> int:
    """Look for leakage between splits: patients, slices and patches that are in more than one.

    Exit status 1 where there is a leak, or a row that could not be checked though it should.
    """
    from ctpatch.checking.audit import audit as run_audit  # noqa: PLC0415
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
    if json_output:
        print_out(json_text(report.as_dict()))
    else:
        print_out(audit_text(report, max(show, 0)))
    return EXIT_DONE if report.ok else EXIT_DATA


def audit_text(report: "AuditReport", show: int = _SHOWN) -> str:
    """What an audit found, as text; `show` findings of each check."""
    return "\n".join(printable(line) for line in _lines(report, show))


def _lines(report: "AuditReport", show: int) -> Iterator[str]:
    from ctpatch.checking.audit.report import CHECKS  # noqa: PLC0415
    from ctpatch.checking.findings import counted  # noqa: PLC0415

    for split in report.splits:
        yield from _split_lines(split)
    for check, title in CHECKS.items():
        count = report.counts[check]
        if not count:
            continue
        yield f"{title}: {count:,}"
        shown = [leak for leak in report.findings if leak.check == check][:show]
        for leak in shown:
            yield from _leak_lines(leak)
        if count > len(shown):
            yield f"  and {count - len(shown):,} more" + ("" if show else " (--show 10)")
    if report.implied_patches:
        yield f"identical patches of slices named above: {report.implied_patches:,}"
    if report.alike:
        yield (
            f"no findings: {report.alike:,} pairs of slices correlate by {report.threshold:g} or more, but not in "
            f"detail ({report.detail_threshold:g})"
        )
    if report.not_checked:
        yield "not checked"
        yield from (f"  {each}" for each in report.not_checked)
    if report.num_faults:
        yield f"could not be used: {counted(report.num_faults, 'row', 'rows')}"
        shown_faults = report.faults[:_FAULTS_SHOWN]
        yield from (f"  {fault}" for fault in shown_faults)
        rest = report.num_faults - sum(fault.rows for fault in shown_faults)
        if rest:
            yield f"  and {counted(rest, 'row', 'rows')} more"
    yield _verdict(report)


def _split_lines(split: "SplitSummary") -> Iterator[str]:
    form = f"layout {split.layout}" if split.layout else split.kind
    counts = [f"{split.slices:,} slices"]
    if split.patches is not None:
        counts.append(f"{split.patches:,} patches")
    if split.patients is not None:
        counts.append(f"{split.patients:,} patient{'' if split.patients == 1 else 's'}")
    yield f"{split.name}: {', '.join(counts)} ({form}, {split.folder})"
    repeats = (
        (split.duplicate_slices, "slices repeat an earlier one"),
        (split.mirrored_slices, "slices repeat an earlier one mirrored or turned"),
        (split.duplicate_patches, "patches repeat an earlier one"),
        (split.constant_slices, "slices are constant, and not compared"),
        (split.constant_patches, "patches are constant, and not compared"),
        (split.from_patches, "slices were put together from their patches"),
    )
    yield from (f"  {count:,} {what}" for count, what in repeats if count)


def _leak_lines(leak: "Leak") -> Iterator[str]:
    others = f", and {leak.others:,} more of {leak.first.split}" if leak.others and leak.check != "patient" else ""
    yield f"  {leak.message}{others}"
    yield f"    {leak.first}"
    yield f"    {leak.second}"


def _verdict(report: "AuditReport") -> str:
    from ctpatch.checking.findings import counted  # noqa: PLC0415

    names = ", ".join(split.name for split in report.splits)
    if report.status == "leaks":
        counts = ", ".join(f"{count:,} {check}" for check, count in report.counts.most_common())
        return f"failed: {counted(report.num_findings, 'finding', 'findings')} between {names} ({counts})"
    if report.status == "incomplete":
        return f"incomplete: no leak was found between {names}, but not every row could be used"
    partly = ", as far as it could be checked" if report.not_checked else ""
    return f"ok: no leak between {names}{partly}"
