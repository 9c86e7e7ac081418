"""Real CT: DICOM slices to [0, 1], centre crops of 362x362, through every layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from helpers import LAYOUTS, Image, assert_bits, build_one, data_folder, make_split, reference_set

SIDE = 362


def slices_of(collection: str, count: int) -> list[Image]:
    """Centre crops of the first slices, HU mapped from -1024..3071 to [0, 1]."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    folder = data_folder() / collection
    files = sorted(folder.rglob("*.dcm"))
    if not files:
        pytest.skip(f"no DICOM of {collection}: set CTPATCH_DATA to the folder that holds it")
    crops = []
    for path in files[:: max(len(files) // count, 1)][:count]:
        dataset = pydicom.dcmread(path)
        hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        top, left = ((side - SIDE) // 2 for side in hu.shape)
        crop = hu[top : top + SIDE, left : left + SIDE]
        crops.append(np.clip((crop + 1024) / 4095, 0, 1).astype(np.float32))
    return crops


@pytest.mark.parametrize("collection", ["lung_pet_ct_dx", "tcga_ct100"])
def test_real_slices_in_every_layout(tmp_path: Path, collection: str) -> None:
    images = slices_of(collection, 8)
    assert len(images) == 8
    assert {image.shape for image in images} == {(SIDE, SIDE)}
    assert max(float(image.std()) for image in images) > 0.05
    where, patches = reference_set(images, 128, 64)
    assert len(where) == 8 * 16
    prepared = make_split(tmp_path, images=images, dataset=collection)
    config = ctpatch.PatchConfig()
    layouts: tuple[Any, ...] = LAYOUTS
    for layout in layouts:
        out = tmp_path / "patches" / layout
        assert build_one(prepared, config, layout=layout, out=out).meta.num_patches == 128
        assert_bits(ctpatch.open(out).read(range(128)), patches)
        report = ctpatch.verify(out, deep=True)
        assert (report.status, report.findings) == ("ok", [])
    dull = config.with_rules(ctpatch.Rule.parse("low_variance: std < 0.05"))
    kept = [at for at, patch in enumerate(patches) if float(patch.astype(np.float64).std()) >= 0.05]
    ps = ctpatch.open(build_one(prepared, dull, layout="index", out=tmp_path / "patches/dull").folder)
    assert 0 < len(kept) < 128
    assert_bits(ps.read(range(len(ps))), patches[kept])
