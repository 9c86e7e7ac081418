"""Mutated raw files, slices, manifests and records, at every door that reads them: an error of ours, or sane slices."""

import csv
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from helpers import Prepared, make_split, small_parts
from reliability.common import FULL, Count, restore
from reliability.fuzzing import attempt, mutate_bytes, mutate_json, mutate_table, sealed

ROUNDS = int(os.environ.get("CTPATCH_FUZZ", "0")) or (400 if FULL else 10)
_SHOWN = 100
SEED = int(os.environ.get("CTPATCH_FUZZ_SEED", "12"))
CONFIG = ctpatch.PatchConfig(patch_size=16, stride=8, drop=("flat: std < 0.25",))


def fuzz(kind: str, count: Count, one: Callable[[random.Random], None]) -> None:
    """Do one thing with many seeds; fails with all that went wrong."""
    failures = []
    for number in range(ROUNDS):
        try:
            one(random.Random(f"{SEED} {kind} {number}"))
        except AssertionError as error:
            failures.append(f"{kind} {number}: {error}")
        count(f"fuzzed: {kind}")
    if failures:
        pytest.fail(f"{len(failures)} of {ROUNDS} failed\n" + "\n\n".join(failures[:_SHOWN]), pytrace=False)


def check_set(said: str, folder: Path, root: Path) -> None:
    """What was built verifies against its sources, and lies in the range."""
    report = attempt(f"{said}: verify deep", lambda: ctpatch.verify(folder, deep=True, data_root=root))
    assert report.value.ok, (said, report.value.findings[:3])
    ps = ctpatch.open(folder, root, arrays="image")
    pixels = ps.read(range(len(ps)))
    assert np.isfinite(pixels).all(), said
    assert pixels.size == 0 or (pixels.min() >= 0 and pixels.max() <= 1), said
    ps.close()


def build_and_check(said: str, split: Prepared, rng: random.Random) -> None:
    attempt(f"{said}: plan", lambda: [plan.summary() for plan in ctpatch.plan(split.folder, config=CONFIG)])
    options: dict[str, Any] = {"on_error": rng.choice(["stop", "skip"]), "layout": rng.choice(["files", "shards"])}
    built = attempt(f"{said}: build", lambda: ctpatch.build(split.folder, config=CONFIG, **options))
    if built:
        check_set(said, split.out, split.root)
    attempt(f"{said}: audit", lambda: ctpatch.audit(split.folder, data_root=split.root))
    shutil.rmtree(split.root / "patches", ignore_errors=True)


def test_npy_slices(tmp_path: Path, count: Count) -> None:
    split = make_split(tmp_path / "root", [(24, 32)] * 2, arrays={"mask": np.uint8})
    good = {path: path.read_bytes() for path in split.folder.glob("*.npy")}

    def one(rng: random.Random) -> None:
        victim = rng.choice(sorted(good))
        content, said = mutate_bytes(rng, good[victim], list(good.values()))
        victim.write_bytes(content)
        try:
            build_and_check(said, split, rng)
        finally:
            victim.write_bytes(good[victim])

    fuzz("npy", count, one)


def test_source_manifests(tmp_path: Path, count: Count) -> None:
    columns: dict[str, Any] = {
        "index": [4, 7, 9],
        "patient_id": ["a", "b", "b"],
        "min": [0, 0, 0],
        "max": [1, 1, 1],
        "series": "xyz",
    }
    split = make_split(tmp_path / "root", [(24, 32)] * 3, arrays={"mask": np.uint8}, columns=columns)
    good = split.manifest.read_bytes()

    def one(rng: random.Random) -> None:
        content, said = (mutate_table if rng.random() < 0.7 else mutate_bytes)(rng, good)
        split.manifest.write_bytes(content)
        build_and_check(said, split, rng)

    fuzz("csv", count, one)


# Records of unfinished work.


