"""A part may be done twice, one after the other or at the same time: by threads, processes, machines."""

import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ctpatch
from ctpatch.config import BuildConfig
from ctpatch.cutting.work import CutWork, make_set
from ctpatch.events import ignore
from ctpatch.files.atomic import write_atomic, write_once
from ctpatch.testing.executors import DEADLINE
from ctpatch.work.executors.base import Done
from deadly_work import run_part_anew
from helpers import (
    LAYOUTS,
    SMALL,
    Prepared,
    assert_same_tree,
    build_one,
    make_split,
    small_parts,
    tree_bytes,
)

build_module = importlib.import_module("ctpatch.cutting.api")


class Twice:
    """Gives every item to a pool twice at the same time, both as if it had never been done."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    def run(self, function: Callable[[Any, Any], Any], shared: Any, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            first, second = (self._pool.submit(function, shared, item) for _ in range(2))
            assert replace(first.result(), started_ns=0) == replace(second.result(), started_ns=0)
            yield Done(item, second.result())


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=2, packed_windows=40)


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[str, Executor]]:
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        yield {
            "threads": stack.enter_context(ThreadPoolExecutor(2)),
            "processes": stack.enter_context(ProcessPoolExecutor(2, spawn)),
        }


class Anew(CutWork):
    """Trusts no receipt."""

    run = staticmethod(run_part_anew)


def anew(prepared: Prepared, layout: Any = "files") -> Anew:
    plan = ctpatch.plan(prepared.folder, config=SMALL)[0]
    return Anew(plan, prepared.out, BuildConfig(layout=layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_every_part_twice_at_the_same_time(tmp_path: Path, pools: dict[str, Executor], kind: str, layout: Any) -> None:
    shapes = [(40, 50)] * 9 + [(33, 47)] * 3
    once = make_split(tmp_path / "once", shapes, arrays={"target": "float32"})
    build_one(once, layout=layout)
    for number in range(3):
        twice = make_split(tmp_path / f"twice-{number}", shapes, arrays={"target": "float32"})
        make_set(anew(twice, layout), Twice(pools[kind]), ignore)
        assert_same_tree(tree_bytes(twice.out), tree_bytes(once.out))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_on_record_is_whole_while_its_part_is_done_again(prepared: Prepared, layout: Any) -> None:
    work = anew(prepared, layout)
    build_one(prepared, layout=layout)
    wanted = {name: content for name, content in tree_bytes(prepared.out).items() if not name.endswith("/")}
    job = work.job
    job.state.mkdir()
    parts = list(work.parts())
    begun, enough = threading.Event(), threading.Event()

    def again() -> None:
        while not enough.is_set():
            for part in parts:
                begun.set()
                work.run(job, part)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(again)
        try:
            assert begun.wait(DEADLINE)
            for _ in range(30):
                assert all((prepared.out / name).read_bytes() == content for name, content in wanted.items())
                assert not running.done(), running.exception()
        finally:
            enough.set()
        running.result(DEADLINE)


def test_a_part_done_once_more_behind_the_end_harms_nothing(prepared: Prepared) -> None:
    work = anew(prepared)
    build_one(prepared)
    wanted = tree_bytes(prepared.out)
    with pytest.raises(ctpatch.CtPatchError, match="No such file"):
        work.run(work.job, next(work.parts()))
    assert_same_tree(tree_bytes(prepared.out), wanted)


def test_many_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    contents = [bytes([number]) * (1000 + number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(lambda content: write_atomic(path, content), contents))
            assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["receipt.json"]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_write_once_one_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refused(*_names: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    contents = [str(number).encode() * 100 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for name in map(str, range(10)):
            first = list(pool.map(lambda content, path=tmp_path / name: write_once(path, content), contents))
            assert first.count(True) == 1
            assert (tmp_path / name).read_bytes() == contents[first.index(True)]
    assert sorted(os.listdir(tmp_path)) == sorted(map(str, range(10)))
