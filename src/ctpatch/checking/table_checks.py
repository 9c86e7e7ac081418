"""Checks on the tables of a set: counts, ids, coordinates, ranges, rules; no pixel is read."""

import errno
import json
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
import xxhash

from ctpatch.checking.findings import Finding
from ctpatch.checking.label_checks import check_labels
from ctpatch.config import MAX_PIXELS_PER_AXIS
from ctpatch.core.grid import PADDING_MODES, Grid, make_grid
from ctpatch.core.rules import compile_rules
from ctpatch.core.statistics.columns import STATISTICS, Limits, named_statistics
from ctpatch.errors import CtPatchError
from ctpatch.files.digest import file_digest
from ctpatch.files.paths import not_plain
from ctpatch.format.columns import digest_column, path_column, recorded_statistics, rule_values
from ctpatch.format.meta import PATCH_META, fingerprint, source_line
from ctpatch.format.tables import (
    PATCH_MANIFEST,
    REJECTED_PATCHES,
    SLICE_MANIFEST,
    STATUS_OK,
    STATUS_SKIPPED,
    TABLES,
    patch_ids,
)
from ctpatch.layouts.mapped import begins_with
from ctpatch.reading.patchset import PatchSet

_MAX_ROWS_SHOWN = 1000


def check_files(ps: PatchSet) -> Iterator[Finding]:
    """The meta is laid out as it was written, and the tables are there, with the size and digest that it states."""
    content = (ps.folder / PATCH_META).read_bytes()
    if content != (json.dumps(json.loads(content), indent=2, ensure_ascii=True) + "\n").encode():
        yield Finding("meta", PATCH_META, None, "is not laid out as ctpatch writes it; was it edited?")
    for name in TABLES:
        info = ps.meta.tables.get(name)
        if info is None:
            yield Finding("tables", PATCH_META, None, f"does not mention {name}")
            continue
        path = ps.folder / name
        try:
            if path.is_symlink():
                raise OSError(errno.ELOOP, "it is a link, which is not followed")
            size = path.stat().st_size
            if size != info.bytes:
                yield Finding("table-size", name, None, f"has {size} bytes, wanted {info.bytes}; was it edited or cut?")
            elif (digest := file_digest(path)) != info.digest:
                yield Finding(
                    "table-digest", name, None, f"has the digest {digest}, wanted {info.digest}; was it edited?"
                )
        except OSError as error:
            yield Finding("table-missing", name, None, f"cannot be read: {error.strerror}")


def check_tables(ps: PatchSet) -> Iterator[Finding]:
    """Counts, ids, paths, coordinates, ranges and rules of all rows."""
    try:
        manifest, slices, rejected = ps.manifest, ps.slices, ps.rejected
    except CtPatchError as error:
        yield Finding("tables", PATCH_MANIFEST, None, error.message)
        return
    yield from _check_counts(ps)
    yield from _check_slices(ps, _Table(SLICE_MANIFEST, slices))
    yield from _check_derived(ps)
    yield from check_labels(ps)
    for table in (_Table(PATCH_MANIFEST, manifest), _Table(REJECTED_PATCHES, rejected)):
        yield from _check_ids(ps, table)
        yield from _check_coordinates(ps, table)
        yield from _check_ranges(ps, table)
        yield from _check_order(table, slices)
    yield from _check_addresses(ps)
    yield from _check_rules(ps)


class _Table(NamedTuple):
    """A table by its name."""

    name: str
    frame: pl.DataFrame

    def rows(self, check: str, column: str, wrong: pl.Series, message: str) -> Iterator[Finding]:
        """A finding for each row where `wrong` holds (null counts as wrong); the message gets the value seen."""
        at = wrong.fill_null(value=True).arg_true().to_list()
        for row in at[:_MAX_ROWS_SHOWN]:
            yield Finding(check, self.name, row + 2, f"{column} is {self.frame[column][row]!r}, {message}")
        if len(at) > _MAX_ROWS_SHOWN:
            yield Finding(check, self.name, None, f"{len(at) - _MAX_ROWS_SHOWN} more rows with the same fault")


