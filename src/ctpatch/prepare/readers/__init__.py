"""One folder for each kind of raw CT, and the list of them: a line here gives a command and a name to `prepare_raw`."""

import importlib
from dataclasses import fields

from ctpatch.errors import UsageError
from ctpatch.prepare.readers.base import RawFormat

READERS = {
    "dicom": "ctpatch.prepare.readers.dicom:Dicom",
    "images": "ctpatch.prepare.readers.images:Images",
    "lodopab": "ctpatch.prepare.readers.lodopab:Lodopab",
    "metaimage": "ctpatch.prepare.readers.metaimage:Metaimage",
    "nifti": "ctpatch.prepare.readers.nifti:Nifti",
    "nrrd": "ctpatch.prepare.readers.nrrd:Nrrd",
    "numpy": "ctpatch.prepare.readers.numpy:Numpy",
}


def raw_format(name: str) -> type[RawFormat]:
    """The kind of raw CT of a name; UsageError where there is none."""
    if name not in READERS:
        raise UsageError(f"there is no raw format {name!r}; wanted one of {', '.join(READERS)}")
    module, _, attribute = READERS[name].partition(":")
    found: type[RawFormat] = getattr(importlib.import_module(module), attribute)
    return found


def formats_with(option: str) -> list[str]:
    """The kinds of raw CT that alone have an option, by its name in Python; none where all have it, or none has."""
    having = [name for name in READERS if option in {each.name for each in fields(raw_format(name))}]
    return having if len(having) < len(READERS) else []
