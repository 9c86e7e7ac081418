"""Prepared slices as an audit sees them: any CSV with a column `path`, read leniently.

A build refuses a manifest with a bad row. An audit names the row, never opens what it points to, and goes on.
"""

import os
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ctpatch.checking.audit.base import AuditedSplit, PatchSeen, Run, Seen
from ctpatch.checking.audit.report import Fault, RowRef
from ctpatch.errors import CtPatchError, SourceManifestError, SystemFailureError
from ctpatch.files.npy import SliceBuffer
from ctpatch.format.source_manifest import is_labels

_ARRAY_SUFFIX = "_path"
_NO_ARRAY = {"src", "patch", "image", "source"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_PATH_CHARACTERS = 4096
_GUESSES = 4


def read_csv(path: Path) -> pl.DataFrame:
    """A CSV of texts, names of columns stripped, with a column `line`: where a row stands, the header being line 1.

    Raises:
        SourceManifestError: it cannot be read, or is no CSV with a header and rows.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        content = path.read_bytes()
        frame = pl.read_csv(content, infer_schema=False) if content.strip() else pl.DataFrame()
        frame = frame.rename({column: column.strip() for column in frame.columns})
    except OSError as error:
        raise SourceManifestError(f"{name} cannot be read: {error.strerror}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SourceManifestError(f"{name} is not a CSV in UTF-8 with as many cells in each row: {reason}") from None
    if frame.height == 0:
        raise SourceManifestError(f"{name} has no rows; wanted a header and a row for each slice or patch")
    return frame.drop("line", strict=False).with_row_index("line", 2).with_columns(pl.col("line").cast(pl.Int64))


def texts(frame: pl.DataFrame, column: str) -> pl.Series:
    """A column, stripped, blanks as null; all null where there is none."""
    if column not in frame.columns:
        return pl.Series(column, [None] * frame.height, dtype=pl.String)
    stripped = pl.col(column).str.strip_chars()
    return frame.select(pl.when(stripped != "").then(stripped).alias(column))[column]


@dataclass(slots=True)
class Root:
    """A folder that paths of a manifest are relative to; none of them leads out of it.

    Attributes:
        folder: absolute.
    """

    folder: Path
    _real: str = field(init=False)
    _folders: dict[str, bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._real = os.path.realpath(self.folder)

    def resolve(self, path: str | None) -> str:
        """Where a file is.

        Raises:
            SourceManifestError: it lies elsewhere, or the text is no path. The file is not touched.
        """
        plain = plain_path(path)
        folder = posixpath.dirname(plain)
        full = os.path.join(self._real, plain)
        if folder not in self._folders:
            self._folders[folder] = self._holds(os.path.join(self._real, folder))
        if not self._folders[folder] or (os.path.islink(full) and not self._holds(full)):
            raise SourceManifestError(f"{plain[:200]!r} leaves the data root through a link, which is not followed")
        return full

    def _holds(self, full: str) -> bool:
        real = os.path.realpath(full)
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)


def plain_path(path: str | None) -> str:
    """A path of a manifest: relative, with `/`, without `..`.

    Raises:
        SourceManifestError: it is none.
    """
    if path is None:
        raise SourceManifestError("there is no path")
    if len(path) > _MAX_PATH_CHARACTERS:
        raise SourceManifestError("the path is too long")
    if _CONTROL.search(path):
        raise SourceManifestError(f"{path[:200]!r} holds a control character")
    slashed = path.replace("\\", "/")
    if slashed.startswith("/") or _DRIVE.match(slashed):
        raise SourceManifestError(f"{path[:200]!r} is an absolute path, wanted one relative to the data root")
    plain = posixpath.normpath(slashed)
    if plain in {".", ".."} or plain.startswith("../"):
        raise SourceManifestError(f"{path[:200]!r} leaves the data root, wanted a path below it")
    return plain


def guess_root(folder: Path, name: str, paths: pl.Series) -> Path:
    """What paths are relative to: the folder above `name` (`prepared`, `patches`), or one in which the first lies."""
    for above in (folder, *folder.parents):
        if above.name == name:
            return above.parent
    first = next((path for path in paths if path is not None), None)
    for above in (folder, *folder.parents)[:_GUESSES]:
        try:
            if first is not None and os.path.isfile(Root(above).resolve(first)):
                return above
        except (CtPatchError, OSError, ValueError):
            continue
    return folder


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Reads slices that lie one in a file. `columns` has the column of each array's paths."""

    root: Path
    columns: dict[str, str]

    def begin(self, run: Run) -> "SourceRun":
        """Begin with a run."""
        return SourceRun(run, Root(self.root), self.columns, SliceBuffer())


@dataclass(frozen=True, slots=True)
class SourceRun:
    """Reads one run of slices."""

    run: Run
    root: Root
    columns: dict[str, str]
    buffer: SliceBuffer

    def image(self, place: int, array: str) -> Seen:
        """A slice of the run."""
        path = self.run.slices[self.columns[array]][place]
        try:
            image, _dtype = self.buffer.read(self.root.resolve(path), path, integers_allowed=True)
        except SystemFailureError:
            raise
        except CtPatchError as error:
            return Seen(fault=error.message)
        if array != "image" and image.dtype.kind != "f":
            return Seen(why="whole numbers are labels, which are not compared")
        return Seen(image)

    def patches(self, place: int, array: str, image: object) -> list[PatchSeen]:  # noqa: ARG002 - there are none
        """There are none."""
        return []


def read_prepared(manifest: Path, split: str, dataset: str, folder: str, data_root: Path | None) -> AuditedSplit:
    """A split of prepared slices.

    Raises:
        SourceManifestError: the manifest cannot be read, or has no column `path`.
    """
    raw = read_csv(manifest)
    if "path" not in raw.columns:
        raise SourceManifestError(
            f"{manifest.parent.name}/{manifest.name} has no column 'path' (it has "
            f"{', '.join(raw.columns[1:])[:200]}); each row needs the path of a slice, relative to the data root"
        )
    columns = {"image": "path"} | {
        column.removesuffix(_ARRAY_SUFFIX): column
        for column in raw.columns
        if column.endswith(_ARRAY_SUFFIX) and column.removesuffix(_ARRAY_SUFFIX) not in _NO_ARRAY
    }
    compared = {array: column for array, column in columns.items() if array and not is_labels(array)}
    index = texts(raw, "index")
    slices = raw.select("line").with_columns(
        pl.Series("id", [f"slice {at if own is None else own}" for at, own in enumerate(index)], dtype=pl.String),
        texts(raw, "patient_id"),
        texts(raw, "source_digest"),
        *(texts(raw, column) for column in compared.values()),
    )
    root = data_root or guess_root(manifest.parent, "prepared", slices["path"])
    found = AuditedSplit(
        name=f"{dataset}/{split}",
        folder=folder,
        kind="prepared",
        layout=None,
        arrays=tuple(compared),
        slice_table=manifest.name,
        patch_table=None,
        slices=slices,
        patches=None,
        reader=SourceFiles(root, compared),
    )
    _refuse_paths(found, Root(root), list(compared.values()))
    if "patient_id" not in raw.columns:
        found.add_not_checked("patients", f"{manifest.name} has no column patient_id")
    return found


def _refuse_paths(split: AuditedSplit, root: Root, columns: list[str]) -> None:
    """Leave out rows whose paths are none; they are faults."""
    bad: set[int] = set()
    for column in columns:
        for at, path in enumerate(split.slices[column]):
            try:
                root.resolve(path)
            except (SourceManifestError, OSError, ValueError) as error:
                if at not in bad:
                    line, name = split.slices["line"][at], split.slices["id"][at]
                    row = RowRef(split.name, split.slice_table, line, name, "")
                    split.faults.append(Fault(row, f"column {column}: {error}"))
                bad.add(at)
    if bad:
        split.slices = split.slices.filter(~pl.int_range(pl.len()).is_in(list(bad)))
