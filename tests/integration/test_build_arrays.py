"""Targets and masks beside the image: same windows, own dtype, every layout."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError, NpyError, RangeError, SourceManifestError
from helpers import (
    LAYOUTS,
    SMALL,
    assert_bits,
    build_one,
    csv_columns,
    csv_rows,
    make_split,
    reference_set,
    reference_statistics,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad_mode", ["none", "reflect"])
def test_arrays_are_cut_at_the_same_windows(tmp_path: Path, layout: Any, pad_mode: Any) -> None:
    kinds: dict[str, Any] = {"target": np.float32, "mask": np.uint8, "label_mask": np.int16}
    prepared = make_split(tmp_path, [(40, 50), (18, 23), (40, 50)], arrays=kinds)
    build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=pad_mode), layout=layout)
    ps = ctpatch.open(prepared.out, arrays=["image", "target", "mask", "label_mask"])
    assert ps.arrays == ("image", "target", "mask", "label_mask")
    everything = ps.read(range(len(ps)))
    assert list(everything) == ["image", "target", "mask", "label_mask"]
    for array, kind in {"image": np.float32, **kinds}.items():
        where, patches = reference_set(prepared.images[array], 16, 8, pad_mode, dtype=kind)
        assert len(ps) == len(where)
        assert_bits(everything[array], patches)
        assert_bits(ps[len(ps) - 1][array], patches[-1])
        assert_bits(ps.slice(1)[array], prepared.images[array][1])
    assert json.loads((prepared.out / "patch_meta.json").read_text())["arrays"] == {
        "image": {"dtype": "float32", "labels": False},
        "target": {"dtype": "float32", "labels": False},
        "mask": {"dtype": "uint8", "labels": True},
        "label_mask": {"dtype": "int16", "labels": True},
    }
    report = ctpatch.verify(prepared.out, deep=True)
    assert (report.status, report.findings) == ("ok", [])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_the_arrays_lie(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path, [(16, 24)] * 2, arrays={"target": np.float32, "mask": np.uint8})
    build_one(prepared, layout=layout)
    files = sorted(path.relative_to(prepared.out).as_posix() for path in prepared.out.rglob("*.npy"))
    ids = [f"train_{k:06d}_000_{col:03d}" for k in range(2) for col in (0, 8)]
    shards = ["shards/train_00000.npy", "shards/train_00000_mask.npy", "shards/train_00000_target.npy"]
    assert (
        files
        == {
            "files": sorted([*(f"{f}{i}.npy" for f in ("", "mask/", "target/") for i in ids)]),
            "shards": shards,
            "slices": shards,
            "index": [],
        }[layout]
    )
    manifest = prepared.out / "patch_manifest.csv"
    columns = csv_columns(manifest)
    assert columns[13:] == ["digest", "target_patch_path", "mask_patch_path", "target_digest", "mask_digest"]
    row = csv_rows(manifest)[3]
    base = "patches/phantoms/train/"
    assert (row["target_patch_path"], row["mask_patch_path"]) == {
        "files": (f"{base}target/{ids[3]}.npy", f"{base}mask/{ids[3]}.npy"),
        "shards": (f"{base}shards/train_00000_target.npy", f"{base}shards/train_00000_mask.npy"),
        "slices": (f"{base}shards/train_00000_target.npy", f"{base}shards/train_00000_mask.npy"),
        "index": (prepared.paths["target"][1], prepared.paths["mask"][1]),
    }[layout]


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_keep_their_dtype_and_have_no_range(tmp_path: Path, kind: Any, layout: Any) -> None:
    prepared = make_split(tmp_path, [(20, 20)], arrays={"mask": kind})
    extreme = prepared.images["mask"][0]
    if kind is not np.bool_:
        extreme[3, 4], extreme[10, 12] = np.iinfo(kind).min, np.iinfo(kind).max
        np.save(prepared.file(0, "mask"), extreme)
    build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=4), layout=layout)
    _where, wanted = reference_set([extreme], 16, 4, dtype=kind)
    assert_bits(ctpatch.open(prepared.out).read(range(4), arrays=["mask"])["mask"], wanted)
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
def test_big_endian_and_fortran_masks_are_stored_little_endian(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path, [(40, 50)], arrays={"mask": ">i2"})
    np.save(prepared.file(0, "mask"), np.asfortranarray(prepared.images["mask"][0]))
    build_one(prepared, layout=layout)
    _where, wanted = reference_set(prepared.images["mask"], dtype="<i2")
    assert_bits(ctpatch.open(prepared.out).read(range(20), arrays=["mask"])["mask"], wanted)
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_a_target_outside_the_range_stops(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, arrays={"target": np.float32})
    prepared.images["target"][1][7, 9] = 1.5
    np.save(prepared.file(1, "target"), prepared.images["target"][1])
    with pytest.raises(RangeError) as error:
        build_one(prepared)
    assert prepared.paths["target"][1] in error.value.message
    assert "1.5 at row 7, col 9" in error.value.message


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_another_shape_names_the_slice(tmp_path: Path, on_error: Any) -> None:
    prepared = make_split(tmp_path, arrays={"target": np.float32})
    np.save(prepared.file(1, "target"), np.zeros((40, 49), np.float32))
    expected = f"{prepared.paths['target'][1]} has shape 40x49, its image {prepared.paths['image'][1]} has 40x50"
    if on_error == "stop":
        with pytest.raises(NpyError) as error:
            build_one(prepared)
        assert expected in error.value.message
        assert not prepared.out.exists()
    else:
        result = build_one(prepared, on_error="skip")
        assert (result.complete, result.meta.num_slices, result.meta.num_skipped) == (False, 2, 1)
        assert expected in result.skipped[0]
        assert expected in csv_rows(prepared.out / "slice_manifest.csv")[1]["reason"]
        assert ctpatch.verify(prepared.out, deep=True).ok


def test_masks_of_two_dtypes_are_refused_by_name(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, arrays={"mask": np.uint8})
    np.save(prepared.file(2, "mask"), prepared.images["mask"][2].astype(np.int16))
    with pytest.raises(SourceManifestError) as error:
        build_one(prepared)
    assert prepared.paths["mask"][2] in error.value.message
    assert "int16" in error.value.message
    assert "uint8" in error.value.message


@pytest.mark.parametrize("array", ["target", "mask"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rules_on_another_array(tmp_path: Path, array: str, layout: Any) -> None:
    prepared = make_split(tmp_path, arrays={"target": np.float32, "mask": np.uint8})
    prepared.images["mask"][0][:, :30] = 0
    np.save(prepared.file(0, "mask"), prepared.images["mask"][0])
    config = ctpatch.PatchConfig(patch_size=16, stride=8, rules_on=array, drop=("empty: air_fraction > 0.5",))
    result = build_one(prepared, config, layout=layout)
    where, judged = reference_set(prepared.images[array], dtype=prepared.images[array][0].dtype)
    _where, images = reference_set(prepared.images["image"])
    kept = [reference_statistics(patch)["air_fraction"] <= 0.5 for patch in judged]
    assert 0 < sum(kept) < len(where)
    assert (result.meta.rules_on, result.meta.num_patches) == (array, sum(kept))
    ps = ctpatch.open(prepared.out)
    found = ps.read(range(len(ps)))
    assert_bits(found["image"], images[kept])
    assert_bits(found[array], judged[kept])
    for name in ("min", "max", "mean", "std", "air_fraction"):
        wanted = [reference_statistics(patch)[name] for patch in judged[kept]]
        np.testing.assert_allclose(ps.manifest[name].to_numpy(), wanted, rtol=1e-9)
    report = ctpatch.verify(prepared.out, deep=True)
    assert (report.status, report.findings) == ("ok", [])


def test_rules_on_an_array_that_is_not_there(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, arrays={"target": np.float32})
    config = ctpatch.PatchConfig(patch_size=16, stride=8, rules_on="lung")
    with pytest.raises(ConfigError, match=r"there is no array 'lung' in .*train_manifest\.csv; it has image, target"):
        build_one(prepared, config)
    assert not prepared.out.exists()


def test_what_is_read_where_no_arrays_are_named(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, arrays={"target": np.float32, "mask": np.uint8})
    build_one(prepared, SMALL)
    plain = ctpatch.open(prepared.out)
    targets = reference_set(prepared.images["target"])[1]
    masks = reference_set(prepared.images["mask"], dtype=np.uint8)[1]
    one = pickle.loads(pickle.dumps(ctpatch.open(prepared.out, arrays="target")))
    assert_bits(one.read([5, 9]), targets[[5, 9]])
    assert_bits(one[3], targets[3])
    assert_bits(one.slice(1), prepared.images["target"][1])
    assert_bits(one.read([5], arrays="mask"), masks[[5]])
    assert one.arrays == plain.arrays
    listed = ctpatch.open(prepared.out, arrays=("mask",))
    assert list(listed.read([5])) == list(listed[0:2]) == list(listed[5]) == list(listed.slice(0)) == ["mask"]
    assert_bits(listed[0:2]["mask"], masks[:2])
    assert list(plain.read([0])) == list(plain[0]) == list(plain.slice(0)) == ["image", "target", "mask"]
    assert list(plain.slice(0, arrays=["mask"])) == ["mask"]
    assert_bits(plain.slice(2, arrays="mask"), prepared.images["mask"][2])
    with pytest.raises(ValueError, match="there is no array 'lung'"):
        plain.slice(0, arrays="lung")
    with pytest.raises(ValueError, match="there is no array 'lung'"):
        ctpatch.open(prepared.out, arrays="lung")


def test_reading_some_arrays_only(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, arrays={"target": np.float32, "mask": np.uint8})
    build_one(prepared, SMALL)
    ps = ctpatch.open(prepared.out)
    assert list(ps.read([0, 1], arrays=["mask", "image"])) == ["mask", "image"]
    buffers = {"mask": np.full((2, 16, 16), 99, np.uint8)}
    found = ps.read([4, 5], out=buffers, arrays=["mask"])
    assert found["mask"] is buffers["mask"]
    assert_bits(buffers["mask"], reference_set(prepared.images["mask"], dtype=np.uint8)[1][[4, 5]])
    for some in ("lung", ["lung"], ["image", "lung", "liver"]):
        with pytest.raises(ValueError, match=r"^there is no array 'lung'; the set has image, target, mask$"):
            ps.read([0], arrays=some)
    nothing: list[list[str] | tuple[str, ...]] = [[], ()]
    for none in nothing:
        with pytest.raises(ValueError, match=r"^the list of arrays is empty; name some of image, target, mask, or"):
            ps.read([0], arrays=none)
    with pytest.raises(ValueError, match="give a dict"):
        ps.read([0], out=np.empty((1, 16, 16), np.float32))
