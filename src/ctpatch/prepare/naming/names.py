"""How data sets name images and their masks, and which of these names a source has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ctpatch.errors import ConfigError, UsageError
from ctpatch.prepare.readers.base import GroupKind
from ctpatch.prepare.readers.volume.groups import subject_of

Role = Literal["image", "mask"]
_END = r"\.(?:nii(?:\.gz)?|mh[ad]|nrrd|nhdr|np[yz])"
_SET = r"(?P<set>(?:.*?/)?)"
_PART = r"(?P<part>Tr|Ts|Va)/"
_CASE = r"(?P<case>[^/]+?)"
_FIELD = "{case}"


class Named(NamedTuple):
    """What a name says: the case, with the folder of its data set; and the structure that a mask shows alone."""

    case: str
    structure: str


@dataclass(frozen=True, slots=True)
class Naming:
    """Patterns of paths below the source, for images and for masks; letter case matters."""

    name: str
    image: str
    mask: str

    def pattern(self, role: Role) -> str:
        """The regular expression of a role."""
        return self.image if role == "image" else self.mask

    def named(self, role: Role, file: str) -> Named | None:
        """What the name of a file says in a role; None where it fits none. A file that fits both is an image."""
        found = re.fullmatch(self.pattern(role), file)
        if found is None:
            return None
        parts = found.groupdict()
        return Named((parts.get("set") or "") + parts["case"], parts.get("structure") or "")

    def group(self, role: Role, file: str) -> tuple[str, GroupKind]:
        """What no two splits share: a subject of BIDS, else the case."""
        named = self.named(role, file)
        assert named is not None
        subject = subject_of(file)
        return (subject, "patient") if subject else (named.case, "case")


NAMINGS = {
    each.name: each
    for each in (
        Naming("nnunet", rf"{_SET}images{_PART}{_CASE}_0000{_END}", rf"{_SET}labels{_PART}{_CASE}{_END}"),
        Naming("decathlon", rf"{_SET}images{_PART}{_CASE}{_END}", rf"{_SET}labels{_PART}{_CASE}{_END}"),
        Naming("amos", rf"{_SET}images{_PART}{_CASE}{_END}", rf"{_SET}labels{_PART}{_CASE}{_END}"),
        Naming("kits", rf"{_SET}(?P<case>case_\d+)/imaging{_END}", rf"{_SET}(?P<case>case_\d+)/segmentation{_END}"),
        Naming(
            "btcv",
            rf"{_SET}(?:(?:img|images(?:Tr|Ts|Va))/)?img(?P<case>\d+){_END}",
            rf"{_SET}(?:(?:label|labels(?:Tr|Ts|Va))/)?label(?P<case>\d+){_END}",
        ),
        Naming(
            "totalsegmentator",
            rf"{_SET}(?P<case>s\d+)/ct{_END}",
            rf"{_SET}(?P<case>s\d+)/segmentations/(?P<structure>[^/]+?){_END}",
        ),
    )
}


def parse_pair(text: str) -> Naming:
    """The names of a pattern such as `{case}_0000.nii.gz={case}.nii.gz`; ConfigError where it makes no sense.

    A side without `/` is the name of a file in any folder; with `/` it is the path below the source.
    """
    sides = text.split("=")
    if len(sides) != 2 or any(side.count(_FIELD) != 1 or "{" in side.replace(_FIELD, "") for side in sides):  # noqa: PLR2004
        raise ConfigError(
            f"pair: {text!r}, wanted the name of an image and that of its mask, each with {{case}} once, such as "
            "{case}_0000.nii.gz={case}.nii.gz"
        )
    if sides[0] == sides[1]:
        raise ConfigError(f"pair: {text!r} names image and mask the same; use --mask FOLDER for a tree of masks")
    image, mask = (_pattern(side) for side in sides)
    return Naming("pair", image, mask)


def _pattern(side: str) -> str:
    before, after = map(re.escape, side.split(_FIELD))
    return f"{'' if '/' in side else '(?:.*/)?'}{before}{_CASE}{after}"


def recognised(files: Sequence[str]) -> Naming:
    """The naming that finds a mask for an image among the files of a source.

    Raises:
        UsageError: none does, or several do.
    """
    pairing = [each for name, each in NAMINGS.items() if name != "amos" and _pairs(each, files)]
    if len(pairing) == 1:
        return pairing[0]
    known = ", ".join(NAMINGS)
    if pairing:
        names = " and ".join(each.name for each in pairing)
        raise UsageError(
            f"naming: the files of the source fit {names}; say which is meant, such as --naming {pairing[0].name}"
        )
    raise UsageError(
        f"naming: no image of the source has a mask by any naming that ctpatch knows ({known}); give --pair "
        "'{case}_0000.nii.gz={case}.nii.gz' with your names"
    )


def _pairs(naming: Naming, files: Sequence[str]) -> bool:
    images = {named.case for file in files if (named := naming.named("image", file))}
    return any(
        named.case in images
        for file in files
        if naming.named("image", file) is None and (named := naming.named("mask", file))
    )


def structures_of(naming: Naming, files: Sequence[str], chosen: Sequence[str] | None) -> dict[str, int]:
    """The number of each structure in the label map, from 1: in the order chosen, else by name.

    Raises:
        ConfigError: the naming has no file for each structure, or one is chosen twice.
        UsageError: a chosen structure is not there.
    """
    if naming.name != "totalsegmentator":
        if chosen is not None:
            raise ConfigError(f"structures: with {naming.name} a mask holds all its labels; leave out the option")
        return {}
    there = sorted({named.structure for file in files if (named := naming.named("mask", file))})
    names = there if chosen is None else list(chosen)
    if len(set(names)) < len(names) or not all(names):
        raise ConfigError(f"structures: {','.join(names)}, wanted each once, such as liver,spleen")
    if missing := [name for name in names if name not in there]:
        raise UsageError(
            f"structures: {', '.join(missing)} not found in the source; there are: {', '.join(there[:150]) or 'none'}"
        )
    return {name: number for number, name in enumerate(names, start=1)}
