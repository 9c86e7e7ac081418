"""Power cuts while raw CT is prepared: a slice that is on record is there, whole, and the next run goes on."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from ctpatch.prepare.part import PrepareReceipt
from dicom_files import write_series
from helpers import assert_same_tree, tree_bytes
from reliability.common import FULL, TIMEOUT, Count, command, environment, run_here, spread
from reliability.disks import Disk

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a loop device with ext4")

SLICES = (40, 30)
"""Of two patients: three parts, as none holds more than 32 slices or two splits."""


@pytest.fixture
def words(tmp_path: Path) -> list[str | Path]:
    """The command, but for where its output goes."""
    for number, count in enumerate(SLICES):
        write_series(tmp_path / f"raw/{number}", count, patient=f"p{number}", uid=str(number + 1), seed=100 * number)
    (tmp_path / "my.key").write_bytes(b"0123456789abcdef" * 4)
    (tmp_path / "patients.csv").write_text("patient_id,split\np0,train\np1,test\n")
    given: list[str | Path] = ["--key", tmp_path / "my.key", "--patients", tmp_path / "patients.csv"]
    return ["prepare", "dicom", tmp_path / "raw", "--dataset", "set", *given, "--out"]


def test_prepared_slices_are_durable_before_their_receipt(
    tmp_path: Path, disk: Disk, words: list[str | Path], count: Count
) -> None:
    assert run_here([*words, tmp_path / "undisturbed"]).status == 0
    wanted = tree_bytes(tmp_path / "undisturbed")
    log = tmp_path / "calls"
    with disk.mounted():
        _prepare(words, disk, {"shutdown": [str(disk.folder), -1, "call"], "log": str(log)})
    calls = int(log.read_text())
    seen = set()
    for call in spread(list(range(1, calls + 1)), 20 if FULL else 5):
        disk.format()
        with disk.mounted():
            _prepare(words, disk, {"shutdown": [str(disk.folder), call, "call"]})
        with disk.mounted():
            recorded = _check_records(disk.folder / "data/prepared/set", wanted)
            seen.add(recorded)
            count("power loss while preparing: rounds")
            count("power loss while preparing: parts on record, all whole", recorded)
            again = run_here([*words, disk.folder / "data"])
            assert again.status == 0, again.err
            assert_same_tree(tree_bytes(disk.folder / "data"), wanted)
    assert seen >= {0, 1, 2, 3} if FULL else seen & {1, 2}


def _prepare(words: list[str | Path], disk: Disk, conditions: Mapping[str, Any]) -> None:
    subprocess.run(
        command([*words, disk.folder / "data"], conditions),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=False,
    )


def _check_records(folder: Path, wanted: Mapping[str, bytes]) -> int:
    """Every slice that a receipt names is that of an undisturbed run; returns how many receipts there are."""
    receipts = [PrepareReceipt.from_bytes(path.read_bytes()) for path in sorted(folder.glob(".ctpatch/*.receipt.json"))]
    for receipt in receipts:
        assert receipt is not None, "a receipt gets its name when it is durable"
        assert receipt.digests
        for name in receipt.digests:
            assert (folder / name).read_bytes() == wanted[f"prepared/set/{name}"], f"{name} is damaged, and on record"
    return len(receipts)
