"""Work that 0.1.0 left unfinished when it was killed: this version resumes it and ends in the bytes that 0.1.0 made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from compat.common import PARTS, TWINS, copy_group, differences, digests_below, digests_but_lock, run_command

WANTED: dict[str, dict[str, str]] = json.loads(TWINS.read_text())
Work = Callable[[Path], ctpatch.BuildResult]


def _build(name: Any, split: str) -> Work:
    return lambda root: ctpatch.build(
        root / f"prepared/parts/{split}", PARTS, layout=name, out=root / f"patches/{name}/{split}"
    )[0]


def _convert(root: Path) -> ctpatch.BuildResult:
    return ctpatch.convert(root / "patches/whole/val", root / "patches/conversion/val", layout="files")


UNFINISHED: dict[str, tuple[str, Work, str]] = {
    "files": ("files/val", _build("files", "val"), "resumed"),
    "index": ("index/val", _build("index", "val"), "resumed"),
    "shards": ("shards/few", _build("shards", "few"), "resumed"),
    "slices": ("slices/few", _build("slices", "few"), "built"),  # no part was done
    "conversion": ("conversion/val", _convert, "resumed"),
}
EACH = pytest.mark.parametrize("name", UNFINISHED)


@EACH
def test_it_is_no_set_yet(tmp_path: Path, name: str) -> None:
    folder = copy_group("parts", tmp_path) / "patches" / UNFINISHED[name][0]
    report = ctpatch.verify(folder)
    assert (report.ok, report.status) == (False, "incomplete")
    with pytest.raises(ctpatch.CtPatchError, match="incomplete"):
        ctpatch.open(folder)


@EACH
def test_it_is_resumed_and_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    root = copy_group("parts", tmp_path)
    where, work, outcome = UNFINISHED[name]
    assert work(root).outcome == outcome
    assert differences(digests_below(root / "patches" / where), WANTED[name]) == {}
    assert ctpatch.verify(root / "patches" / where, deep=True).ok
    assert work(root).outcome == "complete"


@EACH
def test_done_anew_it_has_the_same_bytes(tmp_path: Path, name: str) -> None:
    root = copy_group("parts", tmp_path)
    where, work, _ = UNFINISHED[name]
    shutil.rmtree(root / "patches" / where)
    assert work(root).outcome == "built"
    assert differences(digests_below(root / "patches" / where), WANTED[name]) == {}


@pytest.mark.parametrize("name", ["files", "index", "shards"])
def test_a_slice_that_changed_since_is_refused(tmp_path: Path, name: str) -> None:
    """The times of a checkout are younger than the receipts: digests decide."""
    root = copy_group("parts", tmp_path)
    where, work, _ = UNFINISHED[name]
    path = root / f"prepared/parts/{where.partition('/')[2]}/{where.partition('/')[2]}_000005.npy"
    image = np.load(path)
    image[0, 0] += np.float32(1 / 256)
    np.save(path, image)
    with pytest.raises(ctpatch.CtPatchError, match=path.name):
        work(root)


def test_other_options_are_refused(tmp_path: Path) -> None:
    root = copy_group("parts", tmp_path)
    out = root / "patches/files/val"
    before = digests_but_lock(out)
    with pytest.raises(ctpatch.CtPatchError, match="stride"):
        ctpatch.build(root / "prepared/parts/val", ctpatch.PatchConfig(patch_size=4, stride=2), out=out)
    assert differences(digests_but_lock(out), before) == {}


def test_the_command_line_resumes(tmp_path: Path) -> None:
    root = copy_group("parts", tmp_path)
    out = root / "patches/files/val"
    options = ("--patch-size", "4", "--stride", "4", "--drop", "faint: mean < 0.15", "--layout", "files")
    (said,) = json.loads(run_command("info", out, "--json"))
    assert said["status"] == "incomplete"
    run_command("build", root / "prepared/parts/val", *options, "--out", out)
    assert differences(digests_below(out), WANTED["files"]) == {}


def test_the_missing_share_is_built_and_all_are_merged(tmp_path: Path) -> None:
    root = copy_group("parts", tmp_path)
    source, out = root / "prepared/parts/val", root / "patches/shares/val"
    with pytest.raises(ctpatch.CtPatchError, match="share 2/2"):
        ctpatch.merge(out)
    first, second = (ctpatch.build_share(source, share, PARTS, layout="files", out=out)[0] for share in ("1/2", "2/2"))
    assert (first.parts, first.reused, first.num_slices, first.num_patches) == (1, 1, 64, 10)
    assert (second.parts, second.reused, second.num_slices, second.num_patches) == (1, 0, 7, 2)
    assert ctpatch.merge(out).outcome == "merged"
    assert differences(digests_below(out), WANTED["shares"]) == {}
    assert ctpatch.verify(out, deep=True).ok


def test_the_command_line_builds_the_missing_share_and_merges(tmp_path: Path) -> None:
    root = copy_group("parts", tmp_path)
    out = root / "patches/shares/val"
    options = ("--patch-size", "4", "--stride", "4", "--drop", "faint: mean < 0.15", "--layout", "files")
    run_command("build", root / "prepared/parts/val", *options, "--out", out, "--share", "2/2")
    run_command("merge", out)
    assert differences(digests_below(out), WANTED["shares"]) == {}


def test_one_build_resumes_what_shares_began(tmp_path: Path) -> None:
    root = copy_group("parts", tmp_path)
    out = root / "patches/shares/val"
    result = ctpatch.build(root / "prepared/parts/val", PARTS, layout="files", out=out)[0]
    assert result.outcome == "resumed"
    assert differences(digests_below(out), WANTED["shares"]) == {}
