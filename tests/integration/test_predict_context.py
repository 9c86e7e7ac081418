"""Slices predicted with their neighbours as channels, held against plain sums of the slices that were written."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError, CtPatchError, OutputConflictError, UsageError
from ctpatch.reading.patchset import PatchSet
from helpers import Image, Prepared, build_one, csv_rows, make_split, refusal

SHAPE = (24, 20)
SERIES = ["b", "a", "b", "a", "b", "a", "b"]
POSITIONS = [5.0, 0, 0, 6, 15, 3, 10]
# In the order of position: series a is 1, 5, 3; series b is 2, 0, 6, 4.
NEAR = {1: (None, 5), 5: (1, 3), 3: (5, None), 2: (None, 0), 0: (2, 6), 6: (0, 4), 4: (6, None)}
CONFIG = ctpatch.PatchConfig(patch_size=8, stride=4, pad_mode="reflect")


def made(root: Path, positions: list[Any] = POSITIONS, shapes: list[tuple[int, int]] | None = None) -> Prepared:
    columns = {"series": SERIES, "position_mm": positions, "patient_id": ["p"] * 7}
    return make_split(root / "set", shapes or [SHAPE] * 7, columns=columns)


def opened(split: Prepared, layout: str = "slices", **options: Any) -> ctpatch.PatchSet:
    build_one(split, layout=layout, config=CONFIG, keep_columns="series,position_mm", **options)
    return ctpatch.open(split.out)


def weighed(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tells the neighbours apart."""
    assert batch.shape[1] == 3
    return (batch[:, 0] + 2 * batch[:, 1] + 4 * batch[:, 2]) / np.float32(8)


def wanted(images: list[Image], number: int, edge: str) -> NDArray[np.float64]:
    own = images[number].astype(np.float64)
    beyond = own if edge == "repeat" else np.zeros_like(own)
    before, after = (beyond if other is None else images[other] for other in NEAR[number])
    return (before + 2 * own + 4 * after) / 8


def results(folder: Path) -> list[Image]:
    return [np.load(path) for path in sorted(folder.glob("*.npy"))]


@pytest.mark.parametrize("layout", ["slices", "index", "files", "shards"])
@pytest.mark.parametrize("edge", ["repeat", "zero"])
def test_a_slice_is_predicted_with_its_neighbours(tmp_path: Path, layout: str, edge: Any) -> None:
    split = made(tmp_path)
    ps = opened(split, layout)
    folder = ctpatch.predict(weighed, ps, out=tmp_path / "out", context=1, context_edge=edge, batch_size=7)
    found = results(folder)
    assert len(found) == 7
    for number, image in enumerate(found):
        np.testing.assert_allclose(image, wanted(split.images["image"], number, edge), atol=1e-6)
    assert [int(row["index"]) for row in csv_rows(folder / "train_manifest.csv")] == list(range(7))


