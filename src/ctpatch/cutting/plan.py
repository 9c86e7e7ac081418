"""What a build would do: slices, windows, bytes, names, coverage, and the parts it is done in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import polars as pl

from ctpatch.config import PatchConfig
from ctpatch.core.grid import Grid, covering_stride, make_grid
from ctpatch.core.rules import compile_rules
from ctpatch.cutting.body_level import with_body_level
from ctpatch.errors import ConfigError, SourceManifestError
from ctpatch.events import Listener, Notice, ignore
from ctpatch.files.digest import json_digest, text_digest
from ctpatch.format.carried import Kind, kept_columns
from ctpatch.format.columns import source_column
from ctpatch.format.manifest_columns import array_names
from ctpatch.format.meta import ArrayInfo, PatchMeta, one_or_pair
from ctpatch.format.slice_headers import array_infos, scan_headers
from ctpatch.format.source_manifest import (
    AS_WRITTEN,
    PIECE_ROWS,
    Reading,
    SourceTable,
    read_source_manifest,
)
from ctpatch.format.splits import SourcePath, SplitSource, as_sources, find_splits
from ctpatch.format.tables import patch_id
from ctpatch.layouts import layout_of
from ctpatch.layouts.base import Layout, PartLimits
from ctpatch.words import LAYOUTS, LayoutName

LIMITS = PartLimits()
"""How large the parts of a plan become."""

MANY_FILES = 100_000
"""Patches with a file each beyond which another layout is recommended."""

MAX_WINDOWS_PER_SLICE = 1_000_000
_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class SliceTask:
    """One slice to be cut: its row of the source manifest, and what its header said."""

    slice_index: int
    paths: tuple[str, ...]
    patient_id: str | None
    stated_min: float | None
    stated_max: float | None
    shape: tuple[int, int]
    src_dtype: str
    problem: str | None
    carried: tuple[str | int | float | None, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it: the path of its image."""
        return self.paths[0]


