"""Fields and cells of the right type that make no sense, with the right digests: an error of ours at every door."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

import ctpatch
from ctpatch.errors import CtPatchError, FormatError
from helpers import (
    Prepared,
    assert_same_tree,
    build_one,
    change_meta,
    csv_rows,
    make_split,
    rewrite_table,
    small_parts,
    tree_bytes,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    prepared = make_split(tmp_path_factory.mktemp("nonsense"), [(24, 32)] * 2)
    build_one(prepared)
    return prepared


@pytest.fixture
def folder(template: Prepared, tmp_path: Path) -> Path:
    copy = tmp_path / "root"
    shutil.copytree(template.root, copy)
    return copy / template.out.relative_to(template.root)


def doors(folder: Path) -> dict[str, Callable[[], object]]:
    root = folder.parents[2]
    return {
        "open": lambda: ctpatch.open(folder).slices,
        "report": lambda: ctpatch.report(folder, root / "report.html"),
        "convert": lambda: ctpatch.convert(folder, root / "patches/other", layout="shards"),
        "slice": lambda: ctpatch.open(folder).slice(0),
        "reassemble": lambda: ctpatch.open(folder).reassemble(0),
        "predict": lambda: ctpatch.predict(lambda patches: patches, ctpatch.open(folder), out=root / "predicted"),
        "loader": lambda: list(ctpatch.open(folder).batches(4, balance="slice_index")),
    }


METAS: list[tuple[dict[str, Any], str]] = [
    ({"patch_size": 0}, "does not fit the format: patch_size"),
    ({"patch_size": [16, -1]}, "does not fit the format: patch_size"),
    ({"stride": 10**6}, "does not fit the format: stride"),
    ({"value_range": [1.0, 0.0]}, "does not fit the format: value_range"),
    ({"air_level": 1e308 * 10}, "does not fit the format"),
    ({"rules_on": ""}, "does not fit the format"),
    ({"split": "a/../b"}, "does not fit the format: split 'a/../b' cannot be used as a name"),
    ({"split": ""}, "does not fit the format: split '' cannot be used as a name"),
    ({"dataset": "\x1b[2J"}, "does not fit the format: dataset"),
    ({"dataset": "\ud800"}, "half a character"),
    ({"source_manifest": "a\udfff.csv"}, "half a character"),
    ({"drop_rules": [{"name": "a b", "condition": "std < 1", "dropped": 0}]}, "does not fit the format"),
    ({"drop_rules": [{"name": "a", "condition": "std < 1", "dropped": 0}] * 2}, "does not fit the format: drop"),
]


@pytest.mark.parametrize(("fields", "said"), METAS)
def test_metas_that_are_no_options(folder: Path, fields: dict[str, Any], said: str) -> None:
    change_meta(folder, lambda meta: meta.update(fields))
    for door in doors(folder).values():
        with pytest.raises(FormatError, match=r"patch_meta\.json") as caught:
            door()
        assert said in caught.value.message
    report = ctpatch.verify(folder)
    assert (report.status, [finding.check for finding in report.findings]) == ("failed", ["meta"])


CELLS: list[tuple[str, str, str]] = [
    ("height", "2147483647", "2147483647, wanted 1 to 16384 pixels"),
    ("width", "16385", "16385, wanted 1 to 16384 pixels"),
    ("height", "-1", "-1, wanted 1 to 16384 pixels"),
    ("width", "0", "0, wanted 1 to 16384 pixels"),
    ("height", "", "the cell is empty, wanted a value"),
    ("slice_index", "", "the cell is empty, wanted a value"),
    ("slice_index", "-1", "-1, wanted 0 or more"),
    ("slice_index", "1", "1, wanted once"),
    ("num_patches", "-4", "-4, wanted 0 or more"),
    ("num_windows", "", "the cell is empty, wanted a value"),
    ("src_path", "", "the cell is empty, wanted a value"),
    ("digest", "", "the cell is empty, wanted the digest of a slice that was cut"),
    ("status", "", "the cell is empty, wanted a value"),
    ("status", "-1", "'-1', wanted ok or skipped"),
]


@pytest.mark.parametrize(("column", "value", "said"), CELLS)
def test_slices_that_cannot_be(folder: Path, column: str, value: str, said: str) -> None:
    """Those who use the rows refuse them; who checks them finds them."""
    rewrite_table(folder, "slice_manifest.csv", 0, column, value)
    for door in doors(folder).values():
        with pytest.raises(FormatError) as caught:
            door()
        assert f"slice_manifest.csv row 2, column {column}: {said}" in caught.value.message
    report = ctpatch.verify(folder)
    assert report.status == "failed"
    assert "slice_manifest.csv" in {finding.file for finding in report.findings}


def test_an_array_that_the_meta_does_not_have_is_found(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(24, 32)], arrays={"mask": "uint8"})
    build_one(prepared)
    change_meta(prepared.out, lambda meta: meta["arrays"].pop("mask"))
    report = ctpatch.verify(prepared.out, deep=True)
    assert report.status == "failed"
    assert "label_counts: 'mask' is no array of labels" in report.findings[0].message
    change_meta(prepared.out, lambda meta: meta.pop("label_counts"))
    report = ctpatch.verify(prepared.out, deep=True)
    assert report.status == "failed"
    assert any(finding.message.startswith("source_digest is ") for finding in report.findings)


def test_windows_of_a_slice_that_was_not_cut_are_not_lost_quietly(folder: Path) -> None:
    """Converting would leave them out."""
    rewrite_table(folder, "patch_manifest.csv", 2, "slice_index", "7")
    with pytest.raises(FormatError, match=r"patch_manifest\.csv row 4, column slice_index: 7, wanted a slice"):
        ctpatch.convert(folder, folder.parents[2] / "patches/other", layout="shards")


def test_verify_makes_no_grid_of_a_slice_that_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 2**31 rows would fill the memory."""
    asked: list[int] = []
    real = ctpatch.core.grid.axis_starts  # type: ignore[attr-defined]

    def watched(length: int, *others: Any) -> list[int]:
        asked.append(length)
        return real(length, *others)  # type: ignore[no-any-return]

    monkeypatch.setattr("ctpatch.core.grid.axis_starts", watched)
    for column in ("height", "width"):
        rewrite_table(folder, "slice_manifest.csv", 1, column, "2147483647")
    findings = {str(finding) for finding in ctpatch.verify(folder).findings}
    assert any("the slice has 2147483647x2147483647 pixels, wanted 1 to 16384 each way" in each for each in findings)
    assert asked
    assert max(asked) == 32


