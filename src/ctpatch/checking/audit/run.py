"""Leakage between the splits of a dataset: patients, slices and patches that are in more than one."""

import os
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ctpatch.checking.audit.base import AuditedSplit
from ctpatch.checking.audit.checks import (
    identical_patches,
    identical_slices,
    mirrored_slices,
    near_slices,
    patients_but_for_spelling,
    same_sources,
    shared_patients,
    summary_of,
)
from ctpatch.checking.audit.find import find_audited
from ctpatch.checking.audit.look import SeenSplit, look_at_all
from ctpatch.checking.audit.overlap import overlapping_patches
from ctpatch.checking.audit.report import AuditReport
from ctpatch.errors import ConfigError, UsageError
from ctpatch.events import Listener, WorkAdvanced, ignore, working
from ctpatch.files.atomic import given_path

THRESHOLD = 0.98
"""Correlation of 16 x 16 block means from which two slices are alike."""
DETAIL_THRESHOLD = 0.85
"""Detail correlation from which slices that are alike are near-duplicates; `docs/audit.md` has what it was set by."""

_WORTH_PROCESSES = 2000
_MOST_WORKERS = 8


def audit(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    threshold: float = THRESHOLD,
    detail_threshold: float = DETAIL_THRESHOLD,
    data_root: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    listener: Listener = ignore,
) -> AuditReport:
    """Look for leakage between splits.

    Args:
        paths: a dataset's folder (all splits in it), or several splits: patch sets of any layout, prepared slices,
            and sets made elsewhere, also mixed.
        threshold: correlation of 16 x 16 block means from which two slices are alike, above 0, at most 1.
        detail_threshold: detail correlation from which slices that are alike count, from -1 (all do) to 1.
        data_root: what paths in manifests are relative to; None takes the folder above `prepared` or `patches`.
        workers: processes; None takes one for few slices and up to 8 for many.
        listener: is told of progress.

    Returns:
        What was found; no leak, and every row usable, where `report.ok`.

    Raises:
        UsageError: there are no two splits.
        ConfigError: a threshold makes no sense.
        SourceManifestError, FormatError, IncompleteError: a split's tables cannot be read.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold: {threshold!r}, wanted a correlation above 0 and at most 1")
    if not -1 <= detail_threshold <= 1:
        raise ConfigError(f"detail_threshold: {detail_threshold!r}, wanted a correlation from -1 to 1")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: {workers}, wanted 1 or more")
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    root = None if data_root is None else given_path(data_root).resolve()
    if root is not None and not root.is_dir():
        raise UsageError(f"the data root {str(data_root)!r} is not a folder")
    splits = find_audited(given, root)
    count = sum(split.slices.height for split in splits)
    workers = workers or (min(os.cpu_count() or 1, _MOST_WORKERS) if count >= _WORTH_PROCESSES else 1)
    seen = look_at_all(splits, workers, listener)
    report = AuditReport(threshold, detail_threshold)
    report.splits = [summary_of(each) for each in seen]
    for one, other in combinations(seen, 2):
        # A finding for each row of the smaller split: what is wrong with a test set is read off at once.
        first, second = sorted((one, other), key=lambda each: -each.split.slices.height)
        _compare(first, second, report, listener)
    for split in splits:
        _note_what_is_missing(split)
        report.not_checked.extend(split.not_checked)
        for fault in split.faults:
            report.add_fault(fault)
    return report


def _compare(first: SeenSplit, second: SeenSplit, report: AuditReport, listener: Listener) -> None:
    report.add(shared_patients(first, second))
    report.add(patients_but_for_spelling(first, second))
    told = np.zeros(second.split.slices.height, dtype=bool)
    for found in (identical_slices(first, second), mirrored_slices(first, second)):
        for at, leak in found:
            told[at] = True
            report.add([leak])
    task = f"compare {second.split.name} with {first.split.name}"
    with working(listener, task, int((second.vectors.usable & ~told).sum()), "slices"):
        leaks, alike = near_slices(
            first,
            second,
            threshold=report.threshold,
            detail_threshold=report.detail_threshold,
            leave_out=told,
            advance=lambda slices: listener(WorkAdvanced(task, slices)),
        )
    report.alike += alike
    report.add(leaks)
    leaks, more, implied = identical_patches(first, second, told)
    report.implied_patches += implied
    report.add(leaks)
    if more:
        report.counts["identical-patch"] += more
    report.add(overlapping_patches(first, second, told))
    report.add(same_sources(first, second))


def _note_what_is_missing(split: AuditedSplit) -> None:
    """Say where only some slices name their patient."""
    blank = split.slices["patient_id"].null_count()
    if 0 < blank < split.slices.height or (blank and not any(each.what == "patients" for each in split.not_checked)):
        split.add_not_checked("patients", f"{split.slice_table} has slices with a blank patient_id", blank)
