"""Patch sets with mutated, re-signed files, at every door that opens them: an error of ours, or what is true."""

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main as run_command
from helpers import LAYOUTS, Prepared, make_split
from reliability.common import FULL, Count, restore
from reliability.fuzzing import attempt, digest_of, mutate_bytes, mutate_json, mutate_table, sealed

ROUNDS = int(os.environ.get("CTPATCH_FUZZ", "0")) or (400 if FULL else 12)
CONFIG = ctpatch.PatchConfig(patch_size=16, stride=8, drop=("flat: std < 0.25",))
TABLES = ("patch_manifest.csv", "slice_manifest.csv", "rejected_patches.csv")
_SHOWN, _MOST_READ = 100, 60
SEED = int(os.environ.get("CTPATCH_FUZZ_SEED", "12"))


def split_of(root: Path) -> Prepared:
    return make_split(root, [(24, 32)] * 3, arrays={"mask": np.uint8}, columns={"patient_id": ["a", "b", "b"]})


def command(*words: str | Path) -> int:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run_command([str(word) for word in words])
    assert status in {0, 1, 2}, status
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return status


Pixels = dict[str, dict[str, Any]]


def read_all(folder: Path) -> Pixels:
    """Read a set in every way; returns the patches of each array by their ids. What is read has the shape it says."""
    ps = ctpatch.open(folder)
    attempt("repr and meta", lambda: (repr(ps), len(ps), ps.patch_size, ps.meta.model_dump()))
    pixels: Pixels = {}
    for array in ps.arrays:
        some = range(min(len(ps), _MOST_READ))
        found = attempt("read", lambda array=array, some=some: ps.read(some, arrays=array))  # type: ignore[misc]
        if found:
            assert found.value.shape == (len(some), *ps.patch_size)
            assert found.value.dtype == np.dtype(ps.meta.arrays[array].dtype)
            pixels[array] = dict(zip(ps.manifest["patch_id"].to_list(), found.value, strict=False))
    indices = attempt("slices", lambda: ps.slices["slice_index"].drop_nulls().to_list()[:3])
    for index in indices.value or []:
        attempt("slice", lambda index=index: ps.slice(index))  # type: ignore[misc]
        attempt("reassemble", lambda index=index: ps.reassemble(index))  # type: ignore[misc]
    for options in ({"weight": "std"}, {"balance": "patient_id"}, {"subset": "min < 0.5", "columns": ["std"]}):
        attempt(f"batches {options}", lambda options=options: [None for _ in ps.batches(4, **options)])  # type: ignore[misc]
    ps.close()
    return pixels


DOORS: dict[str, Callable[[Prepared], Any]] = {
    "verify": lambda split: ctpatch.verify(split.out, data_root=split.root),
    "verify deep": lambda split: ctpatch.verify(split.out, deep=True, data_root=split.root),
    "convert": lambda split: ctpatch.convert(
        split.out, split.root / "patches/other", layout="shards", data_root=split.root, overwrite=True
    ),
    "keep": lambda split: ctpatch.convert(
        split.out, split.root / "patches/kept", keep="std > 0.2", data_root=split.root, overwrite=True
    ),
    "report": lambda split: ctpatch.report(split.out, split.root / "report.html", data_root=split.root),
    "picture": lambda split: ctpatch.report(split.out, split.root / "r.png", format="png", data_root=split.root),
    "audit": lambda split: ctpatch.audit(split.out, data_root=split.root),
    "info": lambda split: command("info", split.out),
    "info json": lambda split: command("info", split.out, "--json"),
    "verify command": lambda split: command("verify", split.out, "--json"),
    "merge": lambda split: ctpatch.merge(split.out, data_root=split.root),
    "build": lambda split: ctpatch.build(split.folder, config=CONFIG),
    "plan": lambda split: [plan.summary() for plan in ctpatch.plan(split.folder, config=CONFIG)],
    "predict": lambda split: ctpatch.predict(
        lambda patches: patches,
        ctpatch.open(split.out, split.root, arrays="image"),
        out=split.root / "p",
        overwrite=True,
    ),
}


def mutate_set(rng: random.Random, folder: Path) -> str:
    """Change one file of a set, and sign what states its digest."""
    path = folder / "patch_meta.json"
    meta = json.loads(path.read_text())
    kind = rng.random()
    if kind < 0.5:
        meta, said = mutate_json(rng, meta)
        said = f"meta: {said}"
    elif kind < 0.9:
        name = rng.choice(TABLES)
        content = (folder / name).read_bytes()
        content, said = (mutate_table if rng.random() < 0.8 else mutate_bytes)(rng, content)
        (folder / name).write_bytes(content)
        meta["tables"][name] = {"bytes": len(content), "digest": digest_of(content)}
        if rng.random() < 0.5 and name == "patch_manifest.csv":
            meta["num_patches"] = max(content.count(b"\n") - 1, 0)
        said = f"{name}: {said}"
    else:
        files = sorted(each for each in folder.rglob("*.npy"))
        victim = rng.choice(files) if files else folder / "patch_meta.json"
        content, said = mutate_bytes(rng, victim.read_bytes())
        victim.write_bytes(content)
        return f"{victim.name}: {said}"
    path.write_bytes(sealed(meta))
    return said


def same_pixels(read: Pixels, wanted: Pixels) -> bool:
    """Whether patches of ids that the set had are those it had."""
    return all(
        np.array_equal(patch, wanted[array][name])
        for array, patches in read.items()
        for name, patch in patches.items()
        if name in wanted.get(array, {})
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mutated_sets(tmp_path: Path, layout: Any, count: Count) -> None:
    split = split_of(tmp_path / "root")
    ctpatch.build(split.folder, config=CONFIG, layout=layout)
    template = tmp_path / "template"
    shutil.copytree(split.out, template)
    wanted = read_all(split.out)
    failures = []
    for number in range(ROUNDS):
        rng = random.Random(f"{SEED} {layout} {number}")
        restore(split.out, template)
        said = f"{layout} {number}: {mutate_set(rng, split.out)}"
        doors = rng.sample(list(DOORS), 2)
        try:
            read = attempt(said, lambda: read_all(split.out))
            report = attempt(f"{said}: verify", lambda: DOORS["verify"](split))
            if read and report and report.value.ok:
                assert same_pixels(read.value, wanted), f"{said}: other pixels, and verify says ok"
            for door in doors:
                attempt(f"{said}: {door}", lambda door=door: DOORS[door](split))  # type: ignore[misc]
        except AssertionError as error:
            failures.append(f"{said}\n{error}")
        for name in ("patches/other", "patches/kept", "p", "prepared/p"):
            shutil.rmtree(split.root / name, ignore_errors=True)
        count(f"fuzzed sets: {layout}")
    if failures:
        pytest.fail(f"{len(failures)} of {ROUNDS} failed\n" + "\n\n".join(failures[:_SHOWN]), pytrace=False)
