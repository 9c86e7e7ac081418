"""What the header of a CT slice says, by an allow-list of tags: that of a file, or of a frame as if it were one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from ctpatch.prepare.geometry import MAX_RAW_PIXELS
from ctpatch.prepare.readers.base import LeftOut, References, SliceRemark
from ctpatch.prepare.readers.dicom.bits import ALLOCATED, Bits, BitsError
from ctpatch.prepare.readers.dicom.file import FileProblemError, damaged
from ctpatch.prepare.readers.dicom.kinds import is_derived, made_from_slices, refuse_no_slice
from ctpatch.prepare.readers.dicom.orientation import orientation_of
from ctpatch.prepare.readers.dicom.remarks import remarks_of
from ctpatch.prepare.readers.dicom.rescale import Rescale, settle_rescale, why_no_hu
from ctpatch.prepare.readers.dicom.tags import HeaderError, Tags

HEADER_TAGS = (
    *("ImageType", "SOPClassUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription"),
    *("ConvolutionKernel", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"),
    *("GantryDetectorTilt", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType", "PatientPosition"),
    *("PatientOrientation", "BurnedInAnnotation", "ConversionType", "AcquisitionNumber", "AcquisitionTime"),
    *("TemporalPositionIdentifier", "SliceThickness", "SOPInstanceUID", "FrameOfReferenceUID"),
)
"""The only tags that are read. Ids serve to group and are never written; of the rest, spacing and position are."""

_NUMBERS_OF_PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope"),
)

Vector = tuple[float, float, float]
Axes = tuple[float, float, float, float, float, float]


Permission = Literal["assume-hu", "keep-reformats", "labels"]
"""What lets a file be prepared that otherwise is not; `labels` are masks, whose values need be no HU."""


@dataclass(frozen=True, slots=True)
class CtHeader:
    """What the header of a CT slice says; ids as found, blank where there are none.

    Attributes:
        file: relative to the source folder.
        patient, study, series: ids.
        names: description and kernel of the series, where they are said.
        number: InstanceNumber, or None.
        shape: rows and columns as stored.
        spacing_mm: distance of rows and of columns; None where it is not said, or is no distance.
        origin_mm: centre of the first pixel; None where it is not said.
        axes: direction of the columns' and of the rows' numbers; None where they are not said, or are no directions.
        location_mm: SliceLocation.
        tilt_deg: GantryDetectorTilt, 0 where it is not said.
        acquired: which acquisition, time in a sequence, kernel and time of day it is of; blank where it is not said.
        derived: whether it was made from other images.
        unit_unknown: whether RescaleType leaves open what the values are.
        remarks: what is odd about the header.
        needs: why it is prepared only with a permission.
        kernel: ConvolutionKernel, blank where it is not said.
        thickness_mm: SliceThickness; None where it is not said, or is no thickness.
        frame: which frame of its file it is, from 1; 0 where the file has no frames.
        stack: which of several stacks of frames it is in; blank where the file has no frames.
        known_as: ids by which label objects refer to it.
    """

    file: str
    patient: str
    study: str
    series: str
    names: tuple[str, ...]
    number: int | None
    shape: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    origin_mm: Vector | None
    axes: Axes | None
    location_mm: float | None
    tilt_deg: float
    acquired: tuple[str, str, str, str]
    derived: bool
    unit_unknown: bool
    remarks: tuple[SliceRemark, ...]
    needs: tuple[tuple[Permission, LeftOut], ...]
    known_as: References
    kernel: str = ""
    thickness_mm: float | None = None
    frame: int = 0
    stack: str = ""

    @property
    def where(self) -> str:
        """The file, with the frame where it has frames."""
        return named_frame(self.file, self.frame)

    def of_frame(self, frame: int, stack: str) -> "CtHeader":
        """The same as that of a frame of its file."""
        where = named_frame(self.file, frame)
        needs = tuple((permission, replace(left, where=where)) for permission, left in self.needs)
        return replace(self, frame=frame, stack=stack, needs=needs)


def named_frame(file: str, frame: int) -> str:
    """What messages and records call a frame."""
    return f"{file}[{frame}]" if frame else file


def permitted(header: CtHeader, permissions: frozenset[Permission]) -> CtHeader | LeftOut:
    """The header, or why the slice is not prepared without another permission."""
    return next((left for permission, left in header.needs if permission not in permissions), header)


def header_of(file: str, dataset: Any) -> CtHeader:
    """The header in the tags of a file; of numbers that pixels are read by, one is left in the dataset.

    What a file may lack with a permission is not refused here: `permitted` decides on it.

    Raises:
        FileProblemError: it is no CT slice after all, or a value makes no sense.
    """
    with header_faults():
        return _header(file, dataset, Tags(dataset))


@contextmanager
def header_faults() -> Iterator[None]:
    """Raise FileProblemError for whatever is wrong with values of a header while they are asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values, which may be private
        try:
            yield
        except FileProblemError:
            raise
        except HeaderError as error:
            raise FileProblemError(error.kind, error.reason, fault=error.fault) from None
        except Exception as error:  # noqa: BLE001 - values are converted where they are asked for
            raise damaged(error) from None


