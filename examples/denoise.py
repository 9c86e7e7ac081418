"""Train a small network that takes the noise out of low-dose CT, and put its predictions back into whole slices.

    python examples/denoise.py                  about two minutes on two cores; one of them is training
    python examples/denoise.py --seconds 8      a quick look
    python examples/denoise.py --steps 300      the same network each time, however fast the machine
    python examples/denoise.py --windows grid   fixed patches without neighbouring slices, for comparison

Each epoch draws new windows in the training slices, and the network sees each window in the slices above and below
as well: three channels.

It needs `ctpatch[torch]`. With matplotlib it also draws `denoise.png`, with scikit-image it also tells the SSIM;
without them it says what it leaves out. The CT is made up (`ctpatch.phantom.slices`); the steps are those of real
work: pairs of slices -> windows -> batches -> network -> whole slices -> numbers and a picture.
"""

import argparse
import importlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import ctpatch
from ctpatch.core.reassembly import WindowName
from ctpatch.phantom.slices import hu_to_unit, write_phantom
from ctpatch.torch import FlipsAndRotations, PatchLoader

Image = NDArray[np.float32]


def if_installed(module: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


METRICS = if_installed("skimage.metrics")
PLOT = if_installed("matplotlib.figure")

PATCH, STRIDE = 64, 32
PER_SLICE = 16
LARGEST_STEP = 2e-3
PICTURED, PART = 3, np.s_[95:205, 85:195]  # the test slice that is drawn, and the part that is drawn larger
LOW, HIGH = (float(each) for each in hu_to_unit(np.array([-160.0, 240.0])))  # the soft-tissue window, in [0, 1]
WIDTH_HU = 400.0

# How slices are cut for prediction. Windows that reach over the border are filled by reflection and cut off again.
OVERLAP = ctpatch.PatchConfig(patch_size=PATCH, stride=STRIDE, pad_mode="reflect")
NO_OVERLAP = ctpatch.PatchConfig(patch_size=PATCH, stride=PATCH, pad_mode="reflect")
WAYS: dict[str, tuple[ctpatch.PatchConfig, WindowName]] = {
    "no overlap": (NO_OVERLAP, "uniform"),
    "uniform": (OVERLAP, "uniform"),
    "hann": (OVERLAP, "hann"),
}


class Denoiser(nn.Module):
    """Convolutions that predict the noise, which is taken away (as in DnCNN; smaller, and without batch norm).

    `context` is how many slices it sees on each side of the one that it restores.
    """

    def __init__(self, channels: int = 32, layers: int = 6, context: int = 0) -> None:
        super().__init__()
        self.context = context
        body: list[nn.Module] = []
        for layer in range(layers - 1):
            convolution = nn.Conv2d(channels if layer else 2 * context + 1, channels, 3, padding=1)
            if layer == 0:
                begin_with_middle(convolution.weight)
            else:
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            body += [convolution, nn.ReLU()]
        last = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)  # no noise at first: an untrained network gives back what it was given
        self.body = nn.Sequential(*body, last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Take the noise out of slices or patches `(B, 2 context + 1, H, W)` in [0, 1]; gives `(B, 1, H, W)`."""
        scaled = (image - LOW) / (HIGH - LOW)  # soft tissue lies between 0 and 1
        noise: torch.Tensor = self.body(scaled.contiguous(memory_format=torch.channels_last))
        middle = image[:, self.context : self.context + 1]
        return middle - noise * (0.1 * (HIGH - LOW))  # 1 is 40 HU: noise is of that size, so that it is soon learnt


def begin_with_middle(weight: torch.Tensor) -> None:
    """Begin as a network without neighbouring slices does; training finds what they are good for.

    Weights are `(channels, slices, 3, 3)`. With random weights for all slices, 400 steps end 0.5 dB lower.
    """
    middle = weight.shape[1] // 2
    with torch.no_grad():
        weight.zero_()
        nn.init.kaiming_normal_(weight[:, middle : middle + 1], nonlinearity="relu")


@dataclass(frozen=True)
class Quality:
    """How near slices are to full dose, in the soft-tissue window: means over the test slices.

    Attributes:
        psnr: peak signal-to-noise ratio in dB; the peak is the window's width.
        ssim: structural similarity; None without scikit-image.
        seam_hu: root mean square error in HU within 2 pixels of a patch border; None for what was not cut.
        inside_hu: the same elsewhere.
    """

    psnr: float
    ssim: float | None
    seam_hu: float | None = None
    inside_hu: float | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, train, predict, measure, draw."""
    options = parsed(arguments)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    train, test = cut_sets(options.data)

    context = 1 if options.windows == "random" else 0
    model = Denoiser(context=context).to("cuda" if torch.cuda.is_available() else "cpu")
    steps = fit(model, train, options)

    before, results, picture = evaluate(model, test)
    print_table({"low dose": before, **results})
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"windows": options.windows, "steps": steps, "low dose": asdict(before)}
    report |= {name: asdict(each) for name, each in results.items()}
    (options.out / "denoise.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if PLOT is None:
        print("matplotlib is not installed: no picture")
    else:
        draw(picture, options.out / "denoise.png")
        print(f"picture: {options.out / 'denoise.png'}")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Train a small CT denoiser on patches; predict whole slices.")
    parser.add_argument("--data", type=Path, default=Path("ctpatch-demo"), help="data root; made where it is missing")
    parser.add_argument(
        "--windows", choices=("random", "grid"), default="random", help="new windows with context, or fixed patches"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to train")
    parser.add_argument("--steps", type=int, help="train so many batches instead: the same network each time")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for denoise.png and denoise.json")
    return parser.parse_args(arguments)


def cut_sets(data: Path) -> tuple[ctpatch.PatchSet, ctpatch.PatchSet]:
    """The training set and the test set; their slices are stored whole, and know where they lie in the patient."""
    prepared = data / "prepared" / "phantom"
    manifest = prepared / "train" / "train_manifest.csv"
    if not manifest.is_file() or "position_mm" not in manifest.read_text(encoding="utf-8").partition("\n")[0]:
        print(f"making phantom CT in {data}")
        write_phantom(data)
    folder = data / "patches" / "phantom-windows"
    places = "series,position_mm"
    config = ctpatch.PatchConfig(patch_size=PATCH, stride=STRIDE, pad_mode="even", drop="air: air_fraction > 0.6")
    (train,) = ctpatch.build(
        prepared / "train", config=config, layout="slices", keep_columns=places, out=folder / "train"
    )
    (test,) = ctpatch.build(prepared / "test", config=OVERLAP, layout="index", keep_columns=places, out=folder / "test")
    return ctpatch.open(train.folder), ctpatch.open(test.folder)


def fit(model: nn.Module, train: ctpatch.PatchSet, options: argparse.Namespace) -> int:
    """Train until time or steps are up; returns how many batches that took."""
    random = options.windows == "random"
    loader = PatchLoader(
        train,
        options.batch_size,
        shuffle=True,
        seed=options.seed,
        drop_last=True,
        transform=FlipsAndRotations(),
        windows=ctpatch.RandomWindows(PATCH, PER_SLICE, rules="set") if random else None,
        context=1 if random else 0,
    )
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters())
    print(f"training on {options.windows} windows, {len(loader)} batches an epoch")
    start, step, epoch, losses = time.perf_counter(), 0, 0, 0.0
    batch: Any  # a dict of tensors, since the set has two arrays
    while True:
        for batch in loader:
            done = step / options.steps if options.steps else (time.perf_counter() - start) / options.seconds
            if done >= 1.0:
                print(f"{step} batches in {time.perf_counter() - start:.0f} s")
                return step
            rate = LARGEST_STEP * min(1.0, 20 * done + 0.1) * (0.5 + 0.5 * math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = rate
            low, full = batch["image"].to(device), batch["target"].to(device)
            loss = ((model(low) - full) / (HIGH - LOW)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            losses += loss.item()
        epoch += 1
        print(f"epoch {epoch}: error {WIDTH_HU * math.sqrt(losses / len(loader)):.1f} HU")
        losses = 0.0


def evaluate(model: Denoiser, test: ctpatch.PatchSet) -> tuple[Quality, dict[str, Quality], dict[str, Image]]:
    """Predict each test slice in each way; the slices of the picture come with the numbers."""
    before: list[Quality] = []
    results: dict[str, list[Quality]] = {name: [] for name in WAYS}
    picture: dict[str, Image] = {}
    for index in test.slices["slice_index"].to_list():
        arrays: Any = test.slice(index)
        low, full = arrays["image"], arrays["target"]
        stack = stacked(test, index, model.context)
        before.append(Quality(*similarity(low, full)))
        restored = {}
        for name, (config, window) in WAYS.items():
            restored[name] = predict(model, stack, config, window)
            coords = ctpatch.sliding_window_coords(low.shape[0], low.shape[1], config)
            errors = ctpatch.seam_error(windowed(restored[name]), windowed(full), coords, config.patch_size)
            seam, inside = (error * WIDTH_HU for error in errors)
            results[name].append(Quality(*similarity(restored[name], full), seam, inside))
        if index == PICTURED or not picture:
            picture = {"low": low, "full": full, **restored}
    return mean(before), {name: mean(each) for name, each in results.items()}, picture


def stacked(test: ctpatch.PatchSet, index: int, context: int) -> list[Image]:
    """A slice and its neighbours, in the order of their positions; at the ends the last slice comes again."""
    own = test.slices.filter(test.slices["slice_index"] == index)
    series = test.slices.filter(test.slices["series"] == own["series"][0]).sort("position_mm")["slice_index"].to_list()
    at = series.index(index)
    places = np.clip(np.arange(at - context, at + context + 1), 0, len(series) - 1)
    slices: list[Any] = [test.slice(series[place]) for place in places]
    return [each["image"] for each in slices]


def predict(model: Denoiser, stack: list[Image], config: ctpatch.PatchConfig, window: WindowName) -> Image:
    """The middle slice of a stack, restored patch by patch and put together."""
    image = np.stack(stack) if model.context else stack[0]
    return ctpatch.predict(model, image, config, batch_size=32, window=window, context=model.context)


def windowed(image: Image) -> Image:
    """The slice as it is looked at: the soft-tissue window becomes [0, 1], what lies outside is clipped."""
    shown: Image = np.clip((image - LOW) / (HIGH - LOW), 0.0, 1.0).astype(np.float32)
    return shown


def similarity(image: Image, truth: Image) -> tuple[float, float | None]:
    """PSNR in dB and SSIM (None without scikit-image) of two slices in the soft-tissue window."""
    shown, wanted = windowed(image), windowed(truth)
    psnr = -10 * math.log10(np.mean((shown - wanted) ** 2, dtype=np.float64))
    if METRICS is None:
        return psnr, None
    return psnr, float(METRICS.structural_similarity(shown, wanted, data_range=1.0))


def mean(qualities: Sequence[Quality]) -> Quality:
    """The mean of each number over the slices; None where a slice has none."""
    rows = [asdict(each) for each in qualities]
    means: dict[str, Any] = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        means[name] = None if None in column else float(np.mean(column))
    return Quality(**means)


def print_table(rows: dict[str, Quality]) -> None:
    """The numbers, a line for each way."""
    print(f"\n{'test split':<12}{'PSNR dB':>9}{'SSIM':>8}{'error HU: seams':>17}{'elsewhere':>11}{'ratio':>8}")
    for name, each in rows.items():
        ssim = "-" if each.ssim is None else f"{each.ssim:.4f}"
        line = f"{name:<12}{each.psnr:>9.2f}{ssim:>8}"
        if each.seam_hu is not None and each.inside_hu is not None:
            line += f"{each.seam_hu:>17.2f}{each.inside_hu:>11.2f}{each.seam_hu / each.inside_hu:>8.3f}"
        print(line)
    if METRICS is None:
        print("scikit-image is not installed: no SSIM")
    print()


def draw(picture: dict[str, Image], path: Path) -> None:
    """Whole slices above; below a part of each, and what overlap changes: the seams."""
    hu = {name: (image - LOW) / (HIGH - LOW) * WIDTH_HU - 160.0 for name, image in picture.items()}
    error, seams = hu["hann"] - hu["full"], hu["no overlap"] - hu["hann"]
    panels: list[tuple[str, Image, tuple[float, float]]] = [
        ("low dose", hu["low"], (-160, 240)),
        ("denoised", hu["hann"], (-160, 240)),
        ("full dose", hu["full"], (-160, 240)),
        ("denoised - full dose, ±40 HU", error, (-40, 40)),
        ("low dose, part", hu["low"][PART], (-160, 240)),
        ("denoised, part", hu["hann"][PART], (-160, 240)),
        ("full dose, part", hu["full"][PART], (-160, 240)),
        ("seams: no overlap - Hann, ±10 HU", seams, (-10, 10)),
    ]
    figure = PLOT.Figure(figsize=(11.2, 6.0), layout="constrained")
    figure.suptitle("Low-dose CT (phantom), denoised patch by patch; soft-tissue window, -160 to 240 HU", fontsize=11)
    for axes, (title, image, (lowest, highest)) in zip(figure.subplots(2, 4).flat, panels, strict=True):
        axes.imshow(image, cmap="gray", vmin=lowest, vmax=highest, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
