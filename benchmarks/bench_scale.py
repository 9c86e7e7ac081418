"""A very large set, simulated: planned, built in the layout `index` by shares, merged; time and peak memory of each.

The slices are links to a few real files, 16 windows each, so that a million of them need little disk. Every step runs
in a process of its own; its peak memory is what the system says of that process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FILES = 64
SIDE, PATCH, STRIDE = 40, 16, 8
_STEP = """
import json, resource, sys, time
started = time.perf_counter()
from ctpatch.cli.app import main
status = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"status": status, "seconds": time.perf_counter() - started, "MB": peak}), file=sys.stderr)
"""


def make_links(root: Path, slices: int) -> Path:
    """A split of many names for a few files; what is there already is kept."""
    rng = np.random.default_rng(0)
    originals = root / "originals"
    originals.mkdir(exist_ok=True, parents=True)
    split = root / "prepared" / "simulated" / "train"
    split.mkdir(exist_ok=True, parents=True)
    for number in range(FILES):
        np.save(originals / f"{number}.npy", rng.random((SIDE, SIDE), dtype=np.float32))
    names = [f"train_{number:07d}.npy" for number in range(slices)]
    for number, name in enumerate(names):
        if not (split / name).is_symlink():
            os.symlink(f"../../../originals/{number % FILES}.npy", split / name)
    manifest = split / "train_manifest.csv"
    with manifest.open("w") as file:
        file.write("path,patient_id\n")
        file.writelines(f"prepared/simulated/train/{name},P{number // 40:05d}\n" for number, name in enumerate(names))
    return split


def step(name: str, *arguments: str) -> None:
    """Run a command in a process of its own and print what it took."""
    done = subprocess.run([sys.executable, "-c", _STEP, *arguments], capture_output=True, text=True, check=False)
    try:
        said = json.loads(done.stderr.splitlines()[-1])
    except (IndexError, ValueError):
        sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
    if said["status"]:
        sys.exit(f"{name} ended with {said['status']}:\n{done.stdout}{done.stderr}")
    print(f"{name:<24} {said['seconds']:8.1f} s  {said['MB']:7.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=1_000_000)
    parser.add_argument("--shares", type=int, default=2, help="run one after the other")
    parser.add_argument("--folder", type=Path, help="kept, and gone on with [a temporary one]")
    parser.add_argument("--steps", default="plan,build,merge,info")
    parser.add_argument("--share", type=int, help="build only this one of the shares")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        started = time.perf_counter()
        split = make_links(root, options.slices)
        print(f"{options.slices:,} slices, links to {FILES} files: {time.perf_counter() - started:.1f} s", flush=True)
        cut = [str(split), "--patch-size", str(PATCH), "--stride", str(STRIDE), "--layout", "index"]
        out = str(root / "patches" / "simulated" / "train")
        steps = options.steps.split(",")
        if "plan" in steps:
            step("plan", "plan", *cut)
        numbers = [options.share] if options.share else range(1, options.shares + 1)
        for number in numbers if "build" in steps else ():
            step(f"share {number}/{options.shares}", "build", *cut, "--share", f"{number}/{options.shares}")
        if "merge" in steps:
            step("merge", "merge", out)
        if "info" in steps:
            step("info", "info", out)
        print(f"peak of all processes    {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
