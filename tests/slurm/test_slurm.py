"""The scripts of docs/clusters.md on a real SLURM of one node; needs root and Debian's slurm-wlm and munge."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ctpatch
from ctpatch.cli.app import main
from helpers import EPOCH, assert_same_tree, tree_bytes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
TOOLS = ("slurmctld", "slurmd", "munged", "mungekey", "sbatch")
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt: slurm-wlm munge)"),
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="starting SLURM needs root"),
]


def script_below(name: str) -> str:
    """The block of the page behind the name of its file."""
    found = re.search(rf"`{re.escape(name)}`[^`]*:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = found or re.search(rf"`{re.escape(name)}`.*?\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no {name}"
    return found[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the demo and the page's scripts; SLURM runs while it is used."""
    folder = tmp_path_factory.mktemp("slurm")
    state = folder / "one-node"
    node = ROOT / "tests" / "slurm" / "one_node.sh"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin")
        patch.setenv("SLURM_CONF", str(state / "slurm.conf"))
        patch.chdir(folder)
        assert main(["demo", "ctpatch-demo"]) == 0
        for name in ("patches.sbatch", "merge.sbatch", "dask.sbatch", "patches_dask.py"):
            (folder / name).write_text(script_below(name))
        try:
            started = subprocess.run(
                ["bash", str(node), "start", str(state), "6"], capture_output=True, text=True, check=False, timeout=120
            )
            if started.returncode:  # before anything of ours ran
                pytest.skip(f"SLURM does not start here: {started.stderr.strip()[-300:]}")
            yield folder
        finally:
            subprocess.run(["bash", str(node), "stop", str(state)], check=True, timeout=120)


def submit(*arguments: str) -> str:
    """Submit a job and wait until it has ended; what its tasks said."""
    done = subprocess.run(
        ["sbatch", "--wait", "--parsable", *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    said = "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(Path().glob("slurm-*.out")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{said}"
    return said


@pytest.fixture
def wanted(slurm: Path) -> dict[str, bytes]:
    """The bytes of the set as one process builds it here, and no set in its place."""
    out = slurm / "ctpatch-demo" / "patches" / "phantom" / "train"
    shutil.rmtree(out, ignore_errors=True)
    for said in slurm.glob("slurm-*.out"):
        said.unlink()
    ctpatch.build(slurm / "ctpatch-demo" / "prepared" / "phantom" / "train", layout="shards")
    found = tree_bytes(out)
    shutil.rmtree(out)
    return found


def test_an_array_of_shares_and_their_merge(slurm: Path, wanted: dict[str, bytes]) -> None:
    out = slurm / "ctpatch-demo" / "patches" / "phantom" / "train"
    said = submit("patches.sbatch")
    assert all(f"share {number}/16 is done" in said for number in range(1, 17))
    assert not (out / "patch_meta.json").exists()
    assert "merged from its shares" in submit("merge.sbatch")
    assert_same_tree(tree_bytes(out), wanted)


@pytest.mark.skipif(importlib.util.find_spec("dask_jobqueue") is None, reason="dask-jobqueue is not installed")
def test_dask_by_dask_jobqueue(slurm: Path, wanted: dict[str, bytes]) -> None:
    assert "built 384 patches" in submit("dask.sbatch")
    assert_same_tree(tree_bytes(slurm / "ctpatch-demo" / "patches" / "phantom" / "train"), wanted)


def test_dask_with_a_scheduler_file(slurm: Path, wanted: dict[str, bytes]) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    (slurm / "by_file.sbatch").write_text(
        "#!/bin/bash\n#SBATCH --ntasks=4\n"
        "srun --exact -n 1 dask scheduler --scheduler-file here.json --no-dashboard --port 0 &\n"
        "srun --exact -n 2 dask worker --scheduler-file here.json --nthreads 1 --no-dashboard --no-nanny &\n"
        "for _ in $(seq 600); do [ -s here.json ] && break; sleep 0.2; done\n"
        "srun --exact -n 1 ctpatch build ctpatch-demo/prepared/phantom/train --layout shards "
        "--engine dask --scheduler-file here.json\n"
        "status=$?\nkill %1 %2\nwait\nexit $status\n"
    )
    assert "phantom/train built" in submit("by_file.sbatch")
    assert_same_tree(tree_bytes(slurm / "ctpatch-demo" / "patches" / "phantom" / "train"), wanted)
