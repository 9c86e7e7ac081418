"""`prepare_meta.json` and `predict_meta.json`: how slices came to be; where the file stands, they are complete."""

import json
from pathlib import Path
from typing import Any, TypeVar

from ctpatch.errors import FormatError
from ctpatch.format.hu_scale import LODOPAB, HuScale
from ctpatch.format.meta import Digested, Record, digest_of, read_ours

PREPARE_META = "prepare_meta.json"
PREDICT_META = "predict_meta.json"
FORMAT_VERSION = 1
_MAX_BYTES = 16 * 1024 * 1024


class SplitInfo(Record, strict=True):
    """One split: its manifest, that file's digest, its slices and patients."""

    manifest: str
    manifest_digest: str
    num_slices: int
    num_patients: int


class NoteInfo(Record, strict=True):
    """What a user should know of a series, which stands under its pseudonym."""

    kind: str
    series: str
    message: str


class _DatasetMeta(Digested, strict=True):
    """Of which format the file is, what wrote it and when (UTC, ISO 8601), and the data set's name."""

    format_version: int
    ctpatch_version: str
    created: str
    dataset: str


class PreparedMeta(_DatasetMeta):
    """How a data set was prepared.

    Attributes:
        source: kind of the raw files.
        options: what was asked for, by name.
        mapping: from HU to [0, 1].
        arrays: names, and their dtypes.
        splits: by name.
        grouped_by: what kept slices together, with the number of slices.
        key_id: tells which key the pseudonyms are made with; says nothing of it.
        num_left_out: what is not in the set, by kind; `left_out.csv` has each.
        left_out_digest: of that file.
        notes: gaps, tilt, mixed spacing and the like, for each series.
        num_identical: slices whose raw pixels another slice of the set has too.
        plan_digest: what a run must agree with to find the set complete.
    """

    source: str
    options: dict[str, Any]
    mapping: dict[str, Any]
    arrays: dict[str, str]
    splits: dict[str, SplitInfo]
    grouped_by: dict[str, int]
    key_id: str
    num_left_out: dict[str, int]
    left_out_digest: str
    notes: list[NoteInfo]
    num_identical: int
    plan_digest: str
    meta_digest: str = ""


class PredictedMeta(_DatasetMeta):
    """How a split was predicted by a model: `predict_meta.json`; where it stands, the split is complete.

    Attributes:
        split: its name.
        source: dataset and split of the patch set whose slices the model was given.
        source_fingerprint: that set's fingerprint.
        options: geometry, window, fill, clipping and the model's digest or name: what decides the pixels.
        num_slices: how many there are.
        manifest: the split's manifest, and `manifest_digest` that file's digest.
        plan_digest: what a run must agree with to find the split complete.
    """

    split: str
    source: str
    source_fingerprint: str
    options: dict[str, Any]
    num_slices: int
    manifest: str
    manifest_digest: str
    plan_digest: str
    meta_digest: str = ""


MetaT = TypeVar("MetaT", PreparedMeta, PredictedMeta)


def read_dataset_meta(path: Path, kind: type[MetaT]) -> MetaT:
    """Read one of the two files; FormatError where it is damaged, or of a format that this version does not know."""
    try:
        content = json.loads(read_ours(path, _MAX_BYTES))
        if isinstance(content, dict) and content.get("format_version") not in {FORMAT_VERSION, None}:
            raise FormatError(
                f"{path.name} is of format {str(content['format_version'])[:20]}, this version reads {FORMAT_VERSION}"
            )
        meta = kind.model_validate(content)
        meta.refuse_half_characters()
        damaged = meta.meta_digest != digest_of(content)
    except (ValueError, RecursionError) as error:  # pydantic's error is a ValueError
        raise FormatError(f"{path.name} is not what ctpatch writes ({type(error).__name__}); is it damaged?") from None
    if damaged:
        raise FormatError(f"{path.name} has been changed: its digest does not hold")
    return meta


def prepared_scale(manifest: Path) -> HuScale | None:
    """The scale of a split's slices, as `ctpatch prepare` put it on record; None where nothing is.

    What is on record is about the files in the manifest's folder, also where the manifest was given columns since.

    Raises:
        FormatError: the record is damaged.
    """
    folder = manifest.parent
    try:
        meta = read_dataset_meta(folder.parent / PREPARE_META, PreparedMeta)
    except FileNotFoundError:
        return None
    if folder.name not in {Path(each.manifest).parent.name for each in meta.splits.values()}:
        return None
    kind, low, high = (meta.mapping.get(name) for name in ("kind", "low_hu", "high_hu"))
    if kind == "window" and isinstance(low, float | int) and isinstance(high, float | int) and low < high:
        return HuScale(kind=kind, low_hu=float(low), high_hu=float(high))
    return LODOPAB if kind == LODOPAB.kind or (kind == "stored" and meta.source == LODOPAB.kind) else None
