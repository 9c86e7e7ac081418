"""Windows that hold a label: how many of each batch, which ones, and where they lie."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError
from helpers import Image, Prepared, build_one, make_split

SHAPE = (30, 36)


def masks() -> list[Image]:
    """Nothing; a dot of 1 in a corner; four pixels of 2 and one of 5 at the border; 95 pixels of 2."""
    made = [np.zeros(SHAPE, np.uint8) for _ in range(4)]
    made[1][0, 35] = 1
    made[2][10, 10:14] = 2
    made[2][29, 20] = 5
    made[3][5:10, 3:22] = 2
    return made


@pytest.fixture
def labelled(tmp_path: Path) -> Prepared:
    """Four slices with masks."""
    made = make_split(tmp_path, [SHAPE] * 4, arrays={"mask": np.uint8}, columns={"patient_id": ["a", "a", "b", "b"]})
    for number, mask in enumerate(masks()):
        np.save(made.file(number, "mask"), mask)
    build_one(made, layout="slices", config=ctpatch.PatchConfig(patch_size=10, stride=10))
    return made


def batches(made: Prepared, windows: ctpatch.LabelWindows, size: int = 8, **options: Any) -> Any:
    return ctpatch.open(made.out).batches(
        size, windows=windows, seed=2, columns=["slice_index", "row", "col"], **options
    )


@pytest.mark.parametrize(("share", "size", "count"), [(0.33, 8, 3), (0.5, 7, 4), (1.0, 6, 6), (0.1, 5, 1)])
def test_a_batch_has_its_share_of_labels(labelled: Prepared, share: float, size: int, count: int) -> None:
    """Slots that hold a label are spread evenly, and the pixels are those of the window on record."""
    loader = batches(labelled, ctpatch.LabelWindows(10, 16, share=share), size)
    slots = {at for at in range(size) if (at + 1) * count // size > at * count // size}
    for batch in loader:
        if len(batch.indices) < size:
            continue
        for at, mask in enumerate(batch.arrays["mask"][:, 0]):
            number, row, col = (int(batch.columns[name][at]) for name in ("slice_index", "row", "col"))
            np.testing.assert_array_equal(mask, masks()[number][row : row + 10, col : col + 10])
            assert mask.shape == (10, 10)
            if at in slots:
                assert mask.any()


def test_slices_without_a_label_have_random_windows_only(labelled: Prepared) -> None:
    seen = Counter()  # type: ignore[var-annotated]
    for batch in batches(labelled, ctpatch.LabelWindows(10, 100, share=1.0), 50):
        seen.update(batch.columns["slice_index"].tolist())
    # 1, 5 and 95 of 101 pixels; 400 windows.
    assert set(seen) <= {1, 2, 3}
    assert 360 < seen[3] < 390


def test_each_pixel_with_a_label_and_each_window_that_holds_it_is_as_likely(labelled: Prepared) -> None:
    """Label 5 is one pixel at (29, 20): rows can only begin at 20, columns at 11 to 20."""
    places = Counter()  # type: ignore[var-annotated]
    for batch in batches(labelled, ctpatch.LabelWindows(10, 500, share=1.0, labels=[5]), 100):
        assert (batch.arrays["mask"] == 5).any(axis=(1, 2, 3)).all()
        assert set(batch.columns["slice_index"]) == {2}
        places.update(zip(batch.columns["row"].tolist(), batch.columns["col"].tolist(), strict=True))
    assert set(places) == {(20, col) for col in range(11, 21)}
    chi_square = sum((count - 200) ** 2 / 200 for count in places.values())
    assert chi_square < 27.9  # of 9 degrees of freedom, 99.9 %


def test_balanced_labels(labelled: Prepared) -> None:
    """Labels 1, 2 and 5 have 1, 99 and 1 pixels, and come equally often."""
    held = Counter()  # type: ignore[var-annotated]
    for batch in batches(labelled, ctpatch.LabelWindows(10, 300, share=1.0, labels="balanced"), 100):
        for mask in batch.arrays["mask"]:
            held.update(np.unique(mask[mask > 0]).tolist())
    assert all(330 < held[label] < 470 for label in (1, 5))  # 400, of a deviation of 16


def test_one_patient_as_often_as_the_other(labelled: Prepared) -> None:
    seen = Counter()  # type: ignore[var-annotated]
    windows = ctpatch.LabelWindows(10, 250, share=1.0)
    for batch in batches(labelled, windows, 100, balance="patient_id"):
        seen.update(batch.columns["slice_index"].tolist())
    assert 420 < seen[1] < 580  # of 1000


def test_ranks_threads_and_resuming_change_nothing(labelled: Prepared) -> None:
    windows = ctpatch.LabelWindows(10, 9, share=0.5, labels="balanced")
    names = ("slice_index", "row", "col")

    def taken(loader: Any) -> list[list[list[int]]]:
        return [[batch.columns[name].tolist() for name in names] for batch in loader]

    whole = taken(batches(labelled, windows, 6, shuffle=True))
    assert taken(batches(labelled, windows, 6, shuffle=True, prefetch=0)) == whole
    for rank in range(2):
        share = taken(batches(labelled, windows, 3, shuffle=True, rank=rank, world_size=2))
        # Which slots of a batch hold a label is the batch's own; draws of the other kind are the same.
        assert len(share) == len(whole)
    for stop in range(len(whole)):
        loader = batches(labelled, windows, 6, shuffle=True)
        begun = iter(loader)
        for _ in range(stop):
            next(begun)
        other = batches(labelled, windows, 6, shuffle=True)
        other.load_state_dict(loader.state_dict())
        assert taken(other) == whole[stop:]


def numbers_of(purpose: int, draw: int, seed: int = 2) -> list[float]:
    """The four numbers of a draw of the first epoch: one block of Philox."""
    key, counter = np.array([seed, purpose], np.uint64), np.array([draw, 0, 0, 0], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(4)
    return [int(word >> np.uint64(11)) * 2.0**-53 for word in words]


@pytest.mark.parametrize("most_bytes", [1 << 20, 30, 0])
@pytest.mark.parametrize(("labels", "groups"), [("any", [(1, 2, 5)]), ("balanced", [(1,), (2,), (5,)])])
def test_draws_are_those_of_a_plain_loop(
    labelled: Prepared, monkeypatch: pytest.MonkeyPatch, most_bytes: int, labels: Any, groups: list[tuple[int, ...]]
) -> None:
    """Whatever is kept of masks, all, a part or nothing."""
    monkeypatch.setattr("ctpatch.loading.label_pixels.MOST_BYTES", most_bytes)
    loader = batches(labelled, ctpatch.LabelWindows(10, 10, share=1.0, labels=labels), 7)
    found = [
        each
        for batch in loader
        for each in zip(*(batch.columns[name].tolist() for name in ("slice_index", "row", "col")), strict=True)
    ]
    for draw, window in enumerate(found):
        group, place, pixel, _ = numbers_of(5, draw)
        asked = groups[int(group * len(groups))]
        held = [np.argwhere(np.isin(mask, asked)).tolist() for mask in masks()]
        rest = place * sum(map(len, held))
        number = next(at for at, sums in enumerate(np.cumsum([len(each) for each in held])) if rest < sums)
        where = held[number][int(pixel * len(held[number]))]
        wanted = []
        for share, at, side in zip(numbers_of(4, draw), where, SHAPE, strict=False):
            first, last = max(at - 9, 0), min(at, side - 10)
            wanted.append(first + int(share * (last - first + 1)))
        assert window == (number, *wanted)
    assert len(found) == 40


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        (ctpatch.LabelWindows(10, array="organs"), "array: 'organs' is no array of labels; phantoms/train has mask"),
        (ctpatch.LabelWindows(10, array="image"), "array: 'image' is no array of labels"),
        (
            ctpatch.LabelWindows(10, labels=[2, 9]),
            "labels: no pixel of 'mask' in phantoms/train holds 9; it has 1, 2, 5",
        ),
        (ctpatch.LabelWindows(10, share=0.01), "share: 0.01 of a batch of 8 is less than half a patch"),
    ],
)
def test_what_cannot_be_drawn_is_said_at_the_start(
    labelled: Prepared, windows: ctpatch.LabelWindows, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        batches(labelled, windows)


def test_a_set_without_any_label(tmp_path: Path) -> None:
    made = make_split(tmp_path, [SHAPE], arrays={"mask": np.uint8})
    np.save(made.file(0, "mask"), np.zeros(SHAPE, np.uint8))
    build_one(made, layout="index", config=ctpatch.PatchConfig(patch_size=10, stride=10))
    with pytest.raises(ConfigError, match="no pixel of 'mask' in the 1 slices that are drawn holds a label"):
        batches(made, ctpatch.LabelWindows(10))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 0}, "share: wanted more than 0"),
        ({"share": 1.5}, "share: wanted more than 0"),
        ({"labels": "some"}, "labels: wanted 'any', 'balanced' or a list"),
        ({"labels": []}, "labels: the list is empty"),
        ({"labels": [1.5]}, "labels: wanted a whole number"),
    ],
)
def test_senseless_windows(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ctpatch.LabelWindows(**options)