def test_a_set_that_says_more_than_memory_holds(folder: Path) -> None:
    change_meta(folder, lambda meta: meta.update(num_patches=2**40))
    ps = ctpatch.open(folder)
    with pytest.raises(CtPatchError):
        ps.read([0])
    with pytest.raises(CtPatchError):
        list(ps.batches(4))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sources", [[0]]),
        ("sources", [[0, [["x"]]]]),
        ("sources", [["0", ["x"]]]),
        ("dropped", {"flat": "1"}),
        ("num_patches", None),
        ("num_patches", 1.5),
        ("skipped", [1]),
        ("pieces", []),
    ],
)
def test_a_receipt_of_other_types_is_none(
    template: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any
) -> None:
    """Its digest holds and its part is done again: the set is right."""
    small_parts(monkeypatch, slices=1)
    prepared = make_split(tmp_path / "root", [(24, 32)] * 2)
    config = ctpatch.PatchConfig(patch_size=16, stride=8)
    ctpatch.build_share(prepared.folder, "1/1", config)
    (path, *_) = sorted((prepared.out / ".ctpatch").glob("*.receipt.json"))
    content = json.loads(path.read_text())
    del content["digest"]
    assert field in content
    content[field] = value
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**content, "digest": xxhash.xxh3_128(text.encode()).hexdigest()}))
    build_one(prepared)
    assert ctpatch.verify(prepared.out, deep=True).ok
    assert len(csv_rows(prepared.out / "patch_manifest.csv")) == len(ctpatch.open(template.out))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", [{}]),
        ("rows", [{"index": "x"}]),
        ("rows", [{"index": 0, "path": [1]}]),
        ("left_out", [["x"]]),
        ("left_out", [["x", 1]]),
        ("digests", {"../../x.npy": "0", "a\x00b": "1"}),
    ],
)
def test_a_receipt_of_prepared_slices_that_makes_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any
) -> None:
    """The run was cut off after its slices; the part is done again, and the set is that of an undisturbed run."""
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from ctpatch.work.folder import WorkFolder
    from dicom_files import write_series

    write_series(tmp_path / "raw", 2)
    (tmp_path / "my.key").write_bytes(b"0123456789abcdef" * 4)

    def run(name: str) -> Any:
        return ctpatch.prepare_dicom(
            tmp_path / "raw", tmp_path / name, "set", split=["train=1"], key=tmp_path / "my.key"
        )

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "put", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run("data")
    (path,) = (tmp_path / "data/prepared/set/.ctpatch").glob("*.receipt.json")
    content = json.loads(path.read_text())
    del content["digest"]
    content[field] = value
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**content, "digest": xxhash.xxh3_128(text.encode()).hexdigest()}))
    run("data")
    run("undisturbed")
    found, wanted = (tree_bytes(tmp_path / name / "prepared/set/train") for name in ("data", "undisturbed"))
    assert_same_tree(found, wanted)
