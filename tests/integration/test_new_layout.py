"""A layout that ctpatch does not have: one class, made known in one line, and every command works with it."""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main as run_command
from ctpatch.errors import ConfigError, FormatError, OutputConflictError
from ctpatch.events import WorkAdvanced
from ctpatch.files.digest import array_digests
from ctpatch.files.npy import header_bytes
from ctpatch.layouts import unregister
from ctpatch.layouts.base import Addresses, Layout, PartWriter, Shape, SliceToWrite, WriterOptions
from ctpatch.testing import LayoutContract, registered
from helpers import (
    SMALL,
    Prepared,
    assert_bits,
    assert_same_tree,
    build_one,
    make_split,
    reference_set,
    small_parts,
    tree_bytes,
)


class MirrorWriter:
    """Writes the patches of each slice to a file that `numpy.save` could have written."""

    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        self._written: list[str] = []
        self.bytes_written = 0

    def write(self, piece: SliceToWrite) -> Addresses:
        options, count = self._options, len(piece.rows)
        paths, digests = [], []
        for array, image in zip(options.arrays, piece.padded, strict=True):
            height, width = options.patch_size
            corners = zip(piece.rows, piece.cols, strict=True)
            patches = np.array([image[r : r + height, c : c + width] for r, c in corners], image.dtype)
            name = f"mirror/{options.split}_{piece.slice_index:06d}_{array}.npy"
            if count:
                content = header_bytes(patches.shape, patches.dtype) + patches.tobytes()
                (options.folder / name).write_bytes(content)
                self._written.append(str(options.folder / name))
                self.bytes_written += len(content)
            paths.append([options.path_prefix + name] * count)
            digests.append(array_digests(patches) if count else [])
        return Addresses(paths, list(range(count)), digests)

    def finish(self) -> list[str]:
        return self._written

    def abandon(self) -> None:
        """Nothing is open."""


class Mirror(Layout):
    name = "mirror"
    holds_patches = True
    packed = True

    def names(self, split: str, arrays: Sequence[str]) -> dict[str, re.Pattern[str]]:
        return {"mirror": re.compile(rf"{re.escape(split)}_\d{{6,}}_({'|'.join(map(re.escape, arrays))})\.npy")}

    def slice_bytes(self, shape: Shape, windows: int, patch_size: Shape, dtype: np.dtype[Any]) -> int:
        del shape
        patches = (windows, *patch_size)
        return len(header_bytes(patches, dtype)) + int(np.prod(patches)) * dtype.itemsize if windows else 0

    def writer(self, options: WriterOptions) -> PartWriter:
        return MirrorWriter(options)


class TestMirror(LayoutContract):
    layout = Mirror()


SHAPES = [(40, 50), (16, 16), (9, 60), (40, 50), (24, 24)]
CONFIG = SMALL.with_rules(ctpatch.Rule.parse("air: air_fraction > 0.5"))


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with registered(Mirror(), "the patches of a slice"):
        yield


@pytest.fixture
def paired(tmp_path: Path) -> Prepared:
    return make_split(tmp_path, SHAPES, arrays={"target": "f4", "mask": "u1"}, columns={"patient_id": list("aabbc")})


def test_what_is_built_is_read_and_verified(paired: Prepared) -> None:
    build_one(paired, layout="mirror")
    ps = ctpatch.open(paired.out)
    for array, kind in (("image", "f4"), ("target", "f4"), ("mask", "u1")):
        _, wanted = reference_set(paired.images[array], dtype=kind)
        assert_bits(ps.read(range(len(ps)), arrays=[array])[array], wanted)
    assert sorted(path.name for path in (paired.out / "mirror").iterdir() if "mask" in path.name) == [
        f"train_00000{number}_mask.npy" for number in (0, 1, 3, 4)
    ]
    assert ctpatch.verify(paired.out, deep=True).ok
    assert_bits(ctpatch.open(paired.out, in_memory=True).read([5, 0], arrays=["target"])["target"],
                ps.read([5, 0], arrays=["target"])["target"])  # fmt: skip


@pytest.mark.parametrize("other", ["files", "shards", "slices", "index"])
def test_it_is_converted_to_and_from(paired: Prepared, other: str) -> None:
    home = paired.root / "patches/phantoms"
    for source, to in (("mirror", other), (other, "mirror")):
        build_one(paired, CONFIG, layout=to, out=home / "wanted")
        wanted = tree_bytes(home / "wanted")
        shutil.rmtree(home / "wanted")
        build_one(paired, CONFIG, layout=source, out=home / source)
        ctpatch.convert(home / source, home / "wanted", layout=to)
        assert_same_tree(tree_bytes(home / "wanted"), wanted)
        shutil.rmtree(home)


