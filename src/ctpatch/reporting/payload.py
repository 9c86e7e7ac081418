"""All that the page's programs work on: the table of windows, slices, patches, as JSON and one block of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctpatch.config import PatchConfig, Rule
from ctpatch.core.rules import compile_rules
from ctpatch.core.statistics.columns import STATISTICS, compared, rule_columns
from ctpatch.reporting.blob import Blob
from ctpatch.reporting.gallery import Gallery
from ctpatch.reporting.gallery_content import gallery_content
from ctpatch.reporting.gather import AllWindows
from ctpatch.reporting.stops import Stops, make_stops
from ctpatch.reporting.tunable import (
    Fixed,
    Joined,
    Negated,
    Node,
    TunableRule,
    fixed_of,
    offered_rules,
    thresholds_of,
    tunable_rule,
)

_PLACES = {"row": "Row", "col": "Column", "slice_index": "Slice"}
BARS = 64
_STEPS = ((4000, True), (1000, True), (250, False), (100, False))
"""Stops of a slider, and whether all statistics have one; the first that fits the page is taken."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What the page holds beside its text.

    Attributes:
        content: JSON, as plain values.
        numbers: the block of numbers, as text.
    """

    content: dict[str, Any]
    numbers: str


def make_payload(windows: AllWindows, gallery: Gallery, most_bytes: int) -> Payload:
    """The page's data, with as many stops for the sliders as fit into `most_bytes` of numbers.

    Where not even the fewest fit (some millions of windows), the page shows the rules as they are on record and cannot
    try others.
    """
    rules = [tunable_rule(rule, windows.columns) for rule in windows.sets[0].ps.config.drop]
    for most, every in _STEPS:
        columns = [name for name in windows.statistics if every or name in compared()]
        made = _payload(windows, gallery, rules, most, columns)
        if len(made.numbers) <= most_bytes:
            return made
    return _payload(windows, gallery, [], 0, ())


def _payload(
    windows: AllWindows, gallery: Gallery, rules: Sequence[TunableRule], most: int, columns: Sequence[str]
) -> Payload:
    blob = Blob()
    stops: dict[str, Stops] = {}
    every = list(rules)
    if most:
        used = {test.column for rule in rules for test in thresholds_of(rule.root)}
        for name in [*columns, *(each for each in rule_columns() if each in used and each not in columns)]:
            stops[name] = _stops_of(name, windows, rules, most)
        ends = {name: (float(each.values[0]), float(each.values[-1])) for name, each in stops.items()}
        every += offered_rules(rules, ends)
    fixed: dict[str, dict[str, Any]] = {}
    for rule in rules:
        for part in fixed_of(rule.root):
            if part.condition not in fixed:
                hits = compile_rules([Rule(name="part", condition=part.condition)]).all_hits(windows.columns)[0]
                fixed[part.condition] = blob.add(np.packbits(hits, bitorder="little"))
    sliders: list[dict[str, Any]] = []
    content = {
        "rows": len(windows.hits),
        "statistics": windows.statistics,
        "compared": compared(),
        "tunable": bool(most),
        "sets": [_set_content(each) for each in windows.sets],
        "columns": [
            {
                "name": name,
                "title": _PLACES.get(name) or STATISTICS[name].title,
                "first": each.first,
                "count": each.count,
                "step": each.step,
                "exponent": each.exponent,
                "extra": list(each.extra),
                "barEvery": -(-(each.count - 1) // BARS),
                "codes": blob.add(each.codes(windows.columns[name])),
            }
            for name, each in stops.items()
        ],
        "rules": [
            {
                "name": rule.name,
                "condition": rule.condition,
                "root": _node_content(rule.root, sliders, number, stops),
            }
            for number, rule in enumerate(every)
        ],
        "sliders": sliders,
        "fixed": [{"condition": condition, "bits": place} for condition, place in fixed.items()],
        "recorded": blob.add((windows.hits + 1).astype(np.uint16)) if not most else None,
        "options": other_options(windows.sets[0].ps.config),
        "gallery": gallery_content(gallery, blob),
    }
    return Payload(content, blob.text())


def _stops_of(name: str, windows: AllWindows, rules: Sequence[TunableRule], most: int) -> Stops:
    values = windows.columns[name]
    share = name in STATISTICS and STATISTICS[name].unit == "share"
    low, high = (0.0, 1.0) if share else (float(values.min()), float(values.max()))
    extra = [test.value for rule in rules for test in thresholds_of(rule.root) if test.column == name]
    return make_stops(low, high, extra, most=most, whole=name in _PLACES)


def _set_content(each: Any) -> dict[str, Any]:
    meta = each.ps.meta
    return {
        "name": each.name,
        "split": meta.split,
        "start": each.start,
        "count": each.frame.height,
        "kept": meta.num_patches,
        "dropped": [{"name": rule.name, "count": rule.dropped} for rule in meta.drop_rules],
    }


def _node_content(node: Node, sliders: list[dict[str, Any]], rule: int, stops: dict[str, Stops]) -> dict[str, Any]:
    if isinstance(node, Fixed):
        return {"kind": "fixed", "condition": node.condition}
    if isinstance(node, Negated):
        return {"kind": "not", "parts": [_node_content(node.part, sliders, rule, stops)]}
    if isinstance(node, Joined):
        return {"kind": node.by, "parts": [_node_content(part, sliders, rule, stops) for part in node.parts]}
    sliders.append(
        {"rule": rule, "column": node.column, "op": node.op, "stop": stops[node.column].number_of(node.value)}
    )
    return {"kind": "test", "slider": len(sliders) - 1}


def other_options(config: PatchConfig) -> list[str]:
    """The options of a build, other than rules, that are not as they are by default."""
    found = []
    default = PatchConfig()
    for name in ("patch_size", "stride", "pad_mode", "value_range", "air_level", "rules_on"):
        value = getattr(config, name)
        if value == getattr(default, name):
            continue
        if name in {"patch_size", "stride"}:
            text = f"{value[0]}" if value[0] == value[1] else f"{value[0]}x{value[1]}"
        elif name == "value_range":
            text = f"{value[0]!r} {value[1]!r}"
        else:
            text = str(value)
        found.append(f"--{name.replace('_', '-')} {text}")
    return found
