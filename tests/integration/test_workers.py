"""Workers die; the work does not."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ctpatch
from ctpatch.config import BuildConfig
from ctpatch.cutting.work import CutWork, make_set
from ctpatch.errors import WorkerLostError
from ctpatch.events import Event, WorkAdvanced
from ctpatch.work.executors.base import Done, Lost
from helpers import SMALL, Heard, assert_same_tree, build_one, make_split, small_parts, tree_bytes

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=2, packed_windows=40)


@needs_kill
@pytest.mark.parametrize("layout", ["files", "slices"])
def test_a_worker_killed_in_a_build_changes_no_byte(tmp_path: Path, layout: Any) -> None:
    whole = make_split(tmp_path / "whole", [(40, 50)] * 16)
    build_one(whole, layout=layout)
    prepared = make_split(tmp_path / "killed", [(40, 50)] * 16)
    others = set(multiprocessing.active_children())
    killed: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, WorkAdvanced) and not killed:
            victim = (set(multiprocessing.active_children()) - others).pop()
            victim.kill()
            killed.append(victim.name)

    result = build_one(prepared, layout=layout, workers=2, listener=listener)
    assert len(killed) == 1
    assert result.complete
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(whole.out))


class Losing:
    """An executor that gives the part with the third slice up as lost, as after two deaths."""

    def run(self, function: Callable[[Any, Any], Any], shared: Any, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if any(task.slice_index == 2 for task in item.tasks):
                yield Lost(item)
            else:
                yield Done(item, function(shared, item))


def test_a_lost_part_is_named_the_rest_is_kept(tmp_path: Path) -> None:
    prepared = make_split(tmp_path / "lost", [(40, 50)] * 8)
    plan = ctpatch.plan(prepared.folder, config=SMALL)[0]
    with pytest.raises(WorkerLostError) as error:
        make_set(CutWork(plan, prepared.out, BuildConfig()), Losing(), Heard())
    assert prepared.paths["image"][2] in error.value.message
    assert error.value.exit_status == 1
    assert ctpatch.verify(prepared.out).status == "incomplete"
    assert len(list((prepared.out / ".ctpatch").glob("*.receipt.json"))) == 3
    assert build_one(prepared).outcome == "resumed"
    whole = make_split(tmp_path / "whole", [(40, 50)] * 8)
    build_one(whole)
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(whole.out))
