"""Leaks are planted and found, in sets of every kind; what is no leak is not."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.checking.audit import AuditReport, audit
from ctpatch.checking.audit import checks as checks_module
from ctpatch.checking.audit import report as report_module
from ctpatch.checking.audit.find import find_audited
from ctpatch.checking.audit.look import look_at_all
from ctpatch.cli.app import main
from ctpatch.cli.audit import audit_text
from helpers import (
    LAYOUTS,
    PAD_MODES,
    SMALL,
    Heard,
    Image,
    build_one,
    csv_rows,
    make_split,
    rewrite_table,
    write_manifest,
)

SHAPE = (48, 56)


def picture(seed: int, shape: tuple[int, int] = SHAPE) -> Image:
    """Smooth random shapes with a grain, each seed its own."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = np.zeros(shape)
    for _ in range(12):
        row, col, size = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 9)
        image += rng.uniform(0.2, 1) * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * size**2))
    image = 0.9 * image / image.max() + rng.uniform(0, 0.01, shape)
    result: Image = image.astype(np.float32)
    return result


def make_sets(
    root: Path,
    train: list[Image],
    test: list[Image],
    patients: tuple[list[Any], list[Any]] | None = None,
    **arrays: Any,
) -> Path:
    """Two prepared splits; returns the dataset's folder."""
    for split, images, number in (("train", train, 0), ("test", test, 1)):
        columns = {"patient_id": patients[number]} if patients else None
        make_split(root, images=images, split=split, columns=columns, seed=number, **arrays)
    return root / "prepared" / "phantoms"


def own(count: int, start: int = 0) -> list[Image]:
    return [picture(start + number) for number in range(count)]


def rows_of(report: AuditReport, check: str) -> list[tuple[str, int, str, int]]:
    """Split and row of both sides of each finding of a check."""
    found = [leak for leak in report.findings if leak.check == check]
    return [(leak.first.split, leak.first.row, leak.second.split, leak.second.row) for leak in found]


def build(dataset: Path, layout: Any, root: Path, **options: Any) -> Path:
    ctpatch.build(dataset, config=SMALL, layout=layout, data_root=root, **options)
    return root / "patches" / "phantoms"


def test_clean_splits_pass(tmp_path: Path) -> None:
    dataset = make_sets(tmp_path, own(4), own(3, 50), (["a", "a", "b", "b"], ["c", "c", "d"]))
    heard = Heard()
    report = audit([dataset], listener=heard)
    assert (report.status, report.ok, report.num_findings, report.not_checked) == ("ok", True, 0, [])
    assert [(s.name, s.slices, s.patients) for s in report.splits] == [
        ("phantoms/test", 3, 2),
        ("phantoms/train", 4, 2),
    ]
    assert [type(event).__name__ for event in heard.events] == [
        "WorkStarted", "WorkAdvanced", "WorkAdvanced", "WorkFinished", "WorkStarted", "WorkAdvanced", "WorkFinished",
    ]  # fmt: skip
    assert main(["audit", str(dataset)]) == 0


@pytest.mark.parametrize("layout", ["prepared", *LAYOUTS])
@pytest.mark.parametrize("sources", [True, False])
def test_every_planted_leak_is_found(tmp_path: Path, layout: str, sources: bool) -> None:
    if not sources and layout in {"prepared", "index"}:
        pytest.skip("without its source slices there are no pixels")
    train = own(6)
    noisy = (train[1] + np.random.default_rng(0).normal(0, 0.002, SHAPE)).clip(0, 1).astype(np.float32)
    half = picture(60)
    half[:16, :16] = train[4][:16, :16]
    test = [picture(50), train[0], np.ascontiguousarray(train[3][::-1]), noisy, half]
    dataset = make_sets(tmp_path, train, test, (["a", "b", "b", "c", "d", " "], ["e", "f", "g", "h", "b"]))
    if layout != "prepared":
        dataset = build(dataset, layout, tmp_path)
    if not sources:
        shutil.rmtree(tmp_path / "prepared")
    report = audit(dataset)
    assert report.status == "leaks"
    assert report.faults == []
    first, second = "phantoms/train", "phantoms/test"
    assert rows_of(report, "patient") == [(first, 3, second, 6)]
    assert rows_of(report, "identical-slice") == [(first, 2, second, 3)]
    assert rows_of(report, "mirrored-slice") == [(first, 5, second, 4)]
    assert rows_of(report, "near-slice") == [(first, 3, second, 5)]
    mirrored = next(leak for leak in report.findings if leak.check == "mirrored-slice")
    assert mirrored.symmetry == "mirrored top to bottom"
    near = next(leak for leak in report.findings if leak.check == "near-slice")
    assert near.correlation is not None
    assert 0.99 < near.correlation <= 1
    assert "patient 'b' has 2 slices in phantoms/train and 1 slice in phantoms/test" in [
        leak.message for leak in report.findings
    ]
    if layout != "prepared":
        patches = [leak for leak in report.findings if leak.check == "identical-patch"]
        assert [(leak.first.id, leak.second.id) for leak in patches] == [
            ("train_000004_000_000", "test_000004_000_000")
        ]
        windows = len(ctpatch.sliding_window_coords(*SHAPE, SMALL))
        assert report.implied_patches == windows
        rows = csv_rows(dataset / "train" / "patch_manifest.csv")
        assert rows[patches[0].first.row - 2]["patch_id"] == "train_000004_000_000"
    assert [note.count for note in report.not_checked] == [1]
    assert report.splits[1].from_patches == 0


