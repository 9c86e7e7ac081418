"""A forger changes tables, metas, pixels and sources so that they agree with each other; verify finds every one."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

import ctpatch
from helpers import LAYOUTS, Prepared, build_one, change_meta, csv_columns, csv_rows, make_split, small_parts

CONFIG = ctpatch.PatchConfig(patch_size=8, stride=4, drop=("flat: std < 0.1", "dark: mean < 0.25"))
SHAPES = [(20, 24), (16, 16), (20, 24), (6, 20), (20, 24)]
PATIENTS = ["p1", "p1", "p2", "p2", "p3"]

PATCHES, SLICES, REJECTED = "patch_manifest.csv", "slice_manifest.csv", "rejected_patches.csv"
Rows = list[dict[str, str]]


@dataclass
class Forged:
    """A set whose tables and meta are changed and signed again."""

    prepared: Prepared
    tables: dict[str, Rows] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (PATCHES, SLICES, REJECTED):
            path = self.prepared.out / name
            self.tables[name], self.columns[name] = csv_rows(path), csv_columns(path)

    @property
    def layout(self) -> str:
        return str(json.loads((self.prepared.out / "patch_meta.json").read_text())["layout"])

    def sign(self) -> None:
        stated = {}
        for name, rows in self.tables.items():
            path = self.prepared.out / name
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns[name], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            content = path.read_bytes()
            stated[name] = {"bytes": len(content), "digest": xxhash.xxh3_128(content).hexdigest()}
        self.meta(lambda meta: meta.update(tables=stated))

    def meta(self, change: Callable[[dict[str, Any]], None]) -> None:
        change_meta(self.prepared.out, change)

    def cell(self, table: str, row: int, column: str, value: str) -> None:
        self.tables[table][row][column] = value

    def sources(self) -> str:
        """The digest of all sources that the table of slices would give."""
        text = ""
        for row in self.tables[SLICES]:
            names = [name for name in ("digest", "target_digest") if row.get(name)]
            text += f"{row['slice_index']} {' '.join(row[name] for name in names) or '-'}\n"
        return xxhash.xxh3_128(text.encode()).hexdigest()


def array_digest(array: np.ndarray[Any, Any]) -> str:
    shape = ",".join(str(side) for side in array.shape)
    return xxhash.xxh3_128(f"{shape};{array.dtype.str};".encode() + array.tobytes()).hexdigest()


def cell(table: str, row: int, column: str, value: str | Callable[[str], str]) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        seen = forged.tables[table][row][column]
        forged.cell(table, row, column, value if isinstance(value, str) else value(seen))

    return change


def meta(**values: Any) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        forged.meta(lambda content: content.update({name: _value(each, content) for name, each in values.items()}))

    return change


def _value(each: Any, content: dict[str, Any]) -> Any:
    return each(content) if callable(each) else each


def swap(table: str, column: str, first: int, second: int) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        rows = forged.tables[table]
        rows[first][column], rows[second][column] = rows[second][column], rows[first][column]

    return change


def skip_a_good_slice(forged: Forged) -> None:
    """The last slice is said to be faulty, and all that is known of it is taken out."""
    record = forged.tables[SLICES][-1]
    index = record["slice_index"]
    lost_windows = int(record["num_windows"])
    lost_patches = int(record["num_patches"])
    record.update(
        dict.fromkeys(("min", "max", "digest", "target_digest"), ""),
        num_windows="0",
        num_patches="0",
        status="skipped",
        reason=f"{record['src_path']} holds 7.0 at row 0, col 0",
    )
    rejected = [row for row in forged.tables[REJECTED] if row["slice_index"] == index]
    kept = [row for row in forged.tables[PATCHES] if row["slice_index"] == index]
    forged.tables[PATCHES] = [row for row in forged.tables[PATCHES] if row["slice_index"] != index]
    forged.tables[REJECTED] = [row for row in forged.tables[REJECTED] if row["slice_index"] != index]

    def count(content: dict[str, Any]) -> None:
        content["num_slices"] -= 1
        content["num_skipped"] += 1
        content["num_windows"] -= lost_windows
        content["num_patches"] -= lost_patches
        content["num_rejected"] -= lost_windows - lost_patches
        for rule in content["drop_rules"]:
            rule["dropped"] -= sum(row["rule"] == rule["name"] for row in rejected)
        content["source_digest"] = forged.sources()

    forged.meta(count)
    if forged.layout == "files":
        for row in kept:
            for column in ("patch_path", "target_patch_path"):
                (forged.prepared.root / row[column]).unlink()


def drop_a_kept_patch(forged: Forged) -> None:
    """A kept patch is moved to the rejected ones, as if a rule had hit it."""
    row = forged.tables[PATCHES].pop(3)
    row = {**row, "rule": "flat"}
    row.update({name: "" for name in row if name.endswith(("patch_path", "digest")) or name == "patch_index"})
    forged.tables[REJECTED].append(row)
    forged.tables[REJECTED].sort(key=lambda each: (int(each["slice_index"]), int(each["row"]), int(each["col"])))
    for record in forged.tables[SLICES]:
        if record["slice_index"] == row["slice_index"]:
            record["num_patches"] = str(int(record["num_patches"]) - 1)

    def count(content: dict[str, Any]) -> None:
        content["num_patches"] -= 1
        content["num_rejected"] += 1
        content["drop_rules"][0]["dropped"] += 1

    forged.meta(count)


def forget_a_window(forged: Forged) -> None:
    row = forged.tables[REJECTED].pop(0)
    for record in forged.tables[SLICES]:
        if record["slice_index"] == row["slice_index"]:
            record["num_windows"] = str(int(record["num_windows"]) - 1)

    def count(content: dict[str, Any]) -> None:
        content["num_windows"] -= 1
        content["num_rejected"] -= 1
        for rule in content["drop_rules"]:
            rule["dropped"] -= rule["name"] == row["rule"]

    forged.meta(count)


def forget_the_last_slice(forged: Forged) -> None:
    """As if the source manifest had never listed it."""
    record = forged.tables[SLICES].pop()
    index = record["slice_index"]
    kept = sum(row["slice_index"] == index for row in forged.tables[PATCHES])
    rejected = [row for row in forged.tables[REJECTED] if row["slice_index"] == index]
    for row in (
        [row for row in forged.tables[PATCHES] if row["slice_index"] == index] if forged.layout == "files" else []
    ):
        for column in ("patch_path", "target_patch_path"):
            (forged.prepared.root / row[column]).unlink()
    for table in (PATCHES, REJECTED):
        forged.tables[table] = [row for row in forged.tables[table] if row["slice_index"] != index]

    def count(content: dict[str, Any]) -> None:
        content["num_slices"] -= 1
        content["num_patches"] -= kept
        content["num_windows"] -= kept + len(rejected)
        content["num_rejected"] -= len(rejected)
        for rule in content["drop_rules"]:
            rule["dropped"] -= sum(row["rule"] == rule["name"] for row in rejected)
        content["source_digest"] = forged.sources()

    forged.meta(count)


def other_pixels_in_the_source(forged: Forged) -> None:
    """A source slice is replaced, and its digest in the tables with it; patches stay."""
    path = forged.prepared.file(2)
    image = np.load(path)
    image[5, 7] = image[5, 7] / 2 + np.float32(0.25)
    np.save(path, image)
    forged.tables[SLICES][2]["digest"] = array_digest(image)
    forged.meta(lambda content: content.update(source_digest=forged.sources()))


def other_pixels_in_a_patch(forged: Forged) -> None:
    """A patch is replaced where it is stored, with its digest; its statistics stay."""
    row = forged.tables[PATCHES][5]
    path = forged.prepared.root / row["patch_path"]
    stored = np.load(path)
    patch = stored[int(row["patch_index"])] if row["patch_index"] else stored
    flat = patch.reshape(-1)  # a view: rows of a patch are contiguous on disk
    low, high = int(flat.argmin()), int(flat.argmax())
    flat[low], flat[high] = flat[high].copy(), flat[low].copy()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - stored.nbytes] + stored.tobytes())
    if row["digest"]:
        row["digest"] = array_digest(patch)


def other_targets(forged: Forged) -> None:
    """Targets of two slices are exchanged in the tables and on disk: each image has another one's target."""
    first, second = forged.prepared.file(0, "target"), forged.prepared.file(2, "target")
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    swap(SLICES, "target_digest", 0, 2)(forged)
    forged.meta(lambda content: content.update(source_digest=forged.sources()))


