"""Processes that are forked after polars was used: they read the right patches, or say why they do not; none hangs.

Each script is a process of its own. It is ended only where it would never end by itself.
"""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.files import forks
from ctpatch.files.forks import OwnLock, require_polars
from helpers import LAYOUTS, Prepared, build_one, make_split, reference_set

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

_NEVER = 300
"""Seconds after which a script is taken to hang; it needs two."""

_BEGINNING = """
import json, os, sys, threading
import numpy as np
import polars as pl
import ctpatch

folder = sys.argv[1]

def use_polars():
    pl.DataFrame({"a": [1, 2]}).filter(pl.col("a") > 1)

def in_child(work):
    \"\"\"What `work` gives in a forked process, or its error.\"\"\"
    back, there = os.pipe()
    child = os.fork()
    if not child:
        try:
            result = work()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        with os.fdopen(there, "w") as file:
            json.dump(result, file)
        os._exit(0)
    os.close(there)
    with os.fdopen(back) as file:
        result = json.load(file)
    os.waitpid(child, 0)
    return result
"""


def run(script: str, *arguments: object) -> Any:
    """The JSON that a script prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _BEGINNING + textwrap.dedent(script)]
        + [str(each) for each in arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=_NEVER,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sums(patches: Any) -> list[float]:
    """A number for each patch, which its pixels and their places decide."""
    flat = np.asarray(patches, np.float64).reshape(len(patches), -1)
    found: list[float] = (flat * np.arange(1, flat.shape[1] + 1)).sum(1).round(6).tolist()
    return found


SUMS = """
def sums(patches):
    flat = np.asarray(patches, np.float64).reshape(len(patches), -1)
    return (flat * np.arange(1, flat.shape[1] + 1)).sum(1).round(6).tolist()
"""


@pytest.fixture(params=LAYOUTS)
def built(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[float]]:
    """60 patches in each layout, and a number for each from the slices, without ctpatch."""
    prepared = make_split(tmp_path)
    build_one(prepared, layout=request.param)
    return prepared.out, sums(reference_set(prepared.images["image"])[1])


@pytest.fixture
def shards(prepared: Prepared) -> tuple[Path, list[float]]:
    build_one(prepared, layout="shards")
    return prepared.out, sums(reference_set(prepared.images["image"])[1])


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_data_loader_with_forked_workers(built: Any, in_memory: bool) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    folder, wanted = built
    found = run(
        SUMS
        + """
        import torch
        from ctpatch.torch import PatchDataset

        use_polars()
        before = ctpatch.open(folder).manifest
        data = PatchDataset(ctpatch.open(folder, in_memory=sys.argv[2] == "True"))
        loader = torch.utils.data.DataLoader(data, 7, num_workers=2, multiprocessing_context="fork")
        print(json.dumps([number for _ in range(2) for batch in loader for number in sums(batch)]))
        """.replace("\n        ", "\n"),
        folder,
        in_memory,
    )
    assert found == wanted * 2


def test_a_set_in_a_forked_pool(built: Any) -> None:
    """Also where the set is part of something else, and nothing was read from it before."""
    folder, wanted = built
    found = run(
        SUMS
        + """
import multiprocessing
use_polars()
held = {"set": ctpatch.open(folder)}

def patch(number):
    return sums(held["set"].read([number]))[0]

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(json.dumps(pool.map(patch, range(60))))
""",
        folder,
    )
    assert found == wanted


def test_batches_in_a_forked_process(built: Any) -> None:
    """Of a loader that was made before the fork, and of one that is made after it."""
    folder, wanted = built
    found = run(
        SUMS
        + """
use_polars()
ps = ctpatch.open(folder)
loader = ctpatch.open(folder).batches(7, weight="std", columns=["row"])

def batches(loader):
    return [[batch.indices.tolist(), sums(batch.arrays["image"])] for batch in loader]