@pytest.mark.parametrize("symmetry", range(1, 8))
def test_all_symmetries_of_a_slice(tmp_path: Path, symmetry: int) -> None:
    images = own(2)
    other = np.rot90(images[1] if symmetry < 4 else np.fliplr(images[1]), symmetry % 4)
    report = audit(make_sets(tmp_path, images, [np.ascontiguousarray(other)]))
    assert dict(report.counts) == {"mirrored-slice": 1}
    assert rows_of(report, "mirrored-slice") == [("phantoms/train", 3, "phantoms/test", 2)]


def test_constant_slices_and_patches_are_no_leak(tmp_path: Path) -> None:
    flat = np.full(SHAPE, 0.25, np.float32)
    train, test = picture(1), picture(2)
    train[:16, :16] = test[:16, :16] = 0.0
    dataset = make_sets(tmp_path, [train, flat], [flat, test])
    assert audit(dataset).ok
    for layout in LAYOUTS:
        report = audit(build(dataset, layout, tmp_path, overwrite=True))
        assert report.counts == {}
        assert [split.constant_slices for split in report.splits] == [1, 1]
        windows = len(ctpatch.sliding_window_coords(*SHAPE, SMALL))
        assert [split.constant_patches for split in report.splits] == [windows + 1] * 2


def test_the_target_of_one_split_is_the_image_of_another(tmp_path: Path) -> None:
    make_split(tmp_path, images=own(2), split="train", arrays={"target": np.float32, "lung_mask": np.uint8})
    target = np.load(tmp_path / "prepared/phantoms/train/train_000001_target.npy")
    mask = np.load(tmp_path / "prepared/phantoms/train/train_000001_lung_mask.npy")
    make_split(tmp_path, images=[target], split="test", arrays={"lung_mask": np.uint8})
    np.save(tmp_path / "prepared/phantoms/test/test_000000_lung_mask.npy", mask)
    for dataset in (tmp_path / "prepared/phantoms", build(tmp_path / "prepared/phantoms", "files", tmp_path)):
        report = audit(dataset)
        found = [leak for leak in report.findings if leak.check == "identical-slice"]
        assert [leak.message.partition(" (")[0] for leak in found] == [
            "the same pixels: target of the first is image of the second"
        ]
        assert set(report.counts) == {"identical-slice"}


def test_duplicates_within_a_split_are_counted_and_no_finding(tmp_path: Path) -> None:
    images = own(2)
    turned = np.ascontiguousarray(np.rot90(images[0]))
    dataset = make_sets(tmp_path, [images[0], images[1], images[0], images[0], turned], own(1, 50))
    report = audit(dataset)
    assert report.ok
    assert (report.splits[1].duplicate_slices, report.splits[1].mirrored_slices) == (2, 1)
    report = audit(build(dataset, "files", tmp_path))
    assert report.ok
    assert report.splits[1].duplicate_patches == 2 * len(ctpatch.sliding_window_coords(*SHAPE, SMALL))


def test_patches_that_cover_a_part_of_a_slice_without_its_source(tmp_path: Path) -> None:
    """50 x 60 leaves a border: near-duplicates are found in what is covered, mirrored ones cannot be."""
    images = [picture(number, (52, 60)) for number in range(3)]
    noisy = (images[1] + np.random.default_rng(0).normal(0, 0.002, (52, 60))).clip(0, 1).astype(np.float32)
    dataset = build(make_sets(tmp_path, images, [noisy, np.ascontiguousarray(images[2][::-1])]), "shards", tmp_path)
    shutil.rmtree(tmp_path / "prepared")
    report = audit(dataset)
    assert rows_of(report, "near-slice")[0] == ("phantoms/train", 3, "phantoms/test", 2)
    assert [split.from_patches for split in report.splits] == [2, 3]
    assert {note.what for note in report.not_checked} == {"mirrored copies", "patients"}


