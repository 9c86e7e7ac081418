"""Draw `overview.png` for the README; needs matplotlib, which ctpatch itself does not.

Run it as `python docs/images/make_overview.py`; it writes the picture beside itself.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from ctpatch import PatchConfig, extract_patches_2d, sliding_window_coords
from ctpatch.core.rules import compile_rules
from ctpatch.core.statistics.api import patch_statistics
from ctpatch.format.tables import patch_id
from ctpatch.phantom.slices import phantom_slice

OUT = Path(__file__).with_name("overview.png")
SIZE, SIDE, STRIDE = 362, 128, 64
PATIENT, SLICE = 1, 2
CONFIG = PatchConfig(patch_size=SIDE, stride=STRIDE, drop=["air: air_fraction > 0.5", "low_variance: std < 0.06"])
KEPT, AIR, FLAT, LOST = "#4cc38a", "#5aa9ff", "#ffb454", "#ff6b6b"
COLOURS = (KEPT, AIR, FLAT)
BACK, TEXT, FAINT = "#12161c", "#e8edf3", "#9aa7b5"
WINDOW = (0.14, 0.36)  # of the slice's [0, 1]: shows soft tissue


def show(axes: Axes, pixels: np.ndarray) -> None:
    """A slice or patch in grey, one unit for each pixel."""
    height, width = pixels.shape
    axes.imshow(pixels, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], extent=(0, width, height, 0))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def draw_slice(axes: Axes, image: np.ndarray, coords: list[tuple[int, int]], hits: np.ndarray) -> None:
    """The slice, a tile for the middle of each window, and the border that no window reaches."""
    show(axes, image)
    end = coords[-1][0] + SIDE
    for corner, height, width in (((0, end), SIZE - end, SIZE), ((end, 0), end, SIZE - end)):
        axes.add_patch(
            Rectangle(corner, width, height, facecolor=LOST, alpha=0.28, edgecolor="none", zorder=2),
        )
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=LOST, alpha=0.7, hatch="////", lw=0, zorder=3),
        )
    for (row, col), hit in zip(coords, hits, strict=True):
        colour = COLOURS[hit + 1]
        inset = (SIDE - STRIDE) / 2 + 3
        side = STRIDE - 6
        box = (col + inset, row + inset)
        axes.add_patch(Rectangle(box, side, side, facecolor=colour, alpha=0.22, edgecolor="none", zorder=2))
        axes.add_patch(Rectangle(box, side, side, fill=False, edgecolor=colour, lw=1.3, zorder=4))


def draw_patch(axes: Axes, pixels: np.ndarray, title: str, below: str, colour: str) -> None:
    """A patch in a frame of its colour, its id above and its numbers below."""
    show(axes, pixels)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(colour)
    axes.spines[:].set_linewidth(2.4)
    axes.set_title(title, color=TEXT, fontsize=8.2, pad=5, family="monospace")
    axes.set_xlabel(below, color=colour, fontsize=8.4, labelpad=5)


def main() -> None:
    """Draw and save."""
    mpl.rcParams["font.family"] = "DejaVu Sans"
    mpl.rcParams["hatch.linewidth"] = 0.8
    image = phantom_slice(0, PATIENT, SLICE, SIZE)
    coords = sliding_window_coords(SIZE, SIZE, CONFIG)
    patches, _ = extract_patches_2d(image, CONFIG)
    numbers = patch_statistics(patches, CONFIG.air_level)
    hits = compile_rules(CONFIG.drop).first_hits(numbers)

    figure = plt.figure(figsize=(10.4, 5.5), dpi=130, facecolor=BACK)
    main_axes = figure.add_axes((0.035, 0.15, 0.405, 0.405 * 10.4 / 5.5))
    draw_slice(main_axes, image, coords, hits)
    lost = 100 * (1 - (coords[-1][0] + SIDE) ** 2 / SIZE**2)
    main_axes.text(
        SIZE / 2,
        341,
        f"border lost: {lost:.1f} % of the slice (stride 78 loses none)",
        color="white",
        fontsize=8.8,
        ha="center",
        va="center",
        weight="bold",
        zorder=6,
    )

    chosen = [np.flatnonzero(hits < 0)[k] for k in (1, 4, -2)]
    dropped = [*np.flatnonzero(hits == 0)[[0, -1]], *np.flatnonzero(hits == 1)[:1]]
    row, col = coords[chosen[0]]
    main_axes.add_patch(Rectangle((col, row), SIDE, SIDE, fill=False, edgecolor="white", lw=2.2, zorder=5))
    main_axes.text(
        col + SIDE / 2,
        row + 13,
        f"one window, {SIDE} x {SIDE}",
        color="white",
        fontsize=8,
        ha="center",
        va="center",
        zorder=6,
        weight="bold",
    )
    for place, which in enumerate([*chosen, *dropped]):
        across, down = place % 3, place // 3
        axes = figure.add_axes((0.478 + 0.170 * across, 0.578 - 0.448 * down, 0.148, 0.148 * 10.4 / 5.5))
        hit = hits[which]
        row, col = coords[which]
        below = f"std {numbers.std[which]:.3f}" if hit else f"{100 * numbers.air_fraction[which]:.0f} % air"
        reason = "kept" if hit < 0 else f"{CONFIG.drop[hit].name}"
        draw_patch(axes, patches[which], patch_id("train", SLICE, row, col), f"{reason}: {below}", COLOURS[hit + 1])

    for y, heading in ((0.937, "kept: the origin is in the name"), (0.489, "dropped: the rule is on record")):
        figure.text(0.478, y, heading, color=FAINT, fontsize=9, va="center")
    for x, colour, name in (
        (0.035, KEPT, f"kept {int((hits < 0).sum())}"),
        (0.107, AIR, f"air {int((hits == 0).sum())}"),
        (0.167, FLAT, f"low_variance {int((hits == 1).sum())}"),
    ):
        figure.text(x, 0.09, "■", color=colour, fontsize=11, va="center")
        figure.text(x + 0.017, 0.09, name, color=TEXT, fontsize=9, va="center")
    figure.text(0.281, 0.09, "a tile marks the middle of a window", color=FAINT, fontsize=7.8, va="center")
    figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    # 256 colours are enough for grey and four more, and a third of the bytes.
    drawn.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
