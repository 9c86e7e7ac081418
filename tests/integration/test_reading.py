"""PatchSet: any order, any buffer, any process; damaged and hostile sets are refused."""

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import FormatError, NpyError, SourceChangedError, SystemFailureError, UsageError
from ctpatch.files.memory import empty_buffer
from helpers import LAYOUTS, SMALL, Prepared, assert_bits, build_one, make_split, reference_set, rewrite_table


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def ps(prepared: Prepared, layout: Any) -> ctpatch.PatchSet:
    build_one(prepared, layout=layout)
    return ctpatch.open(prepared.out)


@pytest.fixture
def patches(prepared: Prepared) -> Any:
    return reference_set(prepared.images["image"])[1]


@pytest.mark.parametrize(
    "which", [[0], [59, 0, 30], [5, 5, 5, -1, 5], [-60, -1], [], list(range(59, -1, -1)), (3, 4), range(7)]
)
def test_patches_come_in_the_order_asked(ps: ctpatch.PatchSet, patches: Any, which: Any) -> None:
    wanted = patches[list(which)].reshape(-1, 16, 16)
    assert_bits(ps.read(which), wanted)
    if len(which):
        assert_bits(ps.read(np.array(which, dtype=np.int16)), wanted)


def test_one_patch_and_all_patches(ps: ctpatch.PatchSet, patches: Any) -> None:
    assert (len(ps), ps.patch_size, ps.arrays) == (60, (16, 16), ("image",))
    assert_bits(ps[0], patches[0])
    assert_bits(ps[-1], patches[-1])
    assert_bits(ps[-60], patches[0])
    assert_bits(np.array(list(ps)), patches)
    assert "phantoms/train: 60 patches of 16x16" in repr(ps)


@pytest.mark.parametrize("where", [slice(0, 3), slice(None, None, -7), slice(-5, None), slice(80, 90), slice(4, 2)])
def test_patches_by_a_slice(ps: ctpatch.PatchSet, patches: Any, where: slice) -> None:
    assert_bits(ps[where], patches[where])


@pytest.mark.parametrize("kind", [list, np.array])
def test_patches_by_a_list_of_numbers(ps: ctpatch.PatchSet, patches: Any, kind: Any) -> None:
    assert_bits(ps[kind([0, 59, -2])], patches[[0, 59, -2]])
    assert_bits(ps[range(3, 9, 2)], patches[3:9:2])
    assert_bits(ps[np.int16(7)], patches[7])
    assert_bits(ps[np.array(7)], patches[7])
    with pytest.raises(IndexError, match="patch 60 is out of range"):
        ps[kind([0, 60])]


@pytest.mark.parametrize(
    ("index", "error"), [("image", TypeError), (0.5, TypeError), (True, TypeError), ((0, 1), TypeError)]
)
def test_what_is_no_number_of_a_patch(ps: ctpatch.PatchSet, index: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="indices"):
        ps[index]


@pytest.mark.parametrize("kind", [list, np.array])
def test_patches_by_a_mask(ps: ctpatch.PatchSet, patches: Any, kind: Any) -> None:
    mask = np.arange(60) % 7 == 3
    assert_bits(ps[kind(mask)], patches[3::7])
    assert_bits(ps.read(kind(mask)), patches[3::7])
    assert ps[kind(np.zeros(60, bool))].shape == (0, 16, 16)
    for length in (1, 59, 61):
        with pytest.raises(IndexError, match=rf"the mask has {length} values, wanted one for each of the set's 60"):
            ps[kind(np.ones(length, bool))]


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64, object])
def test_patches_by_whole_numbers_of_any_kind(ps: ctpatch.PatchSet, patches: Any, kind: Any) -> None:
    assert_bits(ps[np.array([3, 59, 0], kind)], patches[[3, 59, 0]])
    with pytest.raises(IndexError, match="patch 60 is out of range: the set has 60 patches"):
        ps[np.array([3, 60], kind)]