def test_neighbours_further_away(tmp_path: Path) -> None:
    split = made(tmp_path)
    images = split.images["image"]

    def last(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        assert batch.shape[1] == 5
        return batch[:, 4]

    folder = ctpatch.predict(last, opened(split), out=tmp_path / "out", context=2)
    for number, other in {1: 3, 5: 3, 3: 3, 2: 6, 0: 4, 6: 4, 4: 4}.items():
        np.testing.assert_allclose(results(folder)[number], images[other], atol=1e-6)


def test_a_prepared_split_needs_no_build(tmp_path: Path) -> None:
    split = made(tmp_path)
    slices = ctpatch.open_slices(split.folder)
    folder = ctpatch.predict(weighed, slices, CONFIG, out=tmp_path / "out", context=1, context_gap="ignore")
    images = split.images["image"]
    for number, image in enumerate(results(folder)):  # a patient's slices in the order of the manifest
        before, after = images[max(number - 1, 0)], images[min(number + 1, 6)]
        np.testing.assert_allclose(image, (before + 2 * images[number] + 4 * after) / 8, atol=1e-6)
    assert folder == tmp_path / "out/prepared/phantoms_predicted/train"
    plain = ctpatch.predict(lambda batch: batch * 2, slices, CONFIG, out=tmp_path / "plain")
    for image, source in zip(results(plain), split.images["image"], strict=True):
        np.testing.assert_allclose(image, np.minimum(2 * source, 1), atol=1e-6)
    words = refusal(UsageError, lambda: ctpatch.predict(weighed, slices, out=tmp_path / "small"))
    assert "24x20 pixels are less than a patch of 128x128" in words


def test_each_slice_is_read_once_whatever_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ps = opened(made(tmp_path))
    reads: Counter[int] = Counter()
    read = PatchSet.slice

    def counted(self: Any, slice_index: int, **options: Any) -> Any:
        reads[slice_index] += 1
        return read(self, slice_index, **options)

    monkeypatch.setattr(PatchSet, "slice", counted)
    # Parts of 8 windows hold one slice each, so that neighbours are in other parts.
    ctpatch.predict(weighed, ps, out=tmp_path / "out", context=1, batch_size=1)
    assert reads == dict.fromkeys(range(7), 1)


@pytest.mark.parametrize("fails_at", [1, 14, 15, 30, 43, 49])
def test_a_run_resumes_at_every_part(tmp_path: Path, fails_at: int) -> None:
    split = made(tmp_path)
    ps = opened(split)
    options: dict[str, Any] = {
        "out": tmp_path / "out",
        "context": 1,
        "batch_size": 3,
        "model_id": "w",
    }  # two slices a part
    calls = 0

    def failing(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise RuntimeError("stop")
        return weighed(batch)

    with pytest.raises(RuntimeError, match="stop"):
        ctpatch.predict(failing, ps, **options)
    folder = ctpatch.predict(weighed, ps, **options)
    whole = ctpatch.predict(weighed, ps, **{**options, "out": tmp_path / "whole"})
    for one, other in zip(results(folder), results(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(OutputConflictError, match="context"):
        ctpatch.predict(weighed, ps, **{**options, "context_edge": "zero"})


def test_a_single_slice_comes_with_its_neighbours() -> None:
    stack = np.random.default_rng(3).random((3, 21, 30), dtype=np.float32)
    found = ctpatch.predict(weighed, stack, CONFIG, context=1)
    np.testing.assert_allclose(found, (stack[0] + 2 * stack[1] + 4 * stack[2]) / 8, atol=1e-6)
    for shape in [(21, 30), (5, 21, 30), (1, 3, 21, 30)]:
        words = refusal(UsageError, partial(ctpatch.predict, weighed, np.zeros(shape), CONFIG, context=1))
        assert f"(3, H, W) with the slice in the middle; got shape {shape}" in words


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(error: type[CtPatchError], ps: Any, **options: Any) -> str:
        return refusal(error, lambda: ctpatch.predict(weighed, ps, **{"out": tmp_path / "o", "context": 1, **options}))

    ps = opened(made(tmp_path))
    assert "a prediction has every slice; give 'repeat' or 'zero'" in refused(ConfigError, ps, context_edge="drop")
    assert "context: wanted 0 to 64" in refused(ConfigError, ps, context=-1)
    gap = opened(made(tmp_path / "gap", [5.0, 0, 0, 6, 25, 3, 10]), "files")
    assert "lies 15 mm before the next slice" in refused(ConfigError, gap)
    ended = ctpatch.predict(weighed, gap, out=tmp_path / "ended", context=1, context_gap="end")
    assert len(results(ended)) == 7
    sizes = opened(made(tmp_path / "sizes", shapes=[SHAPE] * 6 + [(24, 24)]))
    assert "has 24x24 pixels, its neighbour slice 0" in refused(UsageError, sizes)
    assert not list((tmp_path / "o").rglob("*.npy"))


def test_without_context_the_record_is_what_it_was(tmp_path: Path) -> None:
    ps = opened(made(tmp_path))
    folder = ctpatch.predict(lambda batch: batch, ps, out=tmp_path / "out", model_id="m")
    text = (folder / "predict_meta.json").read_text()
    assert not any(f'"{word}"' in text for word in ("context", "normalize", "hu", "mapped_back"))