def _check_counts(ps: PatchSet) -> Iterator[Finding]:
    meta = ps.meta
    usable = ps.slices.filter(pl.col("status") == STATUS_OK)
    seen = {
        "num_patches": ps.manifest.height,
        "num_rejected": ps.rejected.height,
        "num_slices": usable.height,
        "num_skipped": ps.slices.height - usable.height,
        "num_windows": ps.manifest.height + ps.rejected.height,
    }
    for name, count in seen.items():
        if getattr(meta, name) != count:
            yield Finding("counts", PATCH_META, None, f"{name} is {getattr(meta, name)}, the tables have {count}")
    for rule in meta.drop_rules:
        count = ps.rejected.filter(pl.col("rule") == rule.name).height
        if count != rule.dropped:
            yield Finding("counts", PATCH_META, None, f"rule {rule.name} dropped {rule.dropped}, the table has {count}")
    per_slice = ps.manifest.group_by("slice_index").len("found")
    joined = ps.slices.join(per_slice, on="slice_index", how="left", maintain_order="left")
    for at, (stated, found) in enumerate(joined.select("num_patches", pl.col("found").fill_null(0)).iter_rows()):
        if stated != found:
            message = f"num_patches is {stated}, the manifest has {found} rows of this slice"
            yield Finding("counts", SLICE_MANIFEST, at + 2, message)


def _grid_on(ps: PatchSet, height: int | None, width: int | None) -> Grid | None:
    """The grid on a slice of this shape; None where no slice has such a shape: its windows would fill the memory."""
    possible = all(side is not None and 1 <= side <= MAX_PIXELS_PER_AXIS for side in (height, width))
    return make_grid(height, width, ps.config) if possible and height and width else None


def _check_slices(ps: PatchSet, table: _Table) -> Iterator[Finding]:
    """What is on record of a slice fits its grid and its status, and its extremes fit those of its windows."""
    slices = table.frame
    yield from table.rows("unique", "slice_index", slices["slice_index"].is_duplicated(), "wanted each slice once")
    yield from table.rows("paths", "src_path", not_plain(slices["src_path"]), "wanted a relative path")
    shapes = slices.select("height", "width", "num_windows", "status").iter_rows()
    for at, (height, width, windows, status) in enumerate(shapes):
        if status != STATUS_OK:
            continue
        grid = _grid_on(ps, height, width)
        if grid is None:
            message = f"the slice has {height}x{width} pixels, wanted 1 to {MAX_PIXELS_PER_AXIS} each way"
            yield Finding("windows", SLICE_MANIFEST, at + 2, message)
        elif len(grid) != windows:
            message = f"num_windows is {windows}, a grid on {height}x{width} has {len(grid)}"
            yield Finding("windows", SLICE_MANIFEST, at + 2, message)
    good = slices["status"] == STATUS_OK
    known_status = good | (slices["status"] == STATUS_SKIPPED)
    yield from table.rows("status", "status", ~known_status, "wanted ok or skipped")
    known = ("min", "max", *map(digest_column, ps.arrays))
    for name, wanted in [*((name, good) for name in known), ("reason", ~good)]:
        said = "wanted a value" if name == "reason" else "wanted one where the status is ok, and none elsewhere"
        yield from table.rows("status", name, slices[name].is_not_null() != wanted, said)
    if ps.meta.rules_on != "image" or ps.meta.pad_mode in PADDING_MODES:
        return
    windows = pl.concat([each.select("slice_index", "min", "max") for each in (ps.manifest, ps.rejected)])
    extremes = windows.group_by("slice_index").agg(pl.col("min").min().alias("low"), pl.col("max").max().alias("high"))
    joined = slices.join(extremes, on="slice_index", how="left", maintain_order="left")
    covered = [
        bool(windows and (grid := _grid_on(ps, height, width)) and grid.coverage == 1)
        for height, width, windows in joined.select("height", "width", "num_windows").iter_rows()
    ]
    whole, some = pl.Series(covered), joined["low"].is_not_null() & good
    below, above = joined["min"] <= joined["low"], joined["max"] >= joined["high"]
    for name, side, fits, extreme in (("min", "smallest", below, "low"), ("max", "largest", above, "high")):
        wrong = some & ~(fits & ((joined[name] == joined[extreme]) | ~whole))
        yield from table.rows("bounds", name, wrong, f"its windows have another {side} pixel")


