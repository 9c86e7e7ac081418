"""Train a small network that finds organs in CT, with windows that hold a label, and tell Dice for each organ.

    python examples/segment.py                  about two minutes on two cores
    python examples/segment.py --steps 20       a quick look

It needs `ctpatch[torch,evaluate]`. The CT and its masks are made up (`ctpatch.phantom.slices`). For training nothing
is cut: windows are drawn in the prepared slices. The steps are those of real work: slices and masks -> windows ->
network -> whole slices -> Dice.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

import ctpatch
from ctpatch.phantom.labels import ORGAN_LABELS
from ctpatch.phantom.slices import PhantomSplit, hu_to_unit, write_phantom
from ctpatch.torch import PatchLoader

DATASET = "phantom-organs"
SPLITS = (PhantomSplit("train", 6, 12), PhantomSplit("test", 3, 8))
SIZE, PATCH = 192, 96  # pixels
LARGEST_STEP = 3e-3
LOW, HIGH = (float(each) for each in hu_to_unit(np.array([-160.0, 240.0])))  # the soft-tissue window, in [0, 1]
OVERLAP = ctpatch.PatchConfig(patch_size=PATCH, stride=PATCH // 2, pad_mode="even")
WINDOWS = ctpatch.LabelWindows(PATCH, per_slice=8, share=0.75, labels="balanced")


def convolutions(given: int, channels: int) -> nn.Sequential:
    """Two convolutions, each with batch normalisation, which keeps how bright a patch is beside others."""
    layers: list[nn.Module] = []
    for inputs in (given, channels):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class Segmenter(nn.Module):
    """A U-Net of three levels: class scores `(B, classes, H, W)` of slices or patches `(B, 1, H, W)` in [0, 1].

    H and W are multiples of 4.
    """

    def __init__(self, classes: int, channels: int = 12) -> None:
        super().__init__()
        self.fine = convolutions(2, channels)
        self.middle = convolutions(channels, 2 * channels)
        self.coarse = convolutions(2 * channels, 4 * channels)
        self.back_to_middle = convolutions(6 * channels, 2 * channels)
        self.back_to_fine = convolutions(3 * channels, channels)
        self.last = nn.Conv2d(channels, classes, 1)
        self.smaller = nn.MaxPool2d(2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Score each class in each pixel."""
        soft = ((image - LOW) / (HIGH - LOW)).clamp(0, 1)
        fine = self.fine(torch.cat([soft, (image / LOW).clamp(0, 1)], dim=1))  # soft tissue, and lung
        middle = self.middle(self.smaller(fine))
        coarse = self.coarse(self.smaller(middle))
        middle = self.back_to_middle(torch.cat([middle, larger(coarse)], dim=1))
        scores: torch.Tensor = self.last(self.back_to_fine(torch.cat([fine, larger(middle)], dim=1)))
        return scores


def larger(image: torch.Tensor) -> torch.Tensor:
    """Twice the pixels along each axis, each value four times."""
    return image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, train, predict, measure."""
    options = parsed(arguments)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    prepared = options.data / "prepared" / DATASET
    if not (prepared / "test" / "test_manifest.csv").is_file():
        print(f"making phantom CT with masks in {options.data}")
        write_phantom(options.data, DATASET, SPLITS, size=SIZE, pairs=False, masks=True)

    model = Segmenter(len(ORGAN_LABELS) + 1)
    fit(model, prepared / "train", options)
    found = dice(model, options.data)
    for organ, value in found.items():
        print(f"{organ:<10}{'not there' if value is None else f'{value:.3f}'}")
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"steps": options.steps, "dice": found}
    (options.out / "segment.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Train a small segmentation network on windows that hold organs.")
    parser.add_argument("--data", type=Path, default=Path("ctpatch-demo"), help="data root; made where it is missing")
    parser.add_argument("--steps", type=int, default=300, help="batches to train: the same network each time")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for segment.json")
    return parser.parse_args(arguments)


def fit(model: nn.Module, train: Path, options: argparse.Namespace) -> None:
    """Train on windows of a prepared split, three of four around an organ, each organ as often as every other."""
    loader = PatchLoader(train, options.batch_size, windows=WINDOWS, shuffle=True, seed=options.seed, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters())
    step, losses = 0, 0.0
    batch: Any  # a dict of tensors, since the split has two arrays
    while True:
        for batch in loader:
            done = step / options.steps
            if done >= 1.0:
                return
            for group in optimizer.param_groups:
                group["lr"] = LARGEST_STEP * min(1.0, 20 * done + 0.1) * (0.5 + 0.5 * math.cos(math.pi * done))
            wanted = batch["mask"][:, 0].long()
            scores = model(batch["image"])
            loss = nn.functional.cross_entropy(scores, wanted) + overlap_loss(scores, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            losses += loss.item()
            if step % 50 == 0:
                print(f"{step} batches: loss {losses / 50:.3f}")
                losses = 0.0


def overlap_loss(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """1 - Dice of probabilities, the mean over the organs: small organs count as much as large ones."""
    classes = scores.shape[1]
    likely = scores.softmax(dim=1)[:, 1:]
    truth = (wanted[:, None] == torch.arange(1, classes)[None, :, None, None]).float()
    both, each = (likely * truth).sum((0, 2, 3)), (likely + truth).sum((0, 2, 3))
    return 1 - ((2 * both + 1) / (each + 1)).mean()


def dice(model: nn.Module, data: Path) -> dict[str, float | None]:
    """Dice of each organ over all pixels of the test split; None where neither truth nor prediction has the organ.

    The mean over patients, `ctpatch.evaluate(...)["dice", label]`, is 0 for a patient who lacks the organ and of whom a
    single pixel is called so; with three patients that hides all else.
    """
    prepared = data / "prepared" / DATASET / "test"
    (test,) = ctpatch.build(prepared, config=OVERLAP, layout="index", out=data / "patches" / DATASET / "test")
    found = ctpatch.predict(
        model,
        ctpatch.open(test.folder, arrays="image"),
        batch_size=32,
        argmax=True,
        out=data,
        dataset=f"{DATASET}-found",
        overwrite=True,
    )
    numbers = ctpatch.evaluate(found, prepared, array="mask", labels=list(ORGAN_LABELS.values()))
    pixels = pl.col("predicted_pixels") + pl.col("target_pixels")
    pooled = numbers.slices.group_by("label").agg(dice=(pl.col("dice") * pixels).sum() / pixels.sum())
    return {organ: dict(pooled.iter_rows()).get(label) for organ, label in ORGAN_LABELS.items()}


if __name__ == "__main__":
    main()
