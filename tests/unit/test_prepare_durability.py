"""A part of a preparation: its slices are durable before its receipt is, and as large as was planned."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.errors import SliceError, SystemFailureError
from ctpatch.files import atomic
from ctpatch.prepare.geometry import Geometry
from ctpatch.prepare.part import ArraySource, PrepareJob, PrepareReceipt, prepared_images, run_part
from ctpatch.prepare.values import PRESETS
from ctpatch.work.receipt import receipt_path
from helpers import Image
from raw_images import Images, part_of

SHAPE = (4, 5)


def pictures(count: int, shape: tuple[int, int] = SHAPE) -> tuple[Image, ...]:
    return tuple(np.full(shape, 100 * number, np.float32) for number in range(count))


def job_of(tmp_path: Path, images: tuple[Image, ...], on_error: Any = "stop", geometry: Geometry | None = None) -> Any:
    folder, state = tmp_path / "set", tmp_path / "set/.ctpatch"
    (folder / "train").mkdir(parents=True, exist_ok=True)
    state.mkdir(exist_ok=True)
    source = ArraySource("image", Images(images), tmp_path, PRESETS["full"])
    return PrepareJob(folder, state, "prepared/set/", (source,), geometry or Geometry(), "digest", on_error)


class Disk:
    """What would survive a power cut: inodes, and how many bytes they had when they were made durable."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole  # whether there is a call that syncs a whole file system
        self.durable: dict[int, int] = {}
        self.at_publishing: list[tuple[str, dict[int, int]]] = []

    def fsync(self, fd: int) -> None:
        status = os.fstat(fd)
        self.durable[status.st_ino] = status.st_size

    def syncfs(self, folder: Path) -> bool:
        if self.whole:
            for path in [folder, *folder.rglob("*")]:
                self.durable[path.stat().st_ino] = path.stat().st_size
        return self.whole

    def publish(self, temporary: Path, path: Path) -> None:
        self.at_publishing.append((path.name, dict(self.durable)))
        temporary.rename(path)


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be synced there")
@pytest.mark.parametrize(("slices", "whole"), [(1, True), (2, True), (3, True), (12, True), (12, False)])
def test_slices_are_durable_before_their_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: int, whole: bool
) -> None:
    disk = Disk(whole=whole)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(atomic, "_syncfs", disk.syncfs)
    monkeypatch.setattr(atomic, "publish", disk.publish)
    images = pictures(slices)
    job = job_of(tmp_path, images)
    receipt = run_part(job, part_of(images, SHAPE))
    assert [name for name, _ in disk.at_publishing] == [receipt_path(job.state, 0).name]
    durable = disk.at_publishing[0][1]
    folder = job.folder / "train"
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == [f"train_{number:06d}.npy" for number in range(slices)]
    assert sorted(receipt.digests) == [f"train/{path.name}" for path in files]
    assert {path.name: durable.get(path.stat().st_ino) for path in files} == {path.name: 128 + 80 for path in files}
    assert folder.stat().st_ino in durable, "the names of the slices are lost"
    assert PrepareReceipt.from_bytes(receipt_path(job.state, 0).read_bytes()) == receipt


def test_a_fault_while_slices_become_durable_leaves_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    images = pictures(2)
    job = job_of(tmp_path, images)
    with pytest.raises(SystemFailureError, match="making durable set failed: Input/output error"):
        run_part(job, part_of(images, SHAPE))
    assert list(job.state.iterdir()) == []


@pytest.mark.parametrize(
    ("geometry", "becomes"), [(Geometry(), (4, 6)), (Geometry(spacing_mm=(0.5, 0.5)), (8, 12))], ids=["kept", "finer"]
)
def test_a_slice_of_another_shape_than_planned_is_refused(
    tmp_path: Path, geometry: Geometry, becomes: tuple[int, int]
) -> None:
    images = (*pictures(1), *pictures(1, (4, 6)))
    planned = geometry.result(SHAPE, (1.0, 1.0))[0]
    part = part_of(images, planned, spacing_mm=(1.0, 1.0))
    first, second = prepared_images(job_of(tmp_path, images, geometry=geometry), part)
    assert isinstance(first[1], list)
    assert first[1][0][0].shape == planned
    assert isinstance(second[1], SliceError)
    assert second[1].message == f"raw: it becomes {becomes}, its image {planned}"


def test_a_slice_of_another_shape_is_left_out_or_stops(tmp_path: Path) -> None:
    images = (*pictures(1, (3, 5)), *pictures(1))
    with pytest.raises(SliceError, match=r"it becomes \(3, 5\), its image \(4, 5\)"):
        run_part(job_of(tmp_path, images), part_of(images, SHAPE))
    receipt = run_part(job_of(tmp_path, images, "skip"), part_of(images, SHAPE))
    assert receipt.left_out == [["F", "the file: it becomes (3, 5), its image (4, 5)"]]
    assert [row["index"] for row in receipt.rows] == [1]
