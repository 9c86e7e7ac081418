"""PatchSet: a finished set, read by number, whatever its layout."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, SupportsIndex, TypeAlias, overload

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from typing_extensions import TypeVar

from ctpatch.core.reassembly import WindowName, reassemble
from ctpatch.errors import ConfigError, FormatError, NpyError
from ctpatch.files.atomic import given_path
from ctpatch.files.forks import OwnLock, before_a_fork, require_polars
from ctpatch.files.memory import Slabs, require_memory
from ctpatch.format.columns import path_column
from ctpatch.format.tables import (
    STATUS_OK,
)
from ctpatch.layouts import layout_of
from ctpatch.layouts.base import Layout
from ctpatch.layouts.mapped import MappedFiles
from ctpatch.layouts.reader import ArrayReader
from ctpatch.loading.batches import LoaderSource
from ctpatch.loading.options import LoaderOptions
from ctpatch.reading.asked import (
    ArraysByName,
    Indices,
    Names,
    OneArray,
    SetPath,
    buffers_for,
    checked_indices,
    is_one,
    named_arrays,
    patches_of_size,
)
from ctpatch.reading.gives_batches import GivesBatches
from ctpatch.reading.set_tables import SetTables
from ctpatch.reading.source import SourceSlices, finished_set, refuse_outside
from ctpatch.reading.values import maps_for_set
from ctpatch.reading.whole_slices import places_of

Pixels_co = TypeVar("Pixels_co", bound=OneArray | ArraysByName, default=OneArray, covariant=True)
_Slice: TypeAlias = slice  # within the class the name is that of a method


class PatchSet(SetTables, GivesBatches, Generic[Pixels_co]):
    """A finished patch set.

    Patches are numbered as the rows of `manifest`. Files are opened when they are first needed. A set can be sent to
    other processes; each opens its own files.

    What a call reads that names no arrays is `Pixels_co`: an array, or a dict of arrays where `arrays` were listed when
    the set was opened. Without `arrays` the set decides: a dict where it has several. A type checker cannot know that
    and expects one array, so list the arrays of such a set.

    Attributes:
        layout: how its patches lie on disk.
        sources: the slices that it was cut from.
        selected: names of the arrays that are read where a call names none.
        reads_one: whether these are read as an array; a dict of arrays else.
    """

    def __init__(self, path: SetPath, data_root: SetPath | None = None, *, in_memory: bool = False) -> None:
        super().__init__(*finished_set(given_path(path)))
        self.layout: Layout = layout_of(self.meta.layout)
        self._folder_text, self._prefix = str(self.folder) + os.sep, self.meta.path_prefix
        self.selected = self.arrays
        self.reads_one = len(self.arrays) == 1
        self._in_memory = in_memory
        root = None if data_root is None else given_path(data_root).resolve()
        self.sources = SourceSlices(self.folder, self.meta, root)
        self._lock = OwnLock()
        self._readers: dict[str, ArrayReader] = {}
        before_a_fork(self.readers)
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
        return pixels * sum(dtype.itemsize for dtype in self._dtypes(self.arrays).values())

    def __repr__(self) -> str:
        return (
            f"PatchSet({self.meta.dataset}/{self.meta.split}: {len(self)} patches of "
            f"{'x'.join(str(side) for side in self.patch_size)}, layout {self.meta.layout})"
        )

    def __len__(self) -> int:
        return self.meta.num_patches

    def __getstate__(self) -> dict[str, Any]:
        stays = {"_lock", "_files", "manifest", "slices", "rejected", "weights"}
        return {name: value for name, value in self.__dict__.items() if name not in stays} | {"_readers": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = OwnLock()
        before_a_fork(self.readers)

    @property
    def data_root(self) -> Path:
        """What source paths are relative to; UsageError where none was given and the set does not lie in its own."""
        return self.sources.data_root

    def resolve_patch(self, path: str) -> str:
        """Where a file named in the manifest is: in the set's folder, or in the data root where it has no pixels."""
        if self.layout.reads_sources:
            return self.sources.resolve(path)
        return self._folder_text + path.removeprefix(self._prefix)

    def reader(self, array: str) -> ArrayReader:
        """What reads an array's patches, numbered as the rows of the manifest."""
        reader = self._readers.get(array)
        if reader is None:
            with self._lock:
                reader = self._readers.get(array) or self.reader_for(self.manifest, array)
                self._readers[array] = reader
        return reader

    def readers(self, arrays: Sequence[str] | None = None) -> dict[str, ArrayReader]:
        """Readers of some arrays, or of all: they have taken all that they need of the manifest."""
        return {name: self.reader(name) for name in (self.arrays if arrays is None else arrays)}

    def take_readers(self, readers: dict[str, ArrayReader]) -> None:
        """Read with readers of this same set that came with it from another process, instead of the manifest."""
        self._readers.update(readers)

    def reader_for(self, rows: pl.DataFrame, array: str) -> ArrayReader:
        """A reader of one array for some rows of the manifest, numbered from 0; FormatError where one is outside."""
        addresses = self.layout.addresses(rows, array, self.meta.arrays[array].dtype)
        refuse_outside(self.folder, self.meta, addresses.paths, rows["patch_id"])
        reader = self.layout.reader(addresses, self._files, self.patch_size, self.config.pad_mode)
        if self.layout.reads_sources:
            reader.clip_to(self.sources.clipped_range(array))
        return reader

    @cached_property
    def _files(self) -> MappedFiles:
        if self.layout.reads_sources:
            self._opened.expect_sources(self.slices, {each: self.sources.clipped_range(each) for each in self.arrays})
        return self.layout.files(self.resolve_patch, Slabs() if self._in_memory else None, self._opened)

    def stored_slice(self, row: dict[str, Any], array: str) -> NDArray[Any]:
        """The whole slice that a patch's address points into; NpyError or FormatError where that is damaged."""
        path = row[path_column(array)]
        refuse_outside(self.folder, self.meta, pl.Series([path], dtype=pl.String), pl.Series([row["patch_id"]]))
        stored = self._files.item(path, row["patch_index"])
        image: NDArray[Any] = np.array(stored, dtype=np.dtype(self.meta.arrays[array].dtype), order="C")
        return self.sources.as_cut(image, array) if self.layout.reads_sources else image

    def __getitem__(self, index: SupportsIndex | _Slice | Indices) -> Pixels_co:
        """One patch by its number, shape `(h, w)`, or several, as `read` gives them: `ps[0:3]`, `ps[[0, 1]]`, a mask.

        Raises:
            IndexError: there is no such patch.
            TypeError: that is no number, slice, list of numbers or mask.
        """
        if isinstance(index, slice):
            return self.read(range(*index.indices(len(self))))
        several: Any = [index] if is_one(index) else index
        found: Any = self.read(several)
        if several is index:
            return found  # type: ignore[no-any-return]
        patch: Any = {array: patches[0] for array, patches in found.items()} if isinstance(found, dict) else found[0]
        return patch  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Pixels_co]:
        return (self[index] for index in range(len(self)))

    @overload
    def read(self, indices: Indices, out: ArraysByName | None = None, *, arrays: None = None) -> Pixels_co: ...
    @overload
    def read(self, indices: Indices, out: OneArray, *, arrays: str | Sequence[str] | None = None) -> OneArray: ...
    @overload
    def read(self, indices: Indices, out: ArraysByName | None = None, *, arrays: str) -> OneArray: ...
    @overload
    def read(self, indices: Indices, out: ArraysByName | None = None, *, arrays: Names) -> ArraysByName: ...
    def read(
        self, indices: Indices, out: OneArray | ArraysByName | None = None, *, arrays: str | Sequence[str] | None = None
    ) -> Any:
        """Patches in the order asked.

        Args:
            indices: numbers of patches, negative ones counted from the end; repeats are welcome. Or a mask: a boolean
                for each patch of the set.
            out: filled and returned where given: `(N, h, w)` in the array's dtype, or a dict of such.
            arrays: the name of an array, or a list of names; None reads those that the set was opened with.

        Returns:
            `(N, h, w)`, float32 (labels in their own dtype); a dict of arrays where names are listed, or where
            none are named and the set has several.

        Raises:
            IndexError: there is no such patch.
            ValueError: there is no such array, or `out` has another shape or dtype.
            NpyError, FormatError: a file is missing or damaged.
        """
        which = checked_indices(indices, len(self))
        names, single = self._asked(arrays)
        result = buffers_for(out, self._dtypes(names), (len(which), *self.patch_size))
        for name, buffer in result.items():
            self.reader(name).read_into(which, buffer)
        return result[names[0]] if single or isinstance(out, np.ndarray) else result

    def _dtypes(self, names: Iterable[str]) -> dict[str, np.dtype[Any]]:
        return {name: np.dtype(self.meta.arrays[name].dtype) for name in names}

    def _asked(self, arrays: str | Sequence[str] | None) -> tuple[tuple[str, ...], bool]:
        """The arrays that a call reads, and whether it gives them as one array."""
        single = self.reads_one if arrays is None else isinstance(arrays, str)
        return named_arrays(arrays, self.selected, self.arrays), single

    @overload
    def slice(self, slice_index: int, *, arrays: None = None) -> Pixels_co: ...
    @overload
    def slice(self, slice_index: int, *, arrays: str) -> OneArray: ...
    @overload
    def slice(self, slice_index: int, *, arrays: Names) -> ArraysByName: ...
    def slice(self, slice_index: int, *, arrays: str | Sequence[str] | None = None) -> Any:
        """A whole source slice `(H, W)` by its `slice_index`, or a dict of arrays, as `read` gives them.

        It comes from the set where its layout holds slices, else from the data root, where its pixels are compared
        with the digest on record.

        Raises:
            KeyError: the set has no such slice.
            ValueError: there is no such array.
            NpyError: the source slice is not there.
            SourceChangedError: it is no longer what was cut.
        """
        record = self._slice_row(slice_index)
        names, single = self._asked(arrays)
        if self.layout.holds_slices and record["num_patches"]:
            row = self.manifest.filter(pl.col("slice_index") == slice_index).row(0, named=True)
            images = {array: self.stored_slice(row, array) for array in names}
        else:
            images = {array: self.sources.read(record, array) for array in names}
        return images[names[0]] if single else images

    def _slice_row(self, slice_index: int) -> dict[str, Any]:
        require_polars(f"slice {slice_index} of {self.meta.dataset}/{self.meta.split}")
        found = self.slices.filter(pl.col("slice_index") == slice_index)
        if found.height == 0:
            raise KeyError(f"there is no slice {slice_index} in {self.meta.dataset}/{self.meta.split}")
        record = found.row(0, named=True)
        if record["status"] != STATUS_OK:
            raise NpyError(f"slice {slice_index} was left out of the set: {record['reason']}")
        return record

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

        Labels are never averaged, see `ctpatch.reassemble`.

        Args:
            slice_index: which slice.
            patches: `(N, h, w)` or `(N, C, h, w)`, of the set's size, in the order of the slice's rows in the manifest;
                None: its own.
            array: whose own patches are taken.
            window: how a patch's pixels weigh where patches overlap.
            fill: what pixels get that no kept patch covers; labels need a whole number there.

        Raises:
            KeyError: the set has no such slice.
            NpyError: it was left out of the set.
            ReassemblyError: there are more or fewer patches than the slice has, or they have another size.
        """
        record = self._slice_row(slice_index)
        rows = self.manifest.with_row_index("at").filter(pl.col("slice_index") == slice_index)
        if patches is None:
            patches = self.read(rows["at"].to_numpy(), arrays=array)
        stack = patches_of_size(patches, self.patch_size, f"slice {slice_index}")
        origins, shape = rows.select("row", "col").rows(), (record["height"], record["width"])
        return reassemble(stack, origins, shape, window, fill=fill)

    def source_for(self, options: LoaderOptions[Any]) -> LoaderSource:
        """What a loader reads; ConfigError where an option does not fit the set."""
        slices = pl.DataFrame() if options.balance is None else self.slices
        names = self._for_loader(options)
        chosen = maps_for_set(options, names, self.meta, self.sources)
        places = places_of(self, options)
        return LoaderSource(self._dtypes(names), self.meta.fingerprint, places, slices, chosen)

    def _for_loader(self, options: LoaderOptions[Any]) -> tuple[str, ...]:
        try:
            return self._asked(None if options.arrays in ([], ()) else options.arrays)[0]
        except ValueError as error:
            raise ConfigError(f"arrays: {error}") from None

    def close(self) -> None:
        """Let go of open files; they are opened again when needed."""
        with self._lock:
            self._readers.clear()
            self.__dict__.pop("_files", None)


AnySet: TypeAlias = PatchSet[OneArray | ArraysByName]
"""A set, whatever is read where no arrays are named."""


@overload
def open_set(
    path: SetPath, data_root: SetPath | None = None, *, in_memory: bool = False, arrays: str | None = None
) -> PatchSet: ...
@overload
def open_set(
    path: SetPath, data_root: SetPath | None = None, *, in_memory: bool = False, arrays: Names
) -> PatchSet[ArraysByName]: ...
def open_set(
    path: SetPath,
    data_root: SetPath | None = None,
    *,
    in_memory: bool = False,
    arrays: str | Sequence[str] | None = None,
) -> AnySet:
    """Open a finished patch set, of any layout.

    Args:
        path: the set's folder.
        data_root: where source paths begin; only needed for sets outside a data root (`--out`), and only where
            source slices are read (layout `index`, `slice`, `verify --deep`).
        in_memory: keep pixels once they were read: later reads copy memory, several times as fast as out of files.
            Takes as much memory as the pixels have bytes, in each process that reads.
        arrays: what is read where a call names no arrays: the name of one, which is read as an array, or a list of
            names, which are read as a dict. None reads all: as an array where there is one, as a dict of several.

    Raises:
        UsageError: there is no patch set.
        IncompleteError: its build has not finished.
        FormatError: its meta is damaged or of another format version.
        ValueError: there is no such array.
        SystemFailureError: `in_memory`, and the set has more bytes than there is memory.
    """
    ps: AnySet = PatchSet(path, data_root, in_memory=in_memory)
    if arrays is not None:
        ps.selected, ps.reads_one = named_arrays(arrays, ps.arrays, ps.arrays), isinstance(arrays, str)
    return ps
