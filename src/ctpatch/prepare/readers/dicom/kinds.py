"""What is stored as a CT slice and is no cross-section: scout views, screens, dose sheets, reformats, projections.

ImageType (DICOM PS3.3, C.7.6.1.1.2) says it in the words of each maker; where it does not, other tags together do.
"""

import re

from ctpatch.prepare.readers.dicom.orientation import Cosines, across_the_table
from ctpatch.prepare.readers.dicom.tags import HeaderError, Tags

_SCOUTS = frozenset({"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "TOPO", "SURVIEW", "SCANOGRAM", "SCANOGRAPH"})
_SCREENS = frozenset({"SCREEN", "SCREENSAVE", "SCREENSHOT", "SCREENCAPTURE"})
_REFORMATS = frozenset({"REFORMATTED", "REFORMAT", "MPR", "CPR", "CURVED"})
_PROJECTIONS = frozenset({"MIP", "MINIP", "PROJECTION", "VRT", "SSD", "VR", "RENDERED", "RENDERING", "RENDER"})
_SHEETS = re.compile(r"DOSE( (INFO|REPORT|SHEET|SUMMARY|RECORD).*)?|(PATIENT |EXAM )?PROTOCOL|CT SOM\d+ PROT")
_MAKERS_SCOUT = re.compile(r"CT SOM\d+ TOP")

_SAYS_SHEET = re.compile(r"\b(DOSE (INFO|REPORT|SHEET|SUMMARY|RECORD)|(PATIENT|EXAM) PROTOCOL|EXAM SUMMARY)\b")
_SAYS_SCREEN = re.compile(r"\bSCREEN ?(SAVES?|SHOTS?|CAPTURES?)\b")
_SAYS_SCOUT = re.compile(r"\b(SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM|LOCALI[SZ]ER)\b")

SCOUT = ("localizer", "it is a localizer (scout view), no slice")
_SHEET = ("dose-sheet", "it is a dose sheet or protocol, no slice")
_SCREEN = ("screen-save", "it is a picture of a screen, no slice")
_KEEP = "; --keep-reformats prepares such files"
REFORMAT = ("reformat", f"it was reformatted from slices{_KEEP}")
_PROJECTION = ("projection", f"it was projected from slices{_KEEP}")


def is_derived(tags: Tags) -> bool:
    """Whether ImageType says that the image was made from others."""
    return "DERIVED" in tags.words("ImageType")


def has_burnt_in_text(tags: Tags) -> bool:
    """Whether the header says that text is burnt into the pixels."""
    return tags.text("BurnedInAnnotation").upper() == "YES"


def refuse_no_slice(tags: Tags, axes: Cosines | None) -> None:
    """Raise HeaderError for what is no slice; `axes` are those that ImageOrientationPatient says.

    The description of a series decides only where the file does not lie across the patient as a slice does.
    """
    kinds = tags.words("ImageType")
    words = {word for kind in kinds for word in kind.split()}
    found = None
    if words & _SCOUTS or any(map(_MAKERS_SCOUT.fullmatch, kinds)):
        found = SCOUT
    elif words & _SCREENS:
        found = _SCREEN
    elif any(map(_SHEETS.fullmatch, kinds)):
        found = _SHEET
    elif axes is None and tags.numbers("ImagePositionPatient", 3) is None:
        found = _without_place(tags, kinds)
    elif axes is not None and across_the_table(axes) and _SAYS_SCOUT.search(_description(tags)):
        found = SCOUT
    if found is not None:
        raise HeaderError(*found, fault=False)


def _without_place(tags: Tags, kinds: list[str]) -> tuple[str, str] | None:
    """What a file that lies nowhere in the patient is, if it is no slice."""
    said = _description(tags)
    if _SAYS_SHEET.search(said):
        return _SHEET
    if _SAYS_SCOUT.search(said):
        return SCOUT
    captured = "SECONDARY" in kinds and bool(tags.text("ConversionType"))
    return _SCREEN if captured or has_burnt_in_text(tags) or _SAYS_SCREEN.search(said) else None


def _description(tags: Tags) -> str:
    return " ".join(tags.words("SeriesDescription"))


def made_from_slices(tags: Tags, axes: Cosines | None) -> tuple[str, str] | None:
    """Kind and reason of a reformat or a projection; None for what may have been scanned."""
    words = {word for kind in tags.words("ImageType") for word in kind.split()}
    if words & _PROJECTIONS or ("IP" in words and words & {"MIN", "MAX"}):
        return _PROJECTION
    turned = axes is not None and across_the_table(axes) and is_derived(tags)
    return REFORMAT if words & _REFORMATS or turned else None