def test_records_of_an_unfinished_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Count) -> None:
    small_parts(monkeypatch, slices=1, shard_bytes=3000)
    split = make_split(tmp_path / "root", [(24, 32)] * 3)
    for share in ("1/2", "2/2"):
        ctpatch.build_share(split.folder, share, CONFIG, layout="shards")
    template = tmp_path / "template"
    shutil.copytree(split.out, template)

    def one(rng: random.Random) -> None:
        restore(split.out, template)
        state = split.out / ".ctpatch"
        victim = rng.choice(sorted(path for path in state.rglob("*") if path.is_file()))
        content = victim.read_bytes()
        if victim.suffix == ".json" and rng.random() < 0.8:
            value, said = mutate_json(rng, json.loads(content))
            signed = victim.name.endswith(".receipt.json") and isinstance(value, dict)
            victim.write_bytes(sealed(value, digest="digest") if signed else json.dumps(value).encode())
        else:
            content, said = mutate_bytes(rng, content)
            victim.write_bytes(content)
        said = f"{victim.name}: {said}"
        door = rng.choice(["merge", "share", "build", "overwrite", "verify", "open", "report"])
        calls: dict[str, Callable[[], Any]] = {
            "merge": lambda: ctpatch.merge(split.out),
            "share": lambda: ctpatch.build_share(split.folder, "1/2", CONFIG, layout="shards"),
            "build": lambda: ctpatch.build(split.folder, config=CONFIG, layout="shards"),
            "overwrite": lambda: ctpatch.build(split.folder, config=CONFIG, layout="shards", overwrite=True),
            "verify": lambda: ctpatch.verify(split.out),
            "open": lambda: ctpatch.open(split.out),
            "report": lambda: ctpatch.report(split.out, tmp_path / "report.html"),
        }
        done = attempt(f"{said}: {door}", calls[door])
        # Who forges a receipt with its digest can have it say what is not so; verify finds it.
        if done and door in {"merge", "build", "overwrite"} and not victim.name.endswith(".receipt.json"):
            check_set(f"{said}: {door}", split.out, split.root)

    fuzz("records", count, one)


# Raw CT.


def prepare_and_check(
    said: str, root: Path, data: Path, rng: random.Random, prepare: Callable[..., Any], **options: Any
) -> None:
    """Prepare; what comes out lists slices in [0, 1] of the shape they say."""
    on_error = rng.choice(["stop", "skip"])
    done = attempt(
        f"{said}: prepare, {on_error}",
        lambda: prepare(root, data, "set", key=data.with_name("my.key"), on_error=on_error, **options),
    )
    if done:
        for manifest in done.value.folder.glob("*/*_manifest.csv"):
            with manifest.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    image = np.load(data / row["path"])
                    assert image.ndim == 2, said
                    assert image.dtype == np.float32, said
                    assert 0 <= image.min() <= image.max() <= 1, said
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "my.key").write_bytes(b"0123456789abcdef" * 4)
    return tmp_path / "data"


def one_of(root: Path, said: str, data: Path, count: Count, prepare: Callable[..., Any], **options: Any) -> None:
    """Mutate one file of a raw tree, again and again."""
    good = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def one(rng: random.Random) -> None:
        victims = rng.sample(list(good), rng.choice([1, 1, 2, len(good)]))
        try:
            told = []
            for victim in victims:
                content, what = mutate_bytes(rng, good[victim], list(good.values()))
                victim.write_bytes(content)
                told.append(f"{victim.name}: {what}")
            prepare_and_check(" | ".join(told), root, data, rng, prepare, **options)
        finally:
            for victim in victims:
                victim.write_bytes(good[victim])

    fuzz(said, count, one)


