"""`prepare_meta.json`: read back the same, tolerant of what later versions add, and of nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from ctpatch.errors import FormatError
from ctpatch.format.prepared_meta import NoteInfo, PreparedMeta, SplitInfo, read_dataset_meta


def read_prepared_meta(path: Path) -> PreparedMeta:
    return read_dataset_meta(path, PreparedMeta)


META = PreparedMeta(
    format_version=1,
    ctpatch_version="0.1.0",
    created="2024-01-02T03:04:05Z",
    dataset="set",
    source="dicom",
    options={"window": [0, 1]},
    mapping={"kind": "linear"},
    arrays={"image": "float32"},
    splits={"train": SplitInfo(manifest="train.csv", manifest_digest="d", num_slices=3, num_patients=2)},
    grouped_by={"patient": 3},
    key_id="k",
    num_left_out={"scout": 1},
    left_out_digest="l",
    notes=[NoteInfo(kind="gap", series="s", message="m")],
    num_identical=0,
    plan_digest="p",
)


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> Path:
    """The file with a change, and the digest that belongs to it."""
    content = json.loads(META.to_bytes())
    change(content)
    if sealed:
        covered = {name: value for name, value in content.items() if name not in {"created", "meta_digest"}}
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
        content["meta_digest"] = xxhash.xxh3_128(text.encode()).hexdigest()
    path = tmp_path / "prepare_meta.json"
    path.write_text(json.dumps(content))
    return path


def test_it_reads_back_the_same(tmp_path: Path) -> None:
    found = read_prepared_meta(changed(tmp_path, lambda _: None, sealed=False))
    assert found.model_copy(update={"meta_digest": ""}) == META
    assert read_prepared_meta(changed(tmp_path, lambda _: None)) == found


def test_fields_of_a_later_version_are_ignored_and_covered_by_the_digest(tmp_path: Path) -> None:
    def more(content: dict[str, Any]) -> None:
        content["scanner"] = "x"
        content["splits"]["train"]["sites"] = 2
        content["notes"][0]["slice"] = 7

    found = read_prepared_meta(changed(tmp_path, more))
    assert found.model_copy(update={"meta_digest": ""}) == META
    with pytest.raises(FormatError, match="its digest does not hold"):
        read_prepared_meta(changed(tmp_path, more, sealed=False))


@pytest.mark.parametrize(
    ("name", "value"), [("num_identical", "0"), ("num_identical", 0.0), ("dataset", 1), ("splits", []), ("notes", None)]
)
def test_a_wrong_type_stays_an_error(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(FormatError, match="is not what ctpatch writes"):
        read_prepared_meta(changed(tmp_path, lambda content: content.update({name: value})))


@pytest.mark.parametrize("name", ["plan_digest", "splits", "created"])
def test_a_missing_field_stays_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="is not what ctpatch writes"):
        read_prepared_meta(changed(tmp_path, lambda content: content.pop(name)))
