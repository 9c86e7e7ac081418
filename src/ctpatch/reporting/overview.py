"""The overview as one picture, for papers and logs."""

import io
import warnings
from typing import Any

import numpy as np

from ctpatch.core.statistics.columns import STATISTICS, compared
from ctpatch.reporting.facts import funnel, title_of
from ctpatch.reporting.gallery import Gallery, GalleryPatch, GallerySlice
from ctpatch.reporting.windows import AllWindows
from ctpatch.words import human_bytes

_KEPT, _DROPPED, _TEXT, _FAINT = "#0072b2", "#d98200", "#1a2027", "#56616d"
_RULES = ("#e69f00", "#e08cbd", "#ff7b3a", "#f0e442", "#a892f0", "#c3ccd5")
_ON_SLICE = "#56b4e9"
_HATCHES = ("////", "\\\\\\\\", "----", "||||", "xx", "..")
_INCHES, _DPI = (11.7, 9.4), 150
_SLICES, _PATCHES, _BARS = 3, 6, 48


def draw_overview(windows: AllWindows, gallery: Gallery) -> bytes:
    """A PNG of 1755 x 1410 pixels: counts, slices with their windows, patches, histograms; as built.

    Drawn by matplotlib's own renderer with the font it brings, so that the bytes do not depend on the machine's fonts.
    """
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "text.color": _TEXT,
        "axes.labelcolor": _TEXT,
        "xtick.color": _FAINT,
        "ytick.color": _FAINT,
        "hatch.linewidth": 0.9,
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        outer = figure.add_gridspec(
            4, 1, height_ratios=(0.62, 1.75, 1.5, 1.05), left=0.045, right=0.975, top=0.9, bottom=0.055, hspace=0.34
        )
        _head(figure, windows)
        _draw_funnel(figure.add_subplot(outer[0]), windows)
        _draw_slices(figure, outer[1], windows, gallery)
        _draw_patches(figure, outer[2], windows, gallery)
        _draw_histograms(figure, outer[3], windows)
        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a name in a script the font lacks is drawn as boxes
            figure.savefig(stream, format="png")
    return _smaller(stream.getvalue())


def _smaller(png: bytes) -> bytes:
    """The same picture in 256 colours, which are enough for grey and a few more, and a third of the bytes."""
    from PIL import Image, PngImagePlugin  # noqa: PLC0415

    drawn = Image.open(io.BytesIO(png)).convert("RGB")
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "ctpatch report")
    stream = io.BytesIO()
    few = drawn.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    few.save(stream, "PNG", optimize=True, pnginfo=note)
    return stream.getvalue()


def _plain(text: str, most: int = 90) -> str:
    """Text from data as it can be drawn: no control characters, not too long."""
    kept = "".join(each if each.isprintable() else " " for each in text)
    return kept if len(kept) <= most else f"{kept[: most - 1]}…"


def _head(figure: Any, windows: AllWindows) -> None:
    metas = [each.ps.meta for each in windows.sets]
    first = metas[0]
    figure.text(0.045, 0.965, _plain(title_of(windows)), fontsize=15, weight="bold", va="center")
    size, stride = windows.sets[0].ps.config.patch_size, windows.sets[0].ps.config.stride
    facts = [
        f"{sum(meta.num_slices for meta in metas):,} slices",
        f"patches {size[0]} x {size[1]}, stride {stride[0]} x {stride[1]}, border {first.pad_mode}",
        f"layout {first.layout}, {human_bytes(sum(meta.pixel_bytes for meta in metas))}",
        f"ctpatch {first.ctpatch_version}, {first.created[:10]}",
        f"fingerprint {first.fingerprint[:16]}" + ("…" if len(metas) == 1 else "… and others"),
    ]
    figure.text(0.045, 0.932, _plain("   ·   ".join(facts), 200), fontsize=8.5, color=_FAINT, va="center")


def _draw_funnel(axes: Any, windows: AllWindows) -> None:
    steps = funnel(windows)
    shown = [*steps[:5], steps[-1]] if len(steps) > 6 else steps  # noqa: PLR2004
    colours = {"all": "#9aa7b5", "dropped": _DROPPED, "kept": _KEPT}
    places = np.arange(len(shown))[::-1]
    for place, step in zip(places, shown, strict=True):
        axes.barh(place, 1, color="#e9edf1", height=0.62)
        axes.barh(place, step.share, left=step.before, color=colours[step.kind], height=0.62)
        label = f"dropped by {step.label}" if step.kind == "dropped" else step.label
        axes.text(-0.012, place, _plain(f"{label}  {step.condition}".strip(), 48), ha="right", va="center")
        axes.text(1.012, place, f"{step.count:,}  ({100 * step.share:.1f} %)", va="center")
    axes.set_xlim(-0.42, 1.18)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.axis("off")


def _grey(gallery: Gallery) -> dict[str, Any]:
    window = gallery.display_windows[0]
    return {"cmap": "gray", "vmin": window["low"], "vmax": window["high"], "interpolation": "nearest"}


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _colour(hit: int) -> str:
    return _ON_SLICE if hit < 0 else _RULES[hit % len(_RULES)]