def notebook_set(root: Path, dataset: str, split: str, images: list[Image], *, absolute: bool = False) -> Path:
    """A set as the notebook writes it: one file a patch, a manifest without digests, a meta without a version."""
    folder = root / "patches" / dataset / split
    folder.mkdir(parents=True)
    table: dict[str, list[Any]] = {
        "patch_id": [],
        "slice_index": [],
        "src_path": [],
        "row": [],
        "col": [],
        "patch_path": [],
    }
    for number, image in enumerate(images):
        for row, col in ctpatch.sliding_window_coords(image.shape[0], image.shape[1], SMALL):
            name = f"{split}_{number:06d}_{row:03d}_{col:03d}"
            np.save(folder / f"{name}.npy", image[row : row + 16, col : col + 16])
            path = f"patches/{dataset}/{split}/{name}.npy"
            source = f"prepared/{dataset}/{split}/{split}_{number:06d}.npy"
            where = f"/home/somebody/data/{path}" if absolute else path
            for column, value in zip(table, (name, number, source, row, col, where), strict=True):
                table[column].append(value)
    write_manifest(folder / "patch_manifest.csv", table)
    (folder / "patch_meta.json").write_text(json.dumps({"num_slices": len(images)}))
    return folder


@pytest.mark.parametrize("absolute", [False, True])
def test_sets_of_the_notebook(tmp_path: Path, absolute: bool) -> None:
    train = own(4)
    noisy = (train[1] + np.random.default_rng(0).normal(0, 0.002, SHAPE)).clip(0, 1).astype(np.float32)
    notebook_set(tmp_path, "old", "train", train, absolute=absolute)
    notebook_set(tmp_path, "old", "test", [picture(50), noisy, train[0]], absolute=absolute)
    report = audit(tmp_path / "patches" / "old")
    windows = len(ctpatch.sliding_window_coords(*SHAPE, SMALL))
    assert rows_of(report, "near-slice")[0] == ("old/train", 2 + windows, "old/test", 2 + windows)
    assert report.counts["identical-patch"] == windows
    assert report.faults == []
    assert ["patients" for note in report.not_checked if "no column patient_id" in note.why] == ["patients"] * 2
    assert main(["audit", str(tmp_path / "patches" / "old")]) == 1


@pytest.mark.parametrize(("column", "value"), [("row", "-5"), ("col", "90000"), ("row", "here"), ("row", "1e300")])
def test_a_window_that_no_slice_has_is_named_and_patches_are_compared(tmp_path: Path, column: str, value: str) -> None:
    train = own(3)
    folder = notebook_set(tmp_path, "old", "train", train)
    notebook_set(tmp_path, "old", "test", [train[1], picture(50)])
    rows = csv_rows(folder / "patch_manifest.csv")
    windows = len(ctpatch.sliding_window_coords(*SHAPE, SMALL))
    rows[windows + 3][column] = value
    write_manifest(folder / "patch_manifest.csv", {name: [row[name] for row in rows] for name in rows[0]})
    report = audit(tmp_path / "patches" / "old")
    assert [(fault.row.split, fault.row.row) for fault in report.faults] == [("old/train", 2 + windows)]
    assert report.counts == {"identical-patch": windows}


def test_a_patch_manifest_of_nothing_but_paths(tmp_path: Path) -> None:
    train = own(2)
    for split, images in (("train", train), ("test", [picture(50), train[1]])):
        folder = notebook_set(tmp_path, "old", split, images)
        (folder / "patch_meta.json").unlink()
        paths = [row["patch_path"] for row in csv_rows(folder / "patch_manifest.csv")]
        write_manifest(folder / "patch_manifest.csv", {"patch_path": paths})
    report = audit(tmp_path / "patches" / "old")
    windows = len(ctpatch.sliding_window_coords(*SHAPE, SMALL))
    assert report.counts == {"identical-patch": windows}
    assert report.findings[0].first.row == 2 + windows
    assert any("does not say where" in note.why for note in report.not_checked)


