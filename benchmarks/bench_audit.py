"""How long an audit takes, against reading every slice once with np.load: `python benchmarks/bench_audit.py [SLICES]`.

A tenth of the slices go into a second split. Slices are hard links to 300 different ones, so that the disk is not
filled and the page cache gives them; their patterns differ, so few pairs are alike.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ctpatch.checking.audit import audit

SIDE = 362
DIFFERENT = 300


def write_split(root: Path, split: str, count: int, seed: int) -> Path:
    folder = root / "prepared" / "bench" / split
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = [f"{split}_{number:06d}.npy" for number in range(count)]
    for number, name in enumerate(names):
        if number < DIFFERENT:
            blocks = np.kron(rng.random((18, 18)), np.ones((21, 21)))[:SIDE, :SIDE]
            noise = rng.normal(0, 0.01, (SIDE, SIDE))
            np.save(folder / name, (0.1 + 0.8 * blocks + noise).clip(0, 1).astype(np.float32))
        else:
            os.link(folder / names[number % DIFFERENT], folder / name)
    rows = "".join(f"prepared/bench/{split}/{name},{split}{number // 57}\n" for number, name in enumerate(names))
    (folder / f"{split}_manifest.csv").write_text(f"path,patient_id\n{rows}", encoding="utf-8")
    return folder


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory(dir=os.environ.get("CTPATCH_BENCH")) as name:
        root = Path(name)
        folders = [write_split(root, "train", count, 0), write_split(root, "test", max(count // 10, 1), 1)]
        start = time.perf_counter()
        total = 0
        for folder in folders:
            for file in sorted(folder.glob("*.npy")):
                np.load(file)
                total += 1
        loading = time.perf_counter() - start
        print(f"{total:,} slices of {SIDE}x{SIDE}; np.load of each: {loading:.2f} s")
        for workers in (1, 2):
            start = time.perf_counter()
            report = audit(folders, workers=workers)
            spent = time.perf_counter() - start
            print(f"audit, {workers} worker(s): {spent:.2f} s, {spent / loading:.1f} times np.load, {report.status}")


if __name__ == "__main__":
    main()
