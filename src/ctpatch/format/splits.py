"""Finding the splits that a user means."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctpatch.config import check_name
from ctpatch.errors import UsageError
from ctpatch.files.atomic import given_path
from ctpatch.format.prepared_meta import PREDICT_META, PREPARE_META

SourcePath = str | os.PathLike[str]
PREPARED = "prepared"
PATCHES = "patches"
_MANIFEST_SUFFIX = "_manifest.csv"
_PLAIN_MANIFEST = "manifest.csv"
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
    for source in sources:
        for manifest, split in _manifests(given_path(source)):
            splits.append(_split_source(manifest.resolve(), split, root))
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


def _manifests(source: Path) -> list[tuple[Path, str]]:
    _refuse_unfinished(source)
    if source.is_file():
        if source.suffix.lower() != ".csv":
            raise UsageError(
                f"{str(source)!r} is no manifest: wanted a .csv with a column 'path', or a folder with one"
            )
        return [(source, _split_name(source))]
    if not source.is_dir():
        raise UsageError(f"{str(source)!r} does not exist; give a split's folder, a dataset's folder or a manifest")
    here = _manifests_in(source)
    if here:
        return here
    below = [found for folder in sorted(source.iterdir()) if folder.is_dir() for found in _manifests_in(folder)]
    if not below:
        raise UsageError(
            f"no manifest in {str(source)!r} or in the folders in it: wanted <split>{_MANIFEST_SUFFIX} or "
            f"{_PLAIN_MANIFEST}, a CSV with a column 'path' (ctpatch prepare writes one)"
        )
    return below


def _refuse_unfinished(source: Path) -> None:
    """Refuse what `ctpatch prepare` has begun and not finished: a dataset's folder, a split's or a manifest in it."""
    real = source.resolve()
    for folder in (real, real.parent, real.parent.parent):
        # os.path: a folder that may not be looked into is named when its manifest is read.
        for record, meta, what, maker in _UNFINISHED:
            begun = any(os.path.isfile(folder / ".ctpatch" / name) for name in (record, "clearing.json"))
            if begun and not os.path.isfile(folder / meta):
                raise UsageError(
                    f"the {what} of {folder.name} has not finished; run the same {maker} again, which resumes it "
                    "where it was cut off"
                )


def _manifests_in(folder: Path) -> list[tuple[Path, str]]:
    own = folder / f"{folder.resolve().name}{_MANIFEST_SUFFIX}"
    plain = folder / _PLAIN_MANIFEST
    named = [
        path
        for path in sorted(folder.glob(f"*{_MANIFEST_SUFFIX}"))
        if path.is_file() and path.name not in {"patch_manifest.csv", "slice_manifest.csv"}
    ]
    if own in named:
        return [(own, _split_name(own))]
    if named:
        return [(path, _split_name(path)) for path in named]
    return [(plain, _split_name(plain))] if plain.is_file() else []


def _split_name(manifest: Path) -> str:
    name = manifest.name
    if name.endswith(_MANIFEST_SUFFIX):
        return name.removesuffix(_MANIFEST_SUFFIX)
    return manifest.resolve().parent.name


def _split_source(manifest: Path, split: str, root: Path | None) -> SplitSource:
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
