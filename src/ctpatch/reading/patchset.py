"""PatchSet: a finished set, read by number, whatever its layout."""

import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.reassembly import WindowName, reassemble
from ctpatch.errors import FormatError, IncompleteError, NpyError, SourceChangedError, UsageError
from ctpatch.files.atomic import given_path
from ctpatch.files.digest import array_digest
from ctpatch.files.memory import Slabs, empty_buffer, require_memory
from ctpatch.files.npy import SliceBuffer
from ctpatch.files.paths import PathError, Root, not_plain
from ctpatch.format.columns import digest_column, path_column, source_column
from ctpatch.format.meta import PATCH_META, STATE_FOLDER, PatchMeta, read_meta
from ctpatch.format.tables import (
    PATCH_MANIFEST,
    REJECTED_PATCHES,
    SLICE_MANIFEST,
    STATUS_OK,
    read_table,
    schema_of,
)
from ctpatch.layouts import layout_of
from ctpatch.layouts.base import Layout
from ctpatch.layouts.reader import ArrayReader, MappedFiles
from ctpatch.reading.batches import BatchLoader, Transform
from ctpatch.reading.sampling import SamplerOptions


class PatchSet:
    """A finished patch set.

    Patches are numbered as the rows of `manifest`. Files are opened when they are first needed. A set can be sent to
    other processes; each opens its own files.

    Attributes:
        folder: the set's folder, absolute.
        meta: what the set is.
        layout: how its patches lie on disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        data_root: str | os.PathLike[str] | None = None,
        *,
        in_memory: bool = False,
    ) -> None:
        self.folder = _set_folder(given_path(path))
        self.meta: PatchMeta = _finished_meta(self.folder)
        self.layout: Layout = layout_of(self.meta.layout)
        self._in_memory = in_memory
        self._given_root = None if data_root is None else given_path(data_root).resolve()
        self._lock = threading.RLock()
        self._readers: dict[str, ArrayReader] = {}
        for name in self.layout.folders(self.arrays):
            if (self.folder / name).is_symlink():
                raise FormatError(f"{self.folder.name}/{name} is a link, which is not followed")
        if in_memory:
            require_memory(self._bytes_to_keep(), f"{self.meta.dataset}/{self.meta.split}")

    def _bytes_to_keep(self) -> int:
        if not self.layout.reads_sources:
            return self.meta.pixel_bytes
        used = self.slices.filter(pl.col("num_patches") > 0)
        pixels = int((used["height"].cast(pl.Int64) * used["width"].cast(pl.Int64)).sum())
        return pixels * sum(np.dtype(info.dtype).itemsize for info in self.meta.arrays.values())

    def __repr__(self) -> str:
        return (
            f"PatchSet({self.meta.dataset}/{self.meta.split}: {len(self)} patches of "
            f"{'x'.join(str(side) for side in self.patch_size)}, layout {self.meta.layout})"
        )

    def __len__(self) -> int:
        return self.meta.num_patches

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_lock", "_files", "manifest", "slices", "rejected"):
            state.pop(name, None)
        state["_readers"] = {}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays: `image`, and those beside it."""
        return tuple(self.meta.arrays)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.config.patch_size

    @cached_property
    def config(self) -> PatchConfig:
        """The options the patches were cut with."""
        return self.meta.patch_config()

    @cached_property
    def manifest(self) -> pl.DataFrame:
        """A row for each patch; `docs/format-1.md` describes the columns."""
        frame = self._table(PATCH_MANIFEST)
        if frame.height != self.meta.num_patches:
            raise FormatError(
                f"{PATCH_MANIFEST} has {frame.height} rows, {PATCH_META} says {self.meta.num_patches} patches; "
                "run ctpatch verify"
            )
        return frame

    @cached_property
    def slices(self) -> pl.DataFrame:
        """A row for each source slice."""
        return self._table(SLICE_MANIFEST)

    @cached_property
    def rejected(self) -> pl.DataFrame:
        """A row for each window that a rule dropped, with the rule's name."""
        return self._table(REJECTED_PATCHES)

    def _table(self, name: str) -> pl.DataFrame:
        return read_table(self.folder / name, schema_of(name, self.arrays))

    @property
    def data_root(self) -> Path:
        """What source paths are relative to.

        Raises:
            UsageError: the set does not lie in its data root and none was given.
        """
        if self._given_root is not None:
            return self._given_root
        if self.meta.paths_relative_to == "data_root":
            inner = Path(self.meta.patch_dir).parts
            if self.folder.parts[-len(inner) :] == inner:
                return Path(*self.folder.parts[: -len(inner)])
        raise UsageError(
            f"{self.folder.name}: where its source slices are cannot be told, since the set does not lie at "
            f"{self.meta.patch_dir!r} below a data root; give the data root (--data-root)"
        )

    def resolve_patch(self, path: str) -> str:
        """Where a file named in the manifest is: in the set's folder, or in the data root where it has no pixels."""
        if self.layout.reads_sources:
            return self.resolve_source(path)
        return self._folder_text + path.removeprefix(self._prefix)

    @cached_property
    def _folder_text(self) -> str:
        return str(self.folder) + os.sep

    @cached_property
    def _prefix(self) -> str:
        return self.meta.path_prefix

    def resolve_source(self, path: str) -> str:
        """Where a source slice is.

        Raises:
            FormatError: the path leaves the data root, by its name or through a link.
        """
        try:
            return Root(self.data_root).resolve(path)
        except PathError as error:
            raise FormatError(f"source slices of {self.folder.name}: {error}") from None

    def _reader(self, array: str) -> ArrayReader:
        with self._lock:
            if array not in self._readers:
                self._readers[array] = self.reader_for(self.manifest, array)
            return self._readers[array]

    def reader_for(self, rows: pl.DataFrame, array: str) -> ArrayReader:
        """A reader of one array for some rows of the manifest, numbered from 0.

        Raises:
            FormatError: a row has no address, or one outside the set.
        """
        addresses = self.layout.addresses(rows, array, self.meta.arrays[array].dtype)
        self._refuse_outside(addresses.paths, rows["patch_id"])
        return self.layout.reader(addresses, self._files, self.patch_size, self.config.pad_mode)

    def _refuse_outside(self, paths: pl.Series, patch_ids: pl.Series) -> None:
        """Raise at the first file that is not below the set, by its name or through a link."""
        unsafe = not_plain(paths).arg_true()
        if len(unsafe):
            at = int(unsafe[0])
            raise FormatError(
                f"{PATCH_MANIFEST}: {paths[at][:200]!r} (patch {str(patch_ids[at])[:100]!r}) is no "
                "path below the set; the manifest was not written by ctpatch"
            )
        if not self.layout.reads_sources:
            root = Root(self.folder, links=False)
            for folder in paths.str.replace(r"[^/]*$", "").unique():
                if not root.holds_folder(folder.removeprefix(self._prefix)):
                    raise FormatError(f"{PATCH_MANIFEST}: {folder[:200]!r} leads through a link, which is not followed")

    @cached_property
    def _files(self) -> MappedFiles:
        return self.layout.files(self.resolve_patch, Slabs() if self._in_memory else None)

    def stored_slice(self, row: dict[str, Any], array: str) -> NDArray[Any]:
        """The whole slice that a patch's address points into, in the array's dtype; not where it points at a patch.

        Args:
            row: the patch, as a row of the manifest.
            array: which array.

        Raises:
            NpyError, FormatError: the file is missing or damaged, lies outside the set, or has no such item.
        """
        path = row[path_column(array)]
        self._refuse_outside(pl.Series([path], dtype=pl.String), pl.Series([row["patch_id"]]))
        stored = self._files.item(path, row["patch_index"])
        return np.array(stored, dtype=np.dtype(self.meta.arrays[array].dtype), order="C")

    def __getitem__(self, index: int) -> NDArray[Any] | dict[str, NDArray[Any]]:
        """One patch, shape `(h, w)`; a dict of arrays where there are several.

        Raises:
            IndexError: there is no such patch.
        """
        found = self.read([index])
        if isinstance(found, dict):
            return {array: patches[0] for array, patches in found.items()}
        patch: NDArray[Any] = found[0]
        return patch

    def __iter__(self) -> Iterator[NDArray[Any] | dict[str, NDArray[Any]]]:
        return (self[index] for index in range(len(self)))

    def read(
        self,
        indices: Sequence[int] | NDArray[np.integer[Any]],
        out: NDArray[Any] | dict[str, NDArray[Any]] | None = None,
        *,
        arrays: Sequence[str] | None = None,
    ) -> Any:
        """Patches in the order asked.

        Args:
            indices: numbers of patches, negative ones counted from the end; repeats are welcome.
            out: filled and returned where given: `(N, h, w)` in the array's dtype, or a dict of such.
            arrays: which arrays to read; None reads all.

        Returns:
            `(N, h, w)`, float32 (labels in their own dtype); a dict of arrays where several are read.

        Raises:
            IndexError: there is no such patch.
            ValueError: `out` has another shape or dtype.
            NpyError, FormatError: a file is missing or damaged.
        """
        which = _checked_indices(indices, len(self))
        names = self._wanted(arrays)
        shape = (len(which), *self.patch_size)
        single = arrays is None and len(self.arrays) == 1
        if isinstance(out, np.ndarray):
            if len(names) != 1:
                raise ValueError(f"out is one array, {len(names)} are read ({', '.join(names)}): give a dict of arrays")
            given = {names[0]: out}
            single = True
        else:
            given = dict(out or {})
            stray = [name for name in given if name not in names]
            if stray:
                raise ValueError(f"out has {stray[0]!r}, which is not read; read are {', '.join(names)}")
        result = {}
        for name in names:
            dtype = np.dtype(self.meta.arrays[name].dtype)
            target = given.get(name)
            if target is None:
                target = empty_buffer(shape, dtype)
            elif target.shape != shape or target.dtype != dtype or not target.flags.writeable:
                raise ValueError(
                    f"out for {name} has shape {target.shape} of {target.dtype}, wanted {shape} of {dtype}"
                )
            self._reader(name).read_into(which, target)
            result[name] = target
        return result[names[0]] if single else result

    def _wanted(self, arrays: Sequence[str] | None) -> list[str]:
        if arrays is None:
            return list(self.arrays)
        unknown = [name for name in arrays if name not in self.meta.arrays]
        if unknown or not arrays:
            raise ValueError(f"there is no array {unknown[:1]}; the set has {', '.join(self.arrays)}")
        return list(arrays)

    def slice(self, slice_index: int) -> NDArray[Any] | dict[str, NDArray[Any]]:
        """A whole source slice `(H, W)` by its `slice_index`; a dict of arrays where there are several.

        It comes from the set where its layout holds slices, else from the data root, where its pixels are compared
        with the digest on record.

        Raises:
            KeyError: the set has no such slice.
            NpyError: the source slice is not there.
            SourceChangedError: it is no longer what was cut.
        """
        found = self.slices.filter(pl.col("slice_index") == slice_index)
        if found.height == 0:
            raise KeyError(f"there is no slice {slice_index} in {self.meta.dataset}/{self.meta.split}")
        record = found.row(0, named=True)
        if record["status"] != STATUS_OK:
            raise NpyError(f"slice {slice_index} was left out of the set: {record['reason']}")
        images = {array: self._slice_array(record, array) for array in self.arrays}
        return images if len(images) > 1 else images["image"]

    def _slice_array(self, record: dict[str, Any], array: str) -> NDArray[Any]:
        if self.layout.holds_slices and record["num_patches"]:
            row = self.manifest.filter(pl.col("slice_index") == record["slice_index"]).row(0, named=True)
            return self.stored_slice(row, array)
        return self.read_checked_source(record, array)

    def read_checked_source(self, record: dict[str, Any], array: str) -> NDArray[Any]:
        """A source slice from the data root, as it is cut, `(H, W)`; its digest must be the one on record.

        Args:
            record: a row of `slices`.
            array: which array.

        Raises:
            NpyError: it is not there, or damaged.
            SourceChangedError: it is no longer what the patches were cut from.
        """
        path = record[source_column(array)]
        full = self.resolve_source(path)
        if not os.path.lexists(full):
            raise NpyError(
                f"{path} is gone: the source slice is not in the data root; restore it, or give the data root it is "
                "in (--data-root)"
            )
        image, _dtype = SliceBuffer().read(full, path, integers_allowed=array != "image")
        if array_digest(image) != record[digest_column(array)]:
            raise SourceChangedError(f"{path} is no longer what the patches were cut from; restore it or build again")
        return image

    def reassemble(
        self,
        slice_index: int,
        patches: ArrayLike | None = None,
        *,
        array: str = "image",
        window: WindowName = "hann",
        fill: float = float("nan"),
    ) -> NDArray[Any]:
        """A slice put together from its patches: those of the set, or others in their place (a model's output).

        Args:
            slice_index: which slice.
            patches: `(N, h, w)`, in the order of the slice's rows in the manifest; None takes the set's own.
            array: whose own patches are taken.
            window: how a patch's pixels weigh where patches overlap.
            fill: what pixels get that no kept patch covers.

        Raises:
            KeyError: the set has no such slice.
            ReassemblyError: there are more or fewer patches than the slice has, or they do not fit.
        """
        found = self.slices.filter(pl.col("slice_index") == slice_index)
        if found.height == 0:
            raise KeyError(f"there is no slice {slice_index} in {self.meta.dataset}/{self.meta.split}")
        rows = self.manifest.with_row_index("at").filter(pl.col("slice_index") == slice_index)
        if patches is None:
            patches = self.read(rows["at"].to_numpy(), arrays=[array])[array]
        shape = found.select("height", "width").row(0)
        return reassemble(patches, rows.select("row", "col").rows(), shape, window, fill=fill)

    def batches(
        self,
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = False,
        prefetch: int = 2,
        columns: Sequence[str] = (),
        arrays: Sequence[str] | None = None,
        transform: Transform | None = None,
        subset: str | None = None,
        weight: str | None = None,
        balance: str | None = None,
        block_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        copy: bool = False,
    ) -> BatchLoader:
        """Batches as NumPy arrays, read ahead by a thread; the options of `ctpatch.torch.PatchLoader`, without torch.

        Returns:
            A loader: each pass over it is one epoch of `Batch`es, beginning with `epoch`.

        Raises:
            ConfigError: an option makes no sense.
        """
        options = SamplerOptions(
            shuffle=shuffle,
            seed=seed,
            subset=subset,
            weight=weight,
            balance=balance,
            block_size=block_size,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )
        loader = BatchLoader(
            self,
            batch_size,
            options,
            prefetch=prefetch,
            arrays=arrays,
            columns=columns,
            transform=transform,
            copy=copy,
        )
        loader.set_epoch(epoch)
        return loader

    def close(self) -> None:
        """Let go of open files; they are opened again when needed."""
        with self._lock:
            self._readers.clear()
            self.__dict__.pop("_files", None)