@pytest.mark.parametrize("index", [60, -61, 10**12, -(2**63), 2**63, 2**64 - 1, 10**40])
def test_patches_that_are_not_there(ps: ctpatch.PatchSet, index: int) -> None:
    with pytest.raises(IndexError, match="out of range: the set has 60 patches"):
        ps[index]
    with pytest.raises(IndexError, match=f"patch {index} is out of range"):
        ps.read([0, -1, index])


@pytest.mark.parametrize(
    ("which", "error"), [([0.5], TypeError), ([None], TypeError), ([[0, 1]], ValueError), ([[0], [1, 2]], ValueError)]
)
def test_indices_that_are_none(ps: ctpatch.PatchSet, which: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="indices"):
        ps.read(which)


def test_out_is_filled_and_returned(ps: ctpatch.PatchSet, patches: Any) -> None:
    out = np.full((4, 16, 16), np.nan, np.float32)
    assert ps.read([9, 8, 7, 9], out=out) is out
    assert_bits(out, patches[[9, 8, 7, 9]])
    strided = np.full((4, 32, 16), np.nan, np.float32)
    view = strided[:, ::2]
    assert ps.read([1, 2, 3, 59], out=view) is view
    np.testing.assert_array_equal(strided[:, ::2], patches[[1, 2, 3, 59]])
    assert np.isnan(strided[:, 1::2]).all()


@pytest.mark.parametrize(
    "out",
    [
        np.empty((3, 16, 16), np.float32),
        np.empty((2, 16, 15), np.float32),
        np.empty((2, 256), np.float32),
        np.empty((2, 16, 16), np.float64),
        np.empty((2, 16, 16), ">f4"),
        np.broadcast_to(np.zeros(1, np.float32), (2, 16, 16)),
    ],
)
def test_an_out_that_does_not_fit_is_refused(ps: ctpatch.PatchSet, out: Any) -> None:
    with pytest.raises(ValueError, match="out for image has shape"):
        ps.read([0, 1], out=out)


def test_a_set_goes_through_pickle(ps: ctpatch.PatchSet, patches: Any) -> None:
    fresh = pickle.loads(pickle.dumps(ps))
    assert_bits(fresh.read([3, 50]), patches[[3, 50]])
    used = pickle.loads(pickle.dumps(fresh))
    assert_bits(used.read([3, 50]), patches[[3, 50]])
    assert used.meta == ps.meta
    assert len(pickle.dumps(used)) < 10_000
    used.close()
    assert_bits(used[4], patches[4])