@dataclass(frozen=True, slots=True)
class Part:
    """The unit of work: a run of consecutive slices.

    Attributes:
        number: position among the parts, from 0.
        tasks: what is to be cut.
        shards: number of the shard for slices of each shape, where the layout has shards.
    """

    number: int
    tasks: tuple[SliceTask, ...]
    shards: dict[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class ShapeCount:
    """How many slices have one shape, and the grid they are cut by."""

    slices: int
    grid: Grid


@dataclass(frozen=True)
class SplitPlan:
    """What a build of one split would do.

    Attributes:
        source: the split.
        config: geometry, range and rules.
        slices: a row for each slice; see `ctpatch.format.source_manifest.scan_headers`.
        arrays: `image` and the arrays beside it, with the dtype their patches have.
        limits: how large its parts become.
        beside: whether the manifest's paths are relative to its own folder; those in `slices` never are.
        notes: what a user should know of the manifest.
        carried: the columns of the source manifest that the set keeps, with their types; `slices` has them.
        uncounted: arrays of labels whose labels are not counted; of a set of an earlier version that is the source.
        made_from: the meta of a finished set that is the source, for `convert`.
    """

    source: SplitSource
    config: PatchConfig
    slices: pl.DataFrame
    arrays: dict[str, ArrayInfo]
    limits: PartLimits = field(default_factory=lambda: LIMITS)
    beside: bool = False
    notes: tuple[str, ...] = ()
    carried: Mapping[str, Kind] = field(default_factory=dict)
    uncounted: frozenset[str] = frozenset()
    made_from: PatchMeta | None = None
    _grids: dict[tuple[int, int], Grid] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def shapes(self) -> list[ShapeCount]:
        """The slice shapes of the split, in the order in which they first come; faulty slices left out."""
        counted = (
            self.slices.filter(pl.col("problem").is_null())
            .group_by("height", "width", maintain_order=True)
            .agg(pl.len().alias("count"))
        )
        return [ShapeCount(count, self.grid((height, width))) for height, width, count in counted.iter_rows()]

    def grid(self, shape: tuple[int, int]) -> Grid:
        """The grid of slices of one shape."""
        if shape not in self._grids:
            self._grids[shape] = make_grid(*shape, self.config)
        return self._grids[shape]

    @property
    def counted(self) -> tuple[str, ...]:
        """The arrays whose labels the build counts."""
        return tuple(name for name, info in self.arrays.items() if info.labels and name not in self.uncounted)

    @property
    def num_slices(self) -> int:
        """Slices that can be cut."""
        return sum(each.slices for each in self.shapes)

    @property
    def num_faulty(self) -> int:
        """Slices whose header already shows that they cannot be cut."""
        return self.slices.height - self.num_slices

    @property
    def num_windows(self) -> int:
        """Windows of all slices, before rules."""
        return sum(each.slices * len(each.grid) for each in self.shapes)

    @property
    def slices_without_windows(self) -> int:
        """Slices that are smaller than a patch and give none."""
        return sum(each.slices for each in self.shapes if not len(each.grid))

    @property
    def coverage(self) -> float:
        """Share of all pixels that lie in at least one window, 0 to 1."""
        pixels = sum(each.slices * each.grid.shape[0] * each.grid.shape[1] for each in self.shapes)
        covered = sum(each.slices * each.grid.covered_pixels() for each in self.shapes)
        return covered / pixels if pixels else 0.0

    @property
    def covering_stride(self) -> int | tuple[int, int] | None:
        """The stride that would cover the most frequent shape to its border; None where nothing is lost."""
        lossy = [each for each in self.shapes if len(each.grid) and each.grid.coverage < 1]
        if not lossy or self.config.pad_mode != "none":
            return None
        shape = max(lossy, key=lambda each: each.slices).grid.shape
        rows, cols = map(covering_stride, shape, self.config.patch_size, self.config.stride)
        return None if rows is None or cols is None else one_or_pair((rows, cols))

    def windows_at_covering_stride(self) -> int:
        """How many windows all slices would have at `covering_stride`."""
        stride = self.covering_stride
        return self.num_windows if stride is None else self._windows_with(stride=stride)

    def windows_spread_evenly(self) -> int:
        """How many windows all slices would have with `pad_mode="even"`, which loses nothing at the same stride."""
        return self._windows_with(pad_mode="even")

    def _windows_with(self, **changed: Any) -> int:
        other = PatchConfig(**{**self.config.options(), **changed})
        return sum(each.slices * len(make_grid(*each.grid.shape, other)) for each in self.shapes)

    def pixel_bytes(self, layout: LayoutName) -> int:
        """Bytes of pixel files a layout would need if every window were kept."""
        return layout_of(layout).pixel_bytes(
            [(each.slices, each.grid.shape, len(each.grid)) for each in self.shapes],
            self.config.patch_size,
            [np.dtype(info.dtype) for info in self.arrays.values()],
            lambda: self._num_shards(layout),
        )

    def _num_shards(self, layout: LayoutName) -> int:
        return sum(len(set(part.shards.values())) for part in self.parts(layout))

    def many_files_hint(self, layout: LayoutName) -> str | None:
        """What the layout `shards` would save where this one makes very many files; None where it does not."""
        if not layout_of(layout).has_file_for_each_patch or self.num_windows <= MANY_FILES:
            return None
        files = self.num_windows * len(self.arrays)
        shards = self._num_shards("shards") * len(self.arrays)
        return (
            f"the layout {layout} makes {files:,} files; --layout shards puts the same patches into {shards:,}, "
            "is written and read several times faster, and is copied in minutes instead of hours"
        )

    def first_patch_ids(self, count: int = 3) -> list[str]:
        """The ids of the first windows."""
        usable = (task for task in self.tasks() if task.problem is None)
        windows = ((task.slice_index, *window) for task in usable for window in self.grid(task.shape))
        return [patch_id(self.source.split, *each) for each in islice(windows, count)]

    def tasks(self) -> Iterator[SliceTask]:
        """The slices one by one, in the manifest's order."""
        columns = ("slice_index", "patient_id", "stated_min", "stated_max", "height", "width", "src_dtype", "problem")
        last = len(columns) + len(self.arrays)
        for row in self.slices.select(*columns, *map(source_column, self.arrays), *self.carried).iter_rows():
            index, patient, low, high, height, width, dtype, problem = row[: len(columns)]
            paths, carried = row[len(columns) : last], row[last:]
            yield SliceTask(index, paths, patient, low, high, (height, width), dtype, problem, carried)

    def parts(self, layout: LayoutName, begins: Callable[[SliceTask], bool] | None = None) -> Iterator[Part]:
        """The parts of a build, one by one; they depend on the slices and the layout, never on the workers.

        Args:
            layout: how patches lie on disk.
            begins: says which slices begin a part; None: those that would make the part before them too large.
        """
        kind = layout_of(layout)
        costs = {}
        for each in self.shapes:
            count = len(each.grid)
            costs[each.grid.shape] = count, kind.slice_bytes(each.grid.shape, count, self.config.patch_size, _FLOAT32)
        pending: list[SliceTask] = []
        windows = size = number = shard = 0
        for task in self.tasks():
            more_windows, more_bytes = costs[task.shape] if task.problem is None else (0, 0)
            if begins is None:
                new = kind.is_full(len(pending) + 1, windows + more_windows, size + more_bytes, self.limits)
            else:
                new = begins(task)
            if pending and new:
                part = self._part(number, pending, kind, shard)
                yield part
                number, shard = number + 1, shard + len(set(part.shards.values()))
                pending, windows, size = [], 0, 0
            pending.append(task)
            windows, size = windows + more_windows, size + more_bytes
        if pending:
            yield self._part(number, pending, kind, shard)

    def _part(self, number: int, tasks: Sequence[SliceTask], layout: Layout, shard: int) -> Part:
        shapes = dict.fromkeys(task.shape for task in tasks if task.problem is None)
        return Part(number, tuple(tasks), layout.shards([shape for shape in shapes if len(self.grid(shape))], shard))

    def digest(self) -> str:
        """Digest of all that decides the work, save the pixels: resume compares it."""
        described = self.slices.drop("stated_min", "stated_max", "problem")
        content = {
            "config": self.config.model_dump(mode="json"),
            "arrays": {name: info.model_dump() for name, info in self.arrays.items()},
            "slices": text_digest(described.write_csv()),
            "split": [self.source.dataset, self.source.split, self.source.manifest_path],
        }
        # The same text can be a number or a text, and earlier versions kept no columns.
        return json_digest(content | ({"carried": dict(self.carried)} if self.carried else {}))

    def summary(self) -> dict[str, Any]:
        """The plan as plain values, for programs."""
        return {
            "dataset": self.source.dataset,
            "split": self.source.split,
            "source_manifest": self.source.manifest_path,
            "num_slices": self.num_slices,
            "num_faulty": self.num_faulty,
            "num_windows": self.num_windows,
            "slices_without_windows": self.slices_without_windows,
            "arrays": list(self.arrays),
            "carried": dict(self.carried),
            "notes": list(self.notes),
            "shapes": [
                {
                    "shape": list(each.grid.shape),
                    "slices": each.slices,
                    "windows_per_slice": len(each.grid),
                    "windows": each.slices * len(each.grid),
                    "coverage": each.grid.coverage,
                }
                for each in self.shapes
            ],
            "coverage": self.coverage,
            "covering_stride": self.covering_stride,
            "windows_at_covering_stride": self.windows_at_covering_stride(),
            "windows_spread_evenly": self.windows_spread_evenly(),
            "pixel_bytes": {layout: self.pixel_bytes(layout) for layout in LAYOUTS},
            "first_patch_ids": self.first_patch_ids(),
        }


def plan(
    source: SourcePath | Sequence[SourcePath],
    config: PatchConfig | None = None,
    *,
    arrays: str | Sequence[str] | None = None,
    keep_columns: str | Sequence[str] | None = None,
    data_root: SourcePath | None = None,
    skip_faulty: bool = False,
    listener: Listener = ignore,
) -> list[SplitPlan]:
    """What a build of these sources would do; reads manifests and headers, writes nothing.

    Args:
        source: a split's folder, a dataset's folder or a manifest; or a list of such.
        config: geometry, range and rules.
        arrays: which columns are arrays, as `image,target` or a list; None takes those that the manifest has.
        keep_columns: which further columns of the manifests the set keeps; as for `build`.
        data_root: what paths in manifests are relative to; None takes the folder above `prepared`.
        skip_faulty: count slices that cannot be used instead of raising an error.
        listener: is told what a user should know of the manifests.

    Raises:
        ConfigError: an option makes no sense, or a manifest has no column that was asked for.
        UsageError: nothing fitting is there.
        SourceManifestError: a manifest breaks the rules of its format.
        NpyError: a slice cannot be used.
    """
    splits, cfg = find_splits(as_sources(source), data_root), config or PatchConfig()
    reading = Reading(arrays=array_names(arrays), carried=kept_columns(keep_columns))
    return [plan_split(split, cfg, skip_faulty=skip_faulty, reading=reading, listener=listener) for split in splits]


def plan_split(
    source: SplitSource,
    cfg: PatchConfig,
    *,
    skip_faulty: bool = False,
    reading: Reading = AS_WRITTEN,
    listener: Listener = ignore,
) -> SplitPlan:
    """The plan of one split; see `plan`. `reading` has what was asked for, or is on record, of its manifest."""
    compile_rules(cfg.drop)

    def look(piece: SourceTable) -> pl.DataFrame:
        if cfg.rules_on not in piece.arrays:
            raise ConfigError(
                f"rules_on: there is no array {cfg.rules_on!r} in {source.manifest_path}; "
                f"it has {', '.join(piece.arrays)}"
            )
        slices = scan_headers(piece, source.data_root, skip_faulty=skip_faulty)
        if slices.height >= PIECE_ROWS and not slices["problem"].null_count():
            raise SourceManifestError(
                f"{source.manifest_path}: {slices.height:,} slices in a row cannot be used, the first since "
                f"{slices['problem'][0]}; check the data root"
            )
        return slices

    table = read_source_manifest(source, look, reading)
    for note in table.notes:
        listener(Notice("manifest", note))
    slices = table.frame
    arrays = array_infos(table, slices, source)
    slices = slices.drop(f"{array}_dtype" for array in table.arrays[1:])
    cfg = with_body_level(cfg, source, arrays)
    made = SplitPlan(source, cfg, slices, arrays, beside=bool(table.folder), notes=table.notes, carried=table.carried)
    for each in made.shapes:
        if len(each.grid) > MAX_WINDOWS_PER_SLICE:
            raise ConfigError(
                f"stride: {one_or_pair(cfg.stride)} gives {len(each.grid):,} windows in a slice of "
                f"{each.grid.shape[0]}x{each.grid.shape[1]}, at most {MAX_WINDOWS_PER_SLICE:,} are cut; "
                "use a larger stride"
            )
    return made
