"""Whose a volume is, as its path tells: formats of volumes name no patient themselves."""

import re
from collections import Counter

from ctpatch.prepare.readers.base import GroupKind, Scan
from ctpatch.prepare.readers.volume import GroupBy

_BIDS_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[/_.])")


def subject_of(name: str) -> str | None:
    """The subject that a path names as BIDS does; None where it names none."""
    found = _BIDS_SUBJECT.search(name)
    return found[1] if found else None


def group_of(name: str, group_by: GroupBy) -> tuple[str, GroupKind]:
    """What must not be divided between splits: a subject of BIDS, else the folder, else the file."""
    if subject := subject_of(name):
        return subject, "patient"
    folder = name.rpartition("/")[0]
    return (folder, "folder") if folder and group_by == "folder" else (name, "file")


def note_groups(scan: Scan) -> None:
    """Add a word where several files of a folder count as one patient."""
    files = {(one.group, one.file) for one in scan.slices if one.group_kind == "folder"}
    many = sum(count > 1 for count in Counter(group for group, _ in files).values())
    if many:
        folders = "1 folder has" if many == 1 else f"{many} folders have"
        scan.notes.append(
            f"{folders} several files, which count as one patient, who is in one split alone; use --group-by file "
            "where each is another patient"
        )