def test_many_threads_read_at_once(ps: ctpatch.PatchSet, patches: Any) -> None:
    def work(seed: int) -> bool:
        which = np.random.default_rng(seed).integers(-60, 60, 50)
        return bool((ps.read(which) == patches[which]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_slices_come_whole(ps: ctpatch.PatchSet, prepared: Prepared) -> None:
    for number, image in enumerate(prepared.images["image"]):
        assert_bits(ps.slice(number), image)
    with pytest.raises(KeyError, match="there is no slice 3 in phantoms/train"):
        ps.slice(3)


def test_what_is_read_is_a_copy(ps: ctpatch.PatchSet, patches: Any, prepared: Prepared) -> None:
    ps[7][...] = 9
    ps.slice(0)[...] = 9
    assert_bits(ps[7], patches[7])
    assert_bits(ps.slice(0), prepared.images["image"][0])


def test_a_slice_that_changed_is_not_given_out(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    changed = prepared.images["image"][1].copy()
    changed[0, 0] += 0.5
    np.save(prepared.file(1), changed)
    ps = ctpatch.open(prepared.out)
    if layout == "slices":
        assert_bits(ps.slice(1), prepared.images["image"][1])
    else:
        with pytest.raises(SourceChangedError, match=r"train_000001\.npy is no longer what"):
            ps.slice(1)


def pixel_file(prepared: Prepared, layout: Any) -> Path:
    return prepared.file(0) if layout == "index" else min(prepared.out.rglob("*.npy"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-1], "is cut short"),
        (lambda content: content[: len(content) // 2], "is cut short"),
        (lambda content: content[:20], "npy"),
        (lambda _content: b"", "is empty"),
        (lambda content: content + b"\0", "has trailing bytes"),
    ],
)
def test_a_damaged_file_is_an_error_and_not_a_crash(
    prepared: Prepared, layout: Any, damage: Callable[[bytes], bytes], said: str
) -> None:
    build_one(prepared, layout=layout)
    victim = pixel_file(prepared, layout)
    victim.write_bytes(damage(victim.read_bytes()))
    ps = ctpatch.open(prepared.out)
    with pytest.raises(NpyError) as error:
        ps.read([0])
    assert victim.name in error.value.message
    assert said in error.value.message


def test_a_missing_file_is_named(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    victim = pixel_file(prepared, layout)
    victim.unlink()
    with pytest.raises(NpyError, match=rf"{victim.name} is missing"):
        ctpatch.open(prepared.out).read([0])


def test_a_file_of_another_shape_or_dtype_is_refused(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    victim = pixel_file(prepared, layout)
    good = np.load(victim)
    for bad in (good.astype(np.complex64), good[..., :8], good[np.newaxis]):
        np.save(victim, bad)
        with pytest.raises(SourceChangedError if layout == "index" else FormatError):
            ctpatch.open(prepared.out).read([0, 19])


HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "patches/phantoms/train/../../../../etc/passwd",
    "..\\secret.npy",
    "C:/secret.npy",
    "a/..",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused(prepared: Prepared, layout: Any, path: str) -> None:
    build_one(prepared, layout=layout)
    rewrite_table(prepared.out, "patch_manifest.csv", 1, "patch_path", path)
    ps = ctpatch.open(prepared.out)
    with pytest.raises(FormatError, match="is no path below the set") as error:
        ps.read([0])
    assert "train_000000_000_008" in error.value.message
    report = ctpatch.verify(prepared.out)
    assert report.status == "failed"
    assert report.counts["paths"] > 0
    # The meta agrees with the table that was changed: it is the path that is found, not the edit.
    assert report.counts["table-digest"] == 0


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd"])
def test_hostile_source_paths_are_not_read(prepared: Prepared, path: str) -> None:
    build_one(prepared)
    rewrite_table(prepared.out, "slice_manifest.csv", 1, "src_path", path)
    ps = ctpatch.open(prepared.out)
    with pytest.raises(ctpatch.CtPatchError) as error:
        ps.slice(1)
    assert not isinstance(error.value, NpyError | SourceChangedError), error.value.message
    assert ctpatch.verify(prepared.out, deep=True).status == "failed"


@pytest.mark.parametrize("how", ["file", "folder"])
def test_links_are_not_followed(prepared: Prepared, tmp_path: Path, layout: Any, how: str) -> None:
    if layout == "index":
        pytest.skip("the layout index has no files of its own")
    build_one(prepared, layout=layout)
    secret = tmp_path / "secret"
    secret.mkdir()
    if how == "file":
        victim = pixel_file(prepared, layout)
        victim.rename(secret / victim.name)
        victim.symlink_to(secret / victim.name)
    else:
        (prepared.out / "linked").symlink_to(secret)
        source = pixel_file(prepared, layout)
        (secret / source.name).write_bytes(source.read_bytes())
        rewrite_table(
            prepared.out, "patch_manifest.csv", 0, "patch_path", f"patches/phantoms/train/linked/{source.name}"
        )
    with pytest.raises(ctpatch.CtPatchError):
        ctpatch.open(prepared.out).read([0])
    assert ctpatch.verify(prepared.out).status == "failed"


def test_a_shards_folder_that_is_a_link(prepared: Prepared, tmp_path: Path) -> None:
    build_one(prepared, layout="shards")
    (prepared.out / "shards").rename(tmp_path / "moved")
    (prepared.out / "shards").symlink_to(tmp_path / "moved")
    with pytest.raises(FormatError, match="shards is a link"):
        ctpatch.open(prepared.out)


@pytest.mark.parametrize(("column", "value"), [("patch_index", "60"), ("patch_index", "-1"), ("patch_index", "")])
@pytest.mark.parametrize("packed", ["shards", "slices"])
def test_items_that_are_not_there(prepared: Prepared, packed: Any, column: str, value: str) -> None:
    build_one(prepared, layout=packed)
    rewrite_table(prepared.out, "patch_manifest.csv", 4, column, value)
    with pytest.raises(FormatError):
        ctpatch.open(prepared.out).read([4])
    assert ctpatch.verify(prepared.out).status == "failed"


@pytest.mark.parametrize("pad_mode", ["none", "edge", "zero"])
@pytest.mark.parametrize(("column", "value"), [("row", "-20"), ("col", "-1"), ("row", "2147483647"), ("col", "41")])
@pytest.mark.parametrize("windowed", ["slices", "index"])
def test_windows_outside_the_slice(prepared: Prepared, windowed: Any, column: str, value: str, pad_mode: Any) -> None:
    build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=pad_mode), layout=windowed)
    rewrite_table(prepared.out, "patch_manifest.csv", 4, column, value)
    ps = ctpatch.open(prepared.out)
    if value != "41" or pad_mode == "none":
        with pytest.raises(FormatError):
            ps.read([4])
    assert ctpatch.verify(prepared.out).counts["coordinates"] == 1


def test_what_is_no_set(tmp_path: Path, prepared: Prepared) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ctpatch.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"is no patch set: it has no patch_meta\.json"):
        ctpatch.open(prepared.folder)
    build_one(prepared)
    with pytest.raises(UsageError, match="give a set that is below it: train"):
        ctpatch.open(prepared.out.parent)
    assert len(ctpatch.open(prepared.out / "patch_meta.json")) == 60


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "format_version 2, this ctpatch reads 1"),
        ({"num_patches": 61}, "was changed after it was written"),
        ({"layout": "zarr"}, "does not fit the format: layout"),
        ({"meta_digest": "0"}, "was changed after it was written"),
        ({"unknown": 1}, "was changed after it was written"),
    ],
)
def test_a_meta_that_is_not_ours(prepared: Prepared, change: dict[str, Any], said: str) -> None:
    build_one(prepared)
    path = prepared.out / "patch_meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FormatError) as error:
        ctpatch.open(prepared.out)
    assert said in error.value.message
    assert ctpatch.verify(prepared.out).status == "failed"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1}'])
