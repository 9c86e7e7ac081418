"""What the values of a source manifest's slices stand for in HU, also where a model predicted them."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ctpatch.files.paths import PathError, Root
from ctpatch.format.hu_scale import HuScale
from ctpatch.format.meta import PATCH_META, read_meta
from ctpatch.format.prepared_meta import PREDICT_META, PredictedMeta, prepared_scale, read_dataset_meta
from ctpatch.format.splits import PATCHES

_LONGEST_CHAIN = 8
"""Predictions may be predicted from in turn; files that name each other in a circle end here."""


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
        try:
            predicted = read_dataset_meta(folder / PREDICT_META, PredictedMeta)
        except FileNotFoundError:
            return prepared_scale(manifest)
        found = _manifest_of_source(predicted, data_roots)
        if found is None:
            return None
        manifest = found
    return None


def _manifest_of_source(predicted: PredictedMeta, data_roots: Sequence[Path]) -> Path | None:
    """The source manifest of the set that a model was given: what it gives is in the range of what it saw."""
    if predicted.options.get("mapped_back", True) is not True:
        return None  # what the model gave was left as it was, on a scale of its own
    for root in dict.fromkeys(data_roots):
        with suppress(FileNotFoundError, PathError):
            meta = read_meta(Path(Root(root).resolve(f"{PATCHES}/{predicted.source}/{PATCH_META}")))
            if meta.fingerprint == predicted.source_fingerprint:
                return Path(Root(root).resolve(meta.source_manifest))
    return None
