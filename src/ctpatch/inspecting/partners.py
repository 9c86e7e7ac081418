"""Masks and targets that lie beside images, known by the names of folders or files, and tried as `prepare` pairs."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ctpatch.prepare.pairs import match
from ctpatch.prepare.readers.base import RawSlice
from ctpatch.words import MatchBy

_ROLES = (
    (
        "mask",
        re.compile(r"(ground_?truth_?)?(labels?|masks?|seg|segs|segmentations?)([-_ ]?(tr|ts|va|train|test|val))?"),
    ),
    ("target", re.compile(r"(targets?|full[-_ ]?dose|normal[-_ ]?dose|high[-_ ]?dose|clean|ground[-_ ]?truth)")),
)
_ENDING = re.compile(r"\.(nii(\.gz)?|mh[ad]|nrrd|nhdr|np[yz]|png|tiff?)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Partners:
    """What is a mask or a target of what.

    Attributes:
        role: `mask` or `target`.
        images, others: slices of both, as the source has them.
        pairs: how many slices find a partner.
        source: the folder of the images, below the source; blank for all of it.
        other_source: the folder of the others; None where patterns tell them apart.
        patterns: which files are images, and which are the others; None where folders tell them apart.
    """

    role: str
    images: list[RawSlice]
    others: list[RawSlice]
    pairs: int
    source: str
    other_source: str | None
    patterns: tuple[str, str] | None


def role_of(name: str) -> str | None:
    """What the name of a folder or of a file says that it holds: `mask`, `target`, or None."""
    bare = _ENDING.sub("", name).lower()
    return next((role for role, named in _ROLES if named.fullmatch(bare)), None)


def find_partners(slices: Sequence[RawSlice], by_path: MatchBy = "path") -> list[Partners]:
    """The pairs of folders, or else of file names, whose slices are partners when `prepare` matches them."""
    return list(_by_folder(slices, by_path)) or list(_by_file(slices))


def _by_folder(slices: Sequence[RawSlice], by: MatchBy) -> Iterator[Partners]:
    """`imagesTr` and `labelsTr`: folders that lie in one, with the same paths in them."""
    folders: dict[str, list[RawSlice]] = defaultdict(list)
    for raw in slices:
        parts = raw.file.split("/")[:-1]
        # The first folder that says what it holds; where none does, each is tried as a folder of images.
        at = next((place for place, part in enumerate(parts) if role_of(part)), None)
        for place in range(len(parts)) if at is None else [at]:
            folders["/".join(parts[: place + 1])].append(raw)
    for folder, others in sorted(folders.items()):
        above, _, base = folder.rpartition("/")
        role = role_of(base)
        if role is None:
            continue
        beside = [
            each for each in folders if each.rpartition("/")[0] == above and role_of(each.rpartition("/")[2]) is None
        ]
        tried = (_try(role, each, folders[each], folder, others, by) for each in sorted(beside))
        yield from (each for each in tried if each.pairs)


def _try(role: str, folder: str, images: list[RawSlice], other: str, others: list[RawSlice], by: MatchBy) -> Partners:
    found = match(_below(folder, images), _below(other, others), by, role)
    return Partners(role, images, others, len(found.partners), folder, other, None)


def _below(folder: str, slices: Sequence[RawSlice]) -> list[RawSlice]:
    return [replace(each, file=each.file.removeprefix(f"{folder}/")) for each in slices]


def _by_file(slices: Sequence[RawSlice]) -> Iterator[Partners]:
    """`case_1/imaging.nii.gz` and `case_1/segmentation.nii.gz`: the same two names in every folder."""
    named: dict[str, list[RawSlice]] = defaultdict(list)
    for raw in slices:
        if "/" not in raw.file:
            return
        named[raw.file.rpartition("/")[2]].append(raw)
    roles = {name: role_of(name) for name in named}
    images = [name for name, role in roles.items() if role is None]
    if len(images) != 1 or len(named) != 2:  # noqa: PLR2004 - what else lies there could be the image too
        return
    (other,) = (name for name in named if name != images[0])
    found = match(named[images[0]], named[other], "position", str(roles[other]))
    if roles[other] is not None and found.partners:
        pattern = (f"*/{images[0]}", f"*/{other}")
        yield Partners(str(roles[other]), named[images[0]], named[other], len(found.partners), "", None, pattern)
