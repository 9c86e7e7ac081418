"""How ctpatch 0.1.0 wrote the fixtures and `recorded.json`.

The command was `PYTHONPATH=tests python tests/compat/write_fixtures.py`.
It wrote them once and need not run on later versions: what it would write then is not what 0.1.0 wrote.
An unfinished result is what a process leaves that is killed by SIGKILL when it opens or renames a certain file.
"""

import getpass
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ctpatch
from compat.cases import BUILDS, CHEST, PREPARED, RECORDED, predicted
from compat.common import (
    FIXTURES,
    HERE,
    LAYOUTS,
    MASKS,
    PAIRS,
    PARTS,
    TWINS,
    digests_below,
    files_below,
    labels,
    write_masks,
    write_pairs,
    write_parts,
)

WRITTEN_BY = "0.1.0"


def main() -> None:
    """Write all fixtures anew."""
    if ctpatch.__version__ != WRITTEN_BY:
        raise SystemExit(f"this is ctpatch {ctpatch.__version__}; the fixtures are those of {WRITTEN_BY}")
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for write in (write_pair_sets, write_mask_sets, write_unfinished, write_prepared):
            group, twins = write(root)
            shutil.rmtree(FIXTURES / group, ignore_errors=True)
            shutil.copytree(root / group, FIXTURES / group)
            known = json.loads(TWINS.read_text()) if TWINS.exists() else {}
            TWINS.write_text(json.dumps({**known, **twins}, indent=1, sort_keys=True) + "\n")
        forget_processes()
        refuse_names(root)
        record(root / "recorded")


def write_pair_sets(root: Path) -> tuple[str, dict[str, Any]]:
    """Image and target in every layout, and what a model predicted."""
    data = root / "pairs"
    folders = write_pairs(data), write_pairs(data, "test", 2, 3)
    for layout in LAYOUTS:
        ctpatch.build(folders[0], PAIRS, layout=layout, out=data / f"patches/pairs-{layout}/train")
    ctpatch.build(folders[1], PAIRS, layout="index", out=data / "patches/pairs-index/test")
    ps = ctpatch.open(data / "patches/pairs-slices/train")
    ctpatch.predict(lambda batch: 1 - batch, ps, window="uniform", out=data)
    return "pairs", {}


def write_mask_sets(root: Path) -> tuple[str, dict[str, Any]]:
    """Image and mask in every layout, with a slice without a window and two that were skipped."""
    data = root / "masks"
    folder = write_masks(data)
    for layout in LAYOUTS:
        ctpatch.build(folder, MASKS, layout=layout, on_error="skip", out=data / f"patches/masks-{layout}/train")
    return "masks", {}


def write_unfinished(root: Path) -> tuple[str, dict[str, Any]]:
    """Builds and a conversion that were killed, a build of which one share is done, and digests of what they become."""
    data = root / "parts"
    folder = write_parts(data)
    write_parts(data, "few", 11)
    ctpatch.build(folder, PARTS, layout="index", out=data / "patches/whole/val")
    twins: dict[str, Any] = {}
    for name in KILLED:
        if name != "preparation":
            out = data / "patches" / name / SPLITS.get(name, "val")
            KILLED[name][0](data)
            twins[name] = digests_below(out)
            shutil.rmtree(out)
            kill(name, data)
    ctpatch.build(folder, PARTS, layout="files", out=data / "patches/shares/val")
    twins["shares"] = digests_below(data / "patches/shares/val")
    shutil.rmtree(data / "patches/shares/val")
    ctpatch.build_share(folder, "1/2", PARTS, layout="files", out=data / "patches/shares/val")
    return "parts", twins


def write_prepared(root: Path) -> tuple[str, dict[str, Any]]:
    """Raw DICOM and NIfTI, and prepared from the DICOM files a finished and an unfinished set."""
    data = root / "raw"
    write_dicom(data / "dicom")
    write_nifti(data / "nifti/sub-01/ct.nii", (np.indices((8, 6, 3)).sum(axis=0) % 7 * 64 - 256).astype(np.int16))
    write_nifti(data / "nifti-masks/sub-01/ct.nii", np.stack([labels(n, (8, 6), np.int16) for n in range(3)], axis=2))
    (data / "pseudonym.key").write_text("these pseudonyms stand for made-up patients\n")
    prepare_chest(data, data / "finished")
    kill("preparation", data)
    return "raw", {}


def prepare_chest(data: Path, out: Path) -> None:
    """The prepared set that is a fixture."""
    ctpatch.prepare_dicom(data / "dicom", out, "chest", key=data / "pseudonym.key", **CHEST)


def build_parts(layout: Any) -> Callable[[Path], Any]:
    """The build of a split in a layout."""
    split = SPLITS.get(layout, "val")
    return lambda data: ctpatch.build(
        data / f"prepared/parts/{split}", PARTS, layout=layout, out=data / f"patches/{layout}/{split}"
    )


SPLITS = {"shards": "few", "slices": "few"}
"""Layouts that make one part of so little, and take fewer slices: the others need 64 for a part."""