def test_a_meta_that_is_rubbish(prepared: Prepared, content: bytes) -> None:
    build_one(prepared)
    (prepared.out / "patch_meta.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"patch_meta\.json"):
        ctpatch.open(prepared.out)


def test_importing_needs_no_heavy_library() -> None:
    code = (
        "import sys, ctpatch; from ctpatch import PatchConfig; PatchConfig();"
        "print([m for m in ('torch', 'matplotlib', 'dask', 'pydicom', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout == "[]\n"


def test_rejected_windows_can_be_read_as_a_table(tmp_path: Path) -> None:
    prepared = make_split(tmp_path)
    build_one(prepared, SMALL.with_rules(ctpatch.Rule.parse("top: row = 0")))
    ps = ctpatch.open(prepared.out)
    assert ps.rejected["rule"].to_list() == ["top"] * 15
    assert ps.rejected["row"].to_list() == [0] * 15
    assert ps.slices["num_patches"].to_list() == [15] * 3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad_mode", ["none", "reflect"])
def test_in_memory_reads_the_same_patches_once(tmp_path: Path, layout: Any, pad_mode: Any) -> None:
    prepared = make_split(tmp_path, [(40, 50), (30, 44), (40, 50)], arrays={"target": "f4", "mask": "u1"})
    config = ctpatch.PatchConfig(patch_size=16, stride=12, pad_mode=pad_mode)
    build_one(prepared, config, layout=layout)
    plain = ctpatch.open(prepared.out, arrays=["image", "target", "mask"])
    wanted = plain.read(range(len(plain)))
    kept = ctpatch.open(prepared.out, in_memory=True, arrays=plain.arrays)
    rng = np.random.Generator(np.random.Philox(3))
    for _ in range(3):  # with repeats, and with what is there already
        which = rng.integers(0, len(plain), 20)
        for name, patches in kept.read(which).items():
            assert np.array_equal(patches, wanted[name][which])
    kept.read(range(len(kept)))
    for path in [*prepared.out.rglob("*.npy"), *prepared.folder.glob("*.npy")]:
        path.unlink()
    for name, patches in kept.read(range(len(kept))).items():
        assert patches.dtype == wanted[name].dtype
        assert np.array_equal(patches, wanted[name])
    kept.close()
    with pytest.raises(NpyError, match="missing"):
        kept.read([0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_memory_survives_pickling(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    kept = ctpatch.open(prepared.out, in_memory=True)
    before = kept.read([3, 0])
    again = pickle.loads(pickle.dumps(kept))
    assert np.array_equal(again.read([3, 0]), before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_memory_is_refused_where_memory_is_short(
    prepared: Prepared, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_one(prepared, layout=layout)
    ps = ctpatch.open(prepared.out)
    pixels = sum(image.nbytes for image in prepared.images["image"]) if layout == "index" else ps.meta.pixel_bytes
    monkeypatch.setattr("ctpatch.files.memory._free_memory", lambda: pixels - 1)
    with pytest.raises(SystemFailureError, match="GB of pixels, the system has"):
        ctpatch.open(prepared.out, in_memory=True)
    monkeypatch.setattr("ctpatch.files.memory._free_memory", lambda: pixels)
    ctpatch.open(prepared.out, in_memory=True)


@pytest.mark.parametrize("layout", ["shards", "slices"])
@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("offset", [0, 8, 16, 64, 128, 144])
def test_wherever_the_buffer_lies_the_patches_are_right(
    tmp_path: Path, layout: Any, in_memory: bool, offset: int
) -> None:
    prepared = make_split(tmp_path, [(80, 90)] * 2)
    build_one(prepared, ctpatch.PatchConfig(patch_size=64, stride=8), layout=layout)
    ps = ctpatch.open(prepared.out, in_memory=in_memory)
    which = [7, 0, 3, 3]
    out = empty_buffer((4, 64, 64), np.dtype(np.float32), offset)
    ps.read(which, out=out)
    for slot, row in zip(out, ps.manifest[which].iter_rows(named=True), strict=True):
        image = prepared.images["image"][row["slice_index"]]
        assert_bits(slot, image[row["row"] : row["row"] + 64, row["col"] : row["col"] + 64])


def test_files_from_the_disk_are_read_by_threads_and_the_first_fault_is_named(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctpatch.layouts.reader._SECONDS_FROM_DISK", 0.0)
    build_one(prepared, layout="files")
    ps = ctpatch.open(prepared.out)
    whole = ps.read(range(60))
    assert any(thread.name.startswith("ctpatch-files") for thread in threading.enumerate())
    assert_bits(whole, reference_set(prepared.images["image"])[1])
    names = ps.manifest["patch_path"].to_list()
    for at in (50, 17, 33):
        (prepared.root / names[at]).unlink()
    with pytest.raises(NpyError, match=Path(names[17]).name):
        ps.read(range(60))
    with pytest.raises(NpyError, match=Path(names[50]).name):
        ps.read(range(59, -1, -1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_with_threads_of_its_own(prepared: Prepared) -> None:
    build_one(prepared, layout="files")
    code = (
        "import os, sys, ctpatch\n"
        "import ctpatch.layouts.reader as reading\n"
        "reading._SECONDS_FROM_DISK = 0.0\n"
        "ps = ctpatch.open(sys.argv[1])\n"
        "before = ps.read(range(60)).tobytes()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if ps.read(range(60)).tobytes() == before else 3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, prepared.out], timeout=120, check=False)
    assert done.returncode == 0
