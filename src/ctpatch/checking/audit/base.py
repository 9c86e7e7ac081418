"""What an audit knows of a split, whatever it was found as, and how its pixels are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.report import Fault, NotChecked, RowRef
from ctpatch.errors import CtPatchError, SystemFailureError
from ctpatch.reading.patchset import PatchSet

Kind = Literal["prepared", "patches", "foreign patches"]


def known_digest(array: str) -> str:
    """The column of a split's frames that holds digests of an array, null where none is known."""
    return f"digest:{array}"


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive slices of a split and the rows of their patches: what a worker is given.

    Attributes:
        split, start, first_patch: numbers of the split, and in it of the first slice and patch.
        slices, patches: rows of the tables of `AuditedSplit`; no patches where the split has none.
        offsets: where the patches of each slice begin and end, `(n + 1,)`.
    """

    split: int
    start: int
    slices: pl.DataFrame
    patches: pl.DataFrame
    first_patch: int
    offsets: NDArray[np.int64]

    def rows_of(self, place: int) -> NDArray[np.int64]:
        """Numbers, within the run, of the patches of its `place`th slice."""
        return np.arange(self.offsets[place], self.offsets[place + 1])


@dataclass(frozen=True, slots=True)
class Seen:
    """What could be seen of a slice.

    Attributes:
        image: its pixels, `(H, W)`, valid until the next is read; None where there are none.
        covered: which pixels are known; None says all.
        whole: whether these are the pixels of the source slice, all of them.
        why: why there are no pixels where that is in the nature of the set.
        fault: why there are no pixels where there should be.
    """

    image: NDArray[Any] | None = None
    covered: NDArray[np.bool_] | None = None
    whole: bool = True
    why: str | None = None
    fault: str | None = None


PatchSeen = tuple[int, str | None, bool | None, str | None]
"""Number of a patch within the run, its digest, whether it is constant (None where that is on record), its fault."""


class RunPixels(ABC):
    """The pixels of one run."""

    def image(self, place: int, array: str) -> Seen:
        """A slice of the run."""
        try:
            return self._image(place, array)
        except SystemFailureError:
            raise
        except CtPatchError as error:
            return Seen(fault=error.message)

    @abstractmethod
    def _image(self, place: int, array: str) -> Seen:
        """The same, by the kind of the split; an error is the slice's fault."""

    def patch(self, row: int) -> NDArray[Any] | None:
        """The pixels of `image` of a patch by its number in the run, valid until the next one; None if it has none."""
        del row
        return None

    def patches(self, place: int, array: str, image: NDArray[Any] | None) -> list[PatchSeen]:  # noqa: ARG002
        """The patches of a slice, where their digests are not on record; else none. `image` is the slice."""
        return []


SplitPixels = Callable[[Run], RunPixels]
"""Begins with a run of a split; it is sent to the processes that look at the pixels."""


@dataclass(slots=True)
class AuditedSplit:
    """A split, as tables of one form.

    Attributes:
        name: what the report calls it.
        folder: where it is, as the user would type it.
        kind: prepared slices, a patch set of ours, or one made elsewhere.
        arrays: those whose pixels are compared; labels are not.
        slice_table: name of the file whose rows stand for slices.
        slices: a row for each slice: `line` (Int64), `id`, `path` (String), `patient_id` (String or null),
            `digest:<array>` (String or null), `constant` (Boolean or null), and what is needed to read its pixels.
        ps: the patch set of ours that holds them.
        patch_table: name of the file whose rows stand for patches.
        patches: a row for each patch, in order of its slice: `at` (number of its slice), `line`, `id`,
            `digest:<array>`, `constant`, and what is needed to read its pixels. None for prepared slices.
        root: what paths of slices are relative to; None where that cannot be told.
        slice_level: whether rows of `slices` are slices; else each stands for a patch, for want of anything better.
    """

    name: str
    folder: str
    kind: Kind
    arrays: tuple[str, ...]
    slice_table: str
    slices: pl.DataFrame
    pixels: SplitPixels
    ps: PatchSet | None = None
    patch_table: str = ""
    patches: pl.DataFrame | None = None
    root: Path | None = None
    slice_level: bool = True
    not_checked: list[NotChecked] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def slice_ref(self, at: int) -> RowRef:
        """The row of a slice."""
        return self._ref(self.slice_table, self.slices, at)

    def patch_ref(self, number: int) -> RowRef:
        """The row of a patch."""
        assert self.patches is not None
        return self._ref(self.patch_table, self.patches, number)

    def _ref(self, table: str, frame: pl.DataFrame, number: int) -> RowRef:
        line, name, path = frame.select("line", "id", "path").row(number)
        return RowRef(self.name, table, line, name, path or "")

    def add_not_checked(self, what: str, why: str, count: int | None = None) -> None:
        """Note what cannot be checked."""
        self.not_checked.append(NotChecked(self.name, what, why, count))

    def runs(self, number: int, length: int) -> Iterator[Run]:
        """The split's slices in runs of `length`; `number` is the split's."""
        return (self._run(number, start, length) for start in range(0, self.slices.height, length))

    def _run(self, number: int, start: int, length: int) -> Run:
        slices = self.slices[start : start + length]
        patches = pl.DataFrame(schema={"at": pl.Int64}) if self.patches is None else self.patches
        bounds = np.searchsorted(patches["at"].to_numpy(), np.arange(start, start + slices.height + 1)).astype(np.int64)
        first = int(bounds[0])
        return Run(number, start, slices, patches[first : int(bounds[-1])], first, bounds - first)

    def whole_slice(self, at: int, array: str) -> NDArray[Any] | None:
        """A copy of the pixels of a slice, where all of them can be read."""
        seen = self.pixels(self._run(0, at, 1)).image(0, array)
        return seen.image.copy() if seen.image is not None and seen.whole else None

    def patch_pixels(self, at: int, number: int) -> NDArray[Any] | None:
        """A copy of the pixels of a patch of the slice `at`, by the patch's number, where they can be read."""
        run = self._run(0, at, 1)
        try:
            patch = self.pixels(run).patch(number - run.first_patch)
        except SystemFailureError:
            raise
        except CtPatchError:
            return None
        return None if patch is None else patch.copy()