@pytest.mark.parametrize("syntax", ["native", "rle"])
@pytest.mark.filterwarnings("ignore")
def test_frames(tmp_path: Path, data: Path, count: Count, syntax: str) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from dicom_files import RLE
    from dicom_frames import frames_dataset, save, volume

    dataset = frames_dataset(*volume(3))
    if syntax == "rle":
        dataset.compress(RLE)
    save(dataset, tmp_path / "raw/a/frames")
    dataset.PatientID = "bob"
    save(dataset, tmp_path / "raw/b/frames")
    save(dataset, tmp_path / "raw/b/copy")
    one_of(tmp_path / "raw", f"frames {syntax}", data, count, ctpatch.prepare_dicom, split=["train=1"])


@pytest.mark.parametrize("syntax", ["native", "rle"])
@pytest.mark.filterwarnings("ignore")
def test_dicom(tmp_path: Path, data: Path, count: Count, syntax: str) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from dicom_files import RLE, write_series

    root = tmp_path / "raw"
    write_series(root / "a", 2, patient="ann", uid="1")
    write_series(root / "b", 1, patient="bob", uid="2")
    shutil.copy(root / "b/001", root / "b/copy")
    if syntax == "rle":
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            dataset = pydicom.dcmread(path)
            dataset.compress(RLE)
            dataset.save_as(path, enforce_file_format=True)
    one_of(root, f"dicom {syntax}", data, count, ctpatch.prepare_dicom, split=["train=1"])


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.filterwarnings("ignore")
def test_nifti(tmp_path: Path, data: Path, count: Count, ending: str) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    root = tmp_path / "raw"
    values = np.random.default_rng(0).integers(-1000, 2000, (12, 10, 3)).astype(np.int16)
    for subject in ("sub-01", "sub-02"):
        (root / subject).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.8, 2, 1])), root / subject / f"ct.{ending}")
    one_of(root, f"nifti {ending}", data, count, ctpatch.prepare_nifti, split=["train=1"])


@pytest.mark.parametrize("kind", ["metaimage", "nrrd", "numpy", "images"])
def test_volumes_and_pictures(tmp_path: Path, data: Path, count: Count, kind: str) -> None:
    from volume_files import write_mha, write_mhd, write_nhdr, write_nrrd

    root = tmp_path / "raw"
    values = np.random.default_rng(0).integers(-1000, 2000, (3, 10, 12)).astype(np.int16)
    options: dict[str, Any] = {}
    for subject in ("sub-01", "sub-02"):
        folder = root / subject
        folder.mkdir(parents=True)
        if kind == "metaimage":
            write_mha(folder / "a.mha", values, (0.8, 0.8, 2), packed=True)
            write_mhd(folder / "b.mhd", values, (0.8, 0.8, 2))
        elif kind == "nrrd":
            for packing in ("raw", "gzip", "bzip2"):
                write_nrrd(folder / f"{packing}.nrrd", values, (0.8, 0.8, 2), packing)
            write_nhdr(folder / "b.nhdr", values, (0.8, 0.8, 2))
        elif kind == "numpy":
            options = {"axes": "zyx", "voxel_spacing": (2, 0.8, 0.8)}
            np.save(folder / "a.npy", values)
            np.savez_compressed(folder / "b.npz", values)
        else:
            options = {"hu_intercept": -1024}
            pictures = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
            planes = [pictures.fromarray(plane) for plane in (values + np.int16(1024)).astype(np.uint16)]
            planes[0].save(folder / "1.png")
            planes[1].save(folder / "v.tif", save_all=True, append_images=planes[2:])
            planes[1].save(folder / "w.tif", save_all=True, append_images=planes[2:], compression="tiff_lzw")
    prepare = getattr(ctpatch, f"prepare_{kind}")
    one_of(root, kind, data, count, prepare, split=["train=1"], **options)


@pytest.mark.filterwarnings("ignore")
def test_lodopab(tmp_path: Path, data: Path, count: Count) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    from lodopab_files import SIDE, write_ground_truth, write_patients

    root = tmp_path / "raw"
    root.mkdir()
    images = [np.random.default_rng(k).random((SIDE, SIDE), dtype=np.float32) for k in range(2)]
    write_ground_truth(root, "train", 0, images, rows=2)
    write_patients(root, "train", [1, 2])
    one_of(root, "lodopab", data, count, ctpatch.prepare_lodopab)