def test_a_hostile_slice_manifest_of_ours_leads_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.npy"
    np.save(secret, picture(50))
    root = tmp_path / "root"
    dataset = build(make_sets(root, own(3), [picture(50)]), "index", root)
    for number, path in enumerate(["../secret.npy", str(secret), "nul\x00.npy"]):
        rewrite_table(dataset / "train", "slice_manifest.csv", number, "src_path", path)
    report = audit(dataset)
    assert {fault.row.row for fault in report.faults if fault.row.file == "slice_manifest.csv"} == {2, 3, 4}
    assert report.num_findings == 0


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_patches_without_a_digest_on_record_get_the_one_they_would_have(tmp_path: Path, pad_mode: Any) -> None:
    prepared = make_split(tmp_path, images=[picture(number, (37, 45)) for number in range(2)])
    config = ctpatch.PatchConfig(patch_size=16, stride=12, pad_mode=pad_mode)
    folders = [
        build_one(prepared, config, layout=layout, out=tmp_path / "patches" / layout).folder for layout in LAYOUTS
    ]
    splits = find_audited(folders, tmp_path)
    files, *others = (seen.patches for seen in look_at_all(splits, 1, Heard()))
    assert files["digest"].to_list() == [row["digest"] for row in csv_rows(folders[0] / "patch_manifest.csv")]
    for other in others:
        assert other["digest"].to_list() == files["digest"].to_list()


def test_our_set_against_a_manifest_of_nothing_but_paths(tmp_path: Path) -> None:
    train = own(3)
    prepared = make_split(tmp_path / "mine", images=train)
    patches = build_one(prepared, layout="slices").folder
    other = tmp_path / "theirs"
    other.mkdir()
    for number, image in enumerate([picture(50), train[2]]):
        np.save(other / f"{number}.npy", image.astype(np.float64))
    write_manifest(other / "manifest.csv", {"path": ["0.npy", "1.npy"]})
    report = audit([patches, other])
    assert rows_of(report, "identical-slice") == [("phantoms/train", 4, report.splits[1].name, 3)]
    assert dict(report.counts) == {"identical-slice": 1}