def test_it_is_resumed_refused_and_overwritten(
    paired: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, slices=1)
    build_one(paired, layout="mirror", out=tmp_path / "patches/phantoms/whole")
    whole = tree_bytes(tmp_path / "patches/phantoms/whole/mirror")

    done: list[object] = []

    def stop_after_two(event: object) -> None:
        done.extend([event] if isinstance(event, WorkAdvanced) else [])
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_one(paired, layout="mirror", listener=stop_after_two)
    first = paired.out / "mirror/train_000000_image.npy"
    first.write_bytes(first.read_bytes()[:-1])  # what a part wrote is harmed before the build goes on
    assert build_one(paired, layout="mirror").outcome == "resumed"
    assert_same_tree(tree_bytes(paired.out / "mirror"), whole)
    assert build_one(paired, layout="mirror").outcome == "complete"
    first.unlink()
    with pytest.raises(OutputConflictError, match=r"is damaged: .*train_000000_image\.npy is gone"):
        build_one(paired, layout="mirror")
    report = ctpatch.verify(paired.out)
    assert report.counts["file"] > 0
    with pytest.raises(OutputConflictError, match="layout"):
        build_one(paired, layout="shards")
    assert build_one(paired, layout="shards", overwrite=True).outcome == "built"
    assert not (paired.out / "mirror").exists()


def test_verify_finds_what_is_wrong_with_its_files(paired: Prepared) -> None:
    build_one(paired, layout="mirror")
    path = paired.out / "mirror/train_000003_target.npy"
    content = bytearray(path.read_bytes())
    for place, check in ((-5, "digest"), (100, "header")):
        content[place] ^= 1
        path.write_bytes(content)
        assert ctpatch.verify(paired.out).counts[check] == 1
        content[place] ^= 1
    path.write_bytes(content)
    (paired.out / "mirror/train_000009_image.npy").write_bytes(content)
    assert ctpatch.verify(paired.out).counts == {"unlisted": 1}


def test_plan_counts_its_bytes(paired: Prepared) -> None:
    (plan,) = ctpatch.plan(paired.folder, SMALL)
    result = build_one(paired, layout="mirror")
    assert plan.pixel_bytes("mirror") == plan.summary()["pixel_bytes"]["mirror"] == result.meta.pixel_bytes
    assert result.meta.pixel_bytes == sum(len(each) for name, each in tree_bytes(result.folder / "mirror").items())


def test_shares_report_audit_and_predict(paired: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=2)
    for share in ("1/2", "2/2"):
        ctpatch.build_share(paired.folder, share, SMALL, layout="mirror")
    assert ctpatch.merge(paired.out).meta.layout == "mirror"
    page = ctpatch.report(paired.out, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "mirror" in page
    assert "missing or damaged" not in page
    again = build_one(paired, out=tmp_path / "again").folder
    found = ctpatch.audit([paired.out, again])
    assert found.counts == {"identical-slice": 2 * 4, "patient": 3}  # image and target, of the slices with patches
    assert (found.faults, found.not_checked) == ([], [])
    out = ctpatch.predict(lambda batch: batch * 0.5, ctpatch.open(paired.out), out=tmp_path / "half")
    for number in (0, 1, 3, 4):
        halved = paired.images["image"][number] * np.float32(0.5)
        np.testing.assert_allclose(np.load(out / f"train_00000{number}.npy"), halved, rtol=1e-5)


def test_the_command_line_takes_it(paired: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--patch-size", "16", "--stride", "8"]
    for command in (
        ["plan", str(paired.folder), *small, "--layout", "mirror"],
        ["build", str(paired.folder), *small, "--layout", "mirror"],
        ["verify", "--deep", str(paired.out)],
        ["info", str(paired.out)],
        ["convert", str(paired.out), str(paired.root / "patches/c"), "--layout", "shards"],
        ["convert", str(paired.root / "patches/c"), str(paired.root / "patches/d"), "--layout", "mirror"],
    ):
        assert run_command(command) == 0, command
    assert "mirror" in capsys.readouterr().out
    assert run_command(["build", str(paired.folder), "--layout", "miror"]) == 2
    assert "must be 'files', 'shards', 'slices', 'index' or 'mirror', got 'miror'" in capsys.readouterr().err


def test_without_it_the_set_is_refused_by_name(paired: Prepared) -> None:
    build_one(paired, layout="mirror")
    unregister("mirror")
    with pytest.raises(FormatError, match=r"layout: .*'index'"):
        ctpatch.open(paired.out)
    with pytest.raises(ConfigError, match="layout: must be"):
        build_one(paired, layout="mirror")
