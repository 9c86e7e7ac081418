"""Processes that are forked after polars was used: they read the right patches, or say why they do not; none hangs.

Each script is a process of its own. It is ended only where it would never end by itself.
"""

import inspect
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
from typing import Any
import numpy as np
import polars as pl
import ctpatch

folders = sys.argv[1:]
folder = folders[0]

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


def sums(patches: Any) -> list[float]:
    """A number for each patch, which its pixels and their places decide."""
    flat = np.asarray(patches, np.float64).reshape(len(patches), -1)
    found: list[float] = (flat * np.arange(1, flat.shape[1] + 1)).sum(1).round(6).tolist()
    return found


def run(script: str, *folders: Path) -> Any:
    """The JSON that a script prints; it knows `folders`, the first of them as `folder`, and `sums`."""
    code = _BEGINNING + inspect.getsource(sums) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *folders],
        capture_output=True,
        text=True,
        check=False,
        timeout=_NEVER,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_split(tmp_path_factory.mktemp("forked"))


@pytest.fixture(scope="module")
def built(split: Prepared) -> list[Path]:
    """60 patches in each layout."""
    return [build_one(split, layout=layout, out=split.root / layout).folder for layout in LAYOUTS]


@pytest.fixture(scope="module")
def wanted(split: Prepared) -> list[float]:
    """A number for each patch from the slices, without ctpatch."""
    return sums(reference_set(split.images["image"])[1])


@pytest.fixture(scope="module")
def shards(built: list[Path]) -> Path:
    return built[LAYOUTS.index("shards")]


def test_a_data_loader_with_forked_workers(built: list[Path], wanted: list[float]) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    found = run(
        """
        import torch
        from ctpatch.torch import PatchDataset

        def twice(data):
            loader = torch.utils.data.DataLoader(data, 7, num_workers=2, multiprocessing_context="fork")
            return [number for _ in range(2) for batch in loader for number in sums(batch)]

        use_polars()
        before = ctpatch.open(folder).manifest
        options = [{"in_memory": False}, {"in_memory": True}]
        sets = [ctpatch.open(each, **more) for each in folders for more in options]
        print(json.dumps([twice(PatchDataset(ps)) for ps in sets]))
        """,
        *built,
    )
    assert found == [wanted * 2] * 2 * len(LAYOUTS)


def test_a_set_in_a_forked_pool(built: list[Path], wanted: list[float]) -> None:
    """Also where the set is part of something else, and nothing was read from it before."""
    found = run(
        """
        import multiprocessing
        use_polars()
        held = {"sets": list(map(ctpatch.open, folders))}

        def patch(place):
            return sums(held["sets"][place[0]].read([place[1]]))[0]

        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(json.dumps(pool.map(patch, [(at, number) for at in range(len(folders)) for number in range(60)])))
        """,
        *built,
    )
    assert found == wanted * len(LAYOUTS)


def test_batches_in_a_forked_process(built: list[Path], wanted: list[float]) -> None:
    """Of a loader that was made before the fork, and of one that is made after it."""
    all_found = run(
        """
        use_polars()
        sets = list(map(ctpatch.open, folders))
        loaders = [ctpatch.open(each).batches(7, weight="std", columns=["row"]) for each in folders]

        def batches(loader):
            return [[batch.indices.tolist(), sums(batch.arrays["image"])] for batch in loader]

        def both(ps, loader):
            return [in_child(lambda: batches(loader)), in_child(lambda: batches(ps.batches(7)))]

        print(json.dumps(list(map(both, sets, loaders))))
        """,
        *built,
    )
    assert len(all_found) == len(LAYOUTS)
    for found in all_found:
        assert [len(batches) for batches in found] == [9, 9]
        for batches in found:
            for indices, numbers in batches:
                assert numbers == [wanted[at] for at in indices]
        assert [at for indices, _ in found[1] for at in indices] == list(range(60))