def other_slice_digest(forged: Forged) -> None:
    cell(SLICES, 3, "digest", "0" * 32)(forged)
    forged.meta(lambda content: content.update(source_digest=forged.sources()))


def reverse(table: str) -> Callable[[Forged], None]:
    return lambda forged: forged.tables[table].reverse()


def exchange_rows(table: str, first: int, second: int) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        rows = forged.tables[table]
        rows[first], rows[second] = rows[second], rows[first]

    return change


def without_manifest(forged: Forged) -> None:
    forged.prepared.manifest.unlink()


def manifest_cell(row: int, column: str, value: str) -> Callable[[Forged], None]:
    """The source manifest is changed after the build."""

    def change(forged: Forged) -> None:
        path = forged.prepared.manifest
        names, rows = csv_columns(path), csv_rows(path)
        rows[row][column] = value
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return change


def plus(amount: float) -> Callable[[str], str]:
    return lambda seen: repr(float(seen) + amount)


def times(factor: float) -> Callable[[str], str]:
    return lambda seen: repr(float(seen) * factor)


# What is done, and whether the tables alone tell.
FORGERIES: dict[str, tuple[Callable[[Forged], None], bool]] = {
    "patients exchanged": (swap(SLICES, "patient_id", 0, 2), False),
    "a patient renamed": (cell(SLICES, 4, "patient_id", "p1"), False),
    "a patient blanked": (cell(SLICES, 4, "patient_id", ""), False),
    "a good slice skipped": (skip_a_good_slice, False),
    "a slice that never was": (forget_the_last_slice, False),
    "a kept patch dropped": (drop_a_kept_patch, True),
    "a window forgotten": (forget_a_window, True),
    "slice min lower": (cell(SLICES, 0, "min", plus(-0.01)), False),
    "slice min above its windows'": (cell(SLICES, 0, "min", plus(0.4)), True),
    "slice max higher": (cell(SLICES, 0, "max", plus(0.0000001)), False),
    "slice max below its windows'": (cell(SLICES, 0, "max", plus(-0.1)), True),
    "slice digest": (cell(SLICES, 1, "digest", "0" * 32), True),
    "slice digest and all that follows": (other_slice_digest, True),
    "source dtype": (cell(SLICES, 0, "src_dtype", "float64"), False),
    "all source dtypes": (
        lambda forged: [row.update(src_dtype="float16") for row in forged.tables[SLICES]].clear(),
        False,
    ),
    "height": (cell(SLICES, 1, "height", "17"), False),
    "a height blanked": (cell(SLICES, 1, "height", ""), True),
    "width of one without windows": (cell(SLICES, 3, "width", "21"), True),
    "a reason for a good slice": (cell(SLICES, 0, "reason", "it looked odd"), True),
    "status unknown": (cell(SLICES, 0, "status", "fine"), True),
    "source path": (cell(SLICES, 3, "src_path", lambda seen: seen.replace("000003", "000001")), False),
    "target path": (cell(SLICES, 0, "target_path", lambda seen: seen.replace("000000", "000002")), False),
    "target digest": (cell(SLICES, 3, "target_digest", "f" * 32), True),
    "num_windows": (cell(SLICES, 0, "num_windows", "3"), True),
    "num_patches": (cell(SLICES, 0, "num_patches", "3"), True),
    "slices in another order": (exchange_rows(SLICES, 0, 2), True),
    "slices reversed": (reverse(SLICES), True),
    "patches in another order": (exchange_rows(PATCHES, 0, 1), True),
    "patches reversed": (reverse(PATCHES), True),
    "rejected in another order": (reverse(REJECTED), True),
    "mean off by 5e-7": (cell(PATCHES, 4, "mean", plus(5e-7)), True),
    "mean off by 1e-9": (cell(PATCHES, 4, "mean", plus(1e-9)), True),
    "std off by 5e-7": (cell(PATCHES, 4, "std", plus(5e-7)), True),
    "std off by a millionth of itself": (cell(PATCHES, 4, "std", times(1 + 1e-6)), True),
    "min": (cell(PATCHES, 4, "min", plus(1e-7)), True),
    "max": (cell(PATCHES, 4, "max", plus(-1e-7)), True),
    "air_fraction": (cell(PATCHES, 4, "air_fraction", plus(1 / 64)), True),
    "rejected mean": (cell(REJECTED, 0, "mean", times(0.999999)), False),
    "rejected std": (cell(REJECTED, 0, "std", plus(5e-7)), False),
    "rejected min": (cell(REJECTED, 0, "min", lambda seen: repr(float(seen) / 2 - 1e-9)), False),
    "rejected max": (cell(REJECTED, 0, "max", plus(1e-6)), False),
    "rejected air": (cell(REJECTED, 0, "air_fraction", lambda seen: "0.5" if seen != "0.5" else "0.25"), False),
    "rejected by another rule": (cell(REJECTED, 0, "rule", lambda seen: "dark" if seen == "flat" else "flat"), True),
    "rejected has a path": (cell(REJECTED, 0, "patch_path", "x.npy"), True),
    "rejected has a digest": (cell(REJECTED, 0, "digest", "0" * 32), True),
    "rejected has an item": (cell(REJECTED, 0, "patch_index", "0"), True),
    "rejected dtype": (cell(REJECTED, 0, "dtype", "float64"), True),
    "patch id": (cell(PATCHES, 2, "patch_id", "train_000000_000_001"), True),
    "patch row": (cell(PATCHES, 2, "row", "1"), True),
    "patch source": (cell(PATCHES, 2, "src_path", lambda seen: seen.replace("000000", "000002")), True),
    "patch dtype": (cell(PATCHES, 2, "dtype", "float64"), True),
    "other pixels in a source": (other_pixels_in_the_source, False),
    "targets exchanged": (other_targets, False),
    "no source manifest": (without_manifest, False),
    "another path in the source manifest": (
        manifest_cell(0, "path", "prepared/phantoms/train/train_000002.npy"),
        False,
    ),
    "another patient in the source manifest": (manifest_cell(0, "patient_id", "p9"), False),
    "meta: source manifest": (meta(source_manifest="prepared/phantoms/train/other_manifest.csv"), False),
    "meta: manifest of nowhere": (meta(source_manifest="no/such_manifest.csv"), False),
    "meta: dataset": (meta(dataset="lodopab"), False),
    "meta: fingerprint": (meta(fingerprint="0" * 32), True),
    "meta: source digest": (meta(source_digest="1" * 32), True),
    "meta: source digest and fingerprint": (meta(source_digest="1" * 32, fingerprint="2" * 32), True),
    "meta: coverage": (meta(coverage=lambda content: content["coverage"] / 2), True),
    "meta: coverage a little": (meta(coverage=lambda content: content["coverage"] + 1e-9), True),
    "meta: pixel bytes": (meta(pixel_bytes=lambda content: content["pixel_bytes"] + 4096), True),
    "meta: num_slices": (meta(num_slices=7), True),
    "meta: num_patches": (meta(num_patches=7), True),
    "meta: num_windows": (meta(num_windows=7), True),
    "meta: num_rejected": (meta(num_rejected=0), True),
    "meta: num_skipped": (meta(num_skipped=1), True),
    "meta: dropped": (
        meta(drop_rules=lambda content: [{**rule, "dropped": rule["dropped"] + 1} for rule in content["drop_rules"]]),
        True,
    ),
    "meta: rules turned round": (meta(drop_rules=lambda content: content["drop_rules"][::-1]), True),
    "meta: a rule more": (
        meta(
            drop_rules=lambda content: [
                *content["drop_rules"],
                {"name": "none", "condition": "max > 7", "dropped": 0},
            ]
        ),
        True,
    ),
    "meta: another condition with the same hits": (
        meta(
            drop_rules=lambda content: [
                {**content["drop_rules"][0], "condition": "std < 0.1000001"},
                content["drop_rules"][1],
            ]
        ),
        True,
    ),
    "meta: value range wider": (meta(value_range=[0.0, 2.0]), True),
    "meta: air level": (meta(air_level=0.020001), True),
    "meta: pad mode that pads nothing": (meta(pad_mode="shift"), True),
    "meta: stride": (meta(stride=8), True),
    "meta: patch size": (meta(patch_size=[8, 4]), True),
    "meta: target is labels": (
        meta(arrays=lambda content: {**content["arrays"], "target": {"dtype": "float32", "labels": True}}),
        True,
    ),
    "meta: rules on another array": (meta(rules_on="target"), True),
    "meta: split": (meta(split="test"), True),
    "meta: paths relative to": (
        meta(paths_relative_to=lambda content: "patch_dir" if content["patch_dir"] != "." else "data_root"),
        True,
    ),
}
ONLY = {
    "other pixels in a patch": (other_pixels_in_a_patch, {"files", "shards", "slices"}),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def genuine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp(f"genuine-{request.param}")
    prepared = make_split(root, SHAPES, arrays={"target": "float32"}, columns={"patient_id": PATIENTS})
    result = build_one(prepared, CONFIG, layout=request.param)
    assert min(rule.dropped for rule in result.meta.drop_rules) > 0
    assert ctpatch.verify(prepared.out, deep=True).ok
    return prepared


def copied(genuine: Prepared, root: Path) -> Prepared:
    shutil.copytree(genuine.root, root, dirs_exist_ok=True)
    return Prepared(root, root / genuine.folder.relative_to(genuine.root), genuine.dataset, genuine.split,
                    genuine.images, genuine.paths)  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(genuine: Prepared, tmp_path: Path, name: str) -> None:
    change, plain = FORGERIES[name]
    forged = Forged(copied(genuine, tmp_path))
    change(forged)
    forged.sign()
    out = forged.prepared.out
    report = ctpatch.verify(out, deep=True, data_root=forged.prepared.root)
    assert not report.ok, "verify --deep passes"
    assert report.findings
    if plain:
        assert not ctpatch.verify(out, data_root=forged.prepared.root).ok, "plain verify passes"


@pytest.mark.parametrize("name", ONLY)
def test_a_forgery_of_some_layouts_is_found(genuine: Prepared, tmp_path: Path, name: str) -> None:
    change, layouts = ONLY[name]
    forged = Forged(copied(genuine, tmp_path))
    if forged.layout not in layouts:
        pytest.skip("the layout holds no such thing")
    change(forged)
    forged.sign()
    assert not ctpatch.verify(forged.prepared.out, deep=True).ok


def test_a_signature_alone_changes_nothing(genuine: Prepared, tmp_path: Path) -> None:
    forged = Forged(copied(genuine, tmp_path))
    before = (forged.prepared.out / "patch_meta.json").read_bytes()
    forged.sign()
    assert (forged.prepared.out / "patch_meta.json").read_bytes() == before
    assert ctpatch.verify(forged.prepared.out, deep=True).ok


def test_a_set_that_was_moved_with_its_data_passes(genuine: Prepared, tmp_path: Path) -> None:
    moved = copied(genuine, tmp_path / "elsewhere")
    os.rename(moved.out, moved.out.with_name("renamed"))
    assert ctpatch.verify(moved.out.with_name("renamed"), deep=True, data_root=moved.root).ok


def test_a_finding_names_the_cell_and_what_a_build_writes(genuine: Prepared, tmp_path: Path) -> None:
    forged = Forged(copied(genuine, tmp_path))
    swap(SLICES, "patient_id", 0, 2)(forged)
    forged.sign()
    found = [str(finding) for finding in ctpatch.verify(forged.prepared.out, deep=True).findings]
    assert any(re.search(r"slice_manifest.csv.* 2.*patient_id is 'p2', .*'p1'", text) for text in found)


def test_the_source_manifest_may_lie_elsewhere(genuine: Prepared, tmp_path: Path) -> None:
    copy = copied(genuine, tmp_path / "data")
    manifest = tmp_path / "a list.csv"
    copy.manifest.rename(manifest)
    report = ctpatch.verify(copy.out, deep=True)
    assert [finding.check for finding in report.findings] == ["source-manifest"]
    assert ctpatch.verify(copy.out, deep=True, source=manifest, data_root=copy.root).ok
    forged = Forged(copy)
    cell(SLICES, 4, "patient_id", "p1")(forged)
    forged.sign()
    assert not ctpatch.verify(copy.out, deep=True, source=manifest, data_root=copy.root).ok
    with pytest.raises(ctpatch.CtPatchError, match="source: without deep"):
        ctpatch.verify(copy.out, source=manifest)


@pytest.mark.parametrize("layout", ["shards", "slices"])
def test_shards_of_another_size_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Another version may make larger or smaller ones; what is in them is compared all the same."""
    prepared = make_split(tmp_path, SHAPES * 2, arrays={"target": "float32"}, columns={"patient_id": PATIENTS * 2})
    with monkeypatch.context() as patched:
        small_parts(patched, shard_bytes=5000)
        build_one(prepared, CONFIG, layout=layout)
    assert len(list(prepared.out.glob("shards/*.npy"))) > 8
    assert ctpatch.verify(prepared.out, deep=True).ok
    forged = Forged(prepared)
    other_pixels_in_a_patch(forged)
    forged.sign()
    assert not ctpatch.verify(prepared.out, deep=True).ok
