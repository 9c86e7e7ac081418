"""SliceSet: the whole slices of a prepared split, for windows that are chosen while training, without a build."""

from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl

from ctpatch.errors import ConfigError, UsageError
from ctpatch.files.digest import file_digest
from ctpatch.files.paths import Root
from ctpatch.format.columns import source_column
from ctpatch.format.slice_headers import array_infos, scan_headers
from ctpatch.format.source_manifest import read_source_manifest
from ctpatch.format.splits import SourcePath, find_splits
from ctpatch.layouts import layout_of
from ctpatch.layouts.mapped import MappedFiles
from ctpatch.layouts.reader import ArrayAddresses, ArrayReader
from ctpatch.loading.batches import LoaderSource
from ctpatch.loading.columns import slice_kinds, texts_of
from ctpatch.loading.drawing import DrawnPlaces
from ctpatch.loading.options import LoaderOptions
from ctpatch.loading.whole import WholeSlices
from ctpatch.reading.asked import ArraysByName, named_arrays
from ctpatch.reading.gives_batches import GivesBatches
from ctpatch.reading.values import maps_for_split


class SliceSet(GivesBatches):
    """The slices of a split, as its manifest lists them.

    Nothing checks their values, as a build does: run `ctpatch build` once where you do not know the files.

    Attributes:
        source: the manifest, and the data root that its paths are relative to.
        slices: a row for each slice: `slice_index`, `src_path`, `height`, `width`, `patient_id` and, in splits that
            `ctpatch prepare` wrote, what else the manifest says.
        infos: for each array its dtype, and whether it holds labels.
        fingerprint: digest of the manifest.
    """

    def __init__(self, path: SourcePath, data_root: SourcePath | None = None) -> None:
        splits = find_splits([path], data_root)
        if len(splits) > 1:
            names = ", ".join(each.split for each in splits)
            raise UsageError(f"{str(path)!r} has several splits ({names}); give the folder of one")
        self.source = splits[0]
        table = read_source_manifest(
            self.source, lambda piece: scan_headers(piece, self.source.data_root, skip_faulty=False)
        )
        self._carried = table.carried
        self.infos = array_infos(table, table.frame, self.source)
        self.slices = table.frame.drop("problem", "src_dtype", *(f"{array}_dtype" for array in table.arrays[1:]))
        self.fingerprint = file_digest(self.source.manifest)
        self._readers: dict[str, ArrayReader] = {}

    def __repr__(self) -> str:
        return f"SliceSet({self.source.name}: {len(self)} slices, {', '.join(self.arrays)})"

    def __len__(self) -> int:
        return self.slices.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays: `image`, and those beside it."""
        return tuple(self.infos)

    @property
    def reads_one(self) -> bool:
        """Whether pixels come as one array."""
        return len(self.infos) == 1

    @cached_property
    def _files(self) -> MappedFiles:
        return layout_of("index").files(Root(self.source.data_root).resolve)

    def reader(self, array: str) -> ArrayReader:
        """What reads an array's slices, numbered as the rows of `slices`."""
        if array not in self._readers:
            count = len(self)
            nowhere = np.zeros(count, np.int32)
            addresses = ArrayAddresses(
                self.slices[source_column(array)],
                np.full(count, -1, np.int64),
                nowhere,
                nowhere,
                np.dtype(self.infos[array].dtype),
            )
            self._readers[array] = layout_of("index").reader(addresses, self._files, (1, 1), "none")
        return self._readers[array]

    def slice(self, slice_index: int) -> ArraysByName:
        """A slice by its `slice_index`: for each array `(H, W)`.

        Raises:
            KeyError: there is no such slice.
            NpyError: its file is damaged, or no longer there.
        """
        found = (self.slices["slice_index"] == slice_index).arg_true()
        if not len(found):
            raise KeyError(f"there is no slice {slice_index} in {self.source.name}")
        return {name: np.array(self.reader(name).whole(int(found[0]))) for name in self.arrays}

    def whole_slices(self) -> WholeSlices:
        """The slices, for windows to be chosen in them."""
        return WholeSlices(
            name=self.source.name,
            table=self.slices,
            drawn=np.ones(len(self), bool),
            names=self.slices["src_path"],
            labels=frozenset(name for name, info in self.infos.items() if info.labels),
            config=None,
            kinds=slice_kinds(self._carried),
            texts=partial(texts_of, self.slices),
            reader=self.reader,
        )

    def source_for(self, options: LoaderOptions[Any]) -> LoaderSource:
        """What a loader reads; ConfigError where no windows are to be drawn."""
        if options.windows is None:
            raise ConfigError(
                f"windows: {self.source.name} is a prepared split, which has slices and no patches; give "
                "windows=ctpatch.RandomWindows(128), or build a patch set from it with ctpatch build"
            )
        try:
            names = named_arrays(options.arrays or None, self.arrays, self.arrays)
        except ValueError as error:
            raise ConfigError(f"arrays: {error}") from None
        dtypes = {name: np.dtype(self.infos[name].dtype) for name in names}
        places = DrawnPlaces(self.whole_slices(), options.windows, options)
        values = [name for name in names if not self.infos[name].labels]
        chosen = maps_for_split(options, values, self.source)
        return LoaderSource(dtypes, self.fingerprint, places, pl.DataFrame(), chosen)


def open_slices(path: SourcePath, data_root: SourcePath | None = None) -> SliceSet:
    """Open the slices of a prepared split, to draw windows in them without a build.

    Args:
        path: the split's folder, or its manifest.
        data_root: what paths in the manifest are relative to; None takes the folder above `prepared`.

    Raises:
        UsageError: there is no split, or there are several.
        SourceManifestError: the manifest breaks the rules of its format.
        NpyError: a slice cannot be used.
    """
    return SliceSet(path, data_root)
