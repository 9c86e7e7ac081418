"""Bad input gives a clear error that names the slice or the row, and nothing that looks finished."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError, NpyError, RangeError, SourceManifestError, UsageError
from ctpatch.events import WorkStarted
from helpers import (
    LAYOUTS,
    SMALL,
    Heard,
    Prepared,
    assert_bits,
    build_one,
    csv_rows,
    make_split,
    reference_set,
    tree_bytes,
    write_manifest,
)


def spoil(prepared: Prepared, number: int, row: int, col: int, value: float) -> None:
    image = prepared.images["image"][number].copy()
    image[row, col] = value
    np.save(prepared.file(number), image)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.5, "1.5"), (-0.25, "-0.25"), (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")],
)
@pytest.mark.parametrize("pad_mode", ["none", "reflect"])
@pytest.mark.parametrize(("row", "col"), [(7, 9), (39, 49)])
def test_values_outside_the_range_stop(
    prepared: Prepared, value: float, shown: str, pad_mode: Any, row: int, col: int
) -> None:
    spoil(prepared, 1, row, col, value)
    with pytest.raises(RangeError) as error:
        build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=pad_mode))
    message = error.value.message
    assert f"{prepared.paths['image'][1]} holds {shown} at row {row}, col {col} (1 such pixels)" in message
    assert "wanted values from 0 to 1; check the normalisation step" in message
    assert error.value.exit_status == 1
    assert not (prepared.out / "patch_meta.json").exists()
    assert not (prepared.out / "patch_manifest.csv").exists()


@pytest.mark.parametrize(("layout", "workers"), [*((layout, 1) for layout in LAYOUTS), ("shards", 2)])
def test_skip_leaves_bad_slices_out_and_lists_them(prepared: Prepared, layout: Any, workers: int) -> None:
    spoil(prepared, 1, 7, 9, np.nan)
    prepared.file(2).write_bytes(prepared.file(2).read_bytes()[:-1])
    result = build_one(prepared, layout=layout, on_error="skip", workers=workers)
    assert (result.complete, result.outcome) == (False, "built")
    assert (result.meta.num_slices, result.meta.num_skipped, result.meta.num_patches) == (1, 2, 20)
    assert [prepared.paths["image"][k] in reason for k, reason in zip((1, 2), result.skipped, strict=True)] == [
        True
    ] * 2
    rows = csv_rows(prepared.out / "slice_manifest.csv")
    assert [row["status"] for row in rows] == ["ok", "skipped", "skipped"]
    assert rows[0]["reason"] == ""
    assert "nan at row 7, col 9" in rows[1]["reason"]
    assert "is cut short" in rows[2]["reason"]
    assert [(row["num_windows"], row["num_patches"], row["digest"]) for row in rows[1:]] == [("0", "0", "")] * 2
    ps = ctpatch.open(prepared.out)
    assert_bits(ps.read(range(20)), reference_set(prepared.images["image"][:1])[1])
    with pytest.raises(NpyError, match=r"slice 1 was left out of the set: .*nan at row 7"):
        ps.slice(1)
    report = ctpatch.verify(prepared.out, deep=True)
    assert (report.status, report.findings) == ("ok", [])
    again = build_one(prepared, layout=layout, on_error="skip")
    assert (again.outcome, again.complete) == ("complete", False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_skip_where_every_slice_is_bad(prepared: Prepared, layout: Any) -> None:
    for number in range(3):
        spoil(prepared, number, 0, 0, 2.0)
    result = build_one(prepared, layout=layout, on_error="skip")
    assert (result.complete, result.meta.num_slices, result.meta.num_skipped) == (False, 0, 3)
    assert (result.meta.num_patches, result.meta.coverage) == (0, 0.0)
    assert len(ctpatch.open(prepared.out)) == 0
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.mark.parametrize("pad_mode", ["none", "edge"])
def test_a_slice_that_is_cut_short_after_the_plan_leaves_the_others_as_they_are(
    prepared: Prepared, pad_mode: Any
) -> None:
    def listener(event: object) -> None:
        if isinstance(event, WorkStarted):
            prepared.file(1).write_bytes(prepared.file(1).read_bytes()[:-1])

    config = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=pad_mode)
    result = build_one(prepared, config, layout="shards", on_error="skip", listener=listener)
    assert (result.meta.num_slices, result.meta.num_skipped) == (2, 1)
    assert "is cut short" in result.skipped[0]
    ps = ctpatch.open(prepared.out)
    wanted = [ctpatch.extract_patches_2d(prepared.images["image"][number], config)[0] for number in (0, 2)]
    assert_bits(ps.read(range(len(ps))), np.concatenate(wanted))
    means = ps.manifest["mean"].to_numpy()
    np.testing.assert_allclose(means, np.concatenate(wanted).mean((1, 2), dtype=np.float64), rtol=1e-12)


def test_a_repaired_slice_that_was_skipped_is_noticed(prepared: Prepared) -> None:
    spoil(prepared, 1, 7, 9, np.nan)
    build_one(prepared, on_error="skip")
    np.save(prepared.file(1), prepared.images["image"][1])
    with pytest.raises(UsageError) as error:
        build_one(prepared, on_error="skip")
    assert prepared.paths["image"][1] in error.value.message
    result = build_one(prepared, on_error="skip", overwrite=True)
    assert (result.complete, result.meta.num_patches) == (True, 60)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_value_range(prepared: Prepared, layout: Any) -> None:
    spoil(prepared, 1, 7, 9, 1.5)
    spoil(prepared, 2, 7, 9, -1.0)
    config = ctpatch.PatchConfig(patch_size=16, stride=8, value_range=(-1.0, 1.5))
    assert build_one(prepared, config, layout=layout).complete
    rows = csv_rows(prepared.out / "slice_manifest.csv")
    assert (float(rows[1]["max"]), float(rows[2]["min"])) == (1.5, -1.0)
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8", "<f2"])
@pytest.mark.parametrize("fortran", [False, True])
def test_other_floats_are_converted_and_that_is_said_once(
    tmp_path: Path, layout: Any, dtype: str, fortran: bool
) -> None:
    prepared = make_split(tmp_path, dtype=dtype)
    images = prepared.images["image"]
    if fortran:
        for number, image in enumerate(images):
            np.save(prepared.file(number), np.asfortranarray(image))
    heard = Heard()
    build_one(prepared, layout=layout, listener=heard)
    assert len(heard.notices("converted")) == 1
    assert "converted to float32" in heard.notices("converted")[0]
    where, patches = reference_set(images, dtype="<f4")
    ps = ctpatch.open(prepared.out)
    assert_bits(ps.read(range(len(where))), patches)
    assert_bits(ps.slice(1), images[1].astype("<f4"))
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fortran_order_float32_needs_no_notice(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path)
    for number, image in enumerate(prepared.images["image"]):
        np.save(prepared.file(number), np.asfortranarray(image))
    heard = Heard()
    build_one(prepared, layout=layout, listener=heard)
    assert heard.notices("converted") == []
    assert_bits(ctpatch.open(prepared.out).read(range(60)), reference_set(prepared.images["image"])[1])
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_float64_beyond_float32_is_out_of_range(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, dtype=np.float64)
    spoil(prepared, 0, 5, 6, 1e300)
    with pytest.raises(RangeError, match="at row 5, col 6"):
        build_one(prepared)


def test_stated_bounds_are_compared_with_the_pixels(tmp_path: Path) -> None:
    lows, highs = ["", "0.0", "0.1", ""], ["", "", "", "0.5"]
    prepared = make_split(tmp_path, [(40, 50)] * 4, columns={"min": lows, "max": highs})
    heard = Heard()
    result = build_one(prepared, listener=heard)
    assert result.complete
    notices = heard.notices("stated-range")
    actual = [float(prepared.images["image"][k].max()) for k in range(4)]
    assert notices == [
        f"{prepared.paths['image'][2]}: the manifest states min 0.1, its pixels have 0.0",
        f"{prepared.paths['image'][3]}: the manifest states max 0.5, its pixels have {actual[3]!r}",
    ]


def test_stated_bounds_that_hold_are_not_mentioned(tmp_path: Path) -> None:
    images = make_split(tmp_path / "first").images["image"]
    columns = {"min": [float(i.min()) for i in images], "max": [round(float(i.max()), 7) for i in images]}
    prepared = make_split(tmp_path / "second", columns=columns)
    heard = Heard()
    build_one(prepared, listener=heard)
    assert heard.notices("stated-range") == []


def zip_in_disguise(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("arr_0.npy", content)
    return stream.getvalue()


def saved(array: Any, *, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def claims_a_huge_shape(content: bytes) -> bytes:
    return content.replace(b"(40, 50), }" + b" " * 10, b"(1048576, 1048576), }", 1)


class Bomb:
    """Pickled, it would make a file when it is loaded."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("bomb-went-off",))


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda good: good[:-1], "is cut short"),
    "trailing": (lambda good: good + b"\0", "has trailing bytes"),
    "empty": (lambda _good: b"", "is empty"),
    "header-only": (lambda good: good[:60], "damaged .npy header"),
    "text": (lambda _good: b"hello world, this is no array", "is not a .npy file"),
    "zip": (zip_in_disguise, "is a zip archive"),
    "pickle": (lambda _good: pickle.dumps(Bomb()), "begins like a pickle"),
    "objects": (lambda _good: saved(np.array([[Bomb()]], dtype=object), allow_pickle=True), "holds pickled objects"),
    "fields": (lambda _good: saved(np.zeros((40, 50), "f4,f4")), "holds a structured array"),
    "3-d": (lambda _good: saved(np.zeros((2, 40, 50), "f4")), "has 3 dimensions (2, 40, 50), wanted 2"),
    "1-d": (lambda _good: saved(np.zeros(40, "f4")), "has 1 dimensions (40,), wanted 2"),
    "no-pixels": (lambda _good: saved(np.zeros((0, 50), "f4")), "has 0x50 pixels"),
    "too-wide": (lambda _good: saved(np.zeros((1, 16385), "f4")), "has 1x16385 pixels, wanted 1 to 16384"),
    "complex": (lambda _good: saved(np.zeros((40, 50), "c8")), "has dtype complex64"),
    "integers": (lambda _good: saved(np.zeros((40, 50), "i2")), "has dtype int16"),
    "strings": (lambda _good: saved(np.full((40, 50), "a")), "wanted numbers"),
    "huge": (claims_a_huge_shape, "is cut short"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_files_that_are_no_slices(prepared: Prepared, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared.root)
    spoiler, said = BAD_FILES[kind]
    good = prepared.file(1).read_bytes()
    bad = spoiler(good)
    assert bad != good
    prepared.file(1).write_bytes(bad)
    with pytest.raises(NpyError) as error:
        build_one(prepared)
    assert error.value.message.startswith(prepared.paths["image"][1])
    assert said in error.value.message
    assert not prepared.out.exists()
    with pytest.raises(NpyError):
        ctpatch.plan(prepared.folder, config=SMALL)
    plan = ctpatch.plan(prepared.folder, config=SMALL, skip_faulty=True)[0]
    assert (plan.num_slices, plan.num_faulty, plan.num_windows) == (2, 1, 40)
    result = build_one(prepared, on_error="skip")
    assert (result.complete, result.meta.num_patches) == (False, 40)
    assert said in csv_rows(prepared.out / "slice_manifest.csv")[1]["reason"]
    assert not (prepared.root / "bomb-went-off").exists()
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_a_slice_that_is_missing(prepared: Prepared) -> None:
    prepared.file(2).unlink()
    with pytest.raises(NpyError, match=r"train_000002\.npy does not exist"):
        build_one(prepared)
    assert not prepared.out.exists()
    assert build_one(prepared, on_error="skip").meta.num_skipped == 1


def test_a_folder_or_a_pipe_in_place_of_a_slice(prepared: Prepared) -> None:
    prepared.file(2).unlink()
    prepared.file(2).mkdir()
    with pytest.raises(NpyError, match="is not a regular file"):
        build_one(prepared)
    prepared.file(2).rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(prepared.file(2))
        with pytest.raises(NpyError, match="is not a regular file"):
            build_one(prepared)


BAD_MANIFESTS: dict[str, tuple[str, str]] = {
    "empty": ("", "is empty"),
    "blank": ("\n\n", "is empty"),
    "no-rows": ("path\n", "lists no slices"),
    "no-path": ("file,index\na.npy,0\n", "has no column 'path' (it has file, index)"),
    "semicolons": ("path;index\na.npy;0;1\n", "as many cells in each row, separated by ';'"),
    "empty-path": ("path,index\n{0},0\n,1\n", "row 3, column path: the path is empty"),
    "absolute": ("path\n{0}\n/etc/passwd\n", "row 3, column path: '/etc/passwd' is an absolute path"),
    "drive": ("path\nC:\\data\\a.npy\n", "is an absolute path"),
    "unc": ("path\n\\\\server\\share\\a.npy\n", "is an absolute path"),
    "climbs": ("path\n{0}\nprepared/../../secret.npy\n", "row 3, column path: 'prepared/../../secret.npy' leaves the"),
    "climbs-windows": ("path\n..\\secret.npy\n", "leaves the data root"),
    "control": ('path\n"a\x01b.npy"\n', "control character"),
    "twice": ("path\n{0}\n{1}\n{0}\n", "rows 2 and 4, column path: both have"),
    "twice-in-disguise": ("path\n{0}\n./{0}\n", "rows 2 and 3, column path: both have"),
    "index-twice": ("path,index\n{0},7\n{1},7\n", "rows 2 and 3, column index: both have '7'"),
    "index-negative": ("path,index\n{0},-1\n", "row 2, column index: '-1', wanted a whole number"),
    "index-text": ("path,index\n{0},one\n", "row 2, column index: 'one'"),
    "index-fraction": ("path,index\n{0},1.5\n", "row 2, column index: '1.5'"),
    "index-empty": ("path,index\n{0},\n", "column index"),
    "min-text": ("path,min\n{0},low\n", "row 2, column min: 'low' is not a number"),
    "array-name": ("path,../x_path\n{0},{0}\n", "cannot be used as a name"),
    "array-empty": ("path,mask_path\n{0},\n", "row 2, column mask_path: the path is empty"),
    "long-path": ("path\n" + "a" * 5000 + "\n", "the path is too long"),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_manifests_that_break_the_rules(prepared: Prepared, kind: str, on_error: Any) -> None:
    content, said = BAD_MANIFESTS[kind]
    for number, path in enumerate(prepared.paths["image"]):
        content = content.replace(f"{{{number}}}", path)
    prepared.manifest.write_bytes(content.encode())
    with pytest.raises(SourceManifestError) as error:
        build_one(prepared, on_error=on_error)
    assert said in error.value.message
    assert "train_manifest.csv" in error.value.message
    assert not prepared.out.exists()


def test_binary_rubbish_for_a_manifest(prepared: Prepared) -> None:
    prepared.manifest.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(SourceManifestError, match=r"train_manifest\.csv"):
        build_one(prepared)


@pytest.mark.parametrize("through", ["file", "folder"])
def test_links_that_leave_the_data_root(tmp_path: Path, through: str) -> None:
    prepared = make_split(tmp_path / "root")
    outside = make_split(tmp_path / "outside")
    if through == "file":
        prepared.file(1).unlink()
        prepared.file(1).symlink_to(outside.file(1))
    else:
        (prepared.root / "prepared/elsewhere").symlink_to(outside.folder)
        write_manifest(prepared.manifest, {"path": ["prepared/elsewhere/train_000001.npy"]})
    with pytest.raises(SourceManifestError, match="leaves the data root through a link"):
        build_one(prepared)
    assert not prepared.out.exists()


def test_links_inside_the_data_root_are_followed(prepared: Prepared) -> None:
    kept = prepared.root / "kept.npy"
    prepared.file(1).rename(kept)
    prepared.file(1).symlink_to(kept)
    assert build_one(prepared, layout="index").complete
    assert_bits(ctpatch.open(prepared.out).read(range(60)), reference_set(prepared.images["image"])[1])


def test_windows_paths_blank_lines_and_spaces_are_read(prepared: Prepared) -> None:
    rows = [path.replace("/", "\\") for path in prepared.paths["image"]]
    prepared.manifest.write_bytes(
        ("\ufeffpath , index\r\n" + "".join(f" {r} ,{k}\r\n" for k, r in enumerate(rows)) + "\r\n").encode()
    )
    build_one(prepared)
    found = csv_rows(prepared.out / "patch_manifest.csv")
    assert [row["src_path"] for row in found[::20]] == prepared.paths["image"]
    assert "\\" not in (prepared.out / "patch_manifest.csv").read_text()


def test_no_source_no_manifest_no_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ctpatch.build(tmp_path / "nowhere")
    (tmp_path / "prepared/ds/train").mkdir(parents=True)
    with pytest.raises(UsageError, match="no manifest in"):
        ctpatch.build(tmp_path / "prepared/ds/train")
    (tmp_path / "lonely").mkdir()
    (tmp_path / "lonely/manifest.csv").write_text("path\na.npy\n")
    with pytest.raises(UsageError, match="no folder named 'prepared' above"):
        ctpatch.build(tmp_path / "lonely")
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(UsageError, match="is no manifest"):
        ctpatch.build(tmp_path / "x.npy")
    assert not (tmp_path / "patches").exists()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": -1}, "patch_size"),
        ({"patch_size": 16385}, "patch_size"),
        ({"patch_size": (16, 0)}, "patch_size"),
        ({"patch_size": 16.5}, "patch_size"),
        ({"stride": 0}, "stride"),
        ({"stride": True}, "stride"),
        ({"stride": (8, 8, 8)}, "stride"),
        ({"pad_mode": "wrap"}, "pad_mode"),
        ({"value_range": (1, 0)}, "value_range"),
        ({"value_range": (0, float("nan"))}, "value_range"),
        ({"air_level": float("inf")}, "air_level"),
        ({"rules_on": "../x"}, "rules_on"),
        ({"patchsize": 16}, "patchsize"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}") as error:
        ctpatch.PatchConfig(**options)
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("options", "field"),
    [({"layout": "zarr"}, "layout"), ({"workers": 0}, "workers"), ({"on_error": "ignore"}, "on_error")],
)
def test_build_options_that_make_no_sense_are_named(prepared: Prepared, options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}"):
        build_one(prepared, **options)
    assert not prepared.out.exists()


def test_so_many_windows_that_it_must_be_a_mistake(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(1200, 1200)])
    with pytest.raises(ConfigError, match="stride: 1 gives 1,440,000 windows in a slice of 1200x1200"):
        ctpatch.plan(prepared.folder, config=ctpatch.PatchConfig(patch_size=1, stride=1))


def test_an_error_leaves_the_sources_as_they_were(prepared: Prepared) -> None:
    spoil(prepared, 2, 0, 0, 9.0)
    before = tree_bytes(prepared.folder)
    with pytest.raises(RangeError):
        build_one(prepared)
    assert tree_bytes(prepared.folder) == before
    assert json.loads((prepared.out / ".ctpatch/build.json").read_text())["split"] == "train"
