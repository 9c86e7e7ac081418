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
from ctpatch.atomic import write_atomic, write_once
from ctpatch.config import BuildConfig
from ctpatch.events import ignore
from ctpatch.executors.base import Done
from ctpatch.make import Recipe, job_of, make_set
from ctpatch.output import OutputFolder
from executor_contract import DEADLINE
from helpers import LAYOUTS, SMALL, Prepared, assert_same_tree, build_one, make_split, run_part_anew, tree_bytes

build_module = importlib.import_module("ctpatch.build")
plan_module = importlib.import_module("ctpatch.plan")


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
    monkeypatch.setattr(plan_module, "PART_SLICES", 2)
    monkeypatch.setattr(plan_module, "PACKED_PART_WINDOWS", 40)


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[str, Executor]]:
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        yield {
            "threads": stack.enter_context(ThreadPoolExecutor(2)),
            "processes": stack.enter_context(ProcessPoolExecutor(2, spawn)),
        }


def anew(prepared: Prepared) -> Recipe[Any]:
    """A recipe that trusts no receipt."""
    plan = ctpatch.plan(prepared.folder, config=SMALL)[0]
    return replace(build_module.cutting_recipe(plan, strict=False), run=run_part_anew)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_every_part_twice_at_the_same_time(tmp_path: Path, pools: dict[str, Executor], kind: str, layout: Any) -> None:
    shapes = [(40, 50)] * 9 + [(33, 47)] * 3
    once = make_split(tmp_path / "once", shapes, arrays={"target": "float32"})
    build_one(once, layout=layout)
    for number in range(3):
        twice = make_split(tmp_path / f"twice-{number}", shapes, arrays={"target": "float32"})
        make_set(anew(twice), twice.out, BuildConfig(layout=layout), Twice(pools[kind]), ignore)
        assert_same_tree(tree_bytes(twice.out), tree_bytes(once.out))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_on_record_is_whole_while_its_part_is_done_again(prepared: Prepared, layout: Any) -> None:
    recipe = anew(prepared)
    output = OutputFolder(prepared.out, ignore)
    build_one(prepared, layout=layout)
    wanted = {name: content for name, content in tree_bytes(prepared.out).items() if not name.endswith("/")}
    job = job_of(recipe, output, BuildConfig(layout=layout))
    job.state.mkdir()
    parts = list(recipe.plan.parts(layout))
    begun, enough = threading.Event(), threading.Event()

    def again() -> None:
        while not enough.is_set():
            for part in parts:
                begun.set()
                recipe.run(job, part)

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
    recipe = anew(prepared)
    build_one(prepared)
    wanted = tree_bytes(prepared.out)
    job = job_of(recipe, OutputFolder(prepared.out, ignore), BuildConfig())
    with pytest.raises(ctpatch.CtPatchError, match="No such file"):
        recipe.run(job, next(recipe.plan.parts("files")))
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
