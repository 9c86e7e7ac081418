"""Where a finished set and its source slices are, and whether these are still what the patches were cut from."""

import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from ctpatch.core.rounding import without_rounding
from ctpatch.errors import FormatError, IncompleteError, NpyError, UsageError
from ctpatch.files.npy import SliceBuffer
from ctpatch.files.paths import PathError, Root, not_plain
from ctpatch.format.columns import digest_column, source_column
from ctpatch.format.meta import PATCH_META, STATE_FOLDER, PatchMeta, read_meta
from ctpatch.format.tables import PATCH_MANIFEST
from ctpatch.layouts import layout_of
from ctpatch.reading.opened import refuse_changed_pixels

_SETS_SHOWN = 5
_ENTRIES_LOOKED_AT = 20_000
_DEEPEST = 3
"""From the folder above a data root on: data root, `patches`, data set, split."""


def finished_set(path: Path) -> tuple[Path, PatchMeta]:
    """The absolute folder and the meta of a finished set, from its path or from that of a file in it.

    Raises:
        IncompleteError: the build has not finished.
        UsageError: there is no such folder, or it is no patch set.
        FormatError: the meta is damaged or of another format version.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise UsageError(f"{str(path)!r} does not exist; give the folder of a patch set (it holds {PATCH_META})")
    folder = folder.resolve()
    try:
        return folder, read_meta(folder / PATCH_META)
    except FileNotFoundError:
        pass
    if (folder / STATE_FOLDER).is_dir():
        raise IncompleteError(
            f"{folder.name} is incomplete: its build was begun and has not finished; run the same build again to go on"
        )
    below = _sets_below(folder)
    more = f" and {len(below) - _SETS_SHOWN} more" if len(below) > _SETS_SHOWN else ""
    hint = f"; give a set that is below it: {', '.join(below[:_SETS_SHOWN])}{more}" if below else ""
    raise UsageError(f"{folder.name} is no patch set: it has no {PATCH_META}{hint}")


def _sets_below(folder: Path) -> list[str]:
    """The finished sets below a folder, by their paths from there; a large tree is not searched to its end."""
    found: list[str] = []
    todo, looked = deque([("", 0)]), 0
    while todo and looked < _ENTRIES_LOOKED_AT:
        path, depth = todo.popleft()
        with suppress(OSError), os.scandir(folder / path) as entries:
            for entry in islice(entries, _ENTRIES_LOOKED_AT - looked):
                looked += 1
                if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                    continue
                name = f"{path}{entry.name}"
                if os.path.isfile(f"{entry.path}/{PATCH_META}"):
                    found.append(name)
                elif depth < _DEEPEST:
                    todo.append((f"{name}/", depth + 1))
    return sorted(found)


def refuse_outside(folder: Path, meta: PatchMeta, paths: pl.Series, patch_ids: pl.Series) -> None:
    """Raise FormatError at the first file of patches that is not below the set, by its name or through a link."""
    unsafe = not_plain(paths).arg_true()
    if len(unsafe):
        at = int(unsafe[0])
        raise FormatError(
            f"{PATCH_MANIFEST}: {paths[at][:200]!r} (patch {str(patch_ids[at])[:100]!r}) is no "
            "path below the set; the manifest was not written by ctpatch"
        )
    if not layout_of(meta.layout).reads_sources:
        root = Root(folder, links=False)
        for name in paths.str.replace(r"[^/]*$", "").unique():
            if not root.holds_folder(name.removeprefix(meta.path_prefix)):
                raise FormatError(f"{PATCH_MANIFEST}: {name[:200]!r} leads through a link, which is not followed")


@dataclass(frozen=True, slots=True)
class SourceSlices:
    """The source slices of a set; `given_root` is its data root, None finds it from where the set lies."""

    folder: Path
    meta: PatchMeta
    given_root: Path | None

    @property
    def data_root(self) -> Path:
        """What source paths are relative to; UsageError where that cannot be told."""
        if self.given_root is not None:
            return self.given_root
        if self.meta.paths_relative_to == "data_root":
            inner = Path(self.meta.patch_dir).parts
            if self.folder.parts[-len(inner) :] == inner:
                return Path(*self.folder.parts[: -len(inner)])
        raise UsageError(
            f"{self.folder.name}: where its source slices are cannot be told, since the set does not lie at "
            f"{self.meta.patch_dir!r} below a data root; give the data root (--data-root)"
        )

    def resolve(self, path: str) -> str:
        """Where a source slice is; FormatError where the path leaves the data root, by its name or through a link."""
        try:
            return Root(self.data_root).resolve(path)
        except PathError as error:
            raise FormatError(f"source slices of {self.folder.name}: {error}") from None

    def clipped_range(self, array: str) -> tuple[float, float] | None:
        """The range that values of an array were clipped to where they lay outside by rounding; None where none did."""
        return self.meta.value_range if self.meta.num_clipped and not self.meta.arrays[array].labels else None

    def as_cut(self, image: NDArray[Any], array: str) -> NDArray[Any]:
        """The pixels of a source slice as they were cut, `(H, W)` in the array's dtype."""
        values = self.clipped_range(array)
        return image if values is None else without_rounding(image, values)

    def read(self, record: dict[str, Any], array: str) -> NDArray[Any]:
        """A source slice from the data root, as it is cut, `(H, W)`; its digest must be the one on record.

        Raises:
            NpyError: it is not there, or damaged.
            SourceChangedError: it is no longer what the patches were cut from.
        """
        path = record[source_column(array)]
        full = self.resolve(path)
        if not os.path.lexists(full):
            raise NpyError(
                f"{path} is gone: the source slice is not in the data root; restore it, or give the data root it is "
                "in (--data-root)"
            )
        image, _dtype = SliceBuffer().read(full, path, integers_allowed=array != "image")
        image = self.as_cut(image, array)
        refuse_changed_pixels(path, image, record[digest_column(array)])
        return image
