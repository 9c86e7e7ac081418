"""Label objects as files: told by their storage class, read within bounds."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.prepare.readers.dicom.file import (
    DEFLATED,
    MAX_FILE_BYTES,
    NATIVE_SYNTAXES,
    FileProblemError,
    import_pydicom,
    open_bounded,
    what_it_is,
)
from ctpatch.prepare.readers.tree import find_files, source_folder

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
OBJECTS = frozenset({SEGMENTATION, LABEL_MAP, STRUCTURES})
FITS_MM = 0.1
"""How far a mark may lie from the grid of its slice."""


def storage_of(root: Path, file: str, *, follow_links: bool) -> str:
    """Storage class of a file, blank where it is no DICOM file that says one."""
    try:
        with open_bounded(str(root), file, follow_links=follow_links) as source:
            return what_it_is(source, os.fstat(source.fileno()).st_size)[1]
    except (FileProblemError, OSError):  # whoever reads it says why
        return ""


def has_objects(root: Path, *, follow_links: bool) -> bool:
    """Whether a label object lies below a folder."""
    folder = source_folder(root)
    files, _ = find_files(root, follow_links=follow_links)
    return any(storage_of(folder, file, follow_links=follow_links) in OBJECTS for file in files)


def read_object(root: Path, file: str, *, follow_links: bool) -> Any:
    """Read a label object.

    Raises:
        FileProblemError: it is damaged, too large, or compressed.
    """
    pydicom = import_pydicom()
    with open_bounded(str(root), file, follow_links=follow_links) as source:
        size = os.fstat(source.fileno()).st_size
        syntax, storage, _ = what_it_is(source, size)
        if storage not in OBJECTS:
            raise FileProblemError("other-storage", "it holds no segmentation and no structure set any more")
        if size > MAX_FILE_BYTES:
            raise FileProblemError("too-large", f"it has {size} bytes, wanted at most {MAX_FILE_BYTES}")
        if syntax not in NATIVE_SYNTAXES or syntax == DEFLATED:
            reason = "it is compressed, which ctpatch does not read in label objects; gdcmconv --raw decompresses it"
            raise FileProblemError("compressed", reason)
        try:
            source.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they quote values, which may be private
                return pydicom.dcmread(source)
        except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on rubbish, quoting values
            raise FileProblemError("damaged", f"it cannot be read as DICOM ({type(error).__name__})") from None


def vector(value: Any, count: int) -> NDArray[np.float64]:
    """Finite numbers of a tag; FileProblemError where they are not so many, or no lengths in a patient."""
    numbers = np.array([] if value is None else [float(each) for each in value], np.float64)
    if numbers.shape != (count,) or not (np.abs(numbers) < 1e6).all():  # noqa: PLR2004 - a kilometre; false for NaN
        raise FileProblemError("no-geometry", f"a position, orientation or spacing is no {count} plausible numbers")
    return numbers


def referenced(dataset: Any) -> tuple[frozenset[str], frozenset[str]]:
    """The series and the instances that the parts of an object which say what it is about refer to."""
    series: set[str] = set()
    instances: set[str] = set()
    studies = [
        study
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
    ]
    groups = [*(dataset.get("ReferencedSeriesSequence") or [])]
    groups += [each for study in studies for each in study.get("RTReferencedSeriesSequence") or []]
    for each in groups:
        series.add(str(each.get("SeriesInstanceUID") or ""))
        for tag in ("ReferencedInstanceSequence", "ContourImageSequence"):
            instances |= instances_in(each, tag)
    return frozenset(series - {""}), frozenset(instances)


def instances_in(dataset: Any, tag: str) -> frozenset[str]:
    """Instances that a sequence refers to."""
    found = {str(item.get("ReferencedSOPInstanceUID") or "") for item in dataset.get(tag) or []}
    return frozenset(found - {""})
