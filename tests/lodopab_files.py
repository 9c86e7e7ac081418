"""Files as LoDoPaB-CT's own: stored transposed, chunked by h5py's guess, the last ones with their quirk."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers import Image

SIDE, BINS, ANGLES = 362, 513, 1000
PIXEL_M = 0.26 / SIDE
PITCH_M = 2 * math.hypot(0.13, 0.13) / BINS
MU_MAX = 81.35858


def project(upright: Image) -> NDArray[np.float64]:
    """Line integrals (1000, 513) in metres of an upright slice: a pixel's mass goes to the two nearest bins."""
    middles = (np.arange(SIDE) - (SIDE - 1) / 2) * (PIXEL_M / PITCH_M)
    mass = upright.astype(np.float64).ravel() * (PIXEL_M**2 / PITCH_M)
    sinogram = np.empty((ANGLES, BINS))
    for k in range(ANGLES):
        angle = (k + 0.5) * math.pi / ANGLES
        at = (middles[None, :] * math.cos(angle) + middles[:, None] * math.sin(angle)).ravel() + (BINS - 1) / 2
        low = np.floor(at).astype(np.intp)
        share = at - low
        sinogram[k] = np.bincount(low, mass * (1 - share), BINS) + np.bincount(low + 1, mass * share, BINS)
    return sinogram


def low_dose(sinogram: NDArray[np.float64], seed: int = 0) -> Image:
    """As the data set's technical reference: 4096 photons for each bin, at least a tenth of one is seen."""
    rng = np.random.default_rng(seed)
    seen = np.maximum(rng.poisson(4096 * np.exp(-sinogram * MU_MAX)) / 4096, 0.1 / 4096)
    return (-np.log(seen) / MU_MAX).astype(np.float32)


def write_ground_truth(folder: Path, split: str, number: int, upright: Sequence[Image], rows: int = 128) -> Path:
    """The last file keeps its rows: those without a slice are HDF5 fill."""
    return _write(folder / f"ground_truth_{split}_{number:03d}.hdf5", [each.T for each in upright], (SIDE, SIDE), rows)


def write_observation(folder: Path, split: str, number: int, sinograms: Sequence[Image]) -> Path:
    """The last file is cut to its slices."""
    path = _write(folder / f"observation_{split}_{number:03d}.hdf5", sinograms, (ANGLES, BINS), 128)
    import h5py

    with h5py.File(path, "r+") as file:
        file["data"].resize(len(sinograms), axis=0)
    return path


def write_patients(folder: Path, split: str, patients: Sequence[int]) -> Path:
    path = folder / f"patient_ids_rand_{split}.csv"
    path.write_text("".join(f"{each}\n" for each in patients))
    return path


def _write(path: Path, stack: Sequence[Image], shape: tuple[int, int], rows: int) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (rows, *shape), maxshape=(rows, *shape), dtype=np.float32, chunks=True)
        for row, image in enumerate(stack):
            data[row] = image
    return path


def psnr(image: Image, truth: Image) -> float:
    """Against the truth's own range, as LoDoPaB-CT's challenge does it, in dB."""
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return 10 * math.log10(float(np.ptp(truth)) ** 2 / error)
