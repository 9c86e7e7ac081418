"""What the page says in words and tables, as text ready to be put in."""

from dataclasses import dataclass
from typing import Any

from ctpatch._version import __version__
from ctpatch.core.statistics.columns import compared
from ctpatch.format.meta import PatchMeta
from ctpatch.reporting.gallery import Gallery
from ctpatch.reporting.gather import AllWindows, SetWindows
from ctpatch.reporting.splits import SetRow, notes_on, set_rows
from ctpatch.words import human_bytes


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """A step of the funnel: what is left, or what a rule takes."""

    label: str
    condition: str
    count: int
    share: float
    kind: str
    before: float


def title_of(windows: AllWindows) -> str:
    """The report's title."""
    metas = [each.ps.meta for each in windows.sets]
    if len({meta.dataset for meta in metas}) == 1:
        return f"{metas[0].dataset}: {', '.join(meta.split for meta in metas)}"
    return ", ".join(each.name for each in windows.sets)


def page_facts(windows: AllWindows, gallery: Gallery) -> dict[str, Any]:
    """Everything the template needs, save styles, programs and numbers."""
    rows = set_rows(windows)
    total, kept = len(windows.hits), sum(row.kept for row in rows)
    return {
        "title": title_of(windows),
        "version": __version__,
        "tiles": _headline(windows, total, kept),
        "rows": [_row(row, several=len(rows) > 1) for row in rows],
        "several": len(rows) > 1,
        "compared": compared(),
        "funnel": funnel(windows),
        "details": [(each.name, _details(each)) for each in windows.sets],
        "notes": [*notes_on(windows), *_patient_notes(rows), *_pixel_notes(gallery)],
        "has_pairs": bool(gallery.pairs),
        "partner": gallery.partner,
        "labels": gallery.labels,
    }


def _headline(windows: AllWindows, total: int, kept: int) -> list[tuple[str, str, str]]:
    metas = [each.ps.meta for each in windows.sets]
    slices = sum(meta.num_slices for meta in metas)
    skipped = sum(meta.num_skipped for meta in metas)
    patients = len(frozenset[str]().union(*(each.patients for each in windows.sets)))
    covered = sum(meta.coverage * meta.num_slices for meta in metas) / max(slices, 1)
    return [
        (f"{kept:,}", f"{_counted(kept, 'patch', 'patches')} kept", f"{100 * kept / total:.1f} % of {total:,} windows"),
        (f"{total - kept:,}", f"{_counted(total - kept, 'window', 'windows')} dropped", "by rules; each on record"),
        (f"{slices:,}", _counted(slices, "slice", "slices"), f"{skipped:,} left out" if skipped else "none left out"),
        (
            f"{patients:,}" if patients else "not known",
            _counted(patients, "patient", "patients"),
            "" if patients else "no patient_id in the manifest",
        ),
        (f"{100 * covered:.1f} %", "of pixels in a window", "before rules"),
        (human_bytes(sum(meta.pixel_bytes for meta in metas)), "of pixels", f"layout {_all(m.layout for m in metas)}"),
    ]


def _counted(count: int, one: str, several: str) -> str:
    return one if count == 1 else several


def _all(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))


def funnel(windows: AllWindows) -> list[FunnelStep]:
    """Windows, what each rule took, in the order of the rules, and what was kept; of all sets together."""
    total = len(windows.hits)
    dropped: dict[tuple[str, str], int] = {}
    for each in windows.sets:
        for rule in each.ps.meta.drop_rules:
            key = (rule.name, rule.condition)
            dropped[key] = dropped.get(key, 0) + rule.dropped
    steps = [FunnelStep("windows cut", "", total, 1.0, "all", 0.0)]
    left = total
    for (name, condition), count in dropped.items():
        left -= count
        steps.append(FunnelStep(name, condition, count, count / total, "dropped", left / total))
    steps.append(FunnelStep("patches kept", "", left, left / total, "kept", 0.0))
    return steps


def _row(row: SetRow, *, several: bool) -> dict[str, Any]:
    meta = row.owner.ps.meta
    return {
        "name": row.owner.name,
        "split": meta.split,
        "layout": meta.layout,
        "slices": f"{meta.num_slices:,}",
        "patients": f"{len(row.owner.patients):,}" if row.owner.patients else "not known",
        "windows": f"{row.windows:,}",
        "kept": f"{row.kept:,}",
        "share": f"{100 * row.kept / row.windows:.1f} %" if row.windows else "none",
        "coverage": f"{100 * meta.coverage:.1f} %",
        "size": human_bytes(meta.pixel_bytes),
        "shifts": [
            {
                "mean": "none" if shift.mean is None else f"{shift.mean:.4g}",
                "distance": "" if shift.distance is None else f"{shift.distance:.2f}",
                "stands_out": shift.stands_out,
            }
            for shift in row.shifts
        ],
        "shared": len(row.shared_patients) if several else 0,
    }


def _details(each: SetWindows) -> list[tuple[str, str]]:
    meta: PatchMeta = each.ps.meta
    low, high = meta.value_range
    arrays = ", ".join(
        f"{name} ({info.dtype}{', labels' if info.labels else ''})" for name, info in meta.arrays.items()
    )
    return [
        ("dataset, split", each.name),
        ("patches", f"{meta.num_patches:,} of {_pair(meta.patch_size)} pixels; {arrays}"),
        ("windows", f"{meta.num_windows:,} at stride {_pair(meta.stride)}, border {meta.pad_mode}"),
        ("slices", f"{meta.num_slices:,} cut, {meta.num_skipped:,} left out"),
        ("coverage", f"{100 * meta.coverage:.1f} % of the pixels lie in a window, before rules"),
        ("layout", f"{meta.layout}, {human_bytes(meta.pixel_bytes)} of pixels"),
        ("value range", f"{low:g} to {high:g}; air is {meta.air_level:g} or less"),
        ("rules judge", meta.rules_on),
        *((f"rule {rule.name}", f"{rule.condition} dropped {rule.dropped:,}") for rule in meta.drop_rules),
        ("source", meta.source_manifest),
        ("made", f"{meta.created} by ctpatch {meta.ctpatch_version}, format {meta.format_version}"),
        ("fingerprint", meta.fingerprint),
        ("source digest", meta.source_digest),
    ]


def _pair(value: Any) -> str:
    return f"{value[0]} x {value[1]}" if isinstance(value, tuple) else f"{value} x {value}"


def _patient_notes(rows: list[SetRow]) -> list[str]:
    shared = sorted({patient for row in rows for patient in row.shared_patients})
    if not shared:
        return []
    named = [row.owner.name for row in rows if row.shared_patients]
    some = ", ".join(patient[:40] for patient in shared[:5]) + (" and more" if len(shared) > 5 else "")  # noqa: PLR2004
    leak = f"Leak: patients in more than one of {', '.join(named)}: {len(shared):,} ({some}). "
    return [leak + "What is measured on one set is then no measure of new patients."]


def _pixel_notes(gallery: Gallery) -> list[str]:
    partly = [each for each in gallery.slices if each.image is not None and not each.whole]
    notes = []
    if partly:
        notes.append(
            f"The source of {len(partly):,} of the {len(gallery.slices):,} slices shown is gone or has changed. They "
            "are put together from their kept patches; what no kept patch covers is black, and dropped windows have no "
            "picture."
        )
    notes += [f"Not shown: {fault}" for fault in gallery.faults[:3]]
    if len(gallery.faults) > 3:  # noqa: PLR2004
        notes.append(f"and {len(gallery.faults) - 3:,} more faults of this kind")
    return notes