def _check_derived(ps: PatchSet) -> Iterator[Finding]:
    """What the meta says of sources, coverage and bytes follows from the tables."""
    meta, slices = ps.meta, ps.slices
    sources, covered, pixels = xxhash.xxh3_128(), 0, 0
    for record in slices.iter_rows(named=True):
        digests = [record[digest_column(array)] for array in ps.arrays]
        sources.update(source_line(record["slice_index"], [each for each in digests if each is not None]))
        grid = _grid_on(ps, record["height"], record["width"]) if record["status"] == STATUS_OK else None
        if grid is not None:
            covered, pixels = covered + grid.covered_pixels(), pixels + record["height"] * record["width"]
    files = ps.layout.pixel_files(ps.manifest, slices, meta.arrays, ps.patch_size)
    wanted = {
        "source_digest": sources.hexdigest(),
        "fingerprint": fingerprint(ps.config, meta.arrays, meta.source_digest, slices, meta.carried),
        "coverage": covered / pixels if pixels else 0.0,
        "pixel_bytes": sum(file.size for file in files),
        "paths_relative_to": "patch_dir" if meta.patch_dir == "." else "data_root",
    }
    for name, value in wanted.items():
        if getattr(meta, name) != value:
            yield Finding("meta", PATCH_META, None, f"{name} is {getattr(meta, name)!r}, the tables give {value!r}")


def _check_order(table: _Table, slices: pl.DataFrame) -> Iterator[Finding]:
    """Rows stand in the order of the slices, and of the windows in each."""
    name, frame = table
    places = slices.select("slice_index").with_row_index("place").unique("slice_index", keep="first")
    joined = frame.join(places, on="slice_index", how="left", maintain_order="left").select("place", "row", "col")
    order = joined.with_row_index("at").sort("place", "row", "col", maintain_order=True)["at"]
    for at in (order != order.sort()).arg_true()[:1]:
        message = f"{frame['patch_id'][at]!r} is not in its place: rows are in another order"
        yield Finding("order", name, at + 2, message)


def _check_ids(ps: PatchSet, table: _Table) -> Iterator[Finding]:
    ids = table.frame["patch_id"]
    wanted = patch_ids(ps.meta.split, pl.col("slice_index"), pl.col("row"), pl.col("col"))
    wrong = ids != table.frame.select(wanted).to_series()
    yield from table.rows("ids", "patch_id", wrong, "wanted the id that slice_index, row and col give")
    yield from table.rows("unique", "patch_id", ids.is_duplicated(), "wanted each patch once")
    if table.name == PATCH_MANIFEST:
        both = ids.is_in(ps.rejected["patch_id"].implode())
        yield from table.rows("unique", "patch_id", both, "which is among the rejected patches too")


def _check_coordinates(ps: PatchSet, table: _Table) -> Iterator[Finding]:
    frame = table.frame
    known = ps.slices.select("slice_index", "height", "width", "status", pl.col("src_path").alias("listed_path"))
    joined = frame.join(known.unique("slice_index"), on="slice_index", how="left", maintain_order="left")
    unknown = joined["status"] != STATUS_OK
    yield from table.rows("slices", "slice_index", unknown, f"wanted a slice of {SLICE_MANIFEST}")
    other = joined["src_path"] != joined["listed_path"]
    yield from table.rows("paths", "src_path", other, f"wanted that of {SLICE_MANIFEST}")
    inside = np.zeros(frame.height, dtype=bool)
    heights, widths = (joined[side].fill_null(0).to_numpy() for side in ("height", "width"))
    rows, cols = (frame[side].fill_null(-1).to_numpy() for side in ("row", "col"))
    for height, width in joined.select("height", "width").unique().iter_rows():
        grid = _grid_on(ps, height, width)
        if grid is not None:
            here = (heights == height) & (widths == width)
            inside |= here & np.isin(rows, grid.row_starts) & np.isin(cols, grid.col_starts)
    yield from table.rows("coordinates", "patch_id", pl.Series(~inside), "wanted a window of the slice's grid")


def _check_ranges(ps: PatchSet, table: _Table) -> Iterator[Finding]:
    judged = ps.meta.arrays[ps.meta.rules_on]
    low, high = ps.meta.value_range
    if ps.meta.pad_mode == "zero":
        low, high = min(low, 0.0), max(high, 0.0)
    slack = 1e-9 * max(abs(low), abs(high))
    limits = Limits(-math.inf, math.inf, slack) if judged.labels else Limits(low, high, slack)
    values = table.frame.to_dict()
    for each in (STATISTICS[column] for column in recorded_statistics(table.frame)):
        if each.within is not None:
            wanted = each.wanted.format(low=limits.low, high=limits.high)
            yield from table.rows("range", each.name, ~each.within(values, limits), f"wanted {wanted}")
    for name in set(named_statistics(ps.config)) - set(recorded_statistics(table.frame)):
        message = f"the set names the statistic {name}, and its column is missing or has empty cells; build it again"
        yield Finding("range", table.name, None, message)
    wanted = ps.meta.arrays["image"].dtype
    yield from table.rows("dtype", "dtype", values["dtype"] != wanted, f"wanted {wanted}")


