"""What the files of a split's slices are: their shapes and dtypes, by their headers alone."""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ctpatch.errors import NpyError, SourceManifestError
from ctpatch.files.npy import slice_header
from ctpatch.format.meta import ArrayInfo
from ctpatch.format.source_manifest import SourceTable
from ctpatch.format.splits import SplitSource


def is_labels(array: str, kind: str = "f") -> bool:
    """Whether an array beside `image` holds labels: by its name (`mask`, `lung_mask`), or whole numbers."""
    return array != "image" and (kind in "bui" or "mask" in array.lower().split("_"))


def scan_headers(table: SourceTable, data_root: Path, *, skip_faulty: bool) -> pl.DataFrame:
    """Look at the header of every slice, so that a fault shows before any work is done.

    Returns:
        The table's frame with `height`, `width` (Int32; 0 where faulty), `src_dtype`, `problem` (String or null)
        and `<array>_dtype` for the arrays beside `image`.

    Raises:
        NpyError: the first slice that cannot be used; with `skip_faulty` its `problem` is noted instead.
    """
    root = str(data_root) + os.sep
    columns = ["src_path", *(f"{array}_path" for array in table.arrays[1:])]
    rows = []
    for paths in zip(*(table.frame[column] for column in columns), strict=True):
        problem = None
        shape = (0, 0)
        found = [""] * len(columns)
        try:
            for place, (array, path) in enumerate(zip(table.arrays, paths, strict=True)):
                header = slice_header(root + path, path, integers_allowed=array != "image")
                if place == 0:
                    shape = (header.shape[0], header.shape[1])
                elif header.shape != shape:
                    raise NpyError(
                        f"{path} has shape {header.shape[0]}x{header.shape[1]}, its image {paths[0]} has "
                        f"{shape[0]}x{shape[1]}; arrays of a slice are cut at the same windows"
                    )
                # As numpy.dtype takes them: float32, and `>f4` for an image in big-endian order, converted as well.
                swapped = place == 0 and header.dtype.str.startswith(">")
                found[place] = header.dtype.str if swapped else header.dtype.name
        except NpyError as error:
            if not skip_faulty:
                raise _where_looked(error, paths, table, data_root) from None
            problem, shape = error.message, (0, 0)
        rows.append((*shape, found[0], problem, *found[1:]))
    schema = {"height": pl.Int32, "width": pl.Int32, "src_dtype": pl.String, "problem": pl.String}
    schema |= {f"{array}_dtype": pl.String for array in table.arrays[1:]}
    return table.frame.hstack(pl.DataFrame(rows, schema, orient="row"))


def array_infos(table: SourceTable, slices: pl.DataFrame, source: SplitSource) -> dict[str, ArrayInfo]:
    """What the arrays of a split are, from what `scan_headers` found.

    Raises:
        SourceManifestError: labels of several dtypes.
    """
    return {
        "image": ArrayInfo(dtype="float32", labels=False),
        **{array: _array_info(array, slices, source) for array in table.arrays[1:]},
    }


def _array_info(array: str, slices: pl.DataFrame, source: SplitSource) -> ArrayInfo:
    """The dtype an array's patches have: float32, or its own where it holds labels."""
    usable = slices.filter(pl.col("problem").is_null())
    dtypes = usable[f"{array}_dtype"].unique(maintain_order=True).to_list()
    kinds = {"f" if dtype.startswith("float") else "i" for dtype in dtypes}
    labels = is_labels(array) or kinds == {"i"}
    if not labels and kinds <= {"f"}:
        return ArrayInfo(dtype="float32", labels=False)
    native = ["float32" if dtype.startswith("float") else dtype for dtype in dtypes]
    if len(set(native)) > 1:
        first = usable.filter(pl.col(f"{array}_dtype") == dtypes[1]).row(0, named=True)
        raise SourceManifestError(
            f"{source.manifest_path}, column {array}_path: {first[f'{array}_path']} is {dtypes[1]}, those before are "
            f"{dtypes[0]}; the {array} of a split needs one dtype"
        )
    return ArrayInfo(dtype=native[0] if native else "uint8", labels=True)


def _where_looked(error: NpyError, paths: Sequence[str], table: SourceTable, data_root: Path) -> NpyError:
    """The error of a slice; where a file is missing, it also says where paths begin."""
    if all(os.path.lexists(data_root / path) for path in paths):
        return error
    if table.folder:
        return NpyError(f"{error.message} (paths of this manifest are relative to its own folder {table.folder})")
    return NpyError(
        f"{error.message} (paths are relative to the data root {data_root}, or else to the manifest's own folder; "
        "--data-root names another one)"
    )
