"""Small multi-frame CT files for the tests, written by pydicom from plain arrays."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_files import ROOT, ct_dataset, pixels_of, pydicom

ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY = "1.2.840.10008.5.1.4.1.1.2.2"
_OF_FRAMES = (
    *("ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"),
    *("RescaleIntercept", "InstanceNumber"),
)


def groups(**said: dict[str, Any]) -> Any:
    """A functional group for each keyword, its tags as given."""
    found = pydicom.dataset.Dataset()
    for name, tags in said.items():
        inside = pydicom.dataset.Dataset()
        for tag, value in tags.items():
            setattr(inside, tag, value)
        setattr(found, name, [inside])
    return found


def shared_groups(**changed: dict[str, Any] | None) -> Any:
    """What all frames say: original, 0.5 mm between rows and 0.8 mm between columns, axial, slope 1, -1024."""
    usual: dict[str, dict[str, Any] | None] = {
        "CTImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]},
        "PixelMeasuresSequence": {"PixelSpacing": [0.5, 0.8], "SliceThickness": 2},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
        "CTReconstructionSequence": {"ConvolutionKernel": "B40f"},
    }
    return groups(**{name: tags for name, tags in (usual | changed).items() if tags is not None})


def frame_groups(number: int, z_mm: float, stack: str = "1", **more: dict[str, Any]) -> Any:
    """What a frame says of itself: its number in a stack, and where it lies."""
    said: dict[str, dict[str, Any]] = {
        "FrameContentSequence": {"StackID": stack, "InStackPositionNumber": number},
        "PlanePositionSequence": {"ImagePositionPatient": [-20.0, -16.0, z_mm]},
    }
    return groups(**(said | more))


def frames_dataset(images: Sequence[NDArray[Any]], per_frame: Sequence[Any], shared: Any = None, **tags: Any) -> Any:
    """A multi-frame CT in memory; frames lie in the file as they are given."""
    dataset = ct_dataset(images[0], **({"SOPClassUID": ENHANCED, "SOPInstanceUID": f"{ROOT}7.1"} | tags))
    for tag in _OF_FRAMES:
        delattr(dataset, tag)
    dataset.NumberOfFrames = tags.get("NumberOfFrames", len(images))
    dataset.SharedFunctionalGroupsSequence = [shared_groups() if shared is None else deepcopy(shared)]
    dataset.PerFrameFunctionalGroupsSequence = list(per_frame)
    dataset.PixelData = np.stack(images).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def save(dataset: Any, path: Path) -> Path:
    """Write a dataset, whatever stands in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def volume(count: int = 4, seed: int = 0) -> tuple[list[NDArray[np.int16]], list[Any]]:
    """Images and groups of frames 2 mm apart, from the head to the feet, so not in the order of their positions."""
    images = [pixels_of(seed + number, (24, 32)) for number in range(count)]
    return images, [frame_groups(number + 1, 2.0 * (count - number)) for number in range(count)]
