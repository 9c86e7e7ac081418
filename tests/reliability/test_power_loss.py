"""Power cuts: a loop ext4 that is shut down without flushing, at any moment; what is on record is there, whole."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ctpatch.cutting.receipt import CutReceipt
from ctpatch.files.digest import bytes_digest
from helpers import Prepared, assert_same_tree, csv_columns, tree_bytes
from reliability.common import (
    FULL,
    Count,
    build_arguments,
    finished_tree,
    run,
    run_here,
    set_state,
    small_split,
)
from reliability.disks import Disk

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a loop device with ext4")

ROUNDS = 5 if FULL else 1
CASES = (
    ("files", "call"),
    ("files", "write"),
    ("shards", "call"),
    ("shards", "write"),
    ("slices", "call"),
    ("index", "call"),
)
SAMPLE = {("files", "call"), ("shards", "write")}
SLICES = 12
CONDITIONS: dict[str, Any] = {"plan": {"slices": 2, "shard_bytes": 60_000}}


@pytest.mark.parametrize(("layout", "moment"), CASES)
def test_what_is_on_record_survives_a_power_cut(
    tmp_path: Path, disk: Disk, layout: str, moment: str, count: Count
) -> None:
    if not FULL and (layout, moment) not in SAMPLE:
        pytest.skip("a part of the full suite: make reliability")
    split = small_split(tmp_path / "data", SLICES)
    undisturbed = tmp_path / "undisturbed" / "train"
    assert run_here(build_arguments(split, layout, "--out", undisturbed), CONDITIONS).status == 0
    wanted = tree_bytes(undisturbed)
    with disk.mounted():
        calls = _measure(split, layout, disk, moment)
    for number in range(ROUNDS):
        disk.format()
        with disk.mounted():
            # Spread evenly over all that makes durable and gives names, or over all that is written.
            _cut_after(split, layout, disk, moment, call=1 + (number * 2 + 1) * calls // (2 * ROUNDS))
        with disk.mounted():
            recorded, torn = _check_records(disk.out, wanted)
            count("power loss: rounds")
            count("power loss: parts on record, all whole", recorded)
            count("power loss: torn receipts", torn)
            if set_state(disk.out, data_root=split.root) == "complete":
                assert finished_tree(disk.out) == wanted
                count("power loss: sets complete after the cut")
            again = run_here(build_arguments(split, layout, "--out", disk.out), CONDITIONS)
            assert again.status == 0, again.err
            assert_same_tree(tree_bytes(disk.out), wanted)


def _measure(split: Prepared, layout: str, disk: Disk, moment: str) -> int:
    """How many calls of a kind an undisturbed build makes."""
    log = disk.image.with_suffix(".calls")
    _build(split, layout, disk, {**CONDITIONS, "shutdown": [str(disk.folder), -1, moment], "log": str(log)})
    assert set_state(disk.out, data_root=split.root) == "complete"
    shutil.rmtree(disk.out)
    return int(log.read_text())


def _cut_after(split: Prepared, layout: str, disk: Disk, moment: str, call: int) -> None:
    _build(split, layout, disk, {**CONDITIONS, "shutdown": [str(disk.folder), call, moment]})


def _build(split: Prepared, layout: str, disk: Disk, conditions: Mapping[str, Any]) -> None:
    run(build_arguments(split, layout, "--out", disk.out), conditions)


def _check_records(out: Path, wanted: dict[str, bytes]) -> tuple[int, int]:
    """Every part with a receipt has all its pixels; returns how many there are, and how many receipts are torn."""
    recorded = torn = 0
    for path in sorted(out.glob(".ctpatch/*.receipt.json")):
        receipt = CutReceipt.from_bytes(path.read_bytes())
        if receipt is None:
            torn += 1
            continue
        recorded += 1
        for table in receipt.pieces:
            piece = out / ".ctpatch" / path.name.replace("receipt.json", table)
            rows = piece.read_bytes()
            assert rows in wanted[table], f"{piece.name} is damaged"
            assert bytes_digest(rows) == receipt.pieces[table], f"{piece.name} is damaged"
            if table == "patch_manifest.csv":
                _check_files(out, rows.decode(), wanted)
    assert torn == 0  # a receipt gets its name when it is durable
    return recorded, torn


def _check_files(out: Path, rows: str, wanted: dict[str, bytes]) -> None:
    """Each pixel file that the rows name is the one of an undisturbed build, byte for byte."""
    folder = out.parent.parent / "undisturbed" / "train"
    columns = [at for at, name in enumerate(csv_columns(folder / "patch_manifest.csv")) if name.endswith("patch_path")]
    names = {line.split(",")[at] for line in rows.splitlines() for at in columns}
    assert names
    for name in names - {name for name in names if name.startswith("prepared/")}:  # the layout index has no pixels
        assert (out / name).read_bytes() == wanted[name], f"{name} is damaged, and on record"
