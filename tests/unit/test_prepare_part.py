"""Parts: files of many slices, slices that cannot be read, and messages without names."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.geometry import Geometry
from ctpatch.prepare.part import ArraySource, PrepareJob, PreparePart, PrepareTask, prepared_images, without_names
from ctpatch.prepare.readers.base import RawSlice, Scan
from ctpatch.prepare.values import PRESETS


@dataclass(frozen=True)
class Volumes:
    """A reader of files that hold many slices, some of which are faulty; each slice is its own number in HU."""

    faulty: frozenset[int] = frozenset()
    name: str = "volumes"

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        raise AssertionError(f"a part reads what was found before; it never scans {root} with {advance}")

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        assert root.is_dir()
        for each in slices:
            if each.item in self.faulty:
                raise SliceError(f"{each.file}: item {each.item} is damaged")
            yield np.full(each.shape, each.item, np.float32)


def part_of(items: list[tuple[str, int]], **more: Any) -> PreparePart:
    tasks = [
        PrepareTask(
            number,
            "train",
            (RawSlice(file, item, (4, 5), "g", "file", "s", item, **more),),
            (4, 5),
            "P",
            "S",
            "F",
            None,
        )
        for number, (file, item) in enumerate(items)
    ]
    return PreparePart(0, tuple(tasks))


def job_of(tmp_path: Path, reader: Volumes) -> PrepareJob:
    source = ArraySource("image", reader, tmp_path, PRESETS["full"])
    return PrepareJob(tmp_path, tmp_path, "", (source,), Geometry(), "digest", "skip")


def test_slices_of_a_file_come_in_order_and_a_faulty_one_stops_none_behind_it(tmp_path: Path) -> None:
    items = [("a", 0), ("a", 1), ("a", 2), ("b", 7), ("b", 3), ("a", 5)]
    found = list(prepared_images(job_of(tmp_path, Volumes(frozenset({1, 7}))), part_of(items)))
    assert [task.index for task, _ in found] == [0, 1, 2, 3, 4, 5]
    for (_, images), (_, item) in zip(found, items, strict=True):
        if item in {1, 7}:
            assert isinstance(images, SliceError)
            assert f"item {item} is damaged" in images.message
        else:
            assert not isinstance(images, SliceError)
            assert np.all(images[0][0] == np.float32((item + 1024) / 4096))


def test_values_in_0_to_1_are_left_as_they_are(tmp_path: Path) -> None:
    ((_, images),) = prepared_images(job_of(tmp_path, Volumes()), part_of([("a", 1)], unit="mapped"))
    assert not isinstance(images, SliceError)
    assert np.all(images[0][0] == 1.0)


def test_a_known_problem_is_not_read_again(tmp_path: Path) -> None:
    part = part_of([("a", 0), ("a", 1)])
    part = replace(part, tasks=(replace(part.tasks[0], problem="it ends its process"), part.tasks[1]))
    first, second = prepared_images(job_of(tmp_path, Volumes()), part)
    assert isinstance(first[1], SliceError)
    assert not isinstance(second[1], SliceError)


def test_messages_are_written_without_names() -> None:
    raw = RawSlice("Doe^Jane/ct/IM 1", 0, (1, 1), "ID-77", "patient", "1.2.3", 0)
    message = "Doe^Jane/ct/IM 1: patient ID-77 of series 1.2.3 in IM 1 is damaged"
    written = without_names(message, [raw])
    for secret in ("Doe", "Jane", "IM 1", "ID-77", "1.2.3"):
        assert secret not in written
    assert written.endswith("is damaged")
