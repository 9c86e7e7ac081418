"""Phantom CT: drawn axial slices of made-up patients, for the demo, the tests and the benchmarks.

A slice is painted in Hounsfield units (HU), organ over organ, in millimetres; then noise is added and the
result is mapped to [0, 1] as LoDoPaB-CT does it. The field of view is 400 mm along the shorter side, slices
are 6 mm apart, and the patient's right is on the left of the picture, as radiologists look at it.

Air around body and table is exactly 0.0 at both doses; everything else is at least -1000 HU (0.000246).
The same arguments give the same pixels on a machine, in whatever order or process the slices are made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.attenuation import MU_MAX, MU_PER_HU, MU_WATER
from ctpatch.errors import ConfigError
from ctpatch.files.atomic import system_errors, write_atomic, write_file
from ctpatch.files.npy import header_bytes
from ctpatch.format.splits import manifest_name
from ctpatch.phantom.anatomy import draw_anatomy, make_scene
from ctpatch.phantom.labels import draw_labels
from ctpatch.phantom.patients import AIR, NOISE, SLICE_SPACING_MM, Image, make_patient, random_stream

Dose = Literal["full", "low"]
NOISE_HU: dict[Dose, float] = {"full": 8.0, "low": 26.0}  # standard deviation in the middle of the body
_DOSE_STREAM: dict[Dose, int] = {"full": 0, "low": 1}
_STREAK_ANGLES = np.deg2rad([-24, -11, -4, 3, 9, 21])  # along the wide way through the body, where photons are few


def hu_to_unit(hu: NDArray[np.floating]) -> Image:
    """Map HU to [0, 1] as LoDoPaB-CT does: attenuation in 1/m over that of 3071 HU, clipped.

    -1000 HU becomes 0.000246, 0 becomes 0.245825, 3071 and more become 1. LoDoPaB's uniform noise of 1 HU is
    left out: the noise here has no steps to hide.
    """
    unit: Image = hu.astype(np.float32) * np.float32(MU_PER_HU / MU_MAX)
    unit += np.float32(MU_WATER / MU_MAX)
    return np.clip(unit, np.float32(0.0), np.float32(1.0), out=unit)


@lru_cache(maxsize=4)
def _streak_places(height: int, width: int) -> tuple[NDArray[np.intp], ...]:
    """For each streak angle, the detector bin (H, W) that a pixel's ray falls on."""
    rows, cols = np.arange(height)[:, None] - height / 2, np.arange(width)[None, :] - width / 2
    return tuple(
        np.rint(rows * math.cos(angle) - cols * math.sin(angle) + height + width).astype(np.intp)
        for angle in _STREAK_ANGLES
    )


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Noise (H, W) of unit variance: grain of two to three pixels and faint streaks across the body."""
    height, width = shape
    white = rng.standard_normal((height + 2, width + 2), dtype=np.float32)
    tall = white[:-2] + white[2:]
    tall += white[1:-1] * np.float32(1.5)
    grain = tall[:, :-2] + tall[:, 2:]
    grain += tall[:, 1:-1] * np.float32(1.5)
    grain *= np.float32(0.92 / 4.25)  # 4.25 = 1 + 1.5**2 + 1, the kernel's gain
    for places in _streak_places(height, width):
        bins = rng.standard_normal(2 * (height + width), dtype=np.float32)
        grain += (bins * np.float32(0.16)).take(places)
    return grain


def _check(seed: int, patient: int, slice_number: int, size: int | tuple[int, int]) -> tuple[int, int]:
    for name, value in (("seed", seed), ("patient", patient), ("slice_number", slice_number)):
        if not 0 <= value < 2**63:
            raise ConfigError(f"{name} is {value}, but must lie between 0 and 2**63 - 1")
    shape = (size, size) if isinstance(size, int) else size
    if min(shape) < 1:
        raise ConfigError(f"size is {size}, but must be 1 or more, as one number or as (rows, cols)")
    return shape


def _slices(seed: int, patient: int, number: int, shape: tuple[int, int], doses: Sequence[Dose]) -> list[Image]:
    person = make_patient(seed, patient)
    z = person.height(number)
    scene = make_scene(seed, patient, z, shape)
    hu, matter = draw_anatomy(person, scene, z)
    # Rays through the middle lose most photons, so noise is strongest there.
    rows, cols, _ = person.body(z, (0, 0), 0).radii
    depth = np.maximum(1.0 - (scene.rows / np.float32(rows)) ** 2 - (scene.cols / np.float32(cols)) ** 2, 0.0)
    strength = np.float32(0.5) + np.float32(0.5) * depth
    pixels = []
    for dose in doses:
        noise = _noise(random_stream(seed, patient, number, NOISE, _DOSE_STREAM[dose]), shape)
        noise *= strength
        noise *= np.float32(NOISE_HU[dose])
        noise += hu
        # Noise must not turn lung into air: 0 is for what lies outside, the same pixels at both doses.
        unit = hu_to_unit(np.maximum(noise, AIR, out=noise))
        unit *= matter
        pixels.append(unit)
    return pixels


def phantom_slice(
    seed: int, patient: int, slice_number: int, size: int | tuple[int, int] = 362, *, dose: Dose = "full"
) -> Image:
    """Draw one slice.

    Args:
        seed: chooses the family of patients.
        patient: number of the patient, 0 or more.
        slice_number: number of the slice, 0 or more, 6 mm apart downwards.
        size: pixels of a side, or (H, W).
        dose: "low" has about three times the noise of "full", on the same anatomy.

    Returns:
        (H, W) float32 in [0, 1], LoDoPaB-CT's attenuation scale; air outside the body is exactly 0.

    Raises:
        ConfigError: a number is negative or the size is no size.
    """
    return _slices(seed, patient, slice_number, _check(seed, patient, slice_number, size), (dose,))[0]


def phantom_pair(seed: int, patient: int, slice_number: int, size: int | tuple[int, int] = 362) -> tuple[Image, Image]:
    """Draw a slice at low and at full dose: what `phantom_slice` gives for each, anatomy painted once."""
    low, full = _slices(seed, patient, slice_number, _check(seed, patient, slice_number, size), ("low", "full"))
    return low, full


def phantom_mask(seed: int, patient: int, slice_number: int, size: int | tuple[int, int] = 362) -> NDArray[np.uint8]:
    """The organs of a slice by the numbers of `ORGAN_LABELS`, (H, W) uint8; 0 elsewhere. See `phantom_slice`."""
    shape = _check(seed, patient, slice_number, size)
    person = make_patient(seed, patient)
    z = person.height(slice_number)
    return draw_labels(person, make_scene(seed, patient, z, shape), z)


@dataclass(frozen=True)
class PhantomSplit:
    """A split to write: its name, its patients (none shared with another split) and slices of each."""

    name: str
    patients: int
    slices_per_patient: int


DEFAULT_SPLITS = (PhantomSplit("train", 4, 6), PhantomSplit("validation", 2, 4), PhantomSplit("test", 2, 4))


def _write_split(
    folder: Path,
    work: Sequence[tuple[int, int]],
    seed: int,
    shape: tuple[int, int],
    doses: Sequence[Dose],
    *,
    masks: bool,
) -> None:
    """Write the slices of `work`, (patient, slice number) each, then the manifest that lists them."""
    name, rows, data_root = folder.name, [], folder.parents[2]
    arrays = ["path", *(["target_path"] if len(doses) > 1 else []), *(["mask_path"] if masks else [])]
    manifest = folder / manifest_name(name)
    manifest.unlink(missing_ok=True)  # an older one must not speak for half of its slices and half of ours
    for index, (patient, number) in enumerate(work):
        images: list[NDArray[Any]] = [*_slices(seed, patient, number, shape, doses)]
        if masks:
            images.append(phantom_mask(seed, patient, number, shape))
        stated: dict[str, object] = {}
        for column, image in zip(arrays, images, strict=True):
            path = folder / f"{name}_{column.removesuffix('path')}{index:06d}.npy"
            write_file(str(path), [header_bytes(image.shape, image.dtype), image.data.cast("B")])
            stated[column] = path.relative_to(data_root).as_posix()
        low, high = float(images[0].min()), float(images[0].max())
        place = {"series": f"S{patient + 1:04d}", "position_mm": -SLICE_SPACING_MM * number}
        rows.append({"index": index, "min": low, "max": high, "patient_id": f"P{patient + 1:04d}", **stated, **place})
    write_atomic(manifest, pl.DataFrame(rows).write_csv().encode())


def write_phantom(
    data_root: Path,
    dataset: str = "phantom",
    splits: Sequence[PhantomSplit] = DEFAULT_SPLITS,
    *,
    size: int | tuple[int, int] = 362,
    seed: int = 0,
    pairs: bool = True,
    masks: bool = False,
) -> list[Path]:
    """Write phantom splits as prepared slices, `DATA_ROOT/prepared/<dataset>/<split>/`, the manifest last.

    The manifest has the columns `series`, one for each patient, and `position_mm`.

    Args:
        data_root: folder above `prepared/`; made where it is missing.
        dataset: name of the data set.
        splits: what to write; patients are numbered across all of them.
        size: pixels of a side, or (H, W).
        seed: chooses the family of patients.
        masks: the organs as `mask_path`, by the numbers of `ctpatch.phantom.labels.ORGAN_LABELS`.
        pairs: low dose as `path` and full dose as `target_path`; otherwise full dose alone, as `path`.

    Returns:
        The splits' folders, in order.

    Raises:
        ConfigError: a name holds a path separator, or a split is named twice.
        SystemFailureError: the system refused a write.
    """
    names = [split.name for split in splits]
    for name in (dataset, *names):
        if not name or name.startswith(".") or set(name) & set("/\\:"):
            raise ConfigError(f"{name!r} cannot name a folder: use letters, digits, - and _")
    if len(set(names)) < len(names):
        raise ConfigError(f"splits are named {names}: each name may stand there once")
    doses: tuple[Dose, ...] = ("low", "full") if pairs else ("full",)
    shape = _check(seed, 0, 0, size)
    folders, first = [], 0
    for split in splits:
        folder = data_root / "prepared" / dataset / split.name
        patients, numbers = range(first, first + split.patients), range(split.slices_per_patient)
        with system_errors("writing", folder.relative_to(data_root).as_posix()):
            folder.mkdir(parents=True, exist_ok=True)
            _write_split(folder, list(product(patients, numbers)), seed, shape, doses, masks=masks)
        first += split.patients
        folders.append(folder)
    return folders