@pytest.mark.filterwarnings("ignore")
def test_records_of_prepared_slices(tmp_path: Path, data: Path, count: Count) -> None:
    """A finished data set whose meta, tables or slices are changed: prepared again, started anew, audited, built."""
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from dicom_files import write_series

    root = tmp_path / "raw"
    write_series(root / "a", 2, patient="ann", uid="1")
    write_series(root / "b", 1, patient="bob", uid="2")
    options: dict[str, Any] = {"split": ["train=1"], "key": tmp_path / "my.key"}
    done = ctpatch.prepare_dicom(root, data, "set", **options)
    template = tmp_path / "template"
    shutil.copytree(done.folder, template)

    def one(rng: random.Random) -> None:
        restore(done.folder, template)
        victim = rng.choice(sorted(path for path in done.folder.rglob("*") if path.is_file()))
        if victim.suffix == ".json":
            value, said = mutate_json(rng, json.loads(victim.read_text()))
            victim.write_bytes(sealed(value) if isinstance(value, dict) else json.dumps(value).encode())
        else:
            change = mutate_table if victim.suffix == ".csv" and rng.random() < 0.7 else mutate_bytes
            content, said = change(rng, victim.read_bytes())
            victim.write_bytes(content)
        said = f"{victim.name}: {said}"
        door = rng.choice(["again", "overwrite", "audit", "plan", "build"])
        calls: dict[str, Callable[[], Any]] = {
            "again": lambda: ctpatch.prepare_dicom(root, data, "set", **options),
            "overwrite": lambda: ctpatch.prepare_dicom(root, data, "set", overwrite=True, **options),
            "audit": lambda: ctpatch.audit(done.folder),
            "plan": lambda: [plan.summary() for plan in ctpatch.plan(done.folder, config=CONFIG)],
            "build": lambda: ctpatch.build(done.folder, config=CONFIG, overwrite=True),
        }
        attempt(f"{said}: {door}", calls[door])
        shutil.rmtree(data / "patches", ignore_errors=True)

    fuzz("prepared", count, one)


# Texts.


def test_rules_and_weights(tmp_path: Path, count: Count) -> None:
    """Texts of the words of rules, in any order: a decision for each row, or an error of ours."""
    split = make_split(tmp_path / "root", [(24, 32)])
    ctpatch.build(split.folder, config=CONFIG)
    words = [
        "std",
        "mean",
        "<",
        ">=",
        "=",
        "AND",
        "OR",
        "NOT",
        "(",
        ")",
        "1",
        "0.5",
        "1.e",
        "1e",
        "-",
        "+",
        "*",
        "/",
        "%",
    ]
    words += [
        "floor(",
        "abs(",
        "BETWEEN",
        "IN",
        ",",
        "'x'",
        "NULL",
        "--",
        "/*",
        "[",
        "]",
        "::int",
        "CASE",
        "WHEN",
        "{",
        "$",
    ]
    words += ["SELECT", "power(", "least(", "x", ".", ";", "\x00", "\ud800", "ä", "~", "?", ":a", "@b", "\\", '"', "`"]
    ps = ctpatch.open(split.out)

    def one(rng: random.Random) -> None:
        for _ in range(10):
            text = " ".join(rng.choice(words) for _ in range(rng.choice([1, 2, 3, 5, 8, 13])))
            kept = attempt(f"subset {text!r}", lambda text=text: list(ps.batches(4, subset=text)))  # type: ignore[misc]
            if kept:
                assert all(len(batch.indices) <= 4 for batch in kept.value)
            attempt(f"weight {text!r}", lambda text=text: list(ps.batches(4, weight=text)))  # type: ignore[misc]
            attempt(f"rule {text!r}", lambda text=text: ctpatch.PatchConfig(drop=[f"a: {text}"]))  # type: ignore[misc]

    fuzz("rules", count, one)