KILLED: dict[str, tuple[Callable[[Path], Any], str]] = {
    # In the middle of its second part.
    "files": (build_parts("files"), "/files/val/val_000070_000_000.npy"),
    # When the rows of its second part are to be written.
    "index": (build_parts("index"), "/.ctpatch/000001.patch_manifest.csv"),
    # When all parts are done and only the meta is to be put in place.
    "shards": (build_parts("shards"), "/shards/few/patch_meta.json"),
    # When the pixels of its only part are there and the receipt is not.
    "slices": (build_parts("slices"), "/.ctpatch/000000.slice_manifest.csv"),
    "conversion": (
        lambda data: ctpatch.convert(data / "patches/whole/val", data / "patches/conversion/val", layout="files"),
        "/conversion/val/val_000070_000_000.npy",
    ),
    # In the middle of its second split.
    "preparation": (lambda data: prepare_chest(data, data / "unfinished"), "/chest/test/test_000001.npy"),
}


def kill(name: str, data: Path) -> None:
    """Do the work in a process that is killed on the way."""
    done = subprocess.run([sys.executable, __file__, name, str(data)], check=False)
    if done.returncode != -signal.SIGKILL:
        raise SystemExit(f"{name} ended with {done.returncode}; wanted: killed")


def be_killed(name: str, data: Path) -> None:
    """Do the work; end where the file is opened for writing or put in place."""
    work, where = KILLED[name]
    really_open, really_replace = os.open, os.replace

    def open_or_die(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(where):
            os.kill(os.getpid(), signal.SIGKILL)
        return really_open(path, flags, *more, **options)

    def replace_or_die(source: Any, target: Any) -> None:
        if str(target).endswith(where):
            os.kill(os.getpid(), signal.SIGKILL)
        really_replace(source, target)

    os.open, os.replace = open_or_die, replace_or_die  # type: ignore[assignment]
    work(data)


def write_dicom(folder: Path) -> None:
    """Three patients with two slices at low and at full dose, and a file that is none."""
    import pydicom

    root = "1.2.826.0.1.3680043.8.498."
    for patient in range(3):
        for place, dose in enumerate(("low", "full")):
            for number in range(2):
                uid = f"{root}{patient + 1}.{place + 1}"
                meta: Any = pydicom.dataset.FileMetaDataset()
                meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
                meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
                meta.MediaStorageSOPInstanceUID = f"{uid}.{number + 1}"
                each: Any = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
                each.SOPClassUID, each.SOPInstanceUID = meta.MediaStorageSOPClassUID, f"{uid}.{number + 1}"
                each.PatientID, each.Modality, each.ImageType = f"made-up-{patient}", "CT", ["ORIGINAL", "PRIMARY"]
                each.StudyInstanceUID, each.SeriesInstanceUID = f"{root}{patient + 1}", uid
                each.SeriesDescription, each.InstanceNumber = f"{dose} dose", 2 - number
                each.ImagePositionPatient = [-2.0, -4.5, 2.5 * number]
                each.ImageOrientationPatient, each.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.75, 0.5]
                each.SamplesPerPixel, each.PhotometricInterpretation = 1, "MONOCHROME2"
                each.Rows, each.Columns, each.PixelRepresentation = 12, 8, 1
                each.BitsAllocated, each.BitsStored, each.HighBit = 16, 16, 15
                each.RescaleSlope, each.RescaleIntercept = 1, -1024
                rows, cols = np.indices((12, 8))
                stored = (rows * 11 + cols * 7 + patient * 5 + number * 3) % 13 * 256 + place * 16
                each.PixelData = stored.astype("<i2").tobytes()
                each["PixelData"].VR = "OW"
                path = folder / f"patient-{patient}" / dose / f"{2 - number:03d}.dcm"
                path.parent.mkdir(parents=True, exist_ok=True)
                each.save_as(path, enforce_file_format=True)
    (folder / "notes.txt").write_text("no image\n")


def write_nifti(path: Path, values: Any) -> None:
    """A volume of whole numbers (X, Y, Z), 0.5 x 0.75 x 2 mm, the first axis to the left, the second to the back."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *values.shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 0.5, 0.75, 2, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, -0.5, 0, 0, 2, 0, -0.75, 0, 2, 0, 0, 2, 0)
    header[344:348] = b"n+1\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(header) + values.astype("<i2").tobytes(order="F"))


def record(root: Path) -> None:
    """Write down the digests of everything that is made to be compared."""
    cases = {**BUILDS, **{name: make for name, (_, make) in PREPARED.items()}, "predicted": predicted}
    found = {name: make(root / name.replace(" ", "-")) for name, make in cases.items()}
    RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def forget_processes() -> None:
    """Remove what names the process that was killed and its machine."""
    for path in files_below(FIXTURES).values():
        if path.name in {"lock", "owner.json"}:
            path.unlink()


def refuse_names(root: Path) -> None:
    """End where a fixture tells who wrote it, or where."""
    names = [str(root), root.name, str(HERE), str(Path.home()), socket.gethostname(), getpass.getuser()]
    pattern = re.compile(rb"\b(" + b"|".join(re.escape(name.encode()) for name in names) + rb")\b")
    for name, path in files_below(FIXTURES).items():
        found = pattern.search(path.read_bytes())
        if found:
            raise SystemExit(f"{name} holds {found[0]!r}")


if __name__ == "__main__":
    if sys.argv[1:]:
        be_killed(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
