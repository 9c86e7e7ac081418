"""Whatever is changed in a finished set, verify finds it; what is right, it passes."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.screen import verify_text
from ctpatch.errors import UsageError
from ctpatch.events import WorkAdvanced, WorkStarted
from helpers import (
    LAYOUTS,
    Heard,
    Prepared,
    build_one,
    change_meta,
    csv_rows,
    make_split,
    rewrite_table,
    tree_bytes,
)

CONFIG = ctpatch.PatchConfig(patch_size=8, stride=4, drop=("top: row = 0 and col = 0",))


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def tiny(tmp_path: Path, layout: Any) -> Prepared:
    """Two slices of 12x12 with masks: four windows each, one of them dropped."""
    prepared = make_split(tmp_path, [(12, 12)] * 2, arrays={"mask": np.uint8})
    result = build_one(prepared, CONFIG, layout=layout)
    assert (result.meta.num_patches, result.meta.num_rejected) == (6, 2)
    return prepared


def test_a_good_set_passes(tiny: Prepared) -> None:
    heard = Heard()
    for deep in (False, True):
        report = ctpatch.verify(tiny.out, deep=deep, listener=heard)
        assert (report.ok, report.status, report.deep) == (True, "ok", deep)
        assert (report.num_patches, report.num_slices, report.num_findings) == (6, 2, 0)
        assert report.as_dict()["ok"] is True
        assert json.loads(json.dumps(report.as_dict()))["name"] == "phantoms/train"
    assert sum(event.steps for event in heard.events if isinstance(event, WorkAdvanced)) == 6
    assert [event.total for event in heard.events if isinstance(event, WorkStarted)] == [2, 2, 2]


def test_verifying_changes_nothing(tiny: Prepared) -> None:
    before = tree_bytes(tiny.root)
    ctpatch.verify(tiny.out, deep=True)
    assert tree_bytes(tiny.root) == before


def created_span(content: bytes) -> range:
    start = content.index(b'"created": "') + len(b'"created": "')
    return range(start, content.index(b'"', start))


def positions(name: str, content: bytes) -> list[int]:
    """Places spread over a file: the header of a .npy closely, the rest in strides."""
    length = len(content)
    close = range(0, min(length, 128), 5) if name.endswith(".npy") else range(0)
    spread = {*close, *range(0, length, max(length // 20, 1)), length - 1}
    return sorted(spread - set(created_span(content)) if name == "patch_meta.json" else spread)


def test_one_flipped_byte_anywhere_is_found(tiny: Prepared) -> None:
    tree = {name: content for name, content in tree_bytes(tiny.out).items() if not name.endswith("/")}
    # 1 makes the next digit or letter; 0x29 and 0x2a turn blanks into tabs and line breaks, which readers pass over.
    masks = itertools.cycle((0x01, 0x29, 0x80, 0x2A, 0x40, 0x0C))
    missed, tried = [], 0
    pixels = [name for name in tree if name.endswith(".npy")]
    chosen = {name for name in tree if not name.endswith(".npy")} | {*pixels[:1], *pixels[-1:]}
    for name in sorted(chosen):
        for at in positions(name, tree[name]):
            mask = next(masks)
            flipped = bytearray(tree[name])
            flipped[at] ^= mask
            (tiny.out / name).write_bytes(flipped)
            tried += 1
            if ctpatch.verify(tiny.out).status != "failed":
                missed.append((name, at, mask))
        (tiny.out / name).write_bytes(tree[name])
    assert missed == []
    assert tried > 75
    assert ctpatch.verify(tiny.out).ok


def test_every_pixel_file_is_looked_at(tiny: Prepared, layout: Any) -> None:
    victims = sorted(tiny.out.rglob("*.npy"))
    assert len(victims) == {"files": 12, "shards": 2, "slices": 2, "index": 0}[layout]
    for victim in victims:
        content = victim.read_bytes()
        for at in (len(content) - 1, len(content) - 40):
            flipped = bytearray(content)
            flipped[at] ^= 1
            victim.write_bytes(flipped)
            report = ctpatch.verify(tiny.out)
            assert report.counts["digest"] > 0, victim
        victim.write_bytes(content)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda _content: None,
    "cut": lambda content: content[:-1],
    "halved": lambda content: content[: len(content) // 2],
    "emptied": lambda _content: b"",
    "lengthened": lambda content: content + b"\n",
    "doubled": lambda content: content + content,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_removed_cut_and_lengthened_are_found(tiny: Prepared, damage: str) -> None:
    for name, content in tree_bytes(tiny.out).items():
        if name.endswith("/"):
            continue
        victim = tiny.out / name
        bad = DAMAGES[damage](content)
        victim.unlink()
        if bad is not None:
            victim.write_bytes(bad)
        if name == "patch_meta.json" and bad is None:
            with pytest.raises(UsageError, match="is no patch set"):
                ctpatch.verify(tiny.out)
        else:
            report = ctpatch.verify(tiny.out)
            assert report.status == "failed", name
            assert any(name in str(finding) or Path(name).stem in str(finding) for finding in report.findings), name
        victim.write_bytes(content)
    assert ctpatch.verify(tiny.out).ok


def test_swapped_files_are_found(tiny: Prepared) -> None:
    names = [name for name in tree_bytes(tiny.out) if not name.endswith("/")]
    pixels = [name for name in names if name.endswith(".npy")]
    tables = [name for name in names if name.endswith(".csv")]
    for one, other in [*itertools.pairwise(pixels), *itertools.pairwise(tables)]:
        first, second = (tiny.out / one).read_bytes(), (tiny.out / other).read_bytes()
        assert first != second
        (tiny.out / one).write_bytes(second)
        (tiny.out / other).write_bytes(first)
        assert ctpatch.verify(tiny.out).status == "failed", (one, other)
        (tiny.out / one).write_bytes(first)
        (tiny.out / other).write_bytes(second)
    assert ctpatch.verify(tiny.out).ok


FORGED = {
    "patch_manifest.csv": {
        "patch_id": ("train_000000_000_005", {"ids"}),
        "slice_index": ("7", {"slices", "ids"}),
        "src_path": ("prepared/phantoms/train/other.npy", {"paths"}),
        "row": ("1", {"coordinates", "ids"}),
        "col": ("12", {"coordinates", "ids"}),
        "patch_path": ("/etc/passwd", {"paths"}),
        "mask_patch_path": ("../x.npy", {"paths"}),
        "min": ("0.5", {"statistics"}),
        "max": ("1.5", {"range", "statistics"}),
        "mean": ("0.123", {"statistics"}),
        "std": ("0.25", {"statistics"}),
        "air_fraction": ("0.5", {"statistics"}),
        "dtype": ("float64", {"dtype"}),
    },
    "rejected_patches.csv": {
        "patch_id": ("train_000000_000_005", {"ids"}),
        "row": ("3", {"coordinates"}),
        "max": ("2.0", {"range"}),
        "rule": ("other", {"rules", "counts"}),
    },
    "slice_manifest.csv": {
        "slice_index": ("1", {"unique"}),
        "src_path": ("../x.npy", {"paths"}),
        "height": ("16", {"windows"}),
        "num_windows": ("5", {"windows"}),
        "num_patches": ("2", {"counts"}),
        "status": ("skipped", {"slices", "counts"}),
    },
}


@pytest.mark.parametrize(("table", "column"), [(table, column) for table in FORGED for column in FORGED[table]])
@pytest.mark.parametrize("also_meta", [False, True])
def test_an_edited_cell_is_found(tiny: Prepared, table: str, column: str, also_meta: bool) -> None:
    value, checks = FORGED[table][column]
    before = (tiny.out / "patch_meta.json").read_bytes()
    assert csv_rows(tiny.out / table)[0][column] != value
    rewrite_table(tiny.out, table, 0, column, value)
    if not also_meta:
        (tiny.out / "patch_meta.json").write_bytes(before)
    report = ctpatch.verify(tiny.out)
    assert report.status == "failed"
    if also_meta:
        assert checks <= report.counts.keys(), report.counts
    else:
        assert report.counts.keys() & {"table-digest", "table-size"}
    assert any(finding.row == 2 for finding in report.findings)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"num_patches": 7}, "tables"),
        ({"num_slices": 3}, "counts"),
        ({"num_rejected": 1}, "counts"),
        ({"num_windows": 9}, "counts"),
        ({"num_skipped": 1}, "counts"),
        ({"drop_rules": []}, "rules"),
        ({"drop_rules": [{"name": "top", "condition": "row = 4", "dropped": 2}]}, "rules"),
        ({"drop_rules": [{"name": "top", "condition": "row = 0 and col = 0", "dropped": 3}]}, "counts"),
        ({"stride": 5}, "coordinates"),
        ({"split": "test"}, "ids"),
        ({"value_range": [0.0, 0.5]}, "range"),
        ({"air_level": 0.5}, "statistics"),
    ],
)
def test_a_forged_meta_is_found(tiny: Prepared, change: dict[str, Any], check: str) -> None:
    change_meta(tiny.out, lambda meta: meta.update(change))
    report = ctpatch.verify(tiny.out)
    assert report.status == "failed"
    assert report.counts[check] > 0, report.findings[:5]


def test_a_patch_too_many_is_found(tiny: Prepared, layout: Any) -> None:
    if layout == "index":
        pytest.skip("the layout index has no files of its own")
    folder = "" if layout == "files" else "shards/"
    name = "train_000009_000_000.npy" if layout == "files" else "train_00009.npy"
    np.save(tiny.out / folder / name, np.zeros((8, 8), np.float32))
    (tiny.out / "notes.txt").write_text("mine")
    report = ctpatch.verify(tiny.out)
    assert [(finding.check, finding.file) for finding in report.findings] == [("unlisted", folder + name)]


def test_a_forged_patch_with_nan_is_found(tmp_path: Path) -> None:
    import xxhash

    prepared = make_split(tmp_path, [(12, 12)])
    build_one(prepared, CONFIG)
    row = csv_rows(prepared.out / "patch_manifest.csv")[0]
    victim = prepared.root / row["patch_path"]
    patch = np.load(victim)
    patch[2, 3] = np.nan
    np.save(victim, patch)
    digest = xxhash.xxh3_128(b"8,8;<f4;" + patch.tobytes()).hexdigest()
    rewrite_table(prepared.out, "patch_manifest.csv", 0, "digest", digest)
    report = ctpatch.verify(prepared.out)
    assert report.status == "failed"
    assert report.counts == {"statistics": 4}
    for name in ("min", "max", "mean", "std"):
        rewrite_table(prepared.out, "patch_manifest.csv", 0, name, "NaN")
    report = ctpatch.verify(prepared.out)
    assert report.status == "failed"
    assert report.counts["range"] > 0


def test_deep_finds_a_changed_source(tiny: Prepared, layout: Any) -> None:
    for array in ("image", "mask"):
        original = np.load(tiny.file(1, array))
        changed = original.copy()
        changed[11, 11] = 1 if changed[11, 11] == 0 else 0
        np.save(tiny.file(1, array), changed)
        assert ctpatch.verify(tiny.out).ok is (layout != "index")
        report = ctpatch.verify(tiny.out, deep=True)
        assert report.status == "failed"
        assert any(tiny.paths[array][1] in finding.message for finding in report.findings)
        np.save(tiny.file(1, array), original)
    assert ctpatch.verify(tiny.out, deep=True).ok


def test_deep_finds_a_missing_source(tiny: Prepared) -> None:
    tiny.file(0).unlink()
    report = ctpatch.verify(tiny.out, deep=True)
    assert report.status == "failed"
    assert any(tiny.paths["image"][0] in str(finding) for finding in report.findings)


def test_deep_says_once_for_each_source_that_it_is_gone(tiny: Prepared, layout: Any) -> None:
    gone = [tiny.file(at) for at in (0, 1)]
    for each in gone:
        each.unlink()
    report = ctpatch.verify(tiny.out, deep=True)
    sources = [finding for finding in report.findings if finding.check == "source"]
    assert [finding.file for finding in sources] == [tiny.paths["image"][at] for at in (0, 1)]
    assert [finding.patches for finding in sources] == [3, 3]
    for finding in sources:
        assert "is gone" in finding.message
        assert "--data-root" in finding.message
    assert not any("prepare it" in finding.message for finding in report.findings)
    assert report.num_findings == len(report.findings) == (4 if layout == "index" else 2)


@pytest.mark.parametrize("damage", ["removed", "cut"])
@pytest.mark.parametrize("workers", [1, 2])
def test_one_fault_of_a_shard_is_one_finding(tmp_path: Path, damage: str, workers: int) -> None:
    prepared = make_split(tmp_path, [(40, 50)] * 3)
    build_one(prepared, ctpatch.PatchConfig(patch_size=4, stride=1), layout="shards")
    (victim,) = prepared.out.rglob("*.npy")
    content = victim.read_bytes()
    victim.unlink()
    if damage == "cut":
        victim.write_bytes(content[:-1])
    report = ctpatch.verify(prepared.out, workers=workers)
    (finding,) = report.findings
    assert (report.num_findings, dict(report.counts), finding.check) == (1, {"file": 1}, "file")
    assert finding.file.endswith(victim.name)
    assert finding.patches == report.num_patches == 3 * 37 * 47
    assert json.loads(json.dumps(report.as_dict()))["findings"][0]["patches"] == report.num_patches
    text = verify_text(report, prepared.out)
    assert text.count(victim.name) == 1
    assert "(5,217 patches) [file]" in text
    assert "failed: phantoms/train: 1 finding in 5,217 patches of 3 slices (1 file)" in text


def test_a_table_cut_short_is_named_in_the_text(tiny: Prepared) -> None:
    table = tiny.out / "patch_manifest.csv"
    table.write_bytes(table.read_bytes()[:-5])
    report = ctpatch.verify(tiny.out)
    assert [finding.file for finding in report.findings] == ["patch_manifest.csv"] * len(report.findings)
    lines = verify_text(report, tiny.out).splitlines()
    assert all(line.startswith(("patch_manifest.csv", "failed: ")) for line in lines), lines
    assert any(line.startswith("patch_manifest.csv is cut short") for line in lines), lines


def test_deep_finds_forged_statistics_of_rejected_windows(tiny: Prepared) -> None:
    mean = csv_rows(tiny.out / "rejected_patches.csv")[1]["mean"]
    rewrite_table(tiny.out, "rejected_patches.csv", 1, "mean", repr(float(mean) + 1e-3))
    report = ctpatch.verify(tiny.out, deep=True)
    assert [(finding.check, finding.file, finding.row) for finding in report.findings] == [
        ("statistics", "rejected_patches.csv", 3)
    ]


def test_an_unfinished_build_is_incomplete(tiny: Prepared) -> None:
    (tiny.out / "patch_meta.json").unlink()
    (tiny.out / ".ctpatch").mkdir()
    report = ctpatch.verify(tiny.out)
    assert (report.ok, report.status) == (False, "incomplete")
    assert "incomplete" in report.findings[0].message


def test_workers_find_the_same(tiny: Prepared) -> None:
    rewrite_table(tiny.out, "patch_manifest.csv", 4, "mean", "0.123")
    one, two = (ctpatch.verify(tiny.out, deep=True, workers=workers) for workers in (1, 2))
    assert one.findings == two.findings
    assert one.counts == two.counts
    assert one.counts["statistics"] == 2  # by the pixels, and by the build again


def test_many_findings_are_counted(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(40, 50)] * 3)
    build_one(prepared, ctpatch.PatchConfig(patch_size=4, stride=2), layout="index")
    change_meta(prepared.out, lambda meta: meta.update(split="other"))
    report = ctpatch.verify(prepared.out)
    rows = 3 * 19 * 24
    assert (report.num_patches, len(report.findings)) == (rows, 1000)
    assert report.counts["ids"] == 1001


def test_other_names_for_the_folder(tiny: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.out)
    assert ctpatch.verify(".", deep=True).ok
    assert ctpatch.verify(str(tiny.out) + os.sep).ok
    with pytest.raises(UsageError):
        ctpatch.verify(tiny.out / "nowhere")
    shutil.rmtree(tiny.out)
    with pytest.raises(UsageError):
        ctpatch.verify(tiny.out)
