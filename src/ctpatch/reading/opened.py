"""Whether a set is still the one that was opened, and its source slices what it was cut from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.rounding import without_rounding
from ctpatch.errors import FormatError, SetChangedError, SourceChangedError
from ctpatch.files.digest import array_digest
from ctpatch.files.guard import Guard, Identity, identity, tells_changes
from ctpatch.format.columns import digest_column, source_column
from ctpatch.format.meta import PATCH_META, PatchMeta, read_meta
from ctpatch.format.tables import SLICE_MANIFEST


class OpenedSet(Guard):
    """A set as it was when it was opened.

    A build takes the meta away before it removes anything else, and puts it in place last; it never writes into a file
    of a finished set. So a file that was opened before the meta was seen to be the same is a file of that set, and
    keeps its bytes while it is open or mapped.

    The meta is the same where its file was not touched, or else where its digest is: that covers the digests of all
    tables, and these cover all patches. So a set that was copied, or built again with the same result, is the same.
    """

    def __init__(self, folder: Path, meta: PatchMeta) -> None:
        self._path = folder / PATCH_META
        self._text = str(self._path)
        self._digest = meta.meta_digest
        self._seen: Identity | None = None
        self._sources: dict[str, tuple[str, tuple[float, float] | None]] | None = None
        self._trusted: dict[str, Identity] = {}

    def refuse_other_set(self) -> None:
        """Raise SetChangedError where the folder holds another set by now, or none."""
        try:
            status = os.stat(self._text)
            if identity(status) == self._seen:
                return
            now = read_meta(self._path)
        except (OSError, FormatError) as error:
            gone = isinstance(error, FileNotFoundError)
            reason = "is gone" if gone else f"cannot be read ({getattr(error, 'strerror', None) or error})"
            raise SetChangedError(
                f"{self._path.parent.name} has changed since it was opened: its {PATCH_META} {reason}. It is being "
                "built again, or was removed: open it again when its build has finished"
            ) from None
        if now.meta_digest != self._digest:
            raise SetChangedError(
                f"{self._path.parent.name} was built again after it was opened: its {PATCH_META} had the digest "
                f"{self._digest}, now it has {now.meta_digest}. The numbers of its patches mean others now: open it "
                "again"
            )
        self._seen = identity(status) if tells_changes(status) else None

    def expect_sources(self, slices: pl.DataFrame, clipped: Mapping[str, tuple[float, float] | None]) -> None:
        """From now on, hold each file that is opened against the digests of source slices on record.

        `clipped` has, for each array, the range that values outside it by rounding were clipped to, if any were.
        """
        self._sources = {
            path: (digest, values)
            for array, values in clipped.items()
            for path, digest in slices.select(source_column(array), digest_column(array)).iter_rows()
        }

    def refuse_other_pixels(self, path: str, status: os.stat_result, stored: NDArray[Any]) -> None:
        """Raise SourceChangedError where a source slice is no longer what the patches were cut from.

        Its pixels are read for that, unless they were before and the file was not touched since.
        """
        if self._sources is None or self._trusted.get(path) == identity(status):
            return
        if path not in self._sources:
            raise FormatError(f"{path} is in the manifest of patches and not in {SLICE_MANIFEST}; run ctpatch verify")
        digest, values = self._sources[path]
        image = as_cut(stored)
        refuse_changed_pixels(path, image if values is None else without_rounding(image, values), digest)
        if tells_changes(status):
            self._trusted[path] = identity(status)


def as_cut(stored: NDArray[Any]) -> NDArray[Any]:
    """The pixels of a source slice as patches are cut from it: float32, whole numbers as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float32, copy=False) if stored.dtype.kind == "f" else stored


def refuse_changed_pixels(path: str, image: NDArray[Any], digest: str | None) -> None:
    """Raise SourceChangedError where a source slice, as it is cut, has not the digest on record."""
    if array_digest(image) != digest:
        raise SourceChangedError(f"{path} is no longer what the patches were cut from; restore it or build again")
