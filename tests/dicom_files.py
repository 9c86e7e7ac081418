"""Small DICOM files for the tests, written by pydicom."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.prepare.readers.base import Observed, RawSlice
from ctpatch.prepare.readers.dicom.reader import DicomReader

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
J2K = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
ROOT = "1.2.826.0.1.3680043.8.498."


@dataclass(frozen=True)
class DeadlyReader(DicomReader):
    """Reads DICOM, and ends its process at a file named `deadly`, as the system does where memory runs out."""

    def observe(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[Observed]:
        for each in slices:
            if each.file.endswith("deadly"):
                assert multiprocessing.parent_process() is not None
                os._exit(9)
            yield from DicomReader.observe(self, root, [each])


def pixels_of(seed: int, shape: tuple[int, int] = (40, 50)) -> NDArray[np.int16]:
    """Stored values, -200 to 2999."""
    return np.random.default_rng(seed).integers(-200, 3000, shape).astype(np.int16)


def ct_dataset(pixels: NDArray[Any], **tags: Any) -> Any:
    """A CT slice in memory: signed 16 bit, slope 1, intercept -1024, axial, supine."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("TransferSyntaxUID", EXPLICIT)
    dataset = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": f"{ROOT}{abs(hash(pixels.tobytes())) % 10**12}",
        "PatientID": "patient-1",
        "StudyInstanceUID": f"{ROOT}1",
        "SeriesInstanceUID": f"{ROOT}1.1",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": 1,
        "ImagePositionPatient": [-20.0, -16.0, 0.0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.8, 0.8],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for name, value in (values | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CT)
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PixelData = pixels.astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def write_ct(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """Write a CT slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ct_dataset(pixels, **tags).save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path, count: int, *, seed: int = 0, patient: str = "patient-1", uid: str = "1", **tags: Any
) -> list[NDArray[np.int16]]:
    """Write a series of slices 2 mm apart; file names run against the normal. Returns the pixels along the normal."""
    images = [pixels_of(seed + number) for number in range(count)]
    for number, image in enumerate(images):
        write_ct(
            folder / f"{count - number:03d}",
            image,
            **{
                "PatientID": patient,
                "StudyInstanceUID": f"{ROOT}{uid}",
                "SeriesInstanceUID": f"{ROOT}{uid}.1",
                "SOPInstanceUID": f"{ROOT}{uid}.1.{number + 1}",
                "InstanceNumber": count - number,
                "ImagePositionPatient": [-20.0, -16.0, 2.0 * number],
                **tags,
            },
        )
    return images


def unit_of(stored: NDArray[Any], low: float = -1024.0, high: float = 3072.0) -> NDArray[np.float32]:
    """The reference: stored values to HU to [0, 1], one pixel after the other."""
    out = np.empty(stored.shape, np.float32)
    for place, value in np.ndenumerate(stored):
        out[place] = min(max((float(value) - 1024.0 - low) / (high - low), 0.0), 1.0)
    return out


def write_phantom_dicom(folder: Path) -> None:
    """Five phantom patients, each with three slices at low and at full dose, as two series."""
    from ctpatch.core.attenuation import MU_MAX, MU_WATER
    from ctpatch.phantom.slices import phantom_pair

    for patient in range(5):
        for number in range(3):
            for dose, unit in zip(("Low", "Full"), phantom_pair(0, patient, number, 160), strict=True):
                hu = (unit.astype(np.float64) * MU_MAX - MU_WATER) / 0.01998
                write_ct(
                    folder / f"C{patient:03d}/{dose} Dose Images/1-{3 - number:03d}.dcm",
                    (np.rint(hu) + 1024).astype(np.int16),
                    PatientID=f"C{patient:03d}",
                    StudyInstanceUID=f"{ROOT}{patient + 1}",
                    SeriesInstanceUID=f"{ROOT}{patient + 1}.{1 + (dose == 'Low')}",
                    SeriesDescription=f"{dose} Dose Images",
                    ImagePositionPatient=[-180.0, -180.0, -6.0 * number],
                    PixelSpacing=[2.25, 2.25],
                )


def jpeg_lossless(image: NDArray[np.uint16]) -> bytes:
    """A JPEG lossless image (ISO 10918-1, annex H), predictor 1, every Huffman code five bits long."""
    height, width = image.shape
    values = image.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << 15
    bits = []
    for difference in ((values - predicted + (1 << 15)) % (1 << 16) - (1 << 15)).ravel().tolist():
        category = abs(difference).bit_length()
        bits.append(f"{category:05b}")
        if 0 < category < 16:
            number = difference if difference > 0 else difference + (1 << category) - 1
            bits.append(f"{number:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    packed = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    frame = bytes([16]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    counts = bytes([0, 0, 0, 0, 17] + [0] * 11)
    return (
        b"\xff\xd8"
        + segment(0xC3, frame)
        + segment(0xC4, b"\0" + counts + bytes(range(17)))
        + segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
        + packed
        + b"\xff\xd9"
    )