HOSTILE = [
    "/etc/hostname",
    "../../secret.npy",
    "a/../../../secret.npy",
    "C:\\secret.npy",
    "link.npy",
    "folder/secret.npy",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_leads_away_is_named_and_never_opened(tmp_path: Path, path: str) -> None:
    secret = tmp_path / "secret.npy"
    np.save(secret, picture(1))
    root = tmp_path / "root"
    dataset = make_sets(root, [picture(1), picture(2)], [picture(3)])
    os.symlink(secret, root / "link.npy")
    os.symlink(tmp_path, root / "folder")
    write_manifest(
        root / "prepared/phantoms/test/test_manifest.csv", {"path": ["prepared/phantoms/test/test_000000.npy", path]}
    )
    report = audit(dataset, data_root=root)
    assert (report.status, report.num_findings, report.num_faults) == ("incomplete", 0, 1)
    assert (report.faults[0].row.row, report.faults[0].row.file) == (3, "test_manifest.csv")
    assert main(["audit", str(dataset), "--data-root", str(root)]) == 1


def test_damaged_slices_are_named_and_the_rest_is_checked(tmp_path: Path) -> None:
    train = own(5)
    dataset = make_sets(tmp_path, train, [train[0], picture(50), picture(51), train[1]])
    folder = dataset / "test"
    (folder / "test_000001.npy").write_bytes(b"PK\x03\x04 no slice")
    (folder / "test_000002.npy").unlink()
    broken = picture(52)
    broken[0, 0] = np.nan
    np.save(dataset / "train" / "train_000002.npy", broken)
    report = audit(dataset)
    assert [fault.row.row for fault in report.faults] == [3, 4]
    assert rows_of(report, "identical-slice") == [
        ("phantoms/train", 2, "phantoms/test", 2),
        ("phantoms/train", 3, "phantoms/test", 5),
    ]


def test_the_same_source_under_two_windows(tmp_path: Path) -> None:
    make_split(tmp_path, images=own(3), split="train", columns={"source_digest": ["aa", "bb", "cc"]})
    make_split(tmp_path, images=own(2, 50), split="test", columns={"source_digest": ["bb", ""]})
    report = audit(tmp_path / "prepared/phantoms")
    assert rows_of(report, "same-source") == [("phantoms/train", 3, "phantoms/test", 2)]


def test_workers_do_not_change_the_report(tmp_path: Path) -> None:
    train = own(5)
    dataset = build(make_sets(tmp_path, train, [train[1], picture(50)]), "slices", tmp_path)
    assert audit(dataset, workers=2).as_dict() == audit(dataset, workers=1).as_dict()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to audit"),
        (["train"], "only one split"),
        (["train", "train"], "twice"),
        (["nowhere"], "does not exist"),
        (["train", "test", "--threshold", "2"], "threshold"),
        (["train", "test", "--detail-threshold", "nan"], "detail_threshold"),
        (["train", "test", "--workers", "0"], "workers"),
        (["train", "test", "--data-root", "nowhere"], "data root"),
    ],
)
def test_a_wrong_call_is_a_sentence(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_sets(tmp_path, own(1), own(1, 50))
    given = [str(dataset / each) if each in {"train", "test", "nowhere"} else each for each in arguments]
    assert main(["audit", *given]) == 2
    assert words in capsys.readouterr().err


def test_an_unfinished_set_is_no_clean_one(tmp_path: Path) -> None:
    dataset = build(make_sets(tmp_path, own(1), own(1, 50)), "index", tmp_path)
    (dataset / "test" / "patch_meta.json").unlink()
    (dataset / "test" / ".ctpatch").mkdir()
    assert main(["audit", str(dataset)]) == 1


@pytest.mark.parametrize("arrays", [{}, {"target": np.float32}])
@pytest.mark.parametrize("given", ["folder", "manifest"])
def test_a_set_of_ours_without_its_meta_is_not_taken_for_a_foreign_one(
    tmp_path: Path, given: str, arrays: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sets = build(make_sets(tmp_path, own(2), own(2, 50), arrays=arrays), "shards", tmp_path)
    (sets / "train" / "patch_meta.json").unlink()
    train = sets / "train" if given == "folder" else sets / "train" / "patch_manifest.csv"
    assert main(["audit", str(train), str(sets / "test")]) != 0
    said = capsys.readouterr()
    assert "train: patch_meta.json is gone" in said.err
    assert "foreign" not in said.out + said.err


def test_an_empty_set_is_not_said_to_lack_patients(tmp_path: Path) -> None:
    make_split(tmp_path, images=own(2), split="train", columns={"patient_id": ["a", "b"]})
    make_split(tmp_path, images=own(1, 50), split="test", columns={"patient_id": ["c"]}, seed=1)
    everything = SMALL.with_rules(ctpatch.Rule.parse("all: TRUE"))
    ctpatch.build(tmp_path / "prepared/phantoms/train", config=SMALL, data_root=tmp_path)
    ctpatch.build(tmp_path / "prepared/phantoms/test", config=everything, data_root=tmp_path)
    notes = [str(each) for each in audit(tmp_path / "patches/phantoms").not_checked]
    assert not any("patients" in note for note in notes)
    assert "phantoms/test: everything: the set kept no patch of any slice, so there is nothing to compare" in notes


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_one_fault_of_a_shard_is_told_once(tmp_path: Path, damage: str) -> None:
    sets = build(make_sets(tmp_path, own(4), own(4, 50)), "shards", tmp_path)
    shutil.rmtree(tmp_path / "prepared")
    (victim,) = (sets / "train").rglob("*.npy")
    content = victim.read_bytes()
    victim.unlink()
    if damage == "cut":
        victim.write_bytes(content[:-100])
    report = audit(sets)
    (fault,) = report.faults
    assert fault.rows == report.num_faults == 4
    assert victim.name in fault.message
    assert json.loads(json.dumps(report.as_dict()))["faults"][0]["rows"] == 4
    text = audit_text(report)
    assert text.count(victim.name) == 1
    assert ", and 3 more with the same fault" in text


def test_findings_beyond_the_limit_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "MAX_KEPT", 3)
    monkeypatch.setattr(checks_module, "MAX_KEPT", 3)
    train = own(5)
    notebook_set(tmp_path, "old", "train", [*train, picture(90)])
    notebook_set(tmp_path, "old", "test", train)
    report = audit(tmp_path / "patches" / "old")
    windows = len(ctpatch.sliding_window_coords(*SHAPE, SMALL))
    assert report.counts == {"near-slice": 5, "identical-patch": 5 * windows}
    assert [leak.check for leak in report.findings] == ["near-slice"] * 3 + ["identical-patch"] * 3
    assert "and 3 more" in audit_text(report, 2)


def test_the_text_names_both_rows_and_json_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = own(2)
    dataset = make_sets(tmp_path, train, [picture(50), train[1]], (["p\x1b[31m", "q"], ["r", "q"]))
    assert main(["audit", str(dataset), "--show", "1"]) == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "    phantoms/train: train_manifest.csv row 3, slice 1, prepared/phantoms/train/train_000001.npy\n" in text
    assert "    phantoms/test: test_manifest.csv row 3, slice 1, prepared/phantoms/test/test_000001.npy\n" in text
    assert text.splitlines()[-1].startswith("failed: 2 findings")
    assert main(["audit", str(dataset), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["identical-slice"] == report["counts"]["patient"] == 1
    assert [leak["second"]["row"] for leak in report["findings"]] == [3, 3]
