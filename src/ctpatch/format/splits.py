"""Finding what a user means by a path: splits of prepared slices by their manifests, and patch sets."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctpatch.config import check_name
from ctpatch.errors import UsageError
from ctpatch.files.atomic import given_path
from ctpatch.format.meta import PATCH_META, STATE_FOLDER
from ctpatch.format.prepared_meta import PREDICT_META, PREPARE_META
from ctpatch.format.tables import PATCH_MANIFEST, SLICE_MANIFEST

SourcePath = str | os.PathLike[str]
PREPARED = "prepared"
PATCHES = "patches"
MANIFEST_SUFFIX = "_manifest.csv"
PLAIN_MANIFEST = "manifest.csv"
_UNFINISHED = (
    ("prepare.json", PREPARE_META, "preparation", "ctpatch prepare"),
    ("predict.json", PREDICT_META, "prediction", "ctpatch.predict"),
)
"""What was begun in a folder, what stands there when it is complete, what it is, and what makes it."""


@dataclass(frozen=True, slots=True)
class SplitSource:
    """One split: its manifest and the data root its paths are relative to (both absolute)."""

    dataset: str
    split: str
    manifest: Path
    data_root: Path

    @property
    def name(self) -> str:
        """`dataset/split`, as messages call it."""
        return f"{self.dataset}/{self.split}"

    @property
    def manifest_path(self) -> str:
        """The manifest relative to the data root, with `/`; its bare name where it lies elsewhere."""
        if self.manifest.is_relative_to(self.data_root):
            return self.manifest.relative_to(self.data_root).as_posix()
        return self.manifest.name

    @property
    def is_prepared(self) -> bool:
        """Whether the manifest lies where `prepare` writes one."""
        folder = self.manifest.parent
        named = folder.name == self.split and self.manifest.name == manifest_name(self.split)
        return named and os.path.isfile(folder.parent / PREPARE_META)

    def patches(self) -> Path:
        """Where its patch set goes, unless the user says where; refuses a folder that leaves the data root."""
        folder = self.data_root / PATCHES / self.dataset / self.split
        if not folder.resolve().is_relative_to(self.data_root.resolve()):
            raise UsageError(
                f"{PATCHES}/{self.name} leaves the data root through a link; "
                "name the folder you mean with --out, or remove the link"
            )
        return folder


def as_sources(source: SourcePath | Sequence[SourcePath]) -> list[SourcePath]:
    """One source, or several, as a list."""
    return [source] if isinstance(source, str | os.PathLike) else list(source)


def find_splits(sources: Sequence[SourcePath], data_root: SourcePath | None) -> list[SplitSource]:
    """The splits that the given folders and manifests mean, in the order given.

    Args:
        sources: each a split's folder, a dataset's folder (all its splits) or a manifest.
        data_root: what paths in manifests are relative to; None takes the folder above `prepared`.

    Raises:
        UsageError: nothing is there, no manifest is found, its preparation has not finished, the data root cannot be
            told, or a split comes twice.
    """
    if not sources:
        raise UsageError("no source given: name a split's folder, a dataset's folder or a manifest")
    root = None if data_root is None else _existing_folder(data_root)
    splits: list[SplitSource] = []
    for path in map(given_path, sources):
        _refuse_unfinished(path)
        found = find_meant(
            path,
            manifests_in,
            what="manifest",
            file="a .csv with a column 'path', or a folder with one",
            give="a split's folder, a dataset's folder or a manifest",
            marks=f"<split>{MANIFEST_SUFFIX} or {PLAIN_MANIFEST}, a CSV with a column 'path' (ctpatch prepare writes "
            "one)",
        )
        splits.extend(_split_source(manifest, root) for manifest in found)
    seen: dict[tuple[str, str], Path] = {}
    for each in splits:
        key = (each.dataset, each.split)
        if key in seen:
            raise UsageError(
                f"the split {each.name} comes twice, from {seen[key].name} and {each.manifest.name} in "
                f"{each.manifest.parent.name}; name each split once"
            )
        seen[key] = each.manifest
    return splits


def _existing_folder(path: str | os.PathLike[str]) -> Path:
    folder = given_path(path)
    if not folder.is_dir():
        raise UsageError(f"the data root {str(path)!r} is not a folder; give the folder above 'prepared'")
    return folder.resolve()


def find_meant(
    path: Path, look: Callable[[Path], list[Path]], *, what: str, file: str, give: str, marks: str
) -> list[Path]:
    """What a path means: the manifest that it is, what is in the folder, or else what is in the folders in it.

    It is refused where it does not exist, is a file and no CSV, or has nothing that is meant, which `look` finds in one
    folder. For messages: `what` is meant, what a `file` must be, what to `give` in the place of a path that does not
    exist, and what `marks` a folder that has it.
    """
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise UsageError(f"{str(path)!r} is no {what}: wanted {file}")
        return [path]
    if not path.is_dir():
        raise UsageError(f"{str(path)!r} does not exist; give {give}")
    found = _in_or_below(path, look)
    if not found:
        raise UsageError(f"no {what} in {str(path)!r} or in the folders in it: wanted {marks}")
    return found


def find_sets(paths: Sequence[Path]) -> list[Path]:
    """The folders of patch sets that paths mean; one without a set is given back, to be refused where it is opened."""
    if not paths:
        raise UsageError("no patch set given: name its folder")
    found: list[Path] = []
    for path in map(given_path, paths):
        found.extend((_in_or_below(path, sets_in) if path.is_dir() else []) or [path])
    return found


def _in_or_below(folder: Path, look: Callable[[Path], list[Path]]) -> list[Path]:
    return look(folder) or [found for each in sorted(folder.iterdir()) if each.is_dir() for found in look(each)]


def sets_in(folder: Path) -> list[Path]:
    """The folder itself, where it holds a patch set, or one that was begun."""
    return [folder] if any((folder / mark).exists() for mark in (PATCH_META, STATE_FOLDER)) else []


def manifests_in(folder: Path) -> list[Path]:
    """The source manifests in a folder: that named after it, or all that are named after splits, or the plain one."""
    own = folder / manifest_name(folder.resolve().name)
    named = [
        path
        for path in sorted(folder.glob(f"*{MANIFEST_SUFFIX}"))
        if path.is_file() and path.name not in {PATCH_MANIFEST, SLICE_MANIFEST}
    ]
    if own in named:
        return [own]
    plain = folder / PLAIN_MANIFEST
    return named or ([plain] if plain.is_file() else [])


def manifest_name(split: str) -> str:
    """The name of a split's source manifest."""
    return f"{split}{MANIFEST_SUFFIX}"


