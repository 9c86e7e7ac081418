"""All that the page's programs work on: windows, rules, slices, patches, as JSON and one block of numbers."""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.statistics.columns import STATISTICS, compared, rule_columns
from ctpatch.reporting.facts import other_options
from ctpatch.reporting.gallery import PIXEL_BARS, Gallery, GalleryPatch, GallerySlice
from ctpatch.reporting.pictures import PATCH_QUALITY, Tones, even_tones
from ctpatch.reporting.rules import (
    Fixed,
    Node,
    Stops,
    Threshold,
    TunableRule,
    decide,
    fixed_of,
    make_stops,
    offered_rules,
    thresholds_of,
    tunable_rule,
)
from ctpatch.reporting.windows import AllWindows

_PLACES = {"row": "Row", "col": "Column", "slice_index": "Slice"}
_BARS = 64
_STEPS = ((4000, True), (1000, True), (250, False), (100, False))
"""Stops of a slider, and whether all statistics have one; the first that fits the page is taken."""
_GZIP = 31
"""zlib's name for its format with a gzip header, which holds no time when it is made this way."""


class Blob:
    """Numbers for the browser: collects arrays and says where each lies in one block of bytes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, values: NDArray[Any]) -> dict[str, Any]:
        """Add an array of uint8, uint16, uint32, int32 or float32; returns how the page finds it.

        The bytes of larger numbers are parted, all lowest bytes first: zlib finds more to save in them.
        """
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        data = little.view(np.uint8).reshape(-1, little.itemsize).T.tobytes()
        place = {"offset": self._size, "count": little.size, "type": little.dtype.name}
        self._pieces.append(data)
        self._size += len(data)
        return place

    def text(self) -> str:
        """All arrays, by gzip and base64."""
        packer = zlib.compressobj(level=6, wbits=_GZIP)
        packed = [packer.compress(piece) for piece in self._pieces]
        return base64.b64encode(b"".join([*packed, packer.flush()])).decode()


class Payload(NamedTuple):
    """What the page holds besides its text: plain values, the same as JSON, and the block of numbers as text."""

    content: dict[str, Any]
    data: str
    numbers: str


def make_payload(windows: AllWindows, gallery: Gallery, most_bytes: int) -> Payload:
    """The page's data, with as many stops for the sliders as fit into `most_bytes`.

    Where not even the fewest fit (some millions of windows), the page shows the rules as they are on record and cannot
    try others.
    """
    rules = [tunable_rule(rule, windows.columns) for rule in windows.sets[0].ps.config.drop]
    for most, every in _STEPS:
        columns = [name for name in windows.statistics if every or name in compared()]
        made = _payload(windows, gallery, rules, most, columns)
        if len(made.data) + len(made.numbers) <= most_bytes:
            return made
    return _payload(windows, gallery, [], 0, ())


def _payload(
    windows: AllWindows, gallery: Gallery, rules: Sequence[TunableRule], most: int, columns: Sequence[str]
) -> Payload:
    blob = Blob()
    tests = [test for rule in rules for test in thresholds_of(rule.root)]
    used = {test.column for test in tests}
    named = [*columns, *(name for name in rule_columns() if name in used and name not in columns)]
    stops = {name: _stops_of(name, windows, tests, most) for name in named}
    ends = {name: (float(each.values[0]), float(each.values[-1])) for name, each in stops.items()}
    every = [*rules, *offered_rules(rules, ends)] if most else []
    fixed = {part.condition: part for rule in rules for part in fixed_of(rule.root)}
    fixed_content = [
        {"condition": name, "bits": blob.add(np.packbits(decide(part, windows.columns), bitorder="little"))}
        for name, part in fixed.items()
    ]
    sliders: list[dict[str, Any]] = []
    content = {
        "rows": len(windows.hits),
        "statistics": windows.statistics,
        "compared": compared(),
        "tunable": bool(most),
        "sets": [
            {
                "name": each.name,
                "split": each.ps.meta.split,
                "start": each.start,
                "count": each.frame.height,
                "kept": each.ps.meta.num_patches,
                "dropped": [{"name": rule.name, "count": rule.dropped} for rule in each.ps.meta.drop_rules],
            }
            for each in windows.sets
        ],
        "columns": [
            {
                "name": name,
                "title": _PLACES.get(name) or STATISTICS[name].title,
                **asdict(each),
                "barEvery": -(-(each.count - 1) // _BARS),
                "codes": blob.add(each.codes(windows.columns[name])),
            }
            for name, each in stops.items()
        ],
        "rules": [
            {"name": rule.name, "condition": rule.condition, "root": _node_content(rule.root, sliders, number, stops)}
            for number, rule in enumerate(every)
        ],
        "sliders": sliders,
        "fixed": fixed_content,
        "recorded": blob.add((windows.hits + 1).astype(np.uint16)) if not most else None,
        "options": other_options(windows.sets[0].ps.config),
        "gallery": _gallery_content(gallery, blob),
    }
    return Payload(content, json_for_script(content), blob.text())


def json_for_script(value: Any) -> str:
    """JSON that is safe between script tags: nothing in it can end them."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _stops_of(name: str, windows: AllWindows, tests: Sequence[Threshold], most: int) -> Stops:
    values = windows.columns[name]
    share = name in STATISTICS and STATISTICS[name].unit == "share"
    low, high = (0.0, 1.0) if share else (float(values.min()), float(values.max()))
    extra = [test.value for test in tests if test.column == name]
    return make_stops(low, high, extra, most=most, whole=name in _PLACES)


