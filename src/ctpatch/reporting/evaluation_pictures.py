"""The worst slices of an evaluation as pictures: what was compared, and the difference in colours."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from ctpatch.evaluating.result import Evaluation, Pictures
from ctpatch.reporting.pictures import SLICE_QUALITY, Tones, even_tones, shrunk

_MOST_SIDE = 400
_LARGEST_SHARE = 99.9
"""Percentile of differences that gets the strongest colour: one bright pixel must not hide all others."""
_ROLES = ("predicted", "target", "input")
_LOW, _NONE, _HIGH = (86, 180, 233), (24, 26, 29), (255, 160, 60)
_LABEL_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (120, 140, 255),
)  # fmt: skip
_AGREE, _OTHER = (110, 116, 124), (204, 121, 167)


def make_cards(found: Evaluation, numbers: Sequence[int]) -> tuple[list[dict[str, Any]], str | None]:
    """A card for each slice, and what the strongest colour of a difference stands for; None for labels."""
    if found.kind == "labels":
        return [_label_card(found, each) for each in numbers], None
    reach = _reach(found, numbers)
    return [_image_card(found, each, reach) for each in numbers], f"{reach:.3g} {found.unit}"


def label_key(found: Evaluation) -> dict[str, Any]:
    """What colours stand for: `labels` with `#rrggbb` and the labels of each, `other` that of wrong labels."""
    if found.kind != "labels":
        return {"labels": [], "other": ""}
    by_colour: dict[str, list[str]] = {}
    for label in found.slices["label"].unique().sort().to_list():
        by_colour.setdefault(_css(_LABEL_COLOURS[(label - 1) % len(_LABEL_COLOURS)]), []).append(str(label))
    return {"labels": [(colour, ", ".join(labels)) for colour, labels in by_colour.items()], "other": _css(_OTHER)}


def _reach(found: Evaluation, numbers: Sequence[int]) -> float:
    """The difference that gets the strongest colour on all cards, rounded up to two digits."""
    most = 0.0
    for number in numbers:
        images = found.images(number)
        most = max(most, float(np.percentile(np.abs(images["predicted"] - images["target"]), _LARGEST_SHARE)))
    if not most:
        return 1.0
    step = 10.0 ** (np.floor(np.log10(most)) - 1)
    return float(np.ceil(most / step) * step)


def _image_card(found: Evaluation, number: int, reach: float) -> dict[str, Any]:
    images = found.images(number)
    low, high = found.hu or _range_of(images)
    tones = even_tones(low, high)
    pictures: list[tuple[str, str | None]] = [
        (role, tones.picture(shrunk(images[role], _MOST_SIDE))) for role in _ROLES if role in images
    ]
    difference = _signed(shrunk(images["predicted"] - images["target"], _MOST_SIDE), even_tones(-reach, reach))
    pictures.insert(2, ("predicted less target", difference))
    row = found.slices.row(by_predicate=pl.col("slice_index") == number, named=True)
    said = [f"PSNR {found.shown(row['psnr'], 'psnr')} dB", f"SSIM {found.shown(row['ssim'], 'ssim')}"]
    said.append(f"RMSE {found.shown(row['rmse'], 'rmse')} {found.unit}")
    if "gain_psnr" in row:
        said.append(f"gain {found.shown(row['gain_psnr'], 'gain_psnr')} dB")
    return _card(number, row["patient"], said, pictures, images)


def _range_of(images: Pictures) -> tuple[float, float]:
    return float(images["target"].min()), float(images["target"].max())


def _label_card(found: Evaluation, number: int) -> dict[str, Any]:
    images = found.images(number)
    rows = list(found.slices.filter(pl.col("slice_index") == number).iter_rows(named=True))
    said = [
        f"label {row['label']}: Dice {found.shown(row['dice'], 'dice')}, HD95 {found.shown(row['hd95'], 'hd95')}"
        for row in rows
    ]
    shown = {row["label"] for row in found.slices.select("label").unique().iter_rows(named=True)}
    pictures = [(role, _coloured(_labelled(_thinned(images[role]), shown))) for role in _ROLES[:2]]
    one, other = (np.where(np.isin(images[role], list(shown)), images[role], 0) for role in _ROLES[:2])
    kinds = np.zeros((*one.shape, 3), np.uint8)
    for where, colour in (
        ((one == other) & (one > 0), _AGREE),
        ((one > 0) & (other == 0), _HIGH),
        ((one == 0) & (other > 0), _LOW),
        ((one > 0) & (other > 0) & (one != other), _OTHER),
    ):
        kinds[where] = colour
    pictures.append(("difference", _coloured(_thinned(kinds))))
    return _card(number, rows[0]["patient"] if rows else None, said, pictures, images)


def _card(
    number: int, patient: str | None, said: list[str], pictures: Sequence[tuple[str, str | None]], images: Pictures
) -> dict[str, Any]:
    height, width = images["target"].shape
    who = f", {patient}" if patient else ""
    return {
        "title": f"Slice {number}{who}",
        "said": "; ".join(said),
        "pictures": list(pictures),
        "width": width,
        "height": height,
    }


def _signed(difference: NDArray[Any], tones: Tones) -> str:
    """A picture of differences: one colour for too low, another for too high, dark for none."""
    shares = np.linspace(-1.0, 1.0, 256)[:, None]
    ends = np.where(shares < 0, np.array(_LOW, float), np.array(_HIGH, float))
    palette = np.rint(np.array(_NONE) + np.abs(shares) * (ends - np.array(_NONE))).astype(np.uint8)
    return _coloured(palette[tones.codes(difference)], lossless=False)


def _labelled(labels: NDArray[Any], shown: set[int]) -> NDArray[np.uint8]:
    picture = np.zeros((*labels.shape, 3), np.uint8)
    for label in sorted(shown):
        picture[labels == label] = _LABEL_COLOURS[(label - 1) % len(_LABEL_COLOURS)]
    return picture


def _css(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{each:02x}" for each in colour)


def _thinned(image: NDArray[Any]) -> NDArray[Any]:
    """Every so many pixels of a picture of classes, of which there is no mean."""
    step = -(-max(image.shape[:2]) // _MOST_SIDE)
    return image[::step, ::step]


def _coloured(pixels: NDArray[np.uint8], *, lossless: bool = True) -> str:
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if lossless:
        picture.save(stream, "PNG", optimize=True)
    else:
        picture.save(stream, "JPEG", quality=SLICE_QUALITY, subsampling=0)  # colours are what it is about
    return f"data:image/{'png' if lossless else 'jpeg'};base64," + base64.b64encode(stream.getvalue()).decode()
