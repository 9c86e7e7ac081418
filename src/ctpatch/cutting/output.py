"""What a patch set's folder holds: how its files are called, and which of them a finished set lists."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctpatch.errors import FormatError, OutputConflictError
from ctpatch.files.atomic import read_regular
from ctpatch.files.paths import not_plain
from ctpatch.format.carried import Kind
from ctpatch.format.columns import path_column
from ctpatch.format.meta import PATCH_META, STATE_FOLDER, PatchMeta, read_meta
from ctpatch.format.tables import PATCH_MANIFEST, TABLES, read_table, schema_of
from ctpatch.layouts import layout_of
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
        return layout_of(names["layout"]).folders(names["arrays"])

    def patterns(self, names: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
        """How pixel files are called, for each folder."""
        return layout_of(names["layout"]).names(names["split"], names["arrays"])

    def recorded(self, where: Path, meta: PatchMeta) -> Iterator[Path]:
        """The pixel files that the manifest lists."""
        places = (where / PATCH_MANIFEST, where / STATE_FOLDER / PATCH_MANIFEST)
        table = next((place for place in places if place.exists()), None)
        if layout_of(meta.layout).reads_sources or table is None:
            return
        try:
            rows = read_table(table, schema_of(PATCH_MANIFEST, tuple(meta.arrays)))
        except FormatError as error:
            raise OutputConflictError(
                f"{where.name}: {error.message}; without it, which files are ours cannot be told: "
                "remove the folder yourself, or choose another --out"
            ) from None
        for array in meta.arrays:
            names = rows[path_column(array)].unique(maintain_order=True).str.strip_prefix(meta.path_prefix)
            yield from (where / name for name in names.filter(~not_plain(names)))


PATCH_SET = PatchSetFiles()


def carried_before(folder: Path) -> dict[str, Kind | None] | None:
    """No columns where a set keeps none that stands in the folder, or was begun there, perhaps by an earlier version.

    Else None: the manifest decides. A folder that cannot be read, or a link in it, is refused later.
    """
    try:
        return None if read_meta(folder / PATCH_META).carried else {}
    except (OSError, FormatError):
        pass
    if (folder / STATE_FOLDER).is_symlink():
        return None
    try:
        options = json.loads(read_regular(folder / STATE_FOLDER / PATCH_SET.record))["options"]
        return None if options.get("carried") else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
