"""The grid of a slice in the patient, and where marks lie on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctpatch.prepare.readers.base import RawSlice
from ctpatch.prepare.readers.dicom.labels.opening import FITS_MM
from ctpatch.prepare.readers.dicom.series import Turn

Vectors = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Centre of the first pixel, steps from row to row and from column to column in mm, and the shape."""

    origin: Vectors
    down: Vectors
    right: Vectors
    shape: tuple[int, int]

    @classmethod
    def of(cls, image: RawSlice) -> "Grid | None":
        """The grid of a slice that says where it lies."""
        if image.origin_mm is None or image.axes is None or image.spacing_mm is None:
            return None
        axes = np.array(image.axes)
        return cls(
            np.array(image.origin_mm), axes[3:] * image.spacing_mm[0], axes[:3] * image.spacing_mm[1], image.shape
        )

    @property
    def normal(self) -> Vectors:
        """The unit vector across the slice."""
        across = np.cross(self.right, self.down)
        unit: Vectors = across / np.linalg.norm(across)
        return unit

    def places(self, points: Vectors) -> tuple[Vectors, Vectors]:
        """Rows and columns of points `(N, 3)` as `(N, 2)`, and their signed distance from the plane in mm, `(N,)`."""
        steps = np.stack([self.down, self.right, self.normal], axis=1)
        found: Vectors = np.linalg.solve(steps, (points - self.origin).T).T.astype(np.float64, copy=False)
        return found[:, :2], found[:, 2]

    def corners(self) -> Vectors:
        """Centres of the first pixel, of the last one of its column and of the last one of its row, `(3, 3)`."""
        return np.stack(
            [self.origin, self.origin + self.down * (self.shape[0] - 1), self.origin + self.right * (self.shape[1] - 1)]
        )

    def turn_from(self, other: "Grid") -> Turn | None:
        """What lays the pixels of another grid on this one, pixel on pixel; None where they do not fit."""
        for transpose in (False, True):
            shape = other.shape[::-1] if transpose else other.shape
            if shape != self.shape:
                continue
            for rows in (False, True):
                for cols in (False, True):
                    turn = Turn(transpose, rows, cols)
                    if np.abs(turned(other, turn).corners() - self.corners()).max() <= FITS_MM:
                        return turn
        return None


def turned(grid: Grid, turn: Turn) -> Grid:
    """The grid of an image that is turned."""
    origin, down, right, shape = grid.origin, grid.down, grid.right, grid.shape
    if turn.transpose:
        down, right, shape = right, down, shape[::-1]
    if turn.flip_rows:
        origin, down = origin + down * (shape[0] - 1), -down
    if turn.flip_cols:
        origin, right = origin + right * (shape[1] - 1), -right
    return Grid(origin, down, right, shape)
