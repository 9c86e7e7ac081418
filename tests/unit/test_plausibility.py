"""Can these be HU? Each check against slices that are sound and slices that are not."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.prepare.doubts import doubts, is_doubt
from ctpatch.prepare.plausibility import PADDING_CHECKS, SCALE_CHECKS
from ctpatch.prepare.readers.base import Observed, RawSlice, Reader, SliceRemark, observed
from ctpatch.prepare.readers.dicom.reader import DicomReader
from ctpatch.prepare.readers.nifti.reader import NiftiReader
from ctpatch.prepare.tally import Tally
from helpers import data_folder
from hu_phantoms import SOUND, UNSOUND, Hu, body, lung


def seen(hu: Hu, padding: NDArray[np.bool_] | None = None, padding_hu: float = 0.0) -> Observed:
    return Observed(hu.astype(np.float32), padding, None if padding is None else (padding_hu, padding_hu))


def tally_of(*slices: Observed) -> Tally:
    whole = Tally()
    for each in slices:
        whole.add(Tally.of(each))
    return whole


def kinds(*slices: Observed) -> list[str]:
    return [kind for kind, _ in doubts(tally_of(*slices))]


@pytest.mark.parametrize("name", SOUND)
def test_sound_slices_are_not_doubted(name: str) -> None:
    assert kinds(seen(SOUND[name]())) == []


@pytest.mark.parametrize("name", UNSOUND)
def test_each_unsound_series_has_its_own_doubt(name: str) -> None:
    make, kind = UNSOUND[name]
    assert kinds(seen(make()), seen(make())) == [kind]


def test_every_check_on_the_scale_is_tried() -> None:
    assert {check.kind for check in SCALE_CHECKS} == {kind for _, kind in UNSOUND.values()}


def test_a_message_says_what_was_seen_and_what_to_do() -> None:
    hu = np.array([[24.0, 1064.0], [1064.0, 1724.0]])
    assert doubts(tally_of(seen(hu))) == [
        (
            "hu-shifted-up",
            (
                "values run from 24 to 1724, wanted HU, where air is near -1000 and water near 0; 50.0% of the pixels "
                "are from 820 to 1320, where soft tissue lies if 1024 was not taken off. Check RescaleIntercept (in "
                "NIfTI scl_inter), or take 1024 off the values"
            ),
        )
    ]


@pytest.mark.parametrize(("high", "found"), [(30_710.0, []), (30_711.0, ["hu-too-high"]), (64_512.0, ["hu-too-high"])])
def test_one_value_that_no_ct_stores_is_enough(high: float, found: list[str]) -> None:
    hu = body()
    hu[40, 40] = high
    assert kinds(seen(hu)) == found


def test_air_in_one_slice_of_a_series_is_enough() -> None:
    tissue = np.full((100, 100), 40.5)
    assert kinds(seen(tissue)) == ["hu-no-air"]
    with_gas = tissue.copy()
    with_gas[0, :2] = -900
    assert kinds(*[seen(tissue)] * 9, seen(with_gas)) == []


def test_air_that_is_only_padding_is_no_air() -> None:
    hu = np.full((64, 64), 1064.0)
    padding = np.zeros((64, 64), np.bool_)
    padding[:10] = True
    hu[padding] = -1024  # as a reader gives it
    assert kinds(seen(hu, padding, -2000)) == ["hu-shifted-up"]
    assert kinds(seen(hu)) == ["hu-shifted-up"]


def test_padding_amid_the_image_is_doubted_and_padding_at_its_border_is_not() -> None:
    hu = lung()
    corners = np.hypot(*(np.mgrid[:96, :96] - 47.5)) > 47
    amid = (hu > 30) & (hu < 80)
    assert kinds(seen(hu, corners, 0.0)) == []
    assert kinds(seen(hu, corners, 62_000.0)) == []
    assert kinds(seen(hu, amid, 40.0)) == ["hu-padding-amid-tissue"]
    ((_, message),) = doubts(tally_of(seen(hu, amid | corners, 40.0)))
    count = int((amid & ~corners).sum())
    assert f"of {int((amid | corners).sum())} pixels of the padding value (40 HU)" in message
    assert 0 < int(message.split()[0]) <= count
    # what would be air anyway can lie anywhere: noise that a scanner cut off, gas
    assert kinds(seen(hu, hu < -900, -1024.0)) == []


def test_padding_that_takes_nearly_everything_is_doubted() -> None:
    padding = np.ones((64, 64), np.bool_)
    assert kinds(seen(np.full((64, 64), -1024.0), padding, 0.0)) == ["hu-padding-amid-tissue"]
    assert kinds(seen(np.full((64, 64), -1024.0), padding, -2000.0)) == []


def test_a_straight_way_of_padding_leads_to_the_border_and_a_hole_has_none() -> None:
    padding = np.zeros((7, 7), np.bool_)
    padding[0:3, 1] = padding[4, 4] = padding[5, 3:7] = True
    tally = Tally.of(Observed(np.zeros((7, 7), np.float32), padding, (0.0, 0.0)))
    assert (tally.padding, tally.padding_amid, tally.pixels) == (8, 1, 41)


def test_what_a_reader_says_counts_its_slices() -> None:
    hu, remark = body().astype(np.float32), SliceRemark("unused-bits", "pixels have more bits")
    tally = tally_of(Observed(hu), Observed(hu, remarks=(remark,)), Observed(hu, remarks=(remark,)))
    assert doubts(tally) == [("unused-bits", "pixels have more bits (2 of 3 slices)")]
    tally.add(Tally.of(Observed(hu, remarks=(SliceRemark("unused-bits", "pixels have still more bits"),))))
    assert doubts(tally) == [("unused-bits", "pixels have more bits (3 of 4 slices)")]


def test_counts_are_those_of_a_plain_loop_and_add_up_in_any_order() -> None:
    slices = [np.random.default_rng(seed).normal(0, 1500, (9, 11)).astype(np.float32) for seed in range(5)]
    slices[2][0, :3] = [-1024, 40_000, -9000]
    whole = tally_of(*(Observed(each) for each in slices))
    every = [float(value) for each in slices for value in each.ravel()]
    for low, high in (
        (-200, 300),
        (2000, math.inf),
        (-math.inf, -200),
        (-2300, -1500),
        (4100, math.inf),
        (-1200, -180),
    ):
        assert whole.number(low, high) == sum(low <= value < high for value in every)
    assert (whole.slices, whole.pixels, whole.whole_8_bit) == (5, 495, False)
    assert (whole.low, whole.high) == (min(every), max(every))
    assert whole.at_air == sum(value == -1024 for value in every)
    assert whole.too_high == sum(value > 30_710 for value in every)
    backwards = tally_of(*(Observed(each) for each in reversed(slices)))
    assert backwards.as_plain() == whole.as_plain()
    assert Tally.from_plain(whole.as_plain()).as_plain() == whole.as_plain()
    assert doubts(Tally.from_plain(whole.as_plain())) == doubts(whole)


def test_a_tally_does_not_grow_with_the_series() -> None:
    tally = Tally()
    for number in range(200):
        remark = SliceRemark("unused-bits", f"sentence {number}")
        tally.add(Tally.of(Observed(body(seed=number).astype(np.float32), remarks=(remark,))))
    assert len(tally.remarks) == 16
    assert tally.counts.nbytes < 4096


def test_every_kind_of_a_check_is_known_as_a_doubt() -> None:
    from ctpatch.format.prepared_meta import NoteInfo

    for check in (*SCALE_CHECKS, *PADDING_CHECKS):
        assert is_doubt(NoteInfo(kind=check.kind, series="S", message=""))
    assert not is_doubt(NoteInfo(kind="gap", series="S", message=""))


@pytest.mark.parametrize(
    ("collection", "reader"),
    [
        ("dcmqi_ct_3slice", DicomReader()),
        ("lung_pet_ct_dx", DicomReader()),
        ("tcga_ct100", DicomReader()),
        ("totalseg_ct_j2k", DicomReader()),
        ("totalseg_nifti", NiftiReader()),
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_real_series_are_not_doubted(collection: str, reader: Reader) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    root = data_folder() / collection
    if not root.is_dir():
        pytest.skip(f"no {collection}: set CTPATCH_DATA to the folder that holds it")
    series: dict[str, list[RawSlice]] = {}
    for each in reader.scan(root, lambda _count: None).slices:
        series.setdefault(each.series, []).append(each)
    assert series
    for slices in series.values():
        assert kinds(*observed(reader, root, slices)) == []
        # each slice alone is a series of one
        for one in slices[:: max(1, len(slices) // 4)]:
            assert kinds(*observed(reader, root, [one])) == []


def test_real_series_are_doubted_once_they_are_spoiled() -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    root = data_folder() / "totalseg_ct_j2k"
    if not root.is_dir():
        pytest.skip("no totalseg_ct_j2k: set CTPATCH_DATA to the folder that holds it")
    reader = DicomReader()
    images = list(reader.read(root, reader.scan(root, lambda _count: None).slices[:4]))
    spoiled: dict[str, list[NDArray[Any]]] = {
        "hu-unit-range": [(each + 1024) / 4096 for each in images],
        "hu-shifted-up": [each + 1024 for each in images],
        "hu-shifted-down": [each - 1024 for each in images],
        "hu-wrapped": [np.mod(each, 4096) for each in images],
        "hu-too-high": [np.mod(each, 65536) for each in images],
    }
    for kind, each in spoiled.items():
        assert kinds(*(Observed(image) for image in each)) == [kind]


def test_the_page_of_all_checks_has_each_with_its_threshold_and_reason() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/what-we-check.md"
    text = page.read_text(encoding="utf-8")
    for check in (*SCALE_CHECKS, *PADDING_CHECKS):
        assert f"| `{check.kind}` | {check.threshold} | {check.reason} | " in text
