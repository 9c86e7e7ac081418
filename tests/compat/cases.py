"""What every version makes in the same way, so that the bytes of every file can be compared with `recorded.json`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ctpatch
from compat.common import (
    FIXTURES,
    HERE,
    LAYOUTS,
    MASKS,
    PAIRS,
    PARTS,
    digests_below,
    table,
    write_masks,
    write_pairs,
    write_parts,
    write_phantom,
    write_table,
)

RECORDED = HERE / "recorded.json"
RAW = FIXTURES / "raw"
KEY = RAW / "pseudonym.key"
CHEST: dict[str, Any] = {"series": "low*", "target_series": "full*", "split": ["train=0.5", "test=0.5"]}
PHANTOM = ctpatch.PatchConfig(patch_size=(16, 8), stride=(12, 8), drop=("air: air_fraction > 0.75", "flat: std < 0.05"))
LEVELS = 16
"""Grey values that phantom slices are rounded to: what is drawn with sines may differ in the last digit elsewhere."""
PHANTOM_SEED = 9
"""No pixel of this phantom is near the edge between two levels."""

Case = Callable[..., dict[str, str]]


def built(write: Callable[[Path], Path], config: ctpatch.PatchConfig, layout: Any, **options: Any) -> Case:
    """Write slices, build them, and take the digests of the set."""

    def make(root: Path, **engine: Any) -> dict[str, str]:
        result = ctpatch.build(write(root), config, layout=layout, **options, **engine)[0]
        return digests_below(result.folder)

    return make


def write_rounded_phantom(root: Path) -> Path:
    """Phantom CT at two doses, in multiples of 1/16."""
    (folder,) = write_phantom(root, size=32, seed=PHANTOM_SEED, pairs=True)
    for path in folder.glob("*.npy"):
        np.save(path, np.round(np.load(path) * LEVELS) / np.float32(LEVELS))
    manifest = folder / "train_manifest.csv"
    rows = table(manifest)
    kept = [name for name in rows[0] if name not in {"min", "max"}]  # they are those before rounding
    write_table(manifest, {name: [row[name] for row in rows] for name in kept})
    return folder


def prepared_dicom(root: Path) -> dict[str, str]:
    """Image and target, in two splits."""
    return digests_below(ctpatch.prepare_dicom(RAW / "dicom", root, "chest", key=KEY, **CHEST).folder)


def prepared_nifti(root: Path) -> dict[str, str]:
    """Image and mask."""
    masks = RAW / "nifti-masks"
    return digests_below(
        ctpatch.prepare_nifti(RAW / "nifti", root, "head", mask=masks, window=(-512, 512), key=KEY, crop=(6, 4)).folder
    )


def predicted(root: Path) -> dict[str, str]:
    """What a model makes of a set: its slices and their manifest, whatever else a version puts beside them."""
    folder = ctpatch.build(write_pairs(root), PAIRS, layout="slices")[0].folder
    made = ctpatch.predict(lambda batch: 1 - batch, ctpatch.open(folder), window="uniform", out=root)
    return {name: digest for name, digest in digests_below(Path(made)).items() if name.endswith((".npy", ".csv"))}


def _with_pad(mode: Any) -> ctpatch.PatchConfig:
    return ctpatch.PatchConfig(patch_size=(8, 4), stride=(7, 3), pad_mode=mode, drop="dark: mean < 0.1")


BUILDS: dict[str, Case] = {
    **{f"pairs {layout}": built(write_pairs, PAIRS, layout) for layout in LAYOUTS},
    **{f"masks {layout}": built(write_masks, MASKS, layout, on_error="skip") for layout in LAYOUTS},
    **{f"phantom {layout}": built(write_rounded_phantom, PHANTOM, layout) for layout in LAYOUTS},
    **{f"{mode} shards": built(write_pairs, _with_pad(mode), "shards") for mode in ("none", "even", "edge", "reflect")},
    **{f"parts {layout}": built(write_parts, PARTS, layout) for layout in ("files", "index")},
}
IN_PARTS = ("parts files", "parts index")
"""Builds of two parts, which two processes can share."""

PREPARED: dict[str, tuple[str, Case]] = {
    "dicom": ("pydicom", prepared_dicom),
    "nifti": ("nibabel", prepared_nifti),
}
"""And the package that reads the raw files."""
