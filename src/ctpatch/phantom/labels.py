"""Masks of a made-up patient's organs."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ctpatch.phantom.anatomy import Scene, cavity_of, coverage, frame_of
from ctpatch.phantom.patients import Organ, Patient

ORGAN_LABELS = {"lung": 1, "liver": 2, "spleen": 3, "kidney": 4}
"""What the labels of masks are; vessels within an organ count as the organ."""

_HALF = 0.5


def draw_labels(patient: Patient, scene: Scene, z: float) -> NDArray[np.uint8]:
    """The organ that each pixel of a slice belongs to, by `ORGAN_LABELS`, `(H, W)`: that which covers half of it."""
    labels = np.zeros(scene.rows.shape, np.uint8)
    for organ in patient.organs:
        _label(labels, scene, organ.at(z))
    where, cover = coverage(scene, cavity_of(patient, z))
    inside = np.zeros_like(labels)
    inside[where] = np.where(cover >= _HALF, labels[where], 0)
    _label(inside, scene, frame_of(patient, z))
    return inside


def _label(labels: NDArray[np.uint8], scene: Scene, organs: Iterable[Organ]) -> None:
    for organ in organs:
        if organ.label is not None:
            where, cover = coverage(scene, organ)
            labels[where][cover >= _HALF] = organ.label