def _header(file: str, dataset: Any, tags: Tags) -> CtHeader:
    tags.settle(*_NUMBERS_OF_PIXELS)
    oriented = orientation_of(tags)
    said = None if oriented.assumed else oriented.axes
    refuse_no_slice(tags, said)
    _refuse_other_pixels(dataset, tags)
    rescale = settle_rescale(dataset, tags)
    description, kernel = tags.text("SeriesDescription"), tags.text("ConvolutionKernel")
    origin = tags.numbers("ImagePositionPatient", 3)
    return CtHeader(
        file=file,
        patient=tags.text("PatientID"),
        study=tags.text("StudyInstanceUID"),
        series=tags.text("SeriesInstanceUID"),
        names=tuple(each for each in (description, kernel) if each),
        number=tags.whole("InstanceNumber"),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        spacing_mm=_spacing(tags),
        origin_mm=None if origin is None else (origin[0], origin[1], origin[2]),
        axes=oriented.axes,
        location_mm=tags.number("SliceLocation"),
        tilt_deg=tags.number("GantryDetectorTilt") or 0.0,
        acquired=(
            tags.text("AcquisitionNumber"),
            tags.text("TemporalPositionIdentifier"),
            kernel,
            tags.text("AcquisitionTime"),
        ),
        derived=is_derived(tags),
        unit_unknown=rescale.unspecified,
        remarks=tuple(remarks_of(tags, oriented, rescale)),
        needs=tuple(_needs(file, rescale, made_from_slices(tags, said))),
        kernel=kernel,
        thickness_mm=_thickness(tags),
        known_as=References(*map(tags.text, ("FrameOfReferenceUID", "SeriesInstanceUID", "SOPInstanceUID"))),
    )


def _needs(file: str, rescale: Rescale, made: tuple[str, str] | None) -> Iterator[tuple[Permission, LeftOut]]:
    """Why a file is prepared only with a permission."""
    if made is not None:
        yield "keep-reformats", LeftOut(file, *made)
    if rescale.not_hu:
        yield "labels", LeftOut(file, "not-hu", rescale.not_hu)
    if rescale.missing:
        yield "assume-hu", LeftOut(file, "no-rescale", why_no_hu(rescale.missing), fault=True)


def _refuse_other_pixels(dataset: Any, tags: Tags) -> None:
    """Refuse pixels that are no slice's, and shapes that no scanner writes."""
    frames = tags.whole("NumberOfFrames")
    if frames is not None and frames != 1:
        raise FileProblemError("multi-frame", f"it says {frames} frames, a CT slice has one")
    photometric = tags.text("PhotometricInterpretation")
    if not photometric:
        reason = "it does not say what its pixels are (PhotometricInterpretation): it is cut short or damaged"
        raise FileProblemError("damaged", reason)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise FileProblemError("no-grey-values", "its pixels are colours, no HU", fault=False)
    rows, cols = int(dataset.Rows), int(dataset.Columns)
    if not (1 <= rows <= MAX_RAW_PIXELS and 1 <= cols <= MAX_RAW_PIXELS):
        raise FileProblemError("too-large", f"it says {rows}x{cols} pixels, wanted 1 to {MAX_RAW_PIXELS} on a side")
    if int(dataset.BitsAllocated) not in ALLOCATED:
        raise FileProblemError("damaged", "its BitsAllocated is not 8, 16 or 32")
    try:
        Bits.of(dataset)
    except BitsError as error:
        raise FileProblemError("bits", str(error)) from None


def _spacing(tags: Tags) -> tuple[float, float] | None:
    numbers = tags.numbers("PixelSpacing", 2)
    return None if numbers is None or min(numbers) <= 0 else (numbers[0], numbers[1])


def _thickness(tags: Tags) -> float | None:
    thickness = tags.numbers("SliceThickness", 1)
    return None if thickness is None or thickness[0] <= 0 else thickness[0]