def _draw_slices(figure: Any, place: Any, windows: AllWindows, gallery: Gallery) -> None:
    row = place.subgridspec(1, _SLICES + 1, wspace=0.06)
    seen = [each for each in gallery.slices if each.image is not None] or list(gallery.slices)
    order = sorted(range(len(seen)), key=lambda k: (-seen[k].chosen.dropped / seen[k].chosen.windows, k))
    picks = sorted({order[0], order[len(order) // 2], order[-1]})
    for at, pick in enumerate(picks):
        _draw_slice(figure.add_subplot(row[at]), seen[pick], windows, gallery)
    _draw_coverage(figure.add_subplot(row[_SLICES]), seen[picks[-1]], windows)


def _draw_slice(axes: Any, each: GallerySlice, windows: AllWindows, gallery: Gallery) -> None:
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    chosen, (height, width) = each.chosen, each.shape
    if each.image is not None:
        axes.imshow(each.image, extent=(0, width, height, 0), **_grey(gallery))
    for hit, (left, top, wide, tall) in zip(windows.hits[chosen.where].tolist(), each.boxes(), strict=True):
        hatch = None if hit < 0 else _HATCHES[hit % len(_HATCHES)]
        axes.add_patch(Rectangle((left, top), wide, tall, fill=False, edgecolor=_colour(hit), lw=0.9, hatch=hatch))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_title(
        _plain(f"{chosen.owner.name} {chosen.slice_index}: {chosen.dropped} of {chosen.windows} dropped", 44),
        fontsize=8.5,
    )
    _bare(axes)


def _draw_coverage(axes: Any, each: GallerySlice, windows: AllWindows) -> None:
    covered = np.zeros(each.shape, np.int32)
    height, width = each.chosen.owner.ps.patch_size
    for row, col, hit in zip(each.rows, each.cols, windows.hits[each.chosen.where], strict=True):
        if hit < 0:
            covered[row : row + height, col : col + width] += 1
    shown = np.ma.masked_equal(covered, 0)
    axes.set_facecolor("#d5dbe2")
    axes.imshow(shown, cmap="cividis", vmin=0, interpolation="nearest")
    axes.set_title(f"times a pixel is kept, up to {covered.max()} (grey: 0)", fontsize=8.5)
    _bare(axes)


def _draw_patches(figure: Any, place: Any, windows: AllWindows, gallery: Gallery) -> None:
    kept = [patch for chosen, patches in gallery.groups if chosen.title == "Kept" for patch in patches]
    dropped = [patch for chosen, patches in gallery.groups if chosen.title.startswith("Dropped") for patch in patches]
    grid = place.subgridspec(2, 2 * _PATCHES, wspace=0.08, hspace=0.42)
    extremes = [patches[0] for chosen, patches in gallery.groups if chosen.title.endswith("of the kept")]
    shown = [*_spread(kept, 2 * _PATCHES), *_spread(dropped, 2 * _PATCHES - len(extremes)), *extremes]
    for at, patch in enumerate(shown):
        _draw_patch(figure.add_subplot(grid[at // (2 * _PATCHES), at % (2 * _PATCHES)]), patch, windows, gallery)


def _spread(patches: list[GalleryPatch], count: int) -> list[GalleryPatch]:
    every = np.linspace(0, len(patches) - 1, min(count, len(patches))).round().astype(int)
    return [patches[at] for at in every]


def _draw_patch(axes: Any, patch: GalleryPatch, windows: AllWindows, gallery: Gallery) -> None:
    hit = int(windows.hits[patch.row])
    if patch.arrays:
        axes.imshow(patch.arrays["image"], **_grey(gallery))
    _bare(axes)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(_KEPT if hit < 0 else _RULES[hit % len(_RULES)])
    axes.spines[:].set_linewidth(1.6)
    said = "kept" if hit < 0 else patch.owner.ps.config.drop[hit].name
    axes.set_title(patch.identity("").lstrip("_"), fontsize=5.6, pad=2.5, family="DejaVu Sans Mono")
    axes.set_xlabel(_plain(f"{said}, std {patch.record['std']:.3g}", 22), fontsize=6.2, labelpad=2.5)


def _draw_histograms(figure: Any, place: Any, windows: AllWindows) -> None:
    row = place.subgridspec(1, len(compared()), wspace=0.2)
    kept = windows.hits < 0
    for at, name in enumerate(compared()):
        axes = figure.add_subplot(row[at])
        values = windows.columns[name]
        edges = np.histogram_bin_edges(values, _BARS)
        axes.hist(
            [values[kept], values[~kept]], edges, stacked=True, color=[_KEPT, _DROPPED], label=["kept", "dropped"]
        )
        axes.set_title(f"{STATISTICS[name].title} ({name})", fontsize=8.5, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7.5)
        if at == 0:
            axes.legend(frameon=False, fontsize=7.5)
