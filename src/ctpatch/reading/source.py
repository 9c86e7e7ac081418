"""The source slices of a patch set: where they are, and whether they are still what the patches were cut from."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ctpatch.errors import FormatError, NpyError, SourceChangedError, UsageError
from ctpatch.files.digest import array_digest
from ctpatch.files.npy import SliceBuffer
from ctpatch.files.paths import PathError, Root
from ctpatch.format.columns import digest_column, source_column
from ctpatch.format.meta import PatchMeta


@dataclass(frozen=True, slots=True)
class SourceSlices:
    """The source slices of a set.

    Attributes:
        folder: the set's folder, absolute.
        meta: what the set is.
        given_root: what source paths are relative to; None finds it from where the set lies.
    """

    folder: Path
    meta: PatchMeta
    given_root: Path | None

    @property
    def data_root(self) -> Path:
        """What source paths are relative to.

        Raises:
            UsageError: the set does not lie in its data root and none was given.
        """
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
        """Where a source slice is.

        Raises:
            FormatError: the path leaves the data root, by its name or through a link.
        """
        try:
            return Root(self.data_root).resolve(path)
        except PathError as error:
            raise FormatError(f"source slices of {self.folder.name}: {error}") from None

    def read(self, record: dict[str, Any], array: str) -> NDArray[Any]:
        """A source slice from the data root, as it is cut, `(H, W)`; its digest must be the one on record.

        Args:
            record: a row of `slices`.
            array: which array.

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
        if array_digest(image) != record[digest_column(array)]:
            raise SourceChangedError(f"{path} is no longer what the patches were cut from; restore it or build again")
        return image
