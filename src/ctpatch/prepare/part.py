"""One part of a preparation, from its raw slices to its receipt.

As in a build: a part reads its slices, writes them, makes them durable, and only then writes its receipt. Whoever runs
it, however often, the bytes are the same. Nothing in a receipt names a patient or a file of the source.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ctpatch.errors import SliceError
from ctpatch.files.atomic import sync_outputs, system_errors, write_file
from ctpatch.files.digest import array_digest
from ctpatch.files.npy import header_bytes
from ctpatch.prepare.folder import slice_name
from ctpatch.prepare.geometry import Geometry, whole_numbers
from ctpatch.prepare.privacy.hiding import replace_names
from ctpatch.prepare.readers.base import Observed, RawSlice, Reader, observed
from ctpatch.prepare.readers.tree import source_folder
from ctpatch.prepare.tally import Tally
from ctpatch.prepare.values import AIR_HU, STORED, Mapping
from ctpatch.words import OnError
from ctpatch.work.receipt import Receipt, Row, arrays_hold

Image = NDArray[Any]


class PreparedImage(NamedTuple):
    """A prepared slice of one array, and what is kept of its raw pixels: their digest and their tally.

    The tally has no values where they are no HU. `clipped` is whether values outside [0, 1] were clipped; only raw
    values that are in [0, 1] but for rounding say so, since a window clips what it is to clip.
    """

    image: Image
    digest: str
    tally: Tally
    clipped: bool


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Where an array's slices come from.

    Attributes:
        mapping: from HU to [0, 1]; None for a mask, which is kept as it is.
        pattern: which series are meant; None means all.
    """

    array: str
    reader: Reader
    root: Path
    mapping: Mapping | None
    pattern: str | None = None

    @property
    def folder(self) -> Path:
        """What names of files are relative to: the source, or the folder that the one file lies in."""
        return source_folder(self.root)

    @property
    def dtype(self) -> str:
        """Of the prepared slices."""
        return "int16" if self.mapping is None else "float32"


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """What all parts share: the absolute folders of the set and of its receipts, and what decides slices and paths."""

    folder: Path
    state: Path
    path_prefix: str
    arrays: tuple[ArraySource, ...]
    geometry: Geometry
    plan_digest: str
    on_error: OnError


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """One slice to prepare: its number in its split, the raw slice of each array, and the prepared slice's geometry.

    `patient`, `series`, `file` and `group` are pseudonyms. `group` is what no two splits share, in a set where that is
    not the patient; else None. `problem` says why a slice cannot be used, where that is known.
    """

    index: int
    split: str
    slices: tuple[RawSlice, ...]
    shape: tuple[int, int]
    patient: str
    series: str
    file: str
    spacing_mm: tuple[float, float] | None
    problem: str | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        """What messages call it: the file of its image."""
        return self.slices[0].file


