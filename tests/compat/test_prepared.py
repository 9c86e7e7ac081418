"""Prepared sets of 0.1.0: found complete, read, built from, audited, and resumed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from compat.cases import CHEST
from compat.common import (
    Image,
    copy_group,
    cut_by_hand,
    differences,
    digests_below,
    digests_but_lock,
    run_command,
    table,
)

ARRAYS = {"image": "path", "target": "target_path"}


def prepare(root: Path, out: str, **options: Any) -> ctpatch.PrepareResult:
    """The call that made the fixtures."""
    return ctpatch.prepare_dicom(root / "dicom", root / out, "chest", key=root / "pseudonym.key", **CHEST, **options)


def prepared_slices(root: Path) -> Iterator[tuple[dict[str, str], dict[str, Image]]]:
    """Rows of the manifests, and the slices they list."""
    for split in ("train", "test"):
        for row in table(root / f"prepared/chest/{split}/{split}_manifest.csv"):
            yield row, {name: np.load(root / row[column]) for name, column in ARRAYS.items()}


def test_slices_have_the_values_of_the_raw_files(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    root = copy_group("raw", tmp_path)
    raw: dict[tuple[str, float], list[bytes]] = {}
    for path in (root / "dicom").rglob("*.dcm"):
        each = pydicom.dcmread(path)
        # Stored values are HU + 1024, and -1024 to 3072 HU become 0 to 1.
        values = (each.pixel_array / 4096).astype(np.float32)
        place = each.SeriesDescription.partition(" ")[0], float(each.ImagePositionPatient[2])
        raw.setdefault(place, []).append(values.tobytes())
    found: dict[tuple[str, float], list[bytes]] = {}
    for row, slices in prepared_slices(root / "finished"):
        for name, dose in (("image", "low"), ("target", "full")):
            found.setdefault((dose, float(row["position_mm"])), []).append(slices[name].tobytes())
    assert {place: sorted(each) for place, each in found.items()} == {p: sorted(each) for p, each in raw.items()}


def test_it_is_found_complete(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    root = copy_group("raw", tmp_path)
    before = digests_below(root / "finished")
    result = prepare(root, "finished")
    assert (result.outcome, result.complete, result.meta.ctpatch_version) == ("complete", True, "0.1.0")
    assert differences(digests_below(root / "finished"), before) == {}


def test_other_options_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    root = copy_group("raw", tmp_path)
    for out in ("finished", "unfinished"):
        before = digests_but_lock(root / out)
        with pytest.raises(ctpatch.CtPatchError, match="low_hu"):
            prepare(root, out, window=(-1000, 1000))
        assert differences(digests_but_lock(root / out), before) == {}


def test_patches_are_built_from_it(tmp_path: Path) -> None:
    root = copy_group("raw", tmp_path) / "finished"
    config = ctpatch.PatchConfig(patch_size=4, stride=4)
    for result in ctpatch.build(root / "prepared/chest", config, layout="shards"):
        assert ctpatch.verify(result.folder, deep=True).ok
        ps = ctpatch.open(result.folder)
        slices = {row["path"]: arrays for row, arrays in prepared_slices(root)}
        assert len(ps) == 6 * len(ps.slices)
        for number, row in enumerate(ps.manifest.iter_rows(named=True)):
            for name, image in slices[row["src_path"]].items():
                wanted = cut_by_hand(image, row["row"], row["col"], (4, 4), np.float32)
                assert ps[number][name].tobytes() == wanted.tobytes()


def test_it_is_audited(tmp_path: Path) -> None:
    report = ctpatch.audit(copy_group("raw", tmp_path) / "finished/prepared/chest")
    assert report.ok
    assert [(each["name"], each["slices"]) for each in report.as_dict()["splits"]] == [
        ("chest/test", 2),
        ("chest/train", 4),
    ]


def test_nothing_is_built_from_an_unfinished_one(tmp_path: Path) -> None:
    root = copy_group("raw", tmp_path)
    before = digests_below(root / "unfinished")
    with pytest.raises(ctpatch.CtPatchError, match="has not finished"):
        ctpatch.build(root / "unfinished/prepared/chest")
    assert differences(digests_below(root / "unfinished"), before) == {}


def test_an_unfinished_one_is_resumed_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    root = copy_group("raw", tmp_path)
    assert not (root / "unfinished/prepared/chest/prepare_meta.json").exists()
    prepare(root, "unfinished")
    assert differences(digests_below(root / "unfinished"), digests_below(root / "finished")) == {}
    assert prepare(root, "unfinished").outcome == "complete"


def test_the_command_line_resumes(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    root = copy_group("raw", tmp_path)
    options = ("--series", CHEST["series"], "--target-series", CHEST["target_series"], "--split", *CHEST["split"])
    out = ("--out", root / "unfinished", "--dataset", "chest", "--key", root / "pseudonym.key")
    run_command("prepare", "dicom", root / "dicom", *out, *options)
    assert differences(digests_below(root / "unfinished"), digests_below(root / "finished")) == {}