def test_a_set_that_is_opened_in_a_forked_process(shards: Path) -> None:
    """Where the parent had used polars it is refused with an error message, which says what to do."""
    said = run("use_polars()\nprint(json.dumps(in_child(lambda: ctpatch.open(folder).read([0]).tolist())))\n", shards)
    assert said.startswith("UsageError: patch_manifest.csv: this process was forked")
    assert "multiprocessing_context='spawn'" in said


_NEED_TABLES = (
    "ps.slice(0)",
    "ps.reassemble(0)",
    "ps.batches(7, subset='std > 0')",
    "ps.batches(7, weight='std')",
    "ps.batches(7, balance='patient_id')",
    "ps.batches(7, columns=['row'])",
    "ps.slices",
    "ctpatch.verify(folder)",
)


def test_what_needs_tables_in_a_forked_process_is_refused(shards: Path) -> None:
    calls = ", ".join(f"lambda ps: {call}" for call in _NEED_TABLES)
    all_said = run(
        f"""
        use_polars()

        def said(call):
            ps = ctpatch.open(folder)
            return in_child(lambda: call(ps))

        print(json.dumps(list(map(said, [{calls}]))))
        """,
        shards,
    )
    for call, said in zip(_NEED_TABLES, all_said, strict=True):
        assert said.startswith("UsageError: "), call
        assert "this process was forked" in said, call


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_iterator_that_is_carried_over_a_fork(shards: Path, wanted: list[float], prefetch: int) -> None:
    """In the forked process it raises, each time; a new one works there, and the old one goes on where it was begun."""
    child, fresh, numbers = run(
        f"loader = ctpatch.open(folder).batches(7, prefetch={prefetch})"
        """
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
        shards,
    )
    assert len(child) == 2
    for said in child:
        assert said.startswith("UsageError: this iterator was begun in process")
        assert "begin a new one there with iter(loader)" in said
    assert fresh == numbers == wanted


def test_an_iterator_of_tensors_that_is_carried_over_a_fork(shards: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    said = run(
        """
        from ctpatch.torch import PatchLoader
        iterator = iter(PatchLoader(folder, 7))
        next(iterator)
        print(json.dumps([in_child(lambda: next(iterator).tolist()), next(iterator).shape[0]]))
        """,
        shards,
    )
    assert said[0].startswith("UsageError: this iterator was begun in process")
    assert said[1] == 7


def test_a_script_ends_though_an_iterator_is_left_over(shards: Path) -> None:
    script = "left = iter(ctpatch.open(folder).batches(2, prefetch=3)); next(left); print(json.dumps('end'))"
    assert run(script, shards) == "end"


def test_locks_that_other_threads_hold_are_free_in_a_forked_process(built: list[Path], wanted: list[float]) -> None:
    """As where one loader reads ahead in a thread while a DataLoader starts its workers."""
    found = run(
        """
        use_polars()

        def read_while_held(ps):
            ps.read([0])
            held, over = threading.Event(), threading.Event()

            def hold():
                with ps._lock, ps._files._lock, ps._files.slabs._lock:
                    held.set()
                    over.wait()

            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()
            found = in_child(lambda: sums(ps.read(range(60))))
            over.set()
            thread.join()
            return found

        print(json.dumps([read_while_held(ctpatch.open(each, in_memory=True)) for each in folders]))
        """,
        *built,
    )
    assert found == [wanted] * len(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_brings_what_workers_need_of_the_tables(prepared: Prepared, wanted: list[float], layout: Any) -> None:
    """A worker that is started afresh gets it with the dataset, and opens no table."""
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    from ctpatch.torch import PatchDataset

    folder = build_one(prepared, layout=layout).folder
    data: Any = PatchDataset(ctpatch.open(folder))
    sent = pickle.dumps(data)
    for table in folder.glob("*.csv"):
        table.unlink()
    there: Any = pickle.loads(sent)
    assert sums([there[number] for number in range(60)]) == wanted
    again: Any = pickle.loads(pickle.dumps(there))
    assert sums(again.__getitems__([5, 59])) == [wanted[5], wanted[59]]


def test_a_damaged_table_is_not_reported_at_a_fork(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forks may not care about the set; the error comes where a patch is asked for."""
    folder = build_one(prepared, layout="shards").folder
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
