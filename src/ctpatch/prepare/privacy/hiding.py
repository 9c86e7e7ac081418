"""Names of the source in a message, and what stands there in their place.

Readers put the name of a file into a message and nothing else that is private; this makes sure of it. A name is found
as a whole word alone, never within one. A name can also be a word that messages have anyway: a number, as patients and
files are numbered; a folder called `ct`. Such a name is found only where a name can stand: in quotes, after `patient`
or the like, or as the file that a message begins with. Otherwise `it holds 4 bytes` would lose its 4.
"""

import re
from collections.abc import Mapping

from ctpatch.errors import one_line, printable

_LONGEST_NUMBER = 5
_USUAL = frozenset(
    (
        *("data", "dicom", "file", "files", "folder", "image", "images", "item", "items", "label", "labels"),
        *("mask", "masks", "nifti", "patient", "patients", "pixel", "pixels", "plane", "planes", "scan"),
        *("scans", "series", "slice", "slices", "study", "target", "value", "values", "volume", "volumes", "voxels"),
        *("and", "are", "as", "at", "be", "by", "can", "ct", "end", "for", "from", "has", "hu", "id", "in", "is", "it"),
        *("its", "mm", "no", "not", "of", "on", "one", "or", "out", "raw", "that", "the", "to", "two", "who", "with"),
    )
)
"""Names that tell nobody, and that messages have as words."""
_INTRODUCED = ("patient ", "series ", "study ", "file ", "folder ", "id ")
_BEFORE_A_FILE = ("; ", ": ", "(", ", ")


def is_usual(name: str) -> bool:
    """Whether a name can be a word or a number of a message as well."""
    if name.isdecimal():
        return len(name) <= _LONGEST_NUMBER
    return name.lower() in _USUAL or (name.isalpha() and len(name) == 1)


def replace_names(message: str, stands_for: Mapping[str, str]) -> str:
    """A message with other words for names; longer names go first, as a path holds its parts.

    >>> replace_names("C4/7: patient 4 has 4 slices", {"C4/7": "F1", "4": "P1", "C4": "F2"})
    'F1: patient P1 has 4 slices'
    """
    # Errors escape what is not printable, and shorten what is long.
    written = {form: other for name, other in stands_for.items() for form in (name, printable(name), _shortened(name))}
    found = sorted((name for name in written if name and name in message), key=len, reverse=True)
    if not found:
        return message
    return re.compile("|".join(map(_pattern, found))).sub(lambda match: written[match[0]], message)


def _shortened(name: str) -> str:
    """A name as it stands in an error, before a colon."""
    return one_line(f"{name}:").removesuffix(":")


def _pattern(name: str) -> str:
    escaped = re.escape(name)
    if not is_usual(name):
        return rf"(?<!\w){escaped}(?!\w)"
    quoted = rf"(?<=['\"]){escaped}(?=['\"])"
    introduced = "|".join(rf"(?<=\b{word}){escaped}(?!\w)" for word in _INTRODUCED)
    first = "|".join(rf"(?<={re.escape(before)}){escaped}(?=: |\[)" for before in _BEFORE_A_FILE)
    return rf"{quoted}|{introduced}|^{escaped}(?=[ :\[])|{first}"
