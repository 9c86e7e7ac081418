"""The page: one file, with its styles, its programs and its data in it, that fetches nothing."""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctpatch.errors import CtPatchError
from ctpatch.reporting.facts import funnel, other_options, page_facts
from ctpatch.reporting.gallery import Gallery
from ctpatch.reporting.html import MOST_BYTES, asset, assets, render, verbatim
from ctpatch.reporting.payload import make_payload
from ctpatch.reporting.pictures import even_tones
from ctpatch.reporting.windows import AllWindows

_STYLES = ("vendor/uPlot.min.css", "page.css", "parts.css")
_PROGRAMS = (
    "vendor/uPlot.iife.min.js",
    "data.js",
    "rules.js",
    "tones.js",
    "charts.js",
    "slices.js",
    "patches.js",
    "tune.js",
    "main.js",
)
_ROOM_FOR_TEXT = 200_000
_COLOURS = 6
_MOST_TILES = 400
"""More are too many to tell apart."""


def render_page(windows: AllWindows, gallery: Gallery, notes: Sequence[str] = ()) -> bytes:
    """The whole page, UTF-8.

    All text from data goes through Jinja's escaping, or through JSON and then into text nodes. `notes` stand first.
    """
    styles = assets(_STYLES)
    licence = f"/* uPlot\n{asset('vendor/uPlot.LICENSE')}*/"
    programs = f"{licence}\n{assets(_PROGRAMS)}"
    still = _make_still(windows, gallery)
    others = len((styles + programs).encode()) + (len(still["picture"]) if still else 0) + _ROOM_FOR_TEXT
    payload = make_payload(windows, gallery, MOST_BYTES - others)
    page = render(
        "page.html.j2",
        styles,
        programs,
        **page_facts(windows, gallery, notes),
        still=still,
        as_built=_as_built(windows),
        data=verbatim(payload.data),
        numbers=verbatim(payload.numbers),
        tunable=payload.content["tunable"],
    )
    if len(page) >= MOST_BYTES:
        raise CtPatchError(
            f"the report would have {len(page):,} bytes, wanted less than {MOST_BYTES:,}; show fewer slices (--slices)"
        )
    return page


def _as_built(windows: AllWindows) -> dict[str, str]:
    """What the panel of rules says before any slider is moved."""
    kept, total = funnel(windows)[-1].count, len(windows.hits)
    config = windows.sets[0].ps.config
    rules = [f"--drop {shlex.quote(f'{rule.name}: {rule.condition}')}" for rule in config.drop]
    return {
        "kept": f"{kept:,}",
        "windows": f"{total:,}",
        "share": f"{100 * kept / total:.1f} %",
        "options": " ".join([*other_options(config), *rules]) or "no rule: every window is kept",
    }


def _make_still(windows: AllWindows, gallery: Gallery) -> dict[str, Any] | None:
    """What the page shows before its programs run, and where none ever does: previews, printing, no JavaScript.

    It is the slice that the programs show first: of those of which some is kept, the one that loses most; as a
    picture in the first display window, with its tiles (class and sides) and what their classes mean.
    """
    if not gallery.slices:
        return None
    shares = [each.chosen.dropped / each.chosen.windows for each in gallery.slices]
    each = gallery.slices[int(np.argmax([share if share < 1 else 0.0 for share in shares]))]
    chosen, (height, width) = each.chosen, each.shape
    hits = windows.hits[chosen.where].tolist()
    partly = "; put together from its kept patches" if each.image is not None and not each.whole else ""
    gone = "" if each.image is not None else "; its pixels are not to be had"
    caption = (
        f"{chosen.owner.name} slice {chosen.slice_index}{f', patient {each.patient}' if each.patient else ''}: "
        f"{each.path}; {height} x {width} pixels, {chosen.dropped} of {chosen.windows} windows dropped{partly}{gone}"
    )
    display = gallery.display_windows[0]
    tones = even_tones(display["low"], display["high"])
    names = ["kept", *(f"dropped by {rule.name}" for rule in chosen.owner.ps.config.drop)]
    boxes = each.boxes() if chosen.windows <= _MOST_TILES else []
    return {
        "picture": tones.picture(np.full(each.shape, display["low"]) if each.image is None else each.image),
        "width": width,
        "height": height,
        "caption": caption,
        "tiles": [(_kind(hit), *(f"{side:.6g}" for side in box)) for hit, box in zip(hits, boxes, strict=False)],
        "legend": [(_kind(hit), f"{name}: {hits.count(hit)}") for hit, name in enumerate(names, -1)],
    }


def _kind(hit: int) -> str:
    """The class of a tile in the page's styles."""
    return "kept" if hit < 0 else f"drop-{hit % _COLOURS}"
