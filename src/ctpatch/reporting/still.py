"""What the page shows before its programs run, and where none ever does: previews, printing, no JavaScript."""

import shlex
from dataclasses import dataclass

import numpy as np

from ctpatch.reporting.facts import funnel
from ctpatch.reporting.gallery import Gallery, GallerySlice, slice_tiles
from ctpatch.reporting.gather import AllWindows
from ctpatch.reporting.payload import other_options
from ctpatch.reporting.pictures import jpeg_uri

_QUALITY = 86
_COLOURS = 6
_MOST_TILES = 400
_GAP = 3.0


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile on the picture, in pixels of the slice; `kind` is its class in the page's styles."""

    kind: str
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, slots=True)
class Still:
    """A slice with its windows, as a picture that needs no program.

    Attributes:
        picture: as a `data:` address, in the display window that comes first.
        width, height: of the slice, in pixels.
        caption: which slice it is.
        tiles: one for each window; none where they would be too many to tell apart.
        legend: classes of tiles, and what they mean.
    """

    picture: str
    width: int
    height: int
    caption: str
    tiles: tuple[Tile, ...]
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AsBuilt:
    """The counts as built, as text, and the options that lead to them."""

    kept: str
    windows: str
    share: str
    options: str


def as_built(windows: AllWindows) -> AsBuilt:
    """What the panel of rules says before any slider is moved."""
    kept, total = funnel(windows)[-1].count, len(windows.hits)
    config = windows.sets[0].ps.config
    options = [
        *other_options(config),
        *(f"--drop {shlex.quote(f'{rule.name}: {rule.condition}')}" for rule in config.drop),
    ]
    return AsBuilt(
        f"{kept:,}", f"{total:,}", f"{100 * kept / total:.1f} %", " ".join(options) or "no rule: every window is kept"
    )


def make_still(windows: AllWindows, gallery: Gallery) -> Still | None:
    """The slice that the page's programs show first: of those of which some is kept, the one that loses most."""
    if not gallery.slices:
        return None
    shares = [each.chosen.dropped / each.chosen.count for each in gallery.slices]
    mixed = [share if share < 1 else 0.0 for share in shares]
    each = gallery.slices[int(np.argmax(mixed))]
    chosen = each.chosen
    height, width = each.shape
    where = slice(chosen.start, chosen.start + chosen.count)
    hits = windows.hits[where].tolist()
    partly = "; put together from its kept patches" if each.image is not None and not each.whole else ""
    gone = "" if each.image is not None else "; its pixels are not to be had"
    caption = (
        f"{chosen.owner.name} slice {chosen.slice_index}{f', patient {each.patient}' if each.patient else ''}: "
        f"{each.path}; {height} x {width} pixels, {chosen.dropped} of {chosen.count} windows dropped{partly}{gone}"
    )
    names = ["kept", *(f"dropped by {rule.name}" for rule in chosen.owner.ps.config.drop)]
    legend = tuple((_kind(hit), f"{name}: {hits.count(hit)}") for hit, name in enumerate(names, -1))
    tiles = _tiles(windows, each, hits) if chosen.count <= _MOST_TILES else ()
    return Still(_picture(gallery, each), width, height, caption, tiles, legend)


def _kind(hit: int) -> str:
    return "kept" if hit < 0 else f"drop-{hit % _COLOURS}"


def _picture(gallery: Gallery, each: GallerySlice) -> str:
    if each.image is None:
        return jpeg_uri(np.zeros(each.shape, np.uint8), _QUALITY)
    window = gallery.display_windows()[0]
    grey = (np.asarray(each.image, np.float64) - window["low"]) * (255 / (window["high"] - window["low"]))
    return jpeg_uri(np.clip(np.rint(grey), 0, 255).astype(np.uint8), _QUALITY)


def _tiles(windows: AllWindows, each: GallerySlice, hits: list[int]) -> tuple[Tile, ...]:
    chosen = each.chosen
    where = slice(chosen.start, chosen.start + chosen.count)
    rows, cols = (windows.columns[name][where].astype(np.int64).tolist() for name in ("row", "col"))
    found = []
    for hit, (top, left, tall, wide) in zip(hits, slice_tiles(chosen.owner, each.shape, rows, cols), strict=True):
        gap = min(_GAP, tall / 6, wide / 6)
        sides = (left + gap, top + gap, max(wide - 2 * gap, 0.5), max(tall - 2 * gap, 0.5))
        x, y, width, height = (f"{side:.6g}" for side in sides)
        found.append(Tile(_kind(hit), x, y, width, height))
    return tuple(found)
