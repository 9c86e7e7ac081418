"""What a user should know of a file's header, in sentences that are the same for all files they are true of."""

from collections.abc import Iterator

from ctpatch.prepare.readers.base import SliceRemark
from ctpatch.prepare.readers.dicom.kinds import has_burnt_in_text
from ctpatch.prepare.readers.dicom.orientation import Oriented
from ctpatch.prepare.readers.dicom.rescale import Rescale
from ctpatch.prepare.readers.dicom.tags import Tags


def remarks_of(tags: Tags, oriented: Oriented, rescale: Rescale) -> Iterator[SliceRemark]:
    """What is odd about a header of which all else was read before."""
    yield from oriented.remarks
    if rescale.missing:
        usual = {"RescaleSlope": "1", "RescaleIntercept": "0"}
        assumed = " and ".join(f"{tag} is missing and taken to be {usual[tag]}" for tag in rescale.missing)
        yield SliceRemark("assumed-hu", f"{assumed}, as --assume-hu says")
    if rescale.unspecified:
        message = "RescaleType leaves open what the values are; they reach down to air and are taken for HU"
        yield SliceRemark("unit-unknown", message)
    if tags.doubled:
        names = ", ".join(sorted(tags.doubled))
        yield SliceRemark("doubled-values", f"the same value of {names} stands there several times; it is taken once")
    if has_burnt_in_text(tags):
        message = "text is burnt into the pixels (BurnedInAnnotation), which can be a name; look at them"
        yield SliceRemark("burnt-in-text", message)
