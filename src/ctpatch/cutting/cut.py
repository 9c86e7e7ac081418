"""One part, from its slices to its receipt: the whole story of a build.

A part is idempotent: it reads its slices once, writes its outputs, makes them durable, and only then writes its
receipt. Whoever runs it, however often, even twice at the same time, the bytes are the same.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.grid import Grid, make_grid
from ctpatch.core.label_counts import LabelCounts, count_labels
from ctpatch.core.patches import pad_slice
from ctpatch.core.rounding import ROUNDING_STEPS, is_rounding, rounding_margin, shown_number, without_rounding
from ctpatch.core.rules import CompiledRules, compile_rules
from ctpatch.core.statistics.api import WindowStatistics, slice_maps, slices_statistics
from ctpatch.core.statistics.columns import levels_of, named_statistics
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part, SliceTask
from ctpatch.cutting.receipt import CutReceipt, trusted_receipt
from ctpatch.cutting.rows import CutSlice, Images, PartRows
from ctpatch.errors import RangeError, SliceError, SourceChangedError
from ctpatch.files.atomic import sync_outputs
from ctpatch.files.digest import array_digests
from ctpatch.files.npy import SliceBuffer
from ctpatch.layouts import layout_of
from ctpatch.layouts.base import PartWriter, WriterOptions
from ctpatch.layouts.disk import Disk

_STATED_TOLERANCE = 1e-6
Grids = dict[tuple[int, int], Grid]
Stacks = tuple[NDArray[Any], ...]

_RUN_SLICES = 8
_RUN_PIXELS = 2 << 20
"""A run of slices has at most so many, unless one slice alone has more: two runs are in memory."""


class ReadSlice(NamedTuple):
    """A slice in memory, and what was found in passing over its pixels; all but the statistics for each array."""

    images: Images
    padded: Images
    digests: tuple[str, ...]
    bounds: list[tuple[float, float]]
    statistics: WindowStatistics


def run_part(job: Job, part: Part) -> CutReceipt:
    """Do one part, or find that it is done; raises SliceError where a slice cannot be used and is not to be skipped."""
    return trusted_receipt(job, part, check_sources=True) or complete_part(job, part, cut_slices(job, part))


def probe_part(job: Job, part: Part) -> int:
    """Read and judge slices without writing anything."""
    return sum(1 for _ in cut_slices(job, part))


def complete_part(job: Job, part: Part, pieces: Iterable[CutSlice]) -> CutReceipt:
    """Write the slices of a part as they come, make everything durable, and put the receipt down."""
    rows, writer, outputs = write_part(job, part, pieces, Disk())
    written = rows.write()
    receipt = rows.receipt(writer.bytes_written, written)
    sync_outputs(job.folder, [*outputs, *(str(job.piece(part.number, table)) for table in written)])
    receipt.write(job.state)
    return receipt


def write_part(job: Job, part: Part, pieces: Iterable[CutSlice], disk: Disk) -> tuple[PartRows, PartWriter, list[str]]:
    """Give the slices of a part to the layout's writer as they come.

    Returns the part's rows, the writer at its end, and the files written, not yet durable.
    """
    options = WriterOptions(
        job.folder, job.path_prefix, job.split, job.config.patch_size, tuple(job.arrays), part.shards, disk
    )
    writer, rows = layout_of(job.layout).writer(options), PartRows(job, part)
    try:
        for piece in pieces:
            rows.add(piece, writer.write(piece.kept()) if piece.reason is None else None)
        return rows, writer, writer.finish()
    except BaseException:
        writer.abandon()
        raise


def cut_slices(job: Job, part: Part) -> Iterator[CutSlice]:
    """Read, check and judge the slices of a part.

    The pixels of a slice are valid until the next one is asked for.
    """
    rules = compile_rules(job.config.drop)
    shapes = dict.fromkeys(task.shape for task in part.tasks if task.problem is None)
    grids = {shape: make_grid(*shape, job.config) for shape in shapes}
    for task, read in _read_ahead(job, part, grids):
        try:
            if isinstance(read, Exception):
                raise read
            yield cut_slice(job, task, read, grids[task.shape], rules)
        except SliceError as error:
            if job.on_error == "stop":
                raise
            yield CutSlice(task=task, reason=error.message)


def _read_ahead(job: Job, part: Part, grids: Grids) -> Iterator[tuple[SliceTask, ReadSlice | Exception]]:
    """The slices of a part; while a run of them is cut, a thread reads the next run into the other set of buffers.

    Where it has not come to the end of the run that is wanted, the cutting thread reads the next run meanwhile.
    """
    runs = list(_runs(part.tasks))
    buffers = [[SliceBuffer() for _ in job.arrays] for _ in range(2)]

    def read(number: int) -> list[ReadSlice | Exception]:
        return _read_run(job, runs[number], buffers[number % 2], grids)

    with ThreadPoolExecutor(1, "ctpatch-reader") as reader:
        following = reader.submit(read, 0)
        for number, run in enumerate(runs, 1):
            here = following
            if number < len(runs):
                following = reader.submit(read, number)
                if not here.done() and following.cancel():
                    following = Future()
                    following.set_result(read(number))
            yield from zip(run, here.result(), strict=True)


def _runs(tasks: Sequence[SliceTask]) -> Iterator[list[SliceTask]]:
    """Slices of one shape to read at a time.

    Handing each one over alone would take longer than cutting it; and threads of Python hinder each other the less, the
    more each does in a single call.
    """
    for _, several in groupby(tasks, lambda task: (task.shape, len(task.paths))):
        alike = list(several)
        length = _run_length(alike[0])
        yield from (alike[start : start + length] for start in range(0, len(alike), length))


def _run_length(task: SliceTask) -> int:
    """How many slices like this one are read at a time."""
    return max(1, min(_RUN_SLICES, _RUN_PIXELS // max(1, prod(task.shape) * len(task.paths))))


def _read_run(
    job: Job, run: Sequence[SliceTask], buffers: Sequence[SliceBuffer], grids: Grids
) -> list[ReadSlice | Exception]:
    """Read and measure slices; what is wrong with one is raised when it is its turn."""
    try:
        shape = (_run_length(run[0]), *run[0].shape)
        stacks = tuple(
            buffer.memory(shape, np.dtype(info.dtype), "stack")
            for buffer, info in zip(buffers, job.arrays.values(), strict=True)
        )
        faults: dict[int, Exception] = {}
        for place, task in enumerate(run):
            try:
                # Those that can be used lie without a gap.
                _read_images(job, task, buffers, tuple(stack[place - len(faults)] for stack in stacks))
            except Exception as error:  # noqa: BLE001 - raised when it is this slice's turn
                faults[place] = error
        read = tuple(stack[: len(run) - len(faults)] for stack in stacks)
        measured = iter(_measured(job, read, grids[run[0].shape]) if len(read[0]) else ())
        return [faults[place] if place in faults else next(measured) for place in range(len(run))]
    except Exception as error:  # noqa: BLE001 - memory ran out
        return [error] * len(run)


def _measured(job: Job, stacks: Stacks, grid: Grid) -> list[ReadSlice]:
    """Pass over the pixels of slices of one shape once; `stacks` has them `(N, H, W)`, for each array."""
    config = job.config
    padded = tuple(pad_slice(stack, grid.padded_shape, config.pad_mode) for stack in stacks)
    judged = list(job.arrays).index(config.rules_on)
    digests = zip(*map(array_digests, stacks), strict=True)
    maps = _maps(config, stacks[judged], grid)
    measured = slices_statistics(
        padded[judged], grid.row_starts, grid.col_starts, grid.patch_size, config.air_level, maps
    )
    slices = []
    for place, (found, each) in enumerate(zip(measured, digests, strict=True)):
        images = tuple(stack[place] for stack in stacks)
        bounds = [
            (found.slice_min, found.slice_max) if array == judged and not grid.pads else _bounds(image)
            for array, image in enumerate(images)
        ]
        slices.append(ReadSlice(images, tuple(stack[place] for stack in padded), each, bounds, found.windows))
    return slices


def _maps(config: PatchConfig, stack: NDArray[Any], grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """The maps of which statistics of this set are shares, each `(N, H, W)`."""
    names = named_statistics(config)
    if not names:
        return {}
    each = [slice_maps(names, image, levels_of(config)) for image in stack]
    # Added pixels count as those that they repeat, and zeros as air.
    return {
        name: pad_slice(np.stack([maps[name] for maps in each]), grid.padded_shape, config.pad_mode) for name in each[0]
    }


def _read_images(job: Job, task: SliceTask, buffers: Sequence[SliceBuffer], images: Images) -> None:
    """Read a slice into `images`."""
    if task.problem is not None:
        raise SliceError(task.problem)
    for (array, info), path, buffer, out in zip(job.arrays.items(), task.paths, buffers, images, strict=True):
        image, _dtype = buffer.read(f"{job.data_root}/{path}", path, integers_allowed=array != "image", out=out)
        if image is not out:
            raise SourceChangedError(
                f"{path} has shape {image.shape} and dtype {image.dtype}, when the build was planned it was "
                f"{task.shape} and {info.dtype}; do not change sources while they are cut; run the command again"
            )


def _bounds(image: NDArray[Any]) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        return float(image.min()), float(image.max())


def cut_slice(job: Job, task: SliceTask, read: ReadSlice, grid: Grid, rules: CompiledRules) -> CutSlice:
    """Check and judge one slice that was read; raises RangeError where it holds a value outside the range.

    Values that lie outside by rounding only are clipped first: what is on record of a slice is what its patches hold.
    """
    config, outside = job.config, None
    each = zip(job.arrays.items(), task.paths, read.images, read.bounds, strict=True)
    for (array, info), path, image, bounds in each:
        if not info.labels:
            outside = _check_range(image, path, bounds, config.value_range) or outside
        elif array == config.rules_on:
            _refuse_infinite(image, path, bounds, array)
    if outside is not None:
        clipped = tuple(
            (image if info.labels else without_rounding(image, config.value_range))[None]
            for info, image in zip(job.arrays.values(), read.images, strict=True)
        )
        (again,) = _measured(job, clipped, grid)
        return replace(cut_slice(job, task, again, grid, rules), clipped=outside)
    # Most sets are built without rules, and then nobody looks at the columns.
    hits = (
        rules.first_hits(rule_columns(task.slice_index, grid, read.statistics))
        if rules.names
        else np.full(len(grid), -1, np.int16)
    )
    return CutSlice(
        task=task,
        grid=grid,
        statistics=read.statistics,
        hits=hits,
        bounds=read.bounds[0],
        digests=read.digests,
        images=read.images,
        padded=read.padded,
        labels=_labels(job, read.padded, grid, hits < 0),
        array_bounds=read.bounds,
        mismatch=_stated_mismatch(task, read.bounds[0]),
    )


def _labels(job: Job, padded: Images, grid: Grid, kept: NDArray[np.bool_]) -> dict[str, LabelCounts]:
    return {
        array: count_labels(image, grid, kept)
        for array, image in zip(job.arrays, padded, strict=True)
        if array in job.counted
    }


def _check_range(
    image: NDArray[Any], path: str, bounds: tuple[float, float], value_range: tuple[float, float]
) -> str | None:
    """Raise RangeError where a value lies outside the range; where all that do so do it by rounding, say which."""
    low, high = bounds
    if value_range[0] <= low and high <= value_range[1]:
        return None
    if is_rounding(low, high, value_range):
        found = _first_of(image, _outside(image, value_range))
        return (
            f"{path} holds {found}, outside {_shown_range(value_range)} by no more than {ROUNDING_STEPS} steps of "
            "float32; ctpatch takes this for rounding and clips it"
        )
    margin = rounding_margin(value_range)
    wrong = _outside(image, (value_range[0] - margin, value_range[1] + margin))
    raise RangeError(
        f"{path} holds {_first_of(image, wrong)}, wanted values from {_shown_range(value_range)}; "
        "check the normalisation step, or give another --value-range"
    )


def _outside(image: NDArray[Any], value_range: tuple[float, float]) -> NDArray[np.bool_]:
    # Compared as float64: NumPy would make the bounds float32, and 0.1 would become larger.
    values = image.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(~((values >= value_range[0]) & (values <= value_range[1])))


def _refuse_infinite(image: NDArray[Any], path: str, bounds: tuple[float, float], array: str) -> None:
    """Raise RangeError where labels that rules judge hold NaN or infinity: no statistic of them would be a number."""
    if math.isfinite(bounds[0]) and math.isfinite(bounds[1]):
        return
    raise RangeError(
        f"{path} holds {_first_of(image, ~np.isfinite(image))}, wanted finite values, since rules look at {array} "
        "(--rules-on); write a number there, such as 0 for no label"
    )


def _first_of(image: NDArray[Any], wrong: NDArray[np.bool_]) -> str:
    """The first of some pixels with all its digits, where it is, and how many there are."""
    row, col = (int(axis[0]) for axis in np.nonzero(wrong))
    return f"{float(image[row, col])!r} at row {row}, col {col} ({int(wrong.sum())} such pixels)"


def _shown_range(value_range: tuple[float, float]) -> str:
    return f"{shown_number(value_range[0])} to {shown_number(value_range[1])}"


def _stated_mismatch(task: SliceTask, bounds: tuple[float, float]) -> str | None:
    for name, stated, actual in (("min", task.stated_min, bounds[0]), ("max", task.stated_max, bounds[1])):
        if stated is not None and not abs(stated - actual) <= _STATED_TOLERANCE * max(1.0, abs(actual)):
            return f"{task.paths[0]}: the manifest states {name} {stated!r}, its pixels have {actual!r}"
    return None


def rule_columns(slice_index: int, grid: Grid, statistics: WindowStatistics) -> dict[str, NDArray[np.float64]]:
    """What rules see of a slice's windows, each `(N,)`."""
    rows, cols = grid.origins()
    places = {"slice_index": np.full(len(grid), slice_index), "row": rows, "col": cols}
    return {name: values.astype(np.float64) for name, values in places.items()} | statistics
