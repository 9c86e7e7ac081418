"""What the page says in words and tables: what each set is, how sets differ from the first, what to beware of."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch._version import __version__
from ctpatch.checking.findings import counted
from ctpatch.config import PatchConfig
from ctpatch.core.statistics.columns import compared
from ctpatch.reporting.gallery import Gallery
from ctpatch.reporting.hu_values import hu_histograms
from ctpatch.reporting.windows import AllWindows, SetWindows
from ctpatch.words import human_bytes

_SHIFT_SHOWN = 0.1
"""Smaller distances are not marked."""
_BY_CHANCE = 1.628
"""Times sqrt((n + m) / (n m)): the Kolmogorov-Smirnov distance that two samples of one distribution exceed in 1 %."""
_MOST_FAULTS, _MOST_PATIENTS, _MOST_LABELS = 3, 5, 40


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


def page_facts(windows: AllWindows, gallery: Gallery, notes: Sequence[str]) -> dict[str, Any]:
    """Everything the template needs, save styles, programs and numbers; `notes` come before those found here."""
    return {
        "title": title_of(windows),
        "version": __version__,
        "tiles": _headline(windows),
        "rows": _sets_table(windows),
        "several": len(windows.sets) > 1,
        "compared": compared(),
        "funnel": funnel(windows),
        "details": [(each.name, _details(each)) for each in windows.sets],
        "notes": [*notes, *_set_notes(windows), *_patient_notes(windows), *_pixel_notes(gallery)],
        "hu": hu_histograms(windows),
        "has_pairs": bool(gallery.pairs),
        "partner": gallery.partner,
        "labels": gallery.labels,
    }


def _headline(windows: AllWindows) -> list[tuple[str, str, str]]:
    """Tiles above all else: a number, what it counts, and more about it."""
    metas = [each.ps.meta for each in windows.sets]
    total, kept = len(windows.hits), sum(meta.num_patches for meta in metas)
    slices, skipped = sum(meta.num_slices for meta in metas), sum(meta.num_skipped for meta in metas)
    patients = len(frozenset[str]().union(*(each.patients for each in windows.sets)))
    covered = sum(meta.coverage * meta.num_slices for meta in metas) / max(slices, 1)
    size, layouts = human_bytes(sum(meta.pixel_bytes for meta in metas)), dict.fromkeys(meta.layout for meta in metas)

    def tile(count: int, one: str, several: str, more: str) -> tuple[str, str, str]:
        number, _, noun = counted(count, one, several).partition(" ")
        return number, noun, more

    return [
        tile(kept, "patch kept", "patches kept", f"{100 * kept / total:.1f} % of {total:,} windows"),
        tile(total - kept, "window dropped", "windows dropped", "by rules; each on record"),
        tile(slices, "slice", "slices", f"{skipped:,} left out" if skipped else "none left out"),
        tile(patients, "patient", "patients", "")
        if patients
        else ("not known", "patients", "no patient_id in the manifest"),
        (f"{100 * covered:.1f} %", "of pixels in a window", "before rules"),
        (size, "of pixels", f"layout {', '.join(layouts)}"),
    ]


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


def _sets_table(windows: AllWindows) -> list[dict[str, Any]]:
    """A row for each set, with what its kept windows differ in from those of the first."""
    first, rows = _kept(windows.sets[0]), []
    for each in windows.sets:
        meta, total, kept = each.ps.meta, each.frame.height, _kept(each)
        row: dict[str, Any] = {
            "name": each.name,
            "layout": meta.layout,
            "slices": f"{meta.num_slices:,}",
            "patients": f"{len(each.patients):,}" if each.patients else "not known",
            "windows": f"{total:,}",
            "kept": f"{meta.num_patches:,}",
            "share": f"{100 * meta.num_patches / total:.1f} %" if total else "none",
            "coverage": f"{100 * meta.coverage:.1f} %",
            "size": human_bytes(meta.pixel_bytes),
            "shared": len(_shared_patients(windows, each)),
            "shifts": [],
        }
        for name in compared():
            gap = None if each is windows.sets[0] else distance(first[name], kept[name])
            limit = max(_SHIFT_SHOWN, by_chance(len(first[name]), len(kept[name])))
            row["shifts"].append(
                {
                    "mean": f"{kept[name].mean():.4g}" if len(kept[name]) else "none",
                    "distance": "" if gap is None else f"{gap:.2f}",
                    "stands_out": gap is not None and gap >= limit,
                }
            )
        rows.append(row)
    return rows


def _kept(each: SetWindows) -> dict[str, NDArray[np.float64]]:
    kept = each.frame.filter(pl.col("hit") < 0)
    return {name: kept[name].to_numpy() for name in compared()}


def _shared_patients(windows: AllWindows, each: SetWindows) -> frozenset[str]:
    return each.patients & frozenset[str]().union(*(other.patients for other in windows.sets if other is not each))


def distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """The Kolmogorov-Smirnov distance of two samples, 0 alike to 1 apart; None where one is empty."""
    if not len(first) or not len(second):
        return None
    places = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(each), places, side="right") / len(each) for each in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def by_chance(first: int, second: int) -> float:
    """The distance that two samples of one distribution exceed once in a hundred times, if so many are independent."""
    return _BY_CHANCE * float(np.sqrt((first + second) / max(first * second, 1)))


def _details(each: SetWindows) -> list[tuple[str, str]]:
    meta, config = each.ps.meta, each.ps.config
    size, stride = (f"{pair[0]} x {pair[1]}" for pair in (config.patch_size, config.stride))
    low, high = meta.value_range
    arrays = ", ".join(
        f"{name} ({info.dtype}{', labels' if info.labels else ''})" for name, info in meta.arrays.items()
    )
    return [
        ("dataset, split", each.name),
        ("patches", f"{meta.num_patches:,} of {size} pixels; {arrays}"),
        ("windows", f"{meta.num_windows:,} at stride {stride}, border {meta.pad_mode}"),
        ("slices", f"{meta.num_slices:,} cut, {meta.num_skipped:,} left out"),
        ("coverage", f"{100 * meta.coverage:.1f} % of the pixels lie in a window, before rules"),
        ("layout", f"{meta.layout}, {human_bytes(meta.pixel_bytes)} of pixels"),
        ("value range", f"{low:g} to {high:g}; air is {meta.air_level:g} or less"),
        ("rules judge", meta.rules_on),
        *((f"rule {rule.name}", f"{rule.condition} dropped {rule.dropped:,}") for rule in meta.drop_rules),
        *_slice_details(each),
        ("source", meta.source_manifest),
        ("made", f"{meta.created} by ctpatch {meta.ctpatch_version}, format {meta.format_version}"),
        ("fingerprint", meta.fingerprint),
        ("source digest", meta.source_digest),
    ]


def _slice_details(each: SetWindows) -> list[tuple[str, str]]:
    """What a set keeps of its source manifest, and what its masks hold."""
    kept = ", ".join(f"{name} ({kind})" for name, kind in (each.ps.meta.carried or {}).items())
    rows = [("columns kept", kept)] if kept else []
    for array, totals in (each.ps.meta.label_counts or {}).items():
        listed = (totals.labels or ())[:_MOST_LABELS]
        rows += (
            (
                f"{array} label {label.label}",
                f"{label.pixels:,} pixels in {label.slices:,} slices, in {label.windows:,} kept patches",
            )
            for label in listed
        )
        if totals.labels is None or len(totals.labels) > len(listed):
            rows.append((f"{array} labels", "more than are listed here; slice_manifest.csv has those of each slice"))
        if totals.uncounted:
            rows.append((f"{array} labels", f"not counted in {totals.uncounted:,} slices"))
    return rows


def other_options(config: PatchConfig) -> list[str]:
    """The options of a build, other than rules, that are not as they are by default."""
    found, default = [], PatchConfig().options()
    for name, value in config.options().items():
        if name == "statistics":
            found += [f"--statistics {each}" for each in value]
        elif name != "drop" and value != default[name]:
            values = dict.fromkeys(value) if isinstance(value, tuple) else [value]  # equal sides are one number
            text = (" " if name == "value_range" else "x").join(map(str, values))
            found.append(f"--{name.replace('_', '-')} {text}")
    return found


def _set_notes(windows: AllWindows) -> list[str]:
    """What a reader must know before comparing these sets."""
    first, *others = windows.sets
    notes = []
    for what, names in (
        ("rules", ["drop"]),
        ("patch size or stride", ["patch_size", "stride"]),
        ("border", ["pad_mode"]),
        ("air level", ["air_level"]),
        ("value range", ["value_range"]),
        ("array the rules judge", ["rules_on"]),
    ):
        values = attrgetter(*names)
        differ = [each.name for each in others if values(each.ps.config) != values(first.ps.config)]
        if differ:
            notes.append(f"{_listed(differ)}: other {what} than {first.name}.")
            if what == "rules":
                notes.append(f"The sliders begin at the rules of {first.name} and try them on all sets.")
    return notes


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _patient_notes(windows: AllWindows) -> list[str]:
    found = {each.name: _shared_patients(windows, each) for each in windows.sets}
    named = [name for name, patients in found.items() if patients]
    shared = sorted(frozenset[str]().union(*found.values()))
    if not shared:
        return []
    some = ", ".join(patient[:40] for patient in shared[:_MOST_PATIENTS])
    more = " and more" if len(shared) > _MOST_PATIENTS else ""
    leak = f"Leak: patients in more than one of {', '.join(named)}: {len(shared):,} ({some}{more}). "
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
    notes += [f"Not shown: {fault}" for fault in gallery.faults[:_MOST_FAULTS]]
    if len(gallery.faults) > _MOST_FAULTS:
        notes.append(f"and {len(gallery.faults) - _MOST_FAULTS:,} more faults of this kind")
    return notes
