"""Small label objects for the tests, written by pydicom: segmentations and structure sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_files import EXPLICIT, ROOT, pydicom

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
FRAME = f"{ROOT}77"


def item(**values: Any) -> Any:
    made = pydicom.dataset.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def save(path: Path, storage: str, dataset: Any, **tags: Any) -> Path:
    dataset.SOPClassUID, dataset.SOPInstanceUID = storage, f"{ROOT}9.{abs(hash(str(path))) % 10**9}"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_seg(
    path: Path,
    frames: Sequence[tuple[int, Sequence[float], NDArray[Any]]],
    *,
    names: dict[int, str],
    kind: str = "BINARY",
    series: str | None = f"{ROOT}1.1",
    axes: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] = (0.8, 0.8),
    sources: Sequence[str] = (),
    **tags: Any,
) -> Path:
    """Write a segmentation; a frame is a segment number, a position and the stored values."""
    pixels = np.stack([each for _, _, each in frames])
    if kind == "BINARY":
        data = np.packbits(pixels.astype(bool).ravel(), bitorder="little").tobytes()
    else:
        data = pixels.astype("u1").tobytes()
    groups = []
    for number, (segment, position, _) in enumerate(frames):
        group = item(PlanePositionSequence=[item(ImagePositionPatient=list(position))])
        if kind != "LABELMAP":
            group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=segment)]
        if sources:
            source = item(ReferencedSOPInstanceUID=sources[number])
            group.DerivationImageSequence = [item(SourceImageSequence=[source])]
        groups.append(group)
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(axes))],
        PixelMeasuresSequence=[item(PixelSpacing=list(spacing), SliceThickness=2)],
    )
    data += b"\0" * (len(data) % 2)
    dataset = item(
        Modality="SEG", FrameOfReferenceUID=FRAME, SegmentationType=kind, MaximumFractionalValue=255,
        SegmentSequence=[item(SegmentNumber=number, SegmentLabel=name) for number, name in names.items()],
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=groups,
        NumberOfFrames=len(frames), Rows=pixels.shape[1], Columns=pixels.shape[2], SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", PixelRepresentation=0, BitsAllocated=1 if kind == "BINARY" else 8,
        BitsStored=1 if kind == "BINARY" else 8, HighBit=0 if kind == "BINARY" else 7, PixelData=data,
    )  # fmt: skip
    dataset["PixelData"].VR = "OB"
    if series is not None:
        dataset.ReferencedSeriesSequence = [item(SeriesInstanceUID=series)]
    return save(path, LABEL_MAP if kind == "LABELMAP" else SEG, dataset, **tags)


def write_structures(
    path: Path,
    contours: Sequence[tuple[int, NDArray[Any]]],
    *,
    names: dict[int, str],
    series: str = f"{ROOT}1.1",
    kind: str = "CLOSED_PLANAR",
    points: int | None = None,
    frame: str = FRAME,
) -> Path:
    """Write a structure set; a contour is an ROI number and its points `(N, 3)` in mm."""
    rois: dict[int, list[Any]] = {number: [] for number in names}
    for number, each in contours:
        rois.setdefault(number, []).append(
            item(
                ContourGeometricType=kind,
                NumberOfContourPoints=len(each) if points is None else points,
                ContourData=[f"{value:.6g}" for value in np.asarray(each).ravel()],
            )
        )
    study = item(RTReferencedSeriesSequence=[item(SeriesInstanceUID=series)])
    dataset = item(
        Modality="RTSTRUCT",
        StructureSetROISequence=[
            item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame) for number, name in names.items()
        ],
        ROIContourSequence=[item(ReferencedROINumber=number, ContourSequence=each) for number, each in rois.items()],
        ReferencedFrameOfReferenceSequence=[item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])],
    )
    return save(path, RTSTRUCT, dataset)
