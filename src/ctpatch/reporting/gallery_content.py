"""The gallery as the page gets it: pictures as text, numbers for what the pointer rests on."""

from typing import Any

import numpy as np

from ctpatch.format.tables import patch_id
from ctpatch.reporting.blob import Blob
from ctpatch.reporting.gallery import (
    PATCH_QUALITY,
    PIXEL_BARS,
    SLICE_QUALITY,
    Gallery,
    GalleryPatch,
    GallerySlice,
    slice_tiles,
)
from ctpatch.reporting.pictures import Tones, even_tones, jpeg_uri


def gallery_content(gallery: Gallery, blob: Blob) -> dict[str, Any]:
    """Plain values for the page; numbers go into the block."""
    tones = gallery.tones
    return {
        "tones": _tones_content(tones),
        "displayWindows": gallery.display_windows(),
        "slices": [_slice_content(gallery, each, blob) for each in gallery.slices],
        "groups": [
            {
                "title": chosen.title,
                "note": chosen.note,
                "patches": [_patch_content(gallery, each) for each in patches],
            }
            for chosen, patches in gallery.groups
        ],
        "pairs": _pairs_content(gallery),
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
    chosen = each.chosen
    where = slice(chosen.start, chosen.start + chosen.count)
    columns, names = gallery.windows.columns, gallery.windows.statistics
    rows, cols = (columns[name][where].astype(np.int64).tolist() for name in ("row", "col"))
    statistics = np.stack([columns[name][where] for name in names], axis=1).astype(np.float32)
    return {
        "set": chosen.owner.name,
        "split": chosen.owner.ps.meta.split,
        "index": chosen.slice_index,
        "path": each.path,
        "patient": each.patient,
        "why": chosen.why,
        "shape": list(each.shape),
        "patchSize": list(chosen.owner.ps.patch_size),
        "start": chosen.start,
        "count": chosen.count,
        "whole": each.whole,
        "picture": None if each.image is None else jpeg_uri(gallery.tones.codes(each.image), SLICE_QUALITY),
        "rows": blob.add(np.asarray(rows, np.int32)),
        "cols": blob.add(np.asarray(cols, np.int32)),
        "tiles": blob.add(np.asarray(slice_tiles(chosen.owner, each.shape, rows, cols), np.float32)),
        "statistics": blob.add(statistics),
    }


def _patch_content(gallery: Gallery, each: GalleryPatch) -> dict[str, Any]:
    record = gallery.windows.record(each.row)
    owner = gallery.windows.set_of(each.row)
    image = each.arrays.get("image")
    place = [int(record[name] or 0) for name in ("slice_index", "row", "col")]
    return {
        "row": each.row,
        "id": patch_id(owner.ps.meta.split, *place),
        "set": owner.name,
        "statistics": {name: record[name] for name in gallery.windows.statistics},
        "picture": None if image is None else jpeg_uri(gallery.tones.codes(image), PATCH_QUALITY),
    }


def _pairs_content(gallery: Gallery) -> dict[str, Any] | None:
    """Pairs with their difference, all on one scale; for labels there is none."""
    partner = gallery.partner
    if partner is None or not gallery.pairs:
        return None
    others = [pair.arrays[partner] for pair in gallery.pairs]
    content: dict[str, Any] = {"partner": partner, "labels": gallery.labels, "patches": []}
    differences: list[Any] = []
    reach = 0.0
    if gallery.labels:
        tones = even_tones(float(min(each.min() for each in others)), float(max(each.max() for each in others)))
        content["tones"] = _tones_content(tones)
    else:
        tones = gallery.tones
        differences = [pair.arrays["image"] - pair.arrays[partner] for pair in gallery.pairs]
        reach = float(np.quantile(np.abs(np.stack([each.ravel() for each in differences])), 0.995)) or 1.0
        content["reach"] = float(f"{reach:.3g}")
    scale = even_tones(-reach, reach)
    for at, pair in enumerate(gallery.pairs):
        content["patches"].append(
            {
                **_patch_content(gallery, pair),
                "other": jpeg_uri(tones.codes(others[at]), PATCH_QUALITY),
                "difference": jpeg_uri(scale.codes(differences[at]), PATCH_QUALITY) if differences else None,
            }
        )
    return content
