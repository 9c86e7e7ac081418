"""Functional groups of a file with frames (DICOM PS3.3, C.7.6.16): the tags of a frame as those of a file of its own.

A frame says of itself what stands in its own groups and in those that all frames share. Nothing is taken from elsewhere
in the file, and nothing that is missing is guessed.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from ctpatch.prepare.readers.dicom.file import FileProblemError, import_pydicom

MAX_FRAMES = 16_384
"""Most frames of a file: a volume of 512 slices at 32 times."""

GROUP_TAGS = (
    *("SOPInstanceUID", "ConcatenationUID", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable",),
)
"""Tags that are read of a file with frames, in addition to those of every file."""

_OF_FILE = (
    *("SOPClassUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription", "SamplesPerPixel"),
    *("PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "BurnedInAnnotation"),
)


class _Group(NamedTuple):
    """A functional group: its sequence, what it has to say and can say, and the tags of a file that say the same."""

    sequence: str
    needed: dict[str, str]
    known: dict[str, str]


_TYPE = _Group("CTImageFrameTypeSequence", {"FrameType": "ImageType"}, {"VolumeBasedCalculationTechnique": ""})
_NEEDED = (
    _TYPE,
    _Group("PixelMeasuresSequence", {"PixelSpacing": "PixelSpacing"}, {"SliceThickness": "SliceThickness"}),
    _Group("PlanePositionSequence", {"ImagePositionPatient": "ImagePositionPatient"}, {}),
    _Group("PlaneOrientationSequence", {"ImageOrientationPatient": "ImageOrientationPatient"}, {}),
    _Group(
        "PixelValueTransformationSequence",
        {},
        {"RescaleSlope": "RescaleSlope", "RescaleIntercept": "RescaleIntercept", "RescaleType": "RescaleType"},
    ),
    _Group(
        "FrameContentSequence",
        {},
        {
            "StackID": "",
            "InStackPositionNumber": "InstanceNumber",
            "TemporalPositionIndex": "TemporalPositionIdentifier",
            "FrameAcquisitionNumber": "AcquisitionNumber",
            "FrameAcquisitionDateTime": "AcquisitionTime",
        },
    ),
)
_CONVERTED = {"ConvolutionKernel": "ConvolutionKernel", "GantryDetectorTilt": "GantryDetectorTilt"}
_OTHERS = (
    _Group("CTReconstructionSequence", {}, {"ConvolutionKernel": "ConvolutionKernel"}),
    _Group("CTAcquisitionDetailsSequence", {}, {"GantryDetectorTilt": "GantryDetectorTilt"}),
    _Group("UnassignedSharedConvertedAttributesSequence", {}, _CONVERTED),
    _Group("UnassignedPerFrameConvertedAttributesSequence", {}, _CONVERTED),
)


class Frame(NamedTuple):
    """A frame as a file of its own.

    Attributes:
        dataset: the tags that such a file would have.
        stack: which stack of frames it is in, in words that no frame of another file has by chance.
        missing: what its groups lack, as a user can look for it.
    """

    dataset: Any
    stack: str
    missing: tuple[str, ...]


class Groups:
    """The functional groups of a file.

    Attributes:
        count: how many frames it has.
    """

    def __init__(self, dataset: Any) -> None:
        """Take the groups of a file.

        Raises:
            FileProblemError: NumberOfFrames and the groups do not fit together.
        """
        self._dataset = dataset
        self.count = _count(dataset)
        shared = _sequence(dataset, "SharedFunctionalGroupsSequence")
        if len(shared) > 1:
            raise _wrong(f"its SharedFunctionalGroupsSequence has {len(shared)} items, wanted one")
        self._shared = shared[0] if shared else import_pydicom().dataset.Dataset()
        self._frames = _sequence(dataset, "PerFrameFunctionalGroupsSequence")
        if len(self._frames) != self.count:
            has = f"has {len(self._frames)} items" if self._frames else "is missing or empty"
            raise _wrong(f"its NumberOfFrames is {self.count}, and its PerFrameFunctionalGroupsSequence {has}")

    def frame(self, number: int) -> Frame:
        """A frame, from 1.

        Raises:
            FileProblemError: there is none of that number, or its groups contradict each other.
        """
        if not 1 <= number <= self.count:
            raise _wrong(f"it has {self.count} frames, when it was found it had {number} or more")
        flat = import_pydicom().dataset.Dataset()
        for tag in _OF_FILE:
            if tag in self._dataset:
                setattr(flat, tag, self._dataset.get(tag))
        flat.ctpatch_syntax = self._dataset.ctpatch_syntax
        said: dict[str, Any] = {}
        missing = tuple(self._take(number, flat, said))
        if technique := str(said.get("VolumeBasedCalculationTechnique") or ""):
            flat.ImageType = [*_as_list(flat.get("ImageType")), technique]
        whole = self._dataset.get("ConcatenationUID") or self._dataset.get("SOPInstanceUID")
        return Frame(flat, f"{whole} {said.get('StackID') or ''}".strip() or "frames", missing)

    def _take(self, number: int, flat: Any, said: dict[str, Any]) -> Iterator[str]:
        """Put what the groups say into the flat dataset, else into `said`; give what is missing."""
        for group in (*_NEEDED, *_OTHERS):
            items = [self._item(each, group.sequence, number) for each in (self._frames[number - 1], self._shared)]
            found = [each for each in items if each is not None]
            if not found and group in _NEEDED:
                yield group.sequence
            for name, tag in (group.needed | group.known).items():
                values = [value for each in found if not _is_blank(value := each.get(name))]
                if len(values) > 1 and values[0] != values[1]:
                    raise _wrong(f"frame {number} says another {group.sequence} {name} than all frames share")
                if values and tag:
                    setattr(flat, tag, values[0])
                elif values:
                    said[name] = values[0]
                elif found and name in group.needed:
                    yield f"{group.sequence} {name}"

    @staticmethod
    def _item(groups: Any, sequence: str, number: int) -> Any:
        items = _sequence(groups, sequence)
        if len(items) > 1:
            raise _wrong(f"frame {number} has a {sequence} of {len(items)} items, wanted one")
        return items[0] if items else None


def missing_groups(missing: tuple[str, ...]) -> FileProblemError:
    """What to say of a frame that lacks groups, or values in them."""
    return FileProblemError(
        "missing-group",
        f"it lacks {', '.join(missing)} in its functional groups, which ctpatch does not guess; correct the file, or "
        "take the files that it was made from",
    )


def _count(dataset: Any) -> int:
    value = dataset.get("NumberOfFrames")
    try:
        count = int(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong("its NumberOfFrames is missing or no whole number") from None
    if not 1 <= count <= MAX_FRAMES:
        raise _wrong(f"its NumberOfFrames is {count}, wanted 1 to {MAX_FRAMES}")
    return count


def _sequence(dataset: Any, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dataset.get(name) or []


def _as_list(value: Any) -> list[str]:
    return [] if _is_blank(value) else [value] if isinstance(value, str) else [str(each) for each in value]


def _is_blank(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _wrong(reason: str) -> FileProblemError:
    return FileProblemError("multi-frame", f"{reason}; correct the file, or take the files that it was made from")
