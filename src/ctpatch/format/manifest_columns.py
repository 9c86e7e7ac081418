"""Which columns of a source manifest name arrays, and what its paths are relative to.

A manifest that has `path` and `<array>_path`, all relative to the data root, says so itself. Others are taken as they
can only be meant, and refused where two things can be meant. What was chosen is on record, so that a later reading of
the manifest is told and does not choose again.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ctpatch.config import check_name
from ctpatch.errors import ConfigError, SourceManifestError
from ctpatch.files.npy import is_npy
from ctpatch.files.paths import PathError, Root, plain_path

ARRAY_SUFFIX = "_path"
IMAGE_COLUMNS = ("path", "image_path")
"""Columns that name the slice itself, the first that is there."""

_NO_ARRAY = {"src_path", "patch_path", "image_path"}
_RESERVED = {"src", "patch", "shards"}
_WHERE_FROM = frozenset(
    (
        *("dicom", "dcm", "nifti", "nii", "nrrd", "mhd", "hdf5", "raw", "file", "full", "abs", "absolute", "original"),
        *("orig", "source", "folder", "dir", "series", "study", "scan", "json", "xml", "report", "preview"),
    )
)
"""Words in a column's name that say it names what a slice was made from, or the slice once more."""
_MEANT = frozenset(("target", "mask", "label", "labels", "seg", "segmentation", "annotation", "gt"))
"""Words in a column's name for which a missing array is a fault, whatever its files are."""
_OTHER_FORMAT = re.compile(
    r"\.(dcm|ima|dicom|nii|nrrd|nhdr|mha|mhd|h5|hdf5|zip|gz|tar|json|xml|txt|csv|tsv|pdf|png|jpe?g|tiff?|bmp|npz)$",
    re.IGNORECASE,
)
_DECIDING_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a manifest are.

    Attributes:
        image: the column of the slices.
        arrays: for each further array its name and its column, in the manifest's order.
        notes: what a user should know of columns that are not used, or used though their names do not say so.
    """

    image: str
    arrays: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def array_names(arrays: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of arrays that a user gave, as a list or as one text with commas; None where none were given.

    Raises:
        ConfigError: there are none in it, or one cannot be a name.

    >>> array_names("image, target")
    ('image', 'target')
    """
    if arrays is None:
        return None
    given = arrays.split(",") if isinstance(arrays, str) else list(arrays)
    if not given or not all(isinstance(each, str) for each in given):
        raise ConfigError(f"arrays: {arrays!r}, wanted names of arrays as image,target")
    return tuple(dict.fromkeys(check_name(each.strip(), "arrays:") for each in given))


def image_column(columns: Sequence[str], name: str, asked: Sequence[str] | None = None) -> str:
    """The column of the slices: `path`, else `image_path`, in any letter case; with `asked` names also `image`.

    Raises:
        SourceManifestError: there is none, or several are spelled like it.
    """
    found = next((column for column in IMAGE_COLUMNS if column in columns), None)
    if found is not None:
        return found
    like = [column for column in columns if column.casefold() in IMAGE_COLUMNS]
    if not like and asked is not None:
        like = [column for column in columns if column.casefold() == "image"]
    if len(like) == 1:
        return like[0]
    if like:
        raise SourceManifestError(f"{name} has the columns {', '.join(like)}; name the one of the slices 'path'")
    paths = [column for column in columns if re.search("path|file|image|slice", column, re.IGNORECASE)]
    hint = f"; if the slices are in {paths[0]!r}, name this column 'path'" if paths else ""
    raise SourceManifestError(
        f"{name} has no column 'path' (it has {', '.join(columns)[:200] or 'none'}){hint}; "
        "each row needs the path of a slice, relative to the data root"
    )


def folder_of_paths(paths: Iterable[str | None], manifest: Path, root: Path) -> str:
    """What the paths of a manifest are relative to: the data root (an empty text), or the manifest's own folder.

    They are relative to the data root where one of them leads to a file there, and where none leads to a file at all.

    Returns:
        The folder, relative to the data root with `/`.

    Raises:
        SourceManifestError: the files lie beside the manifest, and that is outside the data root.
    """
    if manifest.parent == root:
        return ""
    folder = own_folder(manifest, root)
    beside = False
    for at, path in enumerate(paths):
        if beside and at >= _DECIDING_ROWS:
            break
        if _is_file(path, root, ""):
            return ""
        beside = beside or (_is_file(path, root, folder) if folder else _is_file(path, manifest.parent, ""))
    if beside and not folder:
        raise SourceManifestError(
            f"{manifest.name}: its slices lie beside it in {manifest.parent}, which is outside the data root {root}; "
            "give a data root above both (--data-root)"
        )
    return folder if beside else ""


def own_folder(manifest: Path, root: Path) -> str:
    """A manifest's folder relative to the data root, with `/`; empty where it is the root, or lies outside."""
    folder = manifest.parent
    inside = folder != root and folder.is_relative_to(root)
    return folder.relative_to(root).as_posix() if inside else ""


def _is_file(path: str | None, root: Path, folder: str) -> bool:
    try:
        return os.path.isfile(root / plain_path(path and path.strip(), folder))
    except PathError:
        return False