def _refuse_unfinished(source: Path) -> None:
    """Refuse what `ctpatch prepare` has begun and not finished: a dataset's folder, a split's or a manifest in it."""
    real = source.resolve()
    for folder in (real, real.parent, real.parent.parent):
        # os.path: a folder that may not be looked into is named when its manifest is read.
        for record, meta, what, maker in _UNFINISHED:
            begun = any(os.path.isfile(folder / STATE_FOLDER / name) for name in (record, "clearing.json"))
            if begun and not os.path.isfile(folder / meta):
                raise UsageError(
                    f"the {what} of {folder.name} has not finished; run the same {maker} again, which resumes it "
                    "where it was cut off"
                )


def _split_source(manifest: Path, root: Path | None) -> SplitSource:
    named = manifest.name.endswith(MANIFEST_SUFFIX)
    name, manifest = manifest.name, manifest.resolve()
    split = name.removesuffix(MANIFEST_SUFFIX) if named else manifest.parent.name
    above = next((folder for folder in manifest.parents if folder.name == PREPARED), None)
    if root is None:
        if above is None:
            raise UsageError(
                f"no folder named 'prepared' above {manifest.name}, so the data root cannot be told; "
                "give it with --data-root (paths in the manifest are relative to it)"
            )
        root = above.parent
    folder = manifest.parent
    if above is not None and folder != above:
        dataset = folder.relative_to(above).parts[0]
    else:
        dataset = folder.parent.name if folder.name == split else folder.name
    return SplitSource(
        check_name(dataset or "dataset", "the dataset's folder"), check_name(split, "the split"), manifest, root
    )