def _check_addresses(ps: PatchSet) -> Iterator[Finding]:
    manifest, rejected = _Table(PATCH_MANIFEST, ps.manifest), _Table(REJECTED_PATCHES, ps.rejected)
    for array in ps.arrays:
        column = path_column(array)
        paths = manifest.frame[column]
        yield from manifest.rows("paths", column, not_plain(paths), "wanted a relative path")
        wanted = ps.layout.wanted_paths(manifest.frame, ps.slices, array, ps.meta.path_prefix)
        if wanted is not None:
            kind = "source slice" if ps.layout.reads_sources else "file named after the id"
            yield from manifest.rows("paths", column, paths != wanted, f"wanted the {kind}")
    for column in ("patch_index", *(each(array) for array in ps.arrays for each in (path_column, digest_column))):
        stored = ps.rejected[column].is_not_null()
        yield from rejected.rows("rejected", column, stored, "wanted nothing: a dropped window is not stored")
    if ps.layout.packed:
        yield from _check_packed_files(ps)


def _check_packed_files(ps: PatchSet) -> Iterator[Finding]:
    """Every item of every file is named by the manifest, once, and its header is written as ctpatch does."""
    names = ps.layout.names(ps.meta.split, ps.arrays)
    for file in ps.layout.pixel_files(ps.manifest, ps.slices, ps.meta.arrays, ps.patch_size):
        path = str(file.path)
        folder, _, name = path.removeprefix(ps.meta.path_prefix).rpartition("/")
        if file.fault is not None:
            yield Finding("items", path, None, file.fault)
        elif folder not in names or not names[folder].fullmatch(name):
            yield Finding("paths", path, None, f"wanted a file as the layout {ps.layout.name} names it")
        elif file.shape is not None:  # else the slice is not listed, which is found elsewhere
            try:
                if not begins_with(ps.resolve_patch(path), path, file.header):
                    held = f"{file.shape[0]} items of {file.shape[1:]}"
                    yield Finding("header", path, None, f"its .npy header is not that of {held}")
            except CtPatchError as error:
                yield Finding("file", path, None, error.message, patches=0)


def check_unlisted(ps: PatchSet) -> Iterator[Finding]:
    """Files that are named like the set's own and that the manifest does not list."""
    prefix = ps.meta.path_prefix
    if ps.layout.reads_sources:
        return
    paths = (ps.manifest[path_column(array)].unique().drop_nulls() for array in ps.arrays)
    listed = {path.removeprefix(prefix) for each in paths for path in each}
    names_of = ps.layout.names(ps.meta.split, ps.arrays)
    folders = {path.rpartition("/")[0] for path in listed} | {"", *names_of}
    start = f"{ps.meta.split}_"
    for folder in sorted(folders):
        where, pattern = ps.folder / folder, names_of.get(folder)
        for name in sorted(os.listdir(where)) if where.is_dir() else []:
            path = f"{folder}/{name}".lstrip("/")
            ours = (name.startswith(start) and name.endswith(".npy")) or (pattern and pattern.fullmatch(name))
            if ours and path not in listed:
                yield Finding("unlisted", path, None, "is not in the manifest: a patch of another build?")


def _check_rules(ps: PatchSet) -> Iterator[Finding]:
    """Each rule, asked again: no kept patch is hit, each dropped window by the rule on record first."""
    if not ps.config.drop and not ps.rejected.height:
        return
    tables = {PATCH_MANIFEST: ps.manifest, REJECTED_PATCHES: ps.rejected}
    try:
        rules = compile_rules(ps.config.drop)
        decisions = [rules.first_hits(rule_values(frame)) for frame in tables.values()]
    except CtPatchError as error:
        yield Finding("rules", PATCH_META, None, error.message)
        return
    names = pl.Series([*rules.names, "none"], dtype=pl.String)
    for (name, frame), hits in zip(tables.items(), decisions, strict=True):
        decided = names.gather(np.where(hits < 0, len(rules.names), hits))
        recorded = frame["rule"] if "rule" in frame.columns else pl.repeat("none", frame.height, eager=True)
        for at in (decided != recorded).fill_null(value=True).arg_true():
            message = f"the rules decide {decided[at]!r} for this window, on record is {recorded[at]!r}"
            yield Finding("rules", name, at + 2, message)