@dataclass(frozen=True, slots=True)
class PreparePart:
    """A run of slices of one split: the unit of work."""

    number: int
    tasks: tuple[PrepareTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReceipt(Receipt):
    """What a finished part did: rows of its split's manifest, and digests of the prepared slices, by file.

    `left_out` are slices that could not be used: pseudonym of the file, and why. `tallies` are array, pseudonym of the
    series, and the tally of its values, as plain values. `clipped` counts slices with raw values that lay outside
    [0, 1] by rounding.
    """

    rows: list[Row]
    digests: dict[str, str]
    left_out: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    tallies: list[list[Any]]
    clipped: int = 0


def run_part(job: PrepareJob, part: PreparePart) -> PrepareReceipt:
    """Do one part, or find that it is done; SliceError where a slice cannot be used and is not to be skipped."""
    done = _trusted(job, part)
    if done is not None:
        return done
    started = time.time_ns()
    rows: list[dict[str, Any]] = []
    digests: dict[str, str] = {}
    left_out: list[list[str]] = []
    tallies: dict[tuple[str, str], Tally] = {}
    clipped = 0
    for task, images in prepared_images(job, part):
        if isinstance(images, SliceError):
            if job.on_error == "stop":
                raise images
            left_out.append([task.file, without_names(images.message, task.slices)])
            continue
        clipped += any(each.clipped for each in images)
        for (image, _, tally, _), source in zip(images, job.arrays, strict=True):
            tallies.setdefault((source.array, task.series), Tally()).add(tally)
            name = slice_name(task.split, source.array, task.index)
            with system_errors("writing", name):
                write_file(str(job.folder / name), [header_bytes(image.shape, image.dtype), image.data.cast("B")])
            digests[name] = array_digest(image)
        rows.append(_row(job, task, images))
    sync_outputs(job.folder, [str(job.folder / name) for name in digests])
    done = PrepareReceipt(
        part=part.number,
        plan_digest=job.plan_digest,
        started_ns=started,
        rows=rows,
        digests=digests,
        left_out=left_out,
        tallies=[[*where, tally.as_plain()] for where, tally in tallies.items()],
        clipped=clipped,
    )
    done.write(job.state)
    return done


def probe_part(job: PrepareJob, part: PreparePart) -> int:
    """Read and map slices without writing, to find one that ends its process."""
    return sum(1 for _ in prepared_images(job, part))


def prepared_images(
    job: PrepareJob, part: PreparePart
) -> Iterator[tuple[PrepareTask, list[PreparedImage] | SliceError]]:
    """For each slice of a part its arrays, prepared; or what is wrong with it."""
    # What is known to be wrong is not opened again: it may have ended a process.
    sound = [task for task in part.tasks if task.problem is None]
    readings = [_read_all(source, [task.slices[place] for task in sound]) for place, source in enumerate(job.arrays)]
    for task in part.tasks:
        try:
            if task.problem is not None:
                raise SliceError(task.problem)
            raws: list[Observed] = []
            for raw in [next(reading) for reading in readings]:
                if isinstance(raw, SliceError):
                    raise raw
                raws.append(raw)
            images = [
                PreparedImage(
                    _prepare(job, source, task, one, raw.image),
                    array_digest(raw.image),
                    _tally(source, one, raw),
                    _is_clipped(one, raw.image),
                )
                for source, one, raw in zip(job.arrays, task.slices, raws, strict=True)
            ]
        except SliceError as error:
            yield task, error
        else:
            yield task, images


def _tally(source: ArraySource, raw_slice: RawSlice, raw: Observed) -> Tally:
    in_hu = source.mapping is not None and raw_slice.unit == "HU"
    return Tally.of(raw) if in_hu else Tally.without_values(raw)


def _read_all(source: ArraySource, slices: Sequence[RawSlice]) -> Iterator[Observed | SliceError]:
    """Slices in order; one that cannot be read gives its error, and reading goes on behind it."""
    for _, run in groupby(slices, key=lambda each: each.file):
        left = list(run)
        while left:
            asked = tuple(left)
            try:
                for _, image in zip(asked, observed(source.reader, source.root, asked), strict=False):
                    left.pop(0)
                    yield image
                if left:
                    raise SliceError(f"{left[0].file}: it holds fewer slices than when it was looked at")
            except SliceError as error:
                left.pop(0)
                yield error


def _prepare(job: PrepareJob, source: ArraySource, task: PrepareTask, raw_slice: RawSlice, raw: Image) -> Image:
    if raw.ndim != 2 or not np.isfinite(raw).all():  # noqa: PLR2004
        raise SliceError(f"{raw_slice.file}: item {raw_slice.item} holds values that are not finite")
    labels = source.mapping is None
    if not labels and raw_slice.unit == "HU":
        # Whatever a scanner puts around its circle, declared as padding or not, is air; before pixels are mixed.
        raw = np.maximum(raw, np.float32(AIR_HU))
    image = job.geometry.apply(raw, raw_slice.spacing_mm, labels=labels)
    if image.shape != task.shape:
        raise SliceError(f"{raw_slice.file}: it becomes {image.shape}, its image {task.shape}")
    if source.mapping is None:
        return np.ascontiguousarray(whole_numbers(image, raw_slice.file))
    return np.ascontiguousarray((STORED if raw_slice.unit == "mapped" else source.mapping).apply(image))


def _is_clipped(raw_slice: RawSlice, raw: Image) -> bool:
    return raw_slice.unit == "mapped" and not 0.0 <= float(raw.min()) <= float(raw.max()) <= 1.0


def _row(job: PrepareJob, task: PrepareTask, images: list[PreparedImage]) -> dict[str, Any]:
    (first, digest, *_), *others = images
    row_mm, col_mm = task.spacing_mm or (None, None)
    row: dict[str, Any] = {
        "index": task.index,
        "path": job.path_prefix + slice_name(task.split, "image", task.index),
        "min": float(first.min()),
        "max": float(first.max()),
        "patient_id": task.patient,
        "series": task.series,
        "position_mm": task.slices[0].position_mm,
        "spacing_row_mm": row_mm,
        "spacing_col_mm": col_mm,
        "source_digest": digest,
    }
    if task.group is not None:
        row["group"] = task.group
    for source, (_, more, *_) in zip(job.arrays[1:], others, strict=True):
        row[f"{source.array}_path"] = job.path_prefix + slice_name(task.split, source.array, task.index)
        row[f"{source.array}_source_digest"] = more
    return row


def without_names(message: str, slices: Sequence[RawSlice]) -> str:
    """A message as it may be written: the names of the source's files taken out."""
    names = (
        name
        for each in slices
        for name in (
            *each.files,
            *(part for file in each.files for part in file.split("/")),
            each.group,
            each.who,
            each.series,
        )
    )
    return replace_names(message, dict.fromkeys(names, "the file"))


def _trusted(job: PrepareJob, part: PreparePart) -> PrepareReceipt | None:
    """The receipt of an earlier run where all it says still holds, else None: the part is done again."""
    receipt = PrepareReceipt.of_plan(job.state, part.number, job.plan_digest)
    holds = (
        receipt is not None
        and not receipt.left_out
        and [row.get("index") for row in receipt.rows] == [task.index for task in part.tasks]
        and not any(touched_since(job.arrays, task, receipt.started_ns) for task in part.tasks)
        and arrays_hold(job.folder, receipt.digests)
    )
    return receipt if holds else None


def touched_since(arrays: Sequence[ArraySource], task: PrepareTask, since_ns: int) -> bool:
    """Whether a file of a task was written or put in place since a moment, or is gone."""
    if since_ns > time.time_ns():
        return True
    files = ((source.folder, file) for source, raw in zip(arrays, task.slices, strict=True) for file in raw.files)
    for folder, file in files:
        try:
            status = os.stat(folder / file)
        except OSError:
            return True
        if max(status.st_mtime_ns, status.st_ctime_ns) >= since_ns:
            return True
    return False
