"""Which splits a user means: patch sets of ours, sets made elsewhere, prepared slices."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ctpatch.checking.audit.base import AuditedSplit
from ctpatch.checking.audit.foreign import read_foreign
from ctpatch.checking.audit.patchset import read_patch_set
from ctpatch.checking.audit.prepared import read_csv, read_prepared
from ctpatch.errors import FormatError, UsageError
from ctpatch.files.atomic import given_path, read_regular
from ctpatch.format.meta import PATCH_META
from ctpatch.format.splits import MANIFEST_SUFFIX, PLAIN_MANIFEST, find_meant, manifests_in, sets_in
from ctpatch.format.tables import PATCH_MANIFEST, TABLES, columns_of

_MAX_META_BYTES = 64 << 20
_MAX_HEADER_BYTES = 1 << 16


def find_audited(paths: Sequence[str | os.PathLike[str]], data_root: Path | None) -> list[AuditedSplit]:
    """The splits that folders and manifests mean, in the order given; see `audit` for the errors.

    UsageError is also raised where a split comes twice.
    """
    if not paths:
        raise UsageError("nothing to audit: give a dataset's folder, or several splits")
    places: list[Path] = []
    for path in paths:
        places += find_meant(
            given_path(path),
            _splits_in,
            what="split",
            file="a folder, or a manifest (.csv)",
            give="a dataset's folder, or several splits",
            marks=f"patch sets ({PATCH_META}, or a {PATCH_MANIFEST} made elsewhere), or prepared slices "
            f"(<split>{MANIFEST_SUFFIX}, {PLAIN_MANIFEST})",
        )
    resolved = [place.resolve() for place in places]
    twice = [place for place, count in Counter(resolved).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0].name} is given twice; name each split once")
    if len(places) == 1:
        raise UsageError(
            f"only one split is there: {places[0].name}; leakage is between splits, so give a dataset's folder, or "
            "several splits"
        )
    splits = [_read(place, data_root) for place in places]
    names = Counter(split.name for split in splits)
    for split in splits:
        if names[split.name] > 1:
            split.name = split.folder
    return splits


def _splits_in(folder: Path) -> list[Path]:
    """A split for each path: the folder of a patch set, or a manifest."""
    made_elsewhere = folder / PATCH_MANIFEST
    return sets_in(folder) or ([made_elsewhere] if made_elsewhere.is_file() else manifests_in(folder))


def _read(place: Path, data_root: Path | None) -> AuditedSplit:
    shown = _shown(place)
    if place.is_dir():
        if not _made_elsewhere(place):
            return read_patch_set(place, shown, data_root)
        place /= PATCH_MANIFEST
    place = place.resolve()
    folder = place.parent
    if place.name == PATCH_MANIFEST:
        _refuse_without_meta(folder)
    split = place.name.removesuffix(MANIFEST_SUFFIX).removesuffix(".csv")
    if place.name in {PATCH_MANIFEST, PLAIN_MANIFEST}:
        split = folder.name
    dataset = folder.parent.name if folder.name == split else folder.name
    rows = read_csv(place)
    reader = read_foreign if place.name == PATCH_MANIFEST or "patch_path" in rows.columns else read_prepared
    return reader(place, rows, f"{dataset or 'dataset'}/{split}", shown, data_root)


def _refuse_without_meta(folder: Path) -> None:
    """Raise where a set of ours has lost its meta: by its tables alone it would be taken for one made elsewhere."""
    with suppress(OSError):
        if not (folder / PATCH_META).exists() and all(_is_our_table(folder, name) for name in TABLES):
            raise FormatError(
                f"{folder.name}: {PATCH_META} is gone, and without it the tables beside it are no patch set; restore "
                "it from a copy, or build the set again"
            )


def _is_our_table(folder: Path, name: str) -> bool:
    if not (folder / name).is_file():
        return False
    with (folder / name).open("rb") as file:
        seen = file.readline(_MAX_HEADER_BYTES).decode("utf-8", "replace").rstrip("\n").split(",")
    return {column.name for column in columns_of(name, ["image"]) if column.required} <= set(seen)


def _made_elsewhere(folder: Path) -> bool:
    """Whether a folder with a meta is none of ours: the notebook writes a file of that name, without a version."""
    try:
        content = json.loads(read_regular(folder / PATCH_META, _MAX_META_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "format_version" not in content and (folder / PATCH_MANIFEST).is_file()


def _shown(place: Path) -> str:
    """A path as the user would type it from here."""
    full, here = place.resolve(), Path.cwd()
    return (full.relative_to(here) if full.is_relative_to(here) else full).as_posix()
