"""What a build writes, in every layout, against a plain double loop over the sources."""

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ctpatch
from helpers import (
    CREATED,
    LAYOUTS,
    PAD_MODES,
    SMALL,
    Prepared,
    assert_bits,
    build_one,
    csv_columns,
    csv_rows,
    make_split,
    pair,
    reference_coverage,
    reference_origins,
    reference_set,
    reference_statistics,
    tree_bytes,
)

MANIFEST_COLUMNS = [
    *("patch_id", "slice_index", "src_path", "row", "col", "patch_path", "min", "max", "mean", "std", "dtype"),
    *("air_fraction", "patch_index", "digest"),
]
META_FIELDS = [
    *("num_slices", "num_patches", "patch_size", "stride", "source_manifest", "patch_dir", "created"),
    *("format_version", "ctpatch_version", "dataset", "split", "layout", "pad_mode", "arrays", "value_range"),
    *("air_level", "drop_rules", "num_rejected", "coverage", "fingerprint", "source_digest"),
]


def test_ten_slices_of_362_give_160_patches_named_as_in_the_notebook(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(362, 362)] * 10)
    result = build_one(prepared, ctpatch.PatchConfig())
    assert (result.outcome, result.complete, result.meta.num_slices, result.meta.num_patches) == (
        "built",
        True,
        10,
        160,
    )
    assert (result.covering_stride, result.windows_at_covering_stride) == (78, 160)
    names = [f"train_{k:06d}_{r:03d}_{c:03d}" for k in range(10) for r in (0, 64, 128, 192) for c in (0, 64, 128, 192)]
    files = sorted(path.name for path in prepared.out.glob("*.npy"))
    assert files == [f"{name}.npy" for name in names]
    assert sorted(path.name for path in prepared.out.iterdir() if path.suffix != ".npy") == [
        *("patch_manifest.csv", "patch_meta.json", "rejected_patches.csv", "slice_manifest.csv")
    ]
    assert [row["patch_id"] for row in csv_rows(prepared.out / "patch_manifest.csv")] == names
    for name in names[::37]:
        number, row, col = (int(part) for part in name.split("_")[1:])
        loaded = np.load(prepared.out / f"{name}.npy", allow_pickle=False)
        assert_bits(loaded, np.ascontiguousarray(prepared.images["image"][number][row : row + 128, col : col + 128]))
    assert result.meta.coverage == (192 + 128) ** 2 / 362**2
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_every_layout_gives_the_bits_of_a_double_loop(tmp_path: Path, layout: Any, pad_mode: Any) -> None:
    shapes = [(40, 50), (16, 16), (33, 17), (9, 60), (40, 50), (5, 3)]
    prepared = make_split(tmp_path, shapes)
    config = ctpatch.PatchConfig(patch_size=16, stride=(8, 12), pad_mode=pad_mode)
    result = build_one(prepared, config, layout=layout)
    where, patches = reference_set(prepared.images["image"], 16, (8, 12), pad_mode)
    assert result.meta.num_patches == len(where)
    ps = ctpatch.open(prepared.out)
    assert len(ps) == len(where)
    assert list(
        zip(*ps.manifest.select("slice_index", "row", "col").to_dict(as_series=False).values(), strict=True)
    ) == (where)
    assert_bits(ps.read(range(len(where))), patches)
    assert_bits(ps[3], patches[3])
    report = ctpatch.verify(prepared.out, deep=True)
    assert (report.status, report.num_patches, report.num_slices, report.findings) == ("ok", len(where), 6, [])
    small = [prepared.paths["image"][3], prepared.paths["image"][5]]
    assert result.slices_without_windows == (small if pad_mode in {"none", "shift", "even"} else [])
    assert result.num_without_windows == len(result.slices_without_windows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_lies_on_disk_is_plain_npy(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    _where, patches = reference_set(prepared.images["image"])
    arrays = {
        path.relative_to(prepared.out).as_posix(): np.load(path, allow_pickle=False)
        for path in sorted(prepared.out.rglob("*.npy"))
    }
    if layout == "files":
        assert len(arrays) == 60
        for stored, wanted in zip(arrays.values(), patches, strict=True):
            assert_bits(stored, wanted)
    elif layout == "shards":
        assert list(arrays) == ["shards/train_00000.npy"]
        assert_bits(arrays["shards/train_00000.npy"], patches)
    elif layout == "slices":
        assert list(arrays) == ["shards/train_00000.npy"]
        assert_bits(arrays["shards/train_00000.npy"], np.array(prepared.images["image"]))
    else:
        assert arrays == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_manifest_columns_ids_paths_and_statistics(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    manifest = prepared.out / "patch_manifest.csv"
    assert csv_columns(manifest) == MANIFEST_COLUMNS
    assert csv_columns(prepared.out / "rejected_patches.csv") == [*MANIFEST_COLUMNS, "rule"]
    assert csv_rows(prepared.out / "rejected_patches.csv") == []
    where, patches = reference_set(prepared.images["image"])
    rows = csv_rows(manifest)
    frame = ctpatch.open(prepared.out).manifest
    assert len(rows) == len(where) == 60
    for at, (row, (number, top, left), patch) in enumerate(zip(rows, where, patches, strict=True)):
        patch_id = f"train_{number:06d}_{top:03d}_{left:03d}"
        assert (row["patch_id"], int(row["slice_index"]), int(row["row"]), int(row["col"])) == (
            patch_id,
            number,
            top,
            left,
        )
        assert (row["src_path"], row["dtype"]) == (prepared.paths["image"][number], "float32")
        path, item = {
            "files": (f"patches/phantoms/train/{patch_id}.npy", ""),
            "shards": ("patches/phantoms/train/shards/train_00000.npy", str(at)),
            "slices": ("patches/phantoms/train/shards/train_00000.npy", str(number)),
            "index": (prepared.paths["image"][number], ""),
        }[layout]
        assert (row["patch_path"], row["patch_index"]) == (path, item)
        assert bool(re.fullmatch("[0-9a-f]{32}", row["digest"])) is (layout in {"files", "shards"})
        wanted = reference_statistics(patch)
        for name in ("min", "max", "air_fraction"):
            assert float(row[name]) == wanted[name]
        assert math.isclose(float(row["mean"]), wanted["mean"], rel_tol=1e-12)
        assert math.isclose(float(row["std"]), wanted["std"], rel_tol=1e-9)
        for name in ("min", "max", "mean", "std", "air_fraction"):
            assert float(row[name]) == frame[name][at]
    if layout in {"files", "shards"}:
        # Air alone in slices 0 and 1 has the same pixels, and so the same digest; others differ.
        assert len({row["digest"] for row in rows}) == len({patch.tobytes() for patch in patches})


def test_digest_is_xxh3_of_shape_dtype_and_pixels(prepared: Prepared) -> None:
    xxhash = pytest.importorskip("xxhash")
    build_one(prepared)
    _where, patches = reference_set(prepared.images["image"])
    rows = csv_rows(prepared.out / "patch_manifest.csv")
    for row, patch in zip(rows, patches, strict=True):
        assert row["digest"] == xxhash.xxh3_128(b"16,16;<f4;" + patch.tobytes()).hexdigest()
    slices = csv_rows(prepared.out / "slice_manifest.csv")
    for row, image in zip(slices, prepared.images["image"], strict=True):
        assert row["digest"] == xxhash.xxh3_128(b"40,50;<f4;" + image.tobytes()).hexdigest()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_meta_says_what_the_set_is(tmp_path: Path, layout: Any) -> None:
    shapes = [(40, 50), (40, 50), (25, 30), (8, 8)]
    prepared = make_split(tmp_path, shapes)
    config = ctpatch.PatchConfig(patch_size=16, stride=12, drop=("airy: air_fraction > 0.3",))
    result = build_one(prepared, config, layout=layout)
    text = (prepared.out / "patch_meta.json").read_text()
    meta = json.loads(text)
    where, patches = reference_set(prepared.images["image"], 16, 12)
    airy = sum(reference_statistics(patch)["air_fraction"] > 0.3 for patch in patches)
    assert 0 < airy < len(patches)
    assert list(meta)[: len(META_FIELDS)] == META_FIELDS
    assert {name: meta[name] for name in META_FIELDS[:7]} == {
        "num_slices": 4,
        "num_patches": len(where) - airy,
        "patch_size": 16,
        "stride": 12,
        "source_manifest": "prepared/phantoms/train/train_manifest.csv",
        "patch_dir": "patches/phantoms/train",
        "created": CREATED,
    }
    assert (meta["format_version"], meta["dataset"], meta["split"], meta["layout"]) == (1, "phantoms", "train", layout)
    assert (meta["pad_mode"], meta["value_range"], meta["air_level"]) == ("none", [0.0, 1.0], 0.02)
    assert meta["drop_rules"] == [{"name": "airy", "condition": "air_fraction > 0.3", "dropped": airy}]
    assert (meta["num_rejected"], meta["num_windows"], meta["num_skipped"]) == (airy, len(where), 0)
    assert meta["coverage"] == reference_coverage(shapes, 16, 12)
    assert str(tmp_path) not in text
    stored = sum(path.stat().st_size for path in prepared.out.rglob("*.npy"))
    assert (meta["pixel_bytes"], result.meta.pixel_bytes) == (stored, stored)


def test_fingerprint_is_of_the_patches_not_of_how_they_are_stored(tmp_path: Path) -> None:
    prints: dict[Any, str] = {}
    for layout in LAYOUTS:
        prints[layout] = build_one(make_split(tmp_path / layout), layout=layout).meta.fingerprint
    assert len(set(prints.values())) == 1
    others = [
        build_one(make_split(tmp_path / "seed", seed=1)).meta.fingerprint,
        build_one(make_split(tmp_path / "stride"), ctpatch.PatchConfig(patch_size=16, stride=9)).meta.fingerprint,
        build_one(make_split(tmp_path / "rule"), SMALL.with_rules(ctpatch.Rule.parse("x: std < -1"))).meta.fingerprint,
    ]
    assert len({prints["files"], *others}) == 4


def test_pairs_of_sizes_are_kept_as_pairs(tmp_path: Path) -> None:
    prepared = make_split(tmp_path)
    config = ctpatch.PatchConfig(patch_size=(16, 20), stride=(8, 10))
    build_one(prepared, config, layout="shards")
    meta = json.loads((prepared.out / "patch_meta.json").read_text())
    assert (meta["patch_size"], meta["stride"]) == ([16, 20], [8, 10])
    _where, patches = reference_set(prepared.images["image"], (16, 20), (8, 10))
    assert patches.shape == (3 * 4 * 4, 16, 20)
    assert_bits(ctpatch.open(prepared.out).read(range(len(patches))), patches)


def test_index_column_names_the_slices(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(16, 24)] * 3, columns={"index": [1234567, 0, 42]})
    build_one(prepared)
    assert sorted(path.name for path in prepared.out.glob("*.npy")) == [
        *("train_000000_000_000.npy", "train_000000_000_008.npy"),
        *("train_000042_000_000.npy", "train_000042_000_008.npy"),
        *("train_1234567_000_000.npy", "train_1234567_000_008.npy"),
    ]
    rows = csv_rows(prepared.out / "slice_manifest.csv")
    assert [row["slice_index"] for row in rows] == ["1234567", "0", "42"]
    assert_bits(ctpatch.open(prepared.out).slice(42), prepared.images["image"][2])
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_slice_manifest_has_every_source(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(40, 50), (8, 8)], columns={"patient_id": ["P1", ""]})
    build_one(prepared)
    rows = csv_rows(prepared.out / "slice_manifest.csv")
    for number, (row, image) in enumerate(zip(rows, prepared.images["image"], strict=True)):
        assert (row["slice_index"], row["src_path"]) == (str(number), prepared.paths["image"][number])
        assert (int(row["height"]), int(row["width"]), row["src_dtype"]) == (*image.shape, "float32")
        assert (float(row["min"]), float(row["max"])) == (float(image.min()), float(image.max()))
    assert [row["num_windows"] for row in rows] == ["20", "0"]
    assert [row["num_patches"] for row in rows] == ["20", "0"]
    assert [(row["status"], row["reason"], row["patient_id"]) for row in rows] == [("ok", "", "P1"), ("ok", "", "")]


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_plan_counts_what_a_build_gives_and_writes_nothing(tmp_path: Path, pad_mode: Any) -> None:
    shapes = [(40, 50), (40, 50), (33, 17), (9, 60)]
    prepared = make_split(tmp_path, shapes, arrays={"mask": np.uint8})
    config = ctpatch.PatchConfig(patch_size=16, stride=12, pad_mode=pad_mode)
    before = tree_bytes(tmp_path)
    plan = ctpatch.plan(prepared.folder, config=config)[0]
    assert tree_bytes(tmp_path) == before
    origins = [reference_origins(shape, 16, 12, pad_mode) for shape in shapes]
    assert (plan.num_slices, plan.num_faulty, plan.num_windows) == (4, 0, sum(map(len, origins)))
    assert plan.slices_without_windows == sum(not each for each in origins)
    assert plan.coverage == reference_coverage(shapes, 16, 12, pad_mode)
    summary = plan.summary()
    assert [(each["shape"], each["slices"], each["windows_per_slice"]) for each in summary["shapes"]] == [
        ([40, 50], 2, len(origins[0])),
        ([33, 17], 1, len(origins[2])),
        ([9, 60], 1, len(origins[3])),
    ]
    assert summary["first_patch_ids"] == [f"train_000000_{row:03d}_{col:03d}" for row, col in origins[0][:3]]
    for layout in LAYOUTS:
        out = tmp_path / "out" / layout
        meta = build_one(prepared, config, layout=layout, out=out).meta
        assert (meta.num_windows, meta.num_patches) == (plan.num_windows, plan.num_windows)
        assert meta.coverage == plan.coverage
        assert summary["pixel_bytes"][layout] == sum(path.stat().st_size for path in out.rglob("*.npy"))


_sides = st.integers(1, 24)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.tuples(_sides, _sides), min_size=1, max_size=4),
    size=st.one_of(st.integers(1, 12), st.tuples(st.integers(1, 12), st.integers(1, 12))),
    stride=st.one_of(st.integers(4, 14), st.tuples(st.integers(4, 14), st.integers(4, 14))),
    pad_mode=st.sampled_from(PAD_MODES),
    layout=st.sampled_from(LAYOUTS),
    data=st.data(),
)
def test_any_geometry_gives_the_reference(
    shapes: list[tuple[int, int]], size: Any, stride: Any, pad_mode: Any, layout: Any, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepared = make_split(Path(folder), shapes, arrays={"mask": np.uint8})
        config = ctpatch.PatchConfig(patch_size=size, stride=stride, pad_mode=pad_mode)
        result = build_one(prepared, config, layout=layout)
        where, patches = reference_set(prepared.images["image"], size, stride, pad_mode)
        _same, masks = reference_set(prepared.images["mask"], size, stride, pad_mode, dtype=np.uint8)
        assert result.meta.num_patches == len(where)
        with_sides = ctpatch.open(prepared.out)
        which = data.draw(st.lists(st.integers(-len(where), len(where) - 1), max_size=8)) if where else []
        found = with_sides.read(which)
        assert_bits(found["image"], patches[which].reshape(-1, *pair(size)))
        assert_bits(found["mask"], masks[which].reshape(-1, *pair(size)))
        assert_bits(with_sides.read(range(len(where)), arrays=["image"])["image"], patches)
        report = ctpatch.verify(prepared.out, deep=True)
        assert (report.status, report.findings) == ("ok", [])
