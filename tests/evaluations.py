"""Splits to evaluate: pairs of slices with what `ctpatch prepare` puts on record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.format.prepared_meta import PreparedMeta, SplitInfo
from helpers import Prepared, make_split

FULL = {"kind": "window", "low_hu": -1024.0, "high_hu": 3072.0}
PATIENTS = ("P00000000000000aa", "P00000000000000bb", "P00000000000000cc")


def write_meta(dataset: Path, split: str, mapping: dict[str, Any] = FULL, source: str = "dicom") -> None:
    """`prepare_meta.json` of a prepared set with one split."""
    info = SplitInfo(manifest=f"{split}/{split}_manifest.csv", manifest_digest="0" * 32, num_slices=1, num_patients=1)
    meta = PreparedMeta(
        format_version=1,
        ctpatch_version="0.2.0",
        created="2026-11-25T00:00:00Z",
        dataset=dataset.name,
        source=source,
        options={},
        mapping=mapping,
        arrays={"image": "float32"},
        splits={split: info},
        grouped_by={},
        key_id="K0000000000000000",
        num_left_out={},
        left_out_digest="0" * 32,
        notes=[],
        num_identical=0,
        plan_digest="0" * 32,
    )
    (dataset / "prepare_meta.json").write_bytes(meta.to_bytes())


def soft(count: int, shape: tuple[int, int] = (24, 28), seed: int = 0) -> list[NDArray[np.float32]]:
    """Slices around water in the full window, each of another noise."""
    rng = np.random.default_rng(seed)
    return [(0.25 + rng.normal(0, 0.004 * (1 + k), shape)).astype(np.float32) for k in range(count)]


def pair_split(root: Path, patients: Sequence[str], *, known: bool = True, **options: Any) -> Prepared:
    """A prepared split of pairs, image noisier than target, a slice for each entry of `patients`."""
    columns = {"patient_id": list(patients), **options.pop("columns", {})}
    images = options.pop("images", None) or soft(len(patients))
    made = make_split(root, images=images, arrays={"target": np.float32}, columns=columns, split="test", **options)
    for number, target in enumerate(soft(len(patients), images[0].shape, seed=9)):
        made.images["target"][number] = (0.25 + (target - 0.25) / 8).astype(np.float32)
        np.save(made.file(number, "target"), made.images["target"][number])
    if known:
        write_meta(made.folder.parent, "test")
    return made
