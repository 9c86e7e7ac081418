"""Where an audit draws its lines: how much of a slice must be covered, and how many candidates are compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from helpers import Image, make_split, write_manifest

SIDE = 32
UNSEEN = "its source slice is not there, and its patches cover less than a quarter of it"


def picture(seed: int, shape: tuple[int, int]) -> Image:
    """Smooth random shapes with a grain, each seed its own."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = rng.uniform(0, 0.01, shape)
    for _ in range(40):
        row, col, size = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(3, 9)
        image += rng.uniform(0.01, 0.03) * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * size**2))
    return image.astype(np.float32)


def nearly(image: Image) -> Image:
    """The same slice with other noise, so that no patch of it is the same."""
    noisy: Image = (image + np.random.default_rng(9).normal(0, 1e-4, image.shape)).clip(0, 1).astype(np.float32)
    return noisy


def our_set(root: Path, split: str, image: Image, last_col: int) -> None:
    """A set of the upper left patches of a slice, up to a column; its source is gone."""
    prepared = make_split(root, images=[image], split=split)
    rule = f"rest: row > 0 or col > {last_col}"
    ctpatch.build(
        prepared.folder, config=ctpatch.PatchConfig(patch_size=SIDE, stride=SIDE, drop=(rule,)), layout="shards"
    )
    prepared.file(0).unlink()


def foreign_set(root: Path, split: str, image: Image, origins: list[tuple[int, int]]) -> None:
    """A set made elsewhere of some patches of a slice; the last one ends where the slice does."""
    folder = root / "patches" / "phantoms" / split
    folder.mkdir(parents=True)
    names = [f"{split}_{number}.npy" for number in range(len(origins))]
    for name, (row, col) in zip(names, origins, strict=True):
        np.save(folder / name, image[row : row + SIDE, col : col + SIDE])
    table: dict[str, list[Any]] = {"patch_path": names, "slice_index": [0] * len(names)}
    table |= {"row": [row for row, _ in origins], "col": [col for _, col in origins]}
    write_manifest(folder / "patch_manifest.csv", table)


def near_slices_and_unseen(root: Path) -> tuple[int, list[tuple[str, int | None]]]:
    """How many near-duplicates an audit finds, and which splits have slices it could not see."""
    report = ctpatch.audit([root / "patches" / "phantoms"])
    assert report.faults == []
    unseen = [(note.split, note.count) for note in report.not_checked if note.why == UNSEEN]
    assert set(report.counts) <= {"near-slice"}
    return report.counts.get("near-slice", 0), unseen


NEITHER = [("phantoms/test", 1), ("phantoms/train", 1)]


@pytest.mark.parametrize(
    ("shape", "last_col", "found", "unseen"),
    [((64, 160), 64, 1, []), ((64, 64), 0, 1, []), ((64, 160), 32, 0, NEITHER)],
    ids=["30 percent", "25 percent", "20 percent"],
)
def test_a_set_that_covers_a_quarter_of_a_slice_is_compared(
    tmp_path: Path, shape: tuple[int, int], last_col: int, found: int, unseen: list[tuple[str, int]]
) -> None:
    image = picture(1, shape)
    our_set(tmp_path, "train", image, last_col)
    our_set(tmp_path, "test", nearly(image), last_col)
    assert near_slices_and_unseen(tmp_path) == (found, unseen)


@pytest.mark.parametrize(
    ("shape", "origins", "found", "unseen"),
    [
        ((64, 160), [(0, 0), (0, 32), (32, 128)], 1, []),
        ((64, 128), [(0, 0), (32, 96)], 1, []),
        ((64, 160), [(0, 0), (32, 128)], 0, NEITHER),
    ],
    ids=["30 percent", "25 percent", "20 percent"],
)
def test_a_set_made_elsewhere_that_covers_a_quarter_is_compared(
    tmp_path: Path, shape: tuple[int, int], origins: list[tuple[int, int]], found: int, unseen: list[tuple[str, int]]
) -> None:
    image = picture(1, shape)
    foreign_set(tmp_path, "train", image, origins)
    foreign_set(tmp_path, "test", nearly(image), origins)
    assert near_slices_and_unseen(tmp_path) == (found, unseen)


@pytest.mark.parametrize("place", [0, 1, 7])
def test_a_mirrored_slice_is_found_among_others_of_the_same_pixels(tmp_path: Path, place: int) -> None:
    """Slices of the same pixels in another order are candidates too; the one that is mirrored is not the first."""
    image = picture(1, (48, 56))
    rng = np.random.default_rng(2)
    train = [rng.permutation(image.ravel()).reshape(image.shape) for _ in range(place)]
    make_split(tmp_path, images=[*train, image, picture(2, (48, 56)), picture(4, (48, 56))], split="train")
    make_split(tmp_path, images=[picture(3, (48, 56)), np.ascontiguousarray(image[:, ::-1])], split="test")
    report = ctpatch.audit([tmp_path / "prepared" / "phantoms"])
    found = [leak for leak in report.findings if leak.check == "mirrored-slice"]
    assert [(leak.first.row, leak.second.row, leak.symmetry) for leak in found] == [
        (2 + place, 3, "mirrored left to right")
    ]
