"""`patch_meta.json`: what a patch set is. It is written last: where it stands, the set is complete."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ctpatch.config import KnownLayout, PatchConfig, Rule, check_name
from ctpatch.errors import ConfigError, FormatError, UsageError
from ctpatch.files.atomic import read_regular
from ctpatch.files.digest import json_digest
from ctpatch.format.carried import Kind, carried_columns, carried_digest, refuse_bad_names
from ctpatch.format.columns import Column, label_columns
from ctpatch.format.hu_scale import HuScale
from ctpatch.format.value_record import ValueRecord
from ctpatch.words import PadMode

PATCH_META = "patch_meta.json"
STATE_FOLDER = ".ctpatch"
"""In a folder that is being written: the lock, and what finished parts left."""
FORMAT_VERSION = 1
MANIFEST_DIR = "manifest_dir"
_MAX_META_BYTES = 64 << 20

Count = Annotated[int, Field(ge=0, le=2**62)]


class Record(BaseModel):
    """Fields of a file of ours; those of later versions are ignored, and the digest covers them."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Digested(Record):
    """A file that ends with its own digest: of all fields but `created`, the only thing in which two runs differ."""

    def to_bytes(self) -> bytes:
        """The file's content, with its own digest filled in."""
        content = self.model_dump(mode="json", exclude={"meta_digest", *self.unsaid()})
        content["meta_digest"] = digest_of(content)
        return (json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode()

    def unsaid(self) -> set[str]:
        """Fields that are not written, since most files of this kind have nothing to say in them."""
        return set()

    def refuse_half_characters(self) -> None:
        """Raise ValueError where a text is none: JSON can name half of a character, which no file or page can hold."""
        try:
            json.dumps(self.model_dump(mode="json"), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character (a lone surrogate)") from None


def digest_of(content: dict[str, Any]) -> str:
    """The digest that a file of this content must state."""
    return json_digest({name: value for name, value in content.items() if name not in {"created", "meta_digest"}})


class DropRule(Record):
    """A rule, and how many windows it dropped."""

    name: str
    condition: str
    dropped: Count


class ArrayInfo(Record):
    """An array of the set; `labels` arrays (masks) keep their dtype and have no range."""

    dtype: Annotated[str, Field(pattern=r"^(float(16|32|64)|bool|u?int(8|16|32|64))$")]
    labels: bool


class TableInfo(Record):
    """Size and digest of one of the CSV files."""

    bytes: Count
    digest: str


class LabelTotal(Record):
    """A label of a mask: its pixels in all slices, the slices that hold it, and the kept windows that do."""

    label: int
    pixels: Count
    slices: Count
    windows: Count


class LabelTotals(Record):
    """What a mask holds.

    Attributes:
        uncounted: slices whose labels were not counted one by one.
        labels: each label but 0, ascending; None where there are too many.
    """

    uncounted: Count
    labels: tuple[LabelTotal, ...] | None


class PatchMeta(Digested):
    """Everything a reader needs to know of a set; `docs/format-1.md` describes each field."""

    num_slices: Count
    num_patches: Count
    patch_size: int | tuple[int, int]
    stride: int | tuple[int, int]
    source_manifest: str
    patch_dir: str
    created: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    format_version: Count
    ctpatch_version: str
    dataset: str
    split: str
    layout: KnownLayout
    pad_mode: PadMode
    arrays: dict[str, ArrayInfo]
    value_range: tuple[float, float]
    air_level: float
    drop_rules: tuple[DropRule, ...]
    num_rejected: Count
    coverage: float
    fingerprint: str
    source_digest: str
    rules_on: str
    num_skipped: Count
    num_windows: Count
    pixel_bytes: Count
    paths_relative_to: Literal["data_root", "patch_dir"]
    tables: dict[str, TableInfo]
    source_paths: Literal["manifest_dir"] | None = None
    num_clipped: Count | None = None
    carried: dict[str, Kind] | None = None
    label_counts: dict[str, LabelTotals] | None = None
    statistics: tuple[str, ...] = ()
    body_level: float | None = None
    values: ValueRecord | None = None
    hu: HuScale | None = None
    meta_digest: str = ""

    def unsaid(self) -> set[str]:
        """Fields of few sets: they are written where they have a value."""
        few = ("source_paths", "num_clipped", "carried", "label_counts", "statistics", "body_level", "values", "hu")
        return {name for name in few if getattr(self, name) is None or getattr(self, name) == ()}

    @model_validator(mode="after")
    def _arrays_are_there(self) -> Self:
        for name in ("image", self.rules_on):
            if name not in self.arrays:
                raise ValueError(f"arrays: there is no {name[:100]!r} among them")
        for name in self.label_counts or {}:
            if name not in self.arrays or not self.arrays[name].labels:
                raise ValueError(f"label_counts: {name[:100]!r} is no array of labels")
        wanted = [name for name, info in self.arrays.items() if not info.labels]
        if self.values is not None and list(self.values.arrays) != wanted:
            raise ValueError(f"values: wanted those of {', '.join(wanted)[:100]}")
        return self

    def refuse_nonsense(self) -> None:
        """Raise ConfigError where fields of the right type are no options of a build, or no names: paths hold them."""
        self.refuse_half_characters()
        self.patch_config()
        for name, what in (
            (self.dataset, "dataset"),
            (self.split, "split"),
            *((each, "array") for each in self.arrays),
        ):
            if name or what != "dataset":
                check_name(name, what)
        refuse_bad_names(self.carried or {}, tuple(self.arrays))

    def patch_config(self) -> PatchConfig:
        """The options the patches were cut with."""
        rules = [Rule(name=rule.name, condition=rule.condition) for rule in self.drop_rules]
        return PatchConfig(
            drop=rules, **{name: getattr(self, name) for name in PatchConfig.model_fields if name != "drop"}
        )

    @property
    def slice_columns(self) -> list[Column]:
        """The columns that this set's slice manifest has behind those of the arrays."""
        return [*label_columns(list(self.label_counts or {})), *carried_columns(self.carried or {})]

    @property
    def path_prefix(self) -> str:
        """What the manifest's patch paths begin with: the set's place in its data root, or nothing."""
        return f"{self.patch_dir}/" if self.paths_relative_to == "data_root" else ""


def source_line(index: int, digests: Sequence[str]) -> bytes:
    """What a slice adds to the digest of all sources: its number and the digest of each array, or `-` without any."""
    return f"{index} {' '.join(digests) or '-'}\n".encode()


def fingerprint(
    config: PatchConfig,
    arrays: Mapping[str, ArrayInfo],
    source_digest: str,
    slices: pl.DataFrame,
    carried: Mapping[str, Kind] | None,
) -> str:
    """Digest of what decides the patches: geometry, rules, source contents and kept columns, and nothing else.

    The cells of kept columns are those of `slices`, a row for each slice in the order of the set.
    """
    decides: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "arrays": {name: info.model_dump() for name, info in arrays.items()},
        "source_digest": source_digest,
    }
    if carried:
        decides["carried"] = {"columns": list(carried.items()), "digest": carried_digest(slices, carried)}
    return json_digest(decides)


def one_or_pair(pair: tuple[int, int]) -> int | tuple[int, int]:
    """One number where rows and columns agree."""
    return pair[0] if pair[0] == pair[1] else pair


def now_utc() -> str:
    """The time for `created`: UTC, ISO 8601, whole seconds; SOURCE_DATE_EPOCH decides where set, or is refused."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError):
        text = str(epoch)[:40]
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, wanted seconds since 1970 as a whole number") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def read_ours(path: Path, limit: int | None = None) -> bytes:
    """The bytes of one of a set's own files; FormatError where the system does not give it, or it exceeds `limit`."""
    try:
        return read_regular(path, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FormatError(f"{path.name} cannot be read: {error.strerror}") from None


def read_meta(path: Path) -> PatchMeta:
    """Read `patch_meta.json`; FormatError where it is damaged, of another version, or its fields do not fit."""
    try:
        content: Any = json.loads(read_ours(path, _MAX_META_BYTES))
    except (ValueError, RecursionError):
        raise FormatError(f"{path.name} is not valid JSON; it is damaged, build the set again") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path.name} is not a JSON object; it is damaged, build the set again")
    version = content.get("format_version")
    if version is None:
        raise FormatError(
            f"{path.name} has no format_version: the folder was not written by ctpatch (by the notebook, perhaps); "
            "build the set again into another folder"
        )
    if version != FORMAT_VERSION or type(version) is not int:
        raise FormatError(
            f"{path.name} has format_version {repr(version)[:20]}, this ctpatch reads {FORMAT_VERSION}; "
            "use the version of ctpatch that wrote it, or build the set again"
        )
    stated = content.pop("meta_digest", None)
    try:
        actual = digest_of(content)
        meta = PatchMeta.model_validate({**content, "meta_digest": actual})
        meta.refuse_nonsense()
    except (ValueError, ConfigError) as error:  # pydantic's error is a ValueError
        raise FormatError(f"{path.name} does not fit the format: {_first_fault(error)}; build the set again") from None
    if stated != actual:
        raise FormatError(
            f"{path.name} was changed after it was written: its digest is {actual}, it states {str(stated)[:40]}; "
            "restore it, or build the set again"
        )
    return meta


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
    return str(error).splitlines()[0][:120]
