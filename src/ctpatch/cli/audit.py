"""The report of the command `audit` as text."""

from collections.abc import Iterator

from ctpatch.checking.audit.report import CHECKS, AuditReport, SplitSummary
from ctpatch.checking.findings import counted
from ctpatch.cli.screen import printable

_FAULTS_SHOWN = 10


def audit_text(report: AuditReport, show: int = 10) -> str:
    """What an audit found, as text; `show` findings of each check."""
    return "\n".join(printable(line) for line in _lines(report, show))


def _lines(report: AuditReport, show: int) -> Iterator[str]:
    for split in report.splits:
        yield from _split_lines(split)
    for check, title in CHECKS.items():
        if not (count := report.counts[check]):
            continue
        yield f"{title}: {count:,}"
        shown = [leak for leak in report.findings if leak.check == check][:show]
        for leak in shown:
            several = leak.others and not check.startswith("patient")
            others = f", and {leak.others:,} more of {leak.first.split}" if several else ""
            yield from (f"  {leak.message}{others}", f"    {leak.first}", f"    {leak.second}")
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


def _split_lines(split: SplitSummary) -> Iterator[str]:
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


def _verdict(report: AuditReport) -> str:
    names = ", ".join(split.name for split in report.splits)
    if report.status == "leaks":
        counts = ", ".join(f"{count:,} {check}" for check, count in report.counts.most_common())
        return f"failed: {counted(report.num_findings, 'finding', 'findings')} between {names} ({counts})"
    if report.status == "incomplete":
        return f"incomplete: no leak was found between {names}, but not every row could be used"
    partly = ", as far as it could be checked" if report.not_checked else ""
    return f"ok: no leak between {names}{partly}"
