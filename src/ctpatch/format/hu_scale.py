"""What stored values stand for in HU, as the preparation of a split has it on record."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.attenuation import MAX_HU, MU_PER_HU, MU_WATER
from ctpatch.files.paths import PathError, Root
from ctpatch.format.meta import PATCH_META, read_meta
from ctpatch.format.prepared_meta import (
    PREDICT_META,
    PREPARE_META,
    MetaT,
    PredictedMeta,
    PreparedMeta,
    read_dataset_meta,
)
from ctpatch.format.splits import PATCHES

_LONGEST_CHAIN = 8
"""Predictions may be predicted from in turn; files that name each other in a circle end here."""


@dataclass(frozen=True, slots=True)
class HuScale:
    """A line from stored values to HU.

    Attributes:
        zero_hu, one_hu: the HU that 0 and 1 stand for.
    """

    zero_hu: float
    one_hu: float

    def to_hu(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Stored values in HU, float64, same shape."""
        hu = values.astype(np.float64)
        hu *= self.one_hu - self.zero_hu
        hu += self.zero_hu
        return hu


LODOPAB = HuScale(-MU_WATER / MU_PER_HU, MAX_HU)
"""LoDoPaB-CT's scale: 0 is -1001.001 HU, no attenuation at all, and 1 is 3071 HU."""


def scale_of_manifest(manifest: Path, data_roots: Sequence[Path]) -> HuScale | None:
    """The scale of the slices that a source manifest lists; None where nothing on record says it.

    It is on record where `ctpatch prepare` made the slices from raw files in HU or from LoDoPaB-CT, and for slices that
    a model predicted from such ones, if the patch set that the model was given is in a data root and is the same. What
    is on record is about the files in the manifest's folder.

    Raises:
        FormatError: a file that says it is damaged.
    """
    for _ in range(_LONGEST_CHAIN):
        folder = manifest.parent
        predicted = _read(folder / PREDICT_META, PredictedMeta)
        if predicted is None:
            meta = _read(folder.parent / PREPARE_META, PreparedMeta)
            if meta is None or folder.name not in {Path(each.manifest).parent.name for each in meta.splits.values()}:
                return None
            return _scale_of_mapping(meta)
        found = _manifest_of_source(predicted, data_roots)
        if found is None:
            return None
        manifest = found
    return None


def _read(path: Path, kind: type[MetaT]) -> MetaT | None:
    with suppress(FileNotFoundError):
        return read_dataset_meta(path, kind)
    return None


def _manifest_of_source(predicted: PredictedMeta, data_roots: Sequence[Path]) -> Path | None:
    """The source manifest of the set that a model was given: what it gives is in the range of what it saw."""
    for root in dict.fromkeys(data_roots):
        with suppress(FileNotFoundError, PathError):
            meta = read_meta(Path(Root(root).resolve(f"{PATCHES}/{predicted.source}/{PATCH_META}")))
            if meta.fingerprint == predicted.source_fingerprint:
                return Path(Root(root).resolve(meta.source_manifest))
    return None


def _scale_of_mapping(meta: PreparedMeta) -> HuScale | None:
    kind = meta.mapping.get("kind")
    if kind == "lodopab" or (kind == "stored" and meta.source == "lodopab"):
        return LODOPAB
    low, high = meta.mapping.get("low_hu"), meta.mapping.get("high_hu")
    known = kind == "window" and isinstance(low, float | int) and isinstance(high, float | int) and low < high
    return HuScale(float(low), float(high)) if known else None  # type: ignore[arg-type]
