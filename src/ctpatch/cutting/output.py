"""What a patch set's folder holds: how its files are called, and which of them a finished set lists."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctpatch.errors import FormatError, NpyError, OutputConflictError
from ctpatch.files.npy import header_bytes, open_npy, read_header
from ctpatch.files.paths import not_plain
from ctpatch.format.columns import path_column
from ctpatch.format.meta import PATCH_META, PatchMeta, read_meta
from ctpatch.format.tables import PATCH_MANIFEST, TABLES, patch_schema, read_table
from ctpatch.layouts.base import folders_of
from ctpatch.work.product import Product


class PatchSetFiles(Product[PatchMeta]):
    """The files of a patch set."""

    noun = "build"
    made = "made"
    elsewhere = "choose another --out"
    record = "build.json"
    meta = PATCH_META
    tables = TABLES
    withdrawn = (PATCH_META, PATCH_MANIFEST)
    name_fields = ("split", "layout", "arrays")

    def read_meta(self, path: Path) -> PatchMeta:
        """The meta in a file."""
        return read_meta(path)

    def names_of(self, meta: PatchMeta) -> dict[str, Any]:
        """The split, the layout and the arrays."""
        return {"split": meta.split, "layout": meta.layout, "arrays": list(meta.arrays)}

    def folders(self, names: Mapping[str, Any]) -> list[str]:
        """The folders that the layout needs."""
        return folders_of(names["layout"], names["arrays"])

    def patterns(self, names: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
        """How pixel files are called, for each folder."""
        patch = re.compile(rf"{re.escape(names['split'])}_\d{{6,}}_\d{{3,}}_\d{{3,}}\.npy")
        arrays = "|".join(re.escape(array) for array in names["arrays"])
        shard = re.compile(rf"{re.escape(names['split'])}_\d{{5,}}(_({arrays}))?\.npy")
        files = names["layout"] == "files"
        return ({"": patch} if files else {}) | dict.fromkeys(self.folders(names), patch if files else shard)

    def recorded(self, where: Path, meta: PatchMeta, tables: Path) -> Iterator[Path]:
        """The pixel files that the manifest lists."""
        table = tables / PATCH_MANIFEST
        if meta.layout == "index" or not table.exists():
            return
        try:
            rows = read_table(table, patch_schema(tuple(meta.arrays)))
        except FormatError as error:
            raise OutputConflictError(
                f"{where.name}: {error.message}; without it, which files are ours cannot be told: "
                "remove the folder yourself, or choose another --out"
            ) from None
        for array in meta.arrays:
            names = rows[path_column(array)].unique(maintain_order=True).str.strip_prefix(meta.path_prefix)
            yield from (where / name for name in names.filter(~not_plain(names)))

    def first_damage(self, where: Path, meta: PatchMeta) -> str | None:
        """The first pixel file of a finished set that is gone, or not as long as it should be; None where none is.

        What is in the files is left to `verify`.
        """
        if meta.layout == "index":
            return None
        size = meta.patch_config().patch_size
        dtypes = [np.dtype(info.dtype) for info in meta.arrays.values()]
        lengths = {len(header_bytes(size, dtype)) + size[0] * size[1] * dtype.itemsize for dtype in dtypes}
        for path in self.recorded(where, meta, where):
            name = path.relative_to(where).as_posix()
            try:
                if meta.layout == "files":
                    length = os.lstat(path).st_size
                    if length not in lengths:
                        return f"{name} has {length:,} bytes, wanted {' or '.join(f'{each:,}' for each in lengths)}"
                else:
                    fd = open_npy(str(path), follow=False)
                    try:
                        read_header(fd, name)
                    finally:
                        os.close(fd)
            except FileNotFoundError:
                return f"{name} is gone"
            except OSError as error:
                return f"{name} cannot be read: {error.strerror}"
            except NpyError as error:
                return error.message
        return None


PATCH_SET = PatchSetFiles()