def choose_columns(
    raw: pl.DataFrame, name: str, root: Path, folder: str = "", asked: Sequence[str] | None = None
) -> Columns:
    """Tell which columns of a manifest name arrays, from its first rows.

    Args:
        raw: the rows as texts.
        name: what messages call the manifest.
        root: the data root.
        folder: what paths are relative to, from the data root; see `folder_of_paths`.
        asked: the arrays that a user named, or that are on record; None takes those that the manifest has.

    Raises:
        ConfigError: there is no column of an array that was asked for.
        SourceManifestError: there is no column of the slices, or an array cannot have its name.
    """
    image = image_column(raw.columns, name, asked)
    suffixed = [each for each in raw.columns if each.endswith(ARRAY_SUFFIX) and each not in {*_NO_ARRAY, image}]
    if asked is not None:
        return _asked_columns(raw.columns, image, suffixed, asked, name)
    arrays: list[tuple[str, str]] = []
    notes = _spelling_notes(raw.columns, image, name)
    if image == IMAGE_COLUMNS[0] and IMAGE_COLUMNS[1] in raw.columns and not raw[image].equals(raw[IMAGE_COLUMNS[1]]):
        notes.append(f"{name}: the slices are in the column {image}; the column {IMAGE_COLUMNS[1]} is ignored")
    for column in suffixed:
        array = column.removesuffix(ARRAY_SUFFIX)
        words = set(re.split(r"[_\W]+", array.casefold()))
        elsewhere = bool(words & _WHERE_FROM)
        why = None
        if elsewhere and raw[column].equals(raw[image]):
            why = "it names the same files as the images"
        elif (elsewhere or not words & _MEANT) and not _names_arrays(raw[column], root, folder, elsewhere=elsewhere):
            why = f"it names no .npy below the data root, but {str(raw[column].drop_nulls().first())[:100]!r}"
        if why is not None:
            said = "it is ignored (--arrays says which columns are arrays)"
            notes.append(f"{name}: the column {column} is no array: {why}; {said}")
            continue
        arrays.append((_checked_name(array, column, name), column))
        if raw[column].equals(raw[image]):
            notes.append(f"{name}: the column {column} names the same files as the images")
        elif elsewhere:
            notes.append(
                f"{name}: the column {column} is taken for an array {array!r}; --arrays with the names that you mean, "
                "such as image,target, leaves it out"
            )
    return Columns(image, tuple(arrays), tuple(notes))


def _asked_columns(
    columns: Sequence[str], image: str, suffixed: Sequence[str], asked: Sequence[str], name: str
) -> Columns:
    found: dict[str, str] = {}
    for array in asked:
        if array == "image":
            continue
        wanted = (f"{array}{ARRAY_SUFFIX}", array)
        column = next((each for each in wanted if each in columns and each != image), None)
        if column is None:
            raise ConfigError(
                f"arrays: {name} has no column {wanted[0]!r} for the array {array!r}; it has {', '.join(columns)[:200]}"
            )
        found[column] = _checked_name(array, column, name)
    unused = [column for column in suffixed if column not in found]
    note = f"{name}: columns that were not asked for as arrays are ignored: {', '.join(unused)[:200]}"
    arrays = tuple((found[column], column) for column in columns if column in found)
    return Columns(image, arrays, (note,) if unused else ())


def _spelling_notes(columns: Sequence[str], image: str, name: str) -> list[str]:
    """Columns that are not used and are spelled nearly like one that would be."""
    notes = []
    for column in columns:
        bare = re.sub(r"[^a-z]", "", column.casefold())
        wanted = None
        if bare == "patientid" and "patient_id" not in columns:
            wanted = "patient_id"
        elif column.casefold().endswith(ARRAY_SUFFIX) and not column.endswith(ARRAY_SUFFIX) and column != image:
            wanted = column.casefold()
        if wanted is not None:
            notes.append(f"{name}: the column {column} is not used; if it is meant, name it {wanted!r}")
    return notes


def _checked_name(array: str, column: str, name: str) -> str:
    try:
        check_name(array, f"{name}: the array of the column")
    except ConfigError as error:
        raise SourceManifestError(error.message) from None
    if array in _RESERVED:
        raise SourceManifestError(f"{name}: an array cannot be named {array!r}; rename the column {column!r}")
    return array


def _names_arrays(texts: pl.Series, root: Path, folder: str, *, elsewhere: bool) -> bool:
    """Whether one of a column's first cells can be a slice.

    That is a .npy below the data root, by its name or by its content. Where the column's name does not say that it is
    something else (`elsewhere`), any path can be meant that has not the suffix of another format: it is refused later
    if it is not there.
    """
    below = Root(root)
    filled = texts.str.strip_chars().replace("", None).drop_nulls()
    for path in filled.head(_DECIDING_ROWS):
        other = _OTHER_FORMAT.search(path.replace("\\", "/").rpartition("/")[2]) is not None
        if not elsewhere and not other:
            return True
        try:
            plain = plain_path(path, folder)
        except PathError:
            continue
        if plain.casefold().endswith(".npy") or (below.holds(plain) and is_npy(str(root / plain))):
            return True
    # A column without a single path is a fault, which the reading of its cells reports.
    return filled.is_empty()