print(json.dumps([in_child(lambda: batches(loader)), in_child(lambda: batches(ps.batches(7)))]))
""",
        folder,
    )
    assert [len(batches) for batches in found] == [9, 9]
    for batches in found:
        for indices, numbers in batches:
            assert numbers == [wanted[at] for at in indices]
    assert [at for indices, _ in found[1] for at in indices] == list(range(60))


def test_a_set_that_is_opened_in_a_forked_process(shards: Any) -> None:
    """Where the parent had used polars it is refused with an error message, which says what to do."""
    said = run(
        "use_polars()\nprint(json.dumps(in_child(lambda: ctpatch.open(folder).read([0]).tolist())))\n", shards[0]
    )
    assert said.startswith("UsageError: patch_manifest.csv: this process was forked")
    assert "multiprocessing_context='spawn'" in said


@pytest.mark.parametrize(
    "call",
    [
        "ps.slice(0)",
        "ps.reassemble(0)",
        "ps.batches(7, subset='std > 0')",
        "ps.batches(7, weight='std')",
        "ps.batches(7, balance='patient_id')",
        "ps.batches(7, columns=['row'])",
        "ps.slices",
        "ctpatch.verify(folder)",
    ],
)
def test_what_needs_tables_in_a_forked_process_is_refused(shards: Any, call: str) -> None:
    said = run(f"use_polars(); ps = ctpatch.open(folder); print(json.dumps(in_child(lambda: {call})))", shards[0])
    assert said.startswith("UsageError: ")
    assert "this process was forked" in said


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_iterator_that_is_carried_over_a_fork(shards: Any, prefetch: int) -> None:
    """In the forked process it raises, each time; a new one works there, and the old one goes on where it was begun."""
    folder, wanted = shards
    child, fresh, numbers = run(
        SUMS
        + """
loader = ctpatch.open(folder).batches(7, prefetch=int(sys.argv[2]))
iterator = iter(loader)
first = next(iterator)

def carried():
    said = []
    for _ in range(2):
        try:
            next(iterator)
        except ctpatch.CtPatchError as error:
            said.append(f"{type(error).__name__}: {error}")
    iterator.close()
    return said

def begun_there():
    return [number for batch in loader for number in sums(batch.arrays["image"])]

child, fresh = in_child(carried), in_child(begun_there)
numbers = [number for batch in [first, *iterator] for number in sums(batch.arrays["image"])]
print(json.dumps([child, fresh, numbers]))
""",
        folder,
        prefetch,
    )
    assert len(child) == 2
    for said in child:
        assert said.startswith("UsageError: this iterator was begun in process")
        assert "begin a new one there with iter(loader)" in said
    assert fresh == numbers == wanted


def test_an_iterator_of_tensors_that_is_carried_over_a_fork(shards: Any) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    said = run(
        """
        from ctpatch.torch import PatchLoader
        iterator = iter(PatchLoader(folder, 7))
        next(iterator)
        print(json.dumps([in_child(lambda: next(iterator).tolist()), next(iterator).shape[0]]))
        """.replace("\n        ", "\n"),
        shards[0],
    )
    assert said[0].startswith("UsageError: this iterator was begun in process")
    assert said[1] == 7


def test_a_script_ends_though_an_iterator_is_left_over(shards: Any) -> None:
    script = "left = iter(ctpatch.open(folder).batches(2, prefetch=3)); next(left); print(json.dumps('end'))"
    assert run(script, shards[0]) == "end"


def test_locks_that_other_threads_hold_are_free_in_a_forked_process(built: Any) -> None:
    """As where one loader reads ahead in a thread while a DataLoader starts its workers."""
    folder, wanted = built
    found = run(
        SUMS
        + """
use_polars()
ps = ctpatch.open(folder, in_memory=True)
ps.read([0])
held, over = threading.Event(), threading.Event()

def hold():
    with ps._lock, ps._files._lock, ps._files.slabs._lock:
        held.set()
        over.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
print(json.dumps(in_child(lambda: sums(ps.read(range(60))))))
over.set()
thread.join()
""",
        folder,
    )
    assert found == wanted


def test_a_dataset_brings_what_workers_need_of_the_tables(built: Any) -> None:
    """A worker that is started afresh gets it with the dataset, and opens no table."""
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    from ctpatch.torch import PatchDataset

    folder, wanted = built
    data: Any = PatchDataset(ctpatch.open(folder))
    sent = pickle.dumps(data)
    for table in folder.glob("*.csv"):
        table.unlink()
    there: Any = pickle.loads(sent)
    assert sums([there[number] for number in range(60)]) == wanted
    again: Any = pickle.loads(pickle.dumps(there))
    assert sums(again.__getitems__([5, 59])) == [wanted[5], wanted[59]]


def test_a_damaged_table_is_not_reported_at_a_fork(shards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forks may not care about the set; the error comes where a patch is asked for."""
    folder, _ = shards
    (folder / "patch_manifest.csv").unlink()
    ps = ctpatch.open(folder)
    monkeypatch.setattr(forks, "_state", type(forks._state)())
    forks._before()
    with pytest.raises(ctpatch.CtPatchError, match=r"patch_manifest\.csv is missing"):
        ps.read([0])


def test_a_lock_is_reentrant_and_can_be_renewed() -> None:
    lock = OwnLock()
    with lock, lock:
        pass
    lock._lock.acquire()
    lock.renew()
    with lock:
        pass
    require_polars("here")  # this process lost no threads
