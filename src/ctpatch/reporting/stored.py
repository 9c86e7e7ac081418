"""Whether a set's pixel files are there in full, told by their sizes alone."""

import os

import numpy as np
import polars as pl

from ctpatch.errors import CtPatchError
from ctpatch.files.npy import PAGE_BYTES, header_bytes
from ctpatch.reading.patchset import AnySet


def stored_note(ps: AnySet) -> str | None:
    """A sentence on files that are missing or of another size than they were written with; None where all is well.

    No file is opened. The layout `index` has none of its own.
    """
    if ps.meta.layout == "index":
        return None
    faulty: list[str] = []
    files = concerned = 0
    for array in ps.arrays:
        column = "patch_path" if array == "image" else f"{array}_patch_path"
        shapes = ps.slices.unique("slice_index").select("slice_index", "height", "width")
        held = ps.manifest.join(shapes, on="slice_index", how="left", maintain_order="left")
        grouped = held.group_by(column, maintain_order=True).agg(
            pl.len(), pl.col("patch_index").n_unique().alias("items"), pl.col("height").first(), pl.col("width").first()
        )
        for path, patches, items, height, width in grouped.iter_rows():
            files += 1
            if not _is_whole(ps, path, array, items, (height, width)):
                faulty.append(str(path))
                concerned += patches
    if not faulty:
        return None
    return (
        f"{ps.meta.dataset}/{ps.meta.split}: {len(faulty):,} of {files:,} pixel files {_verb(len(faulty))} missing, "
        f"cut short or lengthened, with {concerned:,} patch{'' if concerned == 1 else 'es'} in "
        f"{_them(len(faulty))}; the first is {faulty[0][:200]}. Run ctpatch verify."
    )


def _verb(count: int) -> str:
    return "is" if count == 1 else "are"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _is_whole(ps: AnySet, path: str | None, array: str, items: int, slice_shape: tuple[int, int]) -> bool:
    dtype = np.dtype(ps.meta.arrays[array].dtype)
    if path is None or None in slice_shape:
        return False
    if ps.meta.layout == "files":
        shape: tuple[int, ...] = ps.patch_size
        header = len(header_bytes(shape, dtype))
    else:
        shape = (items, *(slice_shape if ps.meta.layout == "slices" else ps.patch_size))
        header = len(header_bytes(shape, dtype, PAGE_BYTES))
    try:
        found = os.lstat(ps.resolve_patch(path)).st_size
    except (OSError, ValueError, CtPatchError):
        return False
    return found == header + int(np.prod(shape)) * dtype.itemsize
