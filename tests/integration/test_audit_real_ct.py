"""The audit on real CT: what it catches, and that patients are told apart. `docs/audit.md` has the numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.checking.audit import audit
from helpers import Image, data_folder, make_split


@dataclass(frozen=True)
class Real:
    """A slice in [0, 1] (-1024 to 3072 HU), and where it is from."""

    image: Image
    patient: str
    folder: str
    height_mm: float


def real_slices(collection: str) -> list[Real]:
    """All slices of a collection, by height."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    root = data_folder() / collection
    files = sorted(root.rglob("*.dcm"))
    if not files:
        pytest.skip(f"no DICOM of {collection}: set CTPATCH_DATA to the folder that holds it")
    found = []
    for path in files:
        dataset: Any = pydicom.dcmread(path)
        hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        image = np.clip((hu + 1024) / 4096, 0, 1).astype(np.float32)
        found.append(Real(image, dataset.PatientID, path.parent.name, float(dataset.ImagePositionPatient[2])))
    return sorted(found, key=lambda each: each.height_mm)


def split_of(root: Path, name: str, slices: list[Real], *, patients: bool = False) -> Path:
    columns = {"patient_id": [each.patient for each in slices]} if patients else None
    images = [each.image for each in slices]
    return make_split(root, images=images, dataset="real", split=name, columns=columns).folder


def test_another_kernel_dose_and_a_shift_are_caught(tmp_path: Path) -> None:
    every = real_slices("lung_pet_ct_dx")
    folders = sorted({each.folder for each in every})
    grainy, smooth = ([each for each in every if each.folder == folder] for folder in folders)
    rng = np.random.default_rng(0)
    crops = [Real(each.image[75:437, 75:437], "", "", each.height_mm) for each in smooth]
    noisy = [
        Real(np.clip(each.image + rng.normal(0, 150 / 4096, each.image.shape), 0, 1).astype(np.float32), "", "", 0)
        for each in crops
    ]
    shifted = [Real(each.image[77:439, 77:439], "", "", 0) for each in smooth]
    for number, (first, second) in enumerate(((grainy, smooth), (crops, noisy), (crops, shifted))):
        root = tmp_path / str(number)
        report = audit([split_of(root, "train", first), split_of(root, "test", second)])
        assert dict(report.counts) == {"near-slice": 30}
        assert [leak.first.row for leak in report.findings] == [leak.second.row for leak in report.findings]
        assert all(leak.symmetry is None for leak in report.findings)


def test_twelve_patients_are_told_apart_and_a_split_by_file_leaks(tmp_path: Path) -> None:
    slices = real_slices("tcga_ct100")
    patients = sorted({each.patient for each in slices})
    assert len(patients) == 12
    fair = [
        split_of(tmp_path / "fair", name, [each for each in slices if each.patient in group], patients=True)
        for name, group in (("train", patients[:8]), ("test", patients[8:]))
    ]
    report = audit(fair)
    assert (report.status, report.alike) == ("ok", 0)
    leaky = [
        split_of(tmp_path / "leaky", name, some, patients=True)
        for name, some in (("train", slices[::2]), ("test", slices[1::2]))
    ]
    report = audit(leaky)
    shared = {each.patient for each in slices[::2]} & {each.patient for each in slices[1::2]}
    assert report.counts["patient"] == len(shared) > 5
    same = sum(a.image.tobytes() == b.image.tobytes() for a in slices[::2] for b in slices[1::2])
    assert report.counts["identical-slice"] == same == 2
    assert report.counts["near-slice"] == 0