def _node_content(node: Node, sliders: list[dict[str, Any]], rule: int, stops: dict[str, Stops]) -> dict[str, Any]:
    if isinstance(node, Fixed):
        return {"kind": "fixed", "condition": node.condition}
    if isinstance(node, Threshold):
        stop = stops[node.column].number_of(node.value)
        sliders.append({"rule": rule, "column": node.column, "op": node.op, "stop": stop})
        return {"kind": "test", "slider": len(sliders) - 1}
    return {"kind": node.by, "parts": [_node_content(part, sliders, rule, stops) for part in node.parts]}


def _gallery_content(gallery: Gallery, blob: Blob) -> dict[str, Any]:
    """The gallery as plain values, its pictures as text; what the pointer rests on goes into the block."""
    tones = gallery.tones
    return {
        "tones": _tones_content(tones),
        "displayWindows": gallery.display_windows,
        "slices": [_slice_content(gallery, each, blob) for each in gallery.slices],
        "groups": [
            {
                "title": chosen.title,
                "note": chosen.note,
                "patches": [_patch_content(gallery, each) for each in patches],
            }
            for chosen, patches in gallery.groups
        ],
        "pairs": _pairs_content(gallery) if gallery.pairs else None,
        "pixels": {
            "low": float(tones.levels[0]),
            "high": float(tones.levels[-1]),
            "bars": PIXEL_BARS,
            "rows": blob.add(gallery.pixel_rows),
            "counts": blob.add(gallery.pixel_counts),
        },
    }


def _tones_content(tones: Tones) -> list[float]:
    return [float(f"{level:.6g}") for level in tones.levels]


def _slice_content(gallery: Gallery, each: GallerySlice, blob: Blob) -> dict[str, Any]:
    chosen, windows = each.chosen, gallery.windows
    statistics = [windows.columns[name][chosen.where] for name in windows.statistics]
    return {
        "set": chosen.owner.name,
        "split": chosen.owner.ps.meta.split,
        "index": chosen.slice_index,
        "path": each.path,
        "patient": each.patient,
        "why": chosen.why,
        "shape": each.shape,
        "patchSize": chosen.owner.ps.patch_size,
        "start": chosen.start,
        "count": chosen.windows,
        "whole": each.whole,
        "picture": gallery.tones.picture(each.image),
        "rows": blob.add(np.asarray(each.rows, np.int32)),
        "cols": blob.add(np.asarray(each.cols, np.int32)),
        "tiles": blob.add(np.asarray(each.tiles(), np.float32)),
        "statistics": blob.add(np.stack(statistics, axis=1).astype(np.float32)),
    }


def _patch_content(gallery: Gallery, each: GalleryPatch) -> dict[str, Any]:
    return {
        "row": each.row,
        "id": each.identity(each.owner.ps.meta.split),
        "set": each.owner.name,
        "statistics": {name: each.record[name] for name in gallery.windows.statistics},
        "picture": gallery.tones.picture(each.arrays.get("image"), PATCH_QUALITY),
    }


def _pairs_content(gallery: Gallery) -> dict[str, Any]:
    """Pairs with their difference, all on one scale; for labels there is none."""
    images, others = ([pair.arrays[name] for pair in gallery.pairs] for name in ("image", gallery.partner or ""))
    more: dict[str, Any]
    if gallery.labels:
        tones = even_tones(float(min(each.min() for each in others)), float(max(each.max() for each in others)))
        more = {"tones": _tones_content(tones)}
        differences: list[Any] = [None] * len(images)
        reach = 0.0
    else:
        tones = gallery.tones
        differences = [image - other for image, other in zip(images, others, strict=True)]
        reach = float(np.quantile(np.abs(np.stack([each.ravel() for each in differences])), 0.995)) or 1.0
        more = {"reach": float(f"{reach:.3g}")}
    scale = even_tones(-reach, reach)
    patches = [
        {
            **_patch_content(gallery, pair),
            "other": tones.picture(other, PATCH_QUALITY),
            "difference": scale.picture(difference, PATCH_QUALITY),
        }
        for pair, other, difference in zip(gallery.pairs, others, differences, strict=True)
    ]
    return {"partner": gallery.partner, "labels": gallery.labels, "patches": patches, **more}
