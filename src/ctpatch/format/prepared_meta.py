"""`prepare_meta.json` and `predict_meta.json`: how slices came to be; where the file stands, they are complete."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ctpatch.errors import FormatError
from ctpatch.files.atomic import read_regular
from ctpatch.files.digest import json_digest

PREPARE_META = "prepare_meta.json"
PREDICT_META = "predict_meta.json"
FORMAT_VERSION = 1
_MAX_BYTES = 16 * 1024 * 1024


class _Record(BaseModel):
    # Fields of later versions are ignored; the digest covers them.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Digested(_Record):
    """A file that ends with its own digest."""

    def to_bytes(self) -> bytes:
        """The file's content, with its own digest filled in."""
        content = self.model_dump(mode="json", exclude={"meta_digest"})
        content["meta_digest"] = _digest(content)
        return (json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode()


class SplitInfo(_Record):
    """One split: its manifest, that file's digest, its slices and patients."""

    manifest: str
    manifest_digest: str
    num_slices: int
    num_patients: int


class NoteInfo(_Record):
    """What a user should know of a series, which stands under its pseudonym."""

    kind: str
    series: str
    message: str


class PreparedMeta(_Digested):
    """How a data set was prepared.

    Attributes:
        format_version: of this file.
        ctpatch_version: that wrote it.
        created: UTC, ISO 8601; the only thing in which two runs on the same input differ.
        dataset: its name.
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
        meta_digest: of all other fields but `created`.
    """

    format_version: int
    ctpatch_version: str
    created: str
    dataset: str
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


def _digest(content: dict[str, Any]) -> str:
    return json_digest({name: value for name, value in content.items() if name not in {"created", "meta_digest"}})


class PredictedMeta(_Digested):
    """How a split was predicted by a model: `predict_meta.json`; where it stands, the split is complete.

    Attributes:
        format_version: of this file.
        ctpatch_version: that wrote it.
        created: UTC, ISO 8601; the only thing in which two runs on the same input differ.
        dataset, split: their names.
        source: dataset and split of the patch set whose slices the model was given.
        source_fingerprint: that set's fingerprint.
        options: geometry, window, fill, clipping and the model's digest or name: what decides the pixels.
        num_slices: how many there are.
        manifest: the split's manifest, and `manifest_digest` that file's digest.
        plan_digest: what a run must agree with to find the split complete.
        meta_digest: of all other fields but `created`.
    """

    format_version: int
    ctpatch_version: str
    created: str
    dataset: str
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
    """Read one of the two files.

    Raises:
        FileNotFoundError: there is none.
        FormatError: it is damaged, or of a format that this version does not know.
    """
    try:
        content = json.loads(read_regular(path, _MAX_BYTES))
        if isinstance(content, dict) and content.get("format_version") not in {FORMAT_VERSION, None}:
            raise FormatError(
                f"{path.name} is of format {str(content['format_version'])[:20]}, this version reads {FORMAT_VERSION}"
            )
        meta = kind.model_validate(content)
        damaged = meta.meta_digest != _digest(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FormatError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, ValidationError) as error:
        raise FormatError(f"{path.name} is not what ctpatch writes ({type(error).__name__}); is it damaged?") from None
    if damaged:
        raise FormatError(f"{path.name} has been changed: its digest does not hold")
    return meta