def _checked_indices(indices: ArrayLike, count: int) -> NDArray[np.int64]:
    which = np.asarray(indices)
    if which.ndim != 1:
        raise ValueError(f"indices have {which.ndim} dimensions, wanted a flat list of patch numbers")
    if which.size and which.dtype.kind not in "iu":
        raise TypeError(f"indices are {which.dtype}, wanted whole numbers (for a mask: numpy.flatnonzero(mask))")
    which = which.astype(np.int64)
    wrong = (which < -count) | (which >= count)
    if wrong.any():
        raise IndexError(f"patch {int(which[wrong][0])} is out of range: the set has {count} patches")
    return np.where(which < 0, which + count, which)


def _set_folder(path: Path) -> Path:
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise UsageError(f"{str(path)!r} does not exist; give the folder of a patch set (it holds {PATCH_META})")
    return folder.resolve()


def _finished_meta(folder: Path) -> PatchMeta:
    try:
        return read_meta(folder / PATCH_META)
    except FileNotFoundError:
        pass
    if (folder / STATE_FOLDER).is_dir():
        raise IncompleteError(
            f"{folder.name} is incomplete: its build was begun and has not finished; run the same build again to go on"
        )
    below = sorted(each.name for each in folder.iterdir() if (each / PATCH_META).is_file())
    hint = f"; there are sets below it: {', '.join(below[:5])}" if below else ""
    raise UsageError(f"{folder.name} is no patch set: it has no {PATCH_META}{hint}")


def open_set(
    path: str | os.PathLike[str], data_root: str | os.PathLike[str] | None = None, *, in_memory: bool = False
) -> PatchSet:
    """Open a finished patch set, of any layout.

    Args:
        path: the set's folder.
        data_root: where source paths begin; only needed for sets outside a data root (`--out`), and only where
            source slices are read (layout `index`, `slice`, `verify --deep`).
        in_memory: keep pixels once they were read: later reads copy memory, several times as fast as out of files.
            Takes as much memory as the pixels have bytes, in each process that reads.

    Raises:
        UsageError: there is no patch set.
        IncompleteError: its build has not finished.
        FormatError: its meta is damaged or of another format version.
        SystemFailureError: `in_memory`, and the set has more bytes than there is memory.
    """
    return PatchSet(path, data_root, in_memory=in_memory)
