"""`patch_meta.json`: written and read back the same, and refused where it was changed or cannot be understood."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from ctpatch.config import PatchConfig
from ctpatch.errors import FormatError, UsageError
from ctpatch.format.meta import PATCH_META, ArrayInfo, DropRule, PatchMeta, TableInfo, now_utc, one_or_pair, read_meta
from helpers import refusal

META = PatchMeta(
    num_slices=10,
    num_patches=159,
    patch_size=128,
    stride=(64, 32),
    source_manifest="prepared/lodopab/train/train_manifest.csv",
    patch_dir="patches/lodopab/train",
    created="2024-01-02T03:04:05Z",
    format_version=1,
    ctpatch_version="0.1.0",
    dataset="lodopab",
    split="train",
    layout="shards",
    pad_mode="none",
    arrays={"image": ArrayInfo(dtype="float32", labels=False), "mask": ArrayInfo(dtype="uint8", labels=True)},
    value_range=(0.0, 1.0),
    air_level=0.02,
    drop_rules=(DropRule(name="flat", condition="std < 0.01", dropped=1),),
    num_rejected=1,
    coverage=0.1 + 0.2,
    fingerprint="f" * 32,
    source_digest="s" * 32,
    rules_on="image",
    num_skipped=0,
    num_windows=160,
    pixel_bytes=12345,
    paths_relative_to="data_root",
    tables={"patch_manifest.csv": TableInfo(bytes=7, digest="d")},
)


def put(folder: Path, content: bytes | str) -> Path:
    path = folder / PATCH_META
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def digest_by_hand(content: dict[str, Any]) -> str:
    left = {name: value for name, value in content.items() if name not in {"created", "meta_digest"}}
    text = json.dumps(left, sort_keys=True, separators=(",", ":"))
    return str(xxhash.xxh3_128(text.encode()).hexdigest())


def test_what_is_written_is_plain_json_with_its_digest() -> None:
    content = json.loads(META.to_bytes())
    assert content.pop("meta_digest") == digest_by_hand(content)
    assert content == {
        "num_slices": 10, "num_patches": 159, "patch_size": 128, "stride": [64, 32],
        "source_manifest": "prepared/lodopab/train/train_manifest.csv", "patch_dir": "patches/lodopab/train",
        "created": "2024-01-02T03:04:05Z", "format_version": 1, "ctpatch_version": "0.1.0", "dataset": "lodopab",
        "split": "train", "layout": "shards", "pad_mode": "none",
        "arrays": {"image": {"dtype": "float32", "labels": False}, "mask": {"dtype": "uint8", "labels": True}},
        "value_range": [0.0, 1.0], "air_level": 0.02,
        "drop_rules": [{"name": "flat", "condition": "std < 0.01", "dropped": 1}], "num_rejected": 1,
        "coverage": 0.30000000000000004, "fingerprint": "f" * 32, "source_digest": "s" * 32, "rules_on": "image",
        "num_skipped": 0, "num_windows": 160, "pixel_bytes": 12345, "paths_relative_to": "data_root",
        "tables": {"patch_manifest.csv": {"bytes": 7, "digest": "d"}},
    }  # fmt: skip
    assert list(content)[:7] == [
        "num_slices", "num_patches", "patch_size", "stride", "source_manifest", "patch_dir", "created"
    ]  # fmt: skip
    assert META.to_bytes().isascii()
    assert META.to_bytes().endswith(b"}\n")


def test_it_reads_back_the_same(tmp_path: Path) -> None:
    found = read_meta(put(tmp_path, META.to_bytes()))
    assert found.meta_digest == json.loads(META.to_bytes())["meta_digest"]
    assert found.model_copy(update={"meta_digest": ""}) == META
    assert found.to_bytes() == META.to_bytes()


def test_the_time_does_not_count_but_is_read(tmp_path: Path) -> None:
    later = META.model_copy(update={"created": "2030-01-01T00:00:00Z"})
    assert json.loads(later.to_bytes())["meta_digest"] == json.loads(META.to_bytes())["meta_digest"]
    assert read_meta(put(tmp_path, later.to_bytes())).created == "2030-01-01T00:00:00Z"


def test_patch_config_is_that_of_the_build() -> None:
    cfg = PatchConfig(patch_size=128, stride=(64, 32), air_level=0.02, drop=("flat: std < 0.01",))
    assert META.patch_config() == cfg


def refused(call: Callable[[], object]) -> str:
    message = refusal(FormatError, call)
    assert message.startswith("patch_meta.json ")
    return message


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_patches", 158), ("stride", 64), ("fingerprint", "0" * 32), ("coverage", 0.3), ("layout", "files")],
)
def test_a_changed_field_is_found(tmp_path: Path, name: str, value: Any) -> None:
    content = {**json.loads(META.to_bytes()), name: value}
    message = refused(lambda: read_meta(put(tmp_path, json.dumps(content))))
    assert "was changed after it was written" in message
    assert digest_by_hand(content) in message
    assert content["meta_digest"] in message
    assert "restore it, or build the set again" in message


def test_a_field_that_was_added_or_a_digest_that_is_gone_is_found(tmp_path: Path) -> None:
    content = json.loads(META.to_bytes())
    assert "was changed" in refused(lambda: read_meta(put(tmp_path, json.dumps({**content, "extra": 1}))))
    del content["meta_digest"]
    assert "it states None" in refused(lambda: read_meta(put(tmp_path, json.dumps(content))))


def resealed(**changes: Any) -> str:
    content = {**json.loads(META.to_bytes()), **changes}
    content = {name: value for name, value in content.items() if value is not ...}
    return json.dumps({**content, "meta_digest": digest_by_hand(content)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_patches": ...}, "num_patches: Field required"),
        ({"num_patches": "many"}, "num_patches: "),
        ({"layout": "zarr"}, "layout: "),
        ({"pad_mode": "mirror"}, "pad_mode: "),
        ({"created": "yesterday"}, "created: "),
        ({"created": "2024-01-02 03:04:05"}, "created: "),
        ({"paths_relative_to": "root"}, "paths_relative_to: "),
        ({"arrays": {"image": {"dtype": "float32"}}}, "arrays.image.labels: Field required"),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    message = refused(lambda: read_meta(put(tmp_path, resealed(**changes))))
    assert f"does not fit the format: {said}" in message
    assert message.endswith("build the set again")


def test_resealing_is_what_the_reader_accepts(tmp_path: Path) -> None:
    assert read_meta(put(tmp_path, resealed(num_patches=3))).num_patches == 3  # else the test above proves nothing


def test_fields_of_a_later_version_are_ignored_and_covered_by_the_digest(tmp_path: Path) -> None:
    more = {"spacing_mm": [0.5, 0.5], "arrays": json.loads(META.to_bytes())["arrays"]}
    more["arrays"]["image"]["unit"] = "HU"
    text = resealed(**more)
    found = read_meta(put(tmp_path, text))
    assert found.meta_digest == json.loads(text)["meta_digest"] != json.loads(META.to_bytes())["meta_digest"]
    assert found.model_copy(update={"meta_digest": ""}) == META
    assert "was changed" in refusal(FormatError, lambda: read_meta(put(tmp_path, text.replace("HU", "mm"))))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (META.to_bytes()[:-3], "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[1]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"num_slices": 10, "num_patches": 160}', "has no format_version: the folder was not written by ctpatch"),
        (b'{"format_version": 2}', "has format_version 2, this ctpatch reads 1"),
        (b'{"format_version": "1"}', "has format_version '1', this ctpatch reads 1"),
        (b'{"format_version": 1, "x": NaN}', "does not fit the format"),
        (b'{"format_version": 1, "x": 1e999}', "does not fit the format"),
        (b'{"format_version": 1, "x": "\\ud800"}', "does not fit the format: num_slices"),
    ],
)
def test_damage_is_told_apart(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refused(lambda: read_meta(put(tmp_path, content)))


def test_a_huge_file_is_not_even_read(tmp_path: Path) -> None:
    path = put(tmp_path, b"{")
    with path.open("r+b") as file:
        file.truncate((64 << 20) + 1)
    assert f"has {(64 << 20) + 1} bytes, which no such file has" in refused(lambda: read_meta(path))


def test_no_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_meta(tmp_path / PATCH_META)
    folder = tmp_path / "other" / PATCH_META
    folder.mkdir(parents=True)
    assert "cannot be read" in refused(lambda: read_meta(folder))


@pytest.mark.parametrize(
    ("epoch", "wanted"),
    [("0", "1970-01-01T00:00:00Z"), ("1700000000", "2023-11-14T22:13:20Z"), (" 86399 ", "1970-01-01T23:59:59Z")],
)
def test_source_date_epoch_decides_the_time(monkeypatch: pytest.MonkeyPatch, epoch: str, wanted: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert now_utc() == wanted


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system's time zone cannot be set by a process")
def test_the_time_is_utc_wherever_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    try:
        for zone in ("XXX-9", "YYY+5"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert now_utc() == "2023-11-14T22:13:20Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("epoch", ["", "now", "1.5", "1e9", "9" * 30])
def test_an_epoch_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(UsageError) as caught:
        now_utc()
    assert caught.value.exit_status == 2
    assert str(caught.value) == (f"SOURCE_DATE_EPOCH is {epoch!r}, wanted seconds since 1970 as a whole number")


def test_without_it_the_time_is_now_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time()))
    found = now_utc()
    after = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time()))  # gmtime() alone may be a tick behind
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found)
    assert before <= found <= after


def test_one_number_where_both_agree() -> None:
    assert one_or_pair((64, 64)) == 64
    assert one_or_pair((64, 32)) == (64, 32)
