"""What an audit knows of a split, whatever it was found as, and how its pixels are read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.report import Fault, NotChecked, RowRef
from ctpatch.reading.patchset import PatchSet

Kind = Literal["prepared", "patches", "foreign patches"]


def digest_column(array: str) -> str:
    """The column of a split's frames that holds digests of an array, null where none is known."""
    return f"digest:{array}"


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive slices of a split and the rows of their patches: what a worker is given.

    Attributes:
        split: number of the split.
        start: number of the first slice.
        slices: rows of `AuditedSplit.slices`.
        patches: rows of `AuditedSplit.patches`, in order of their slices; None where the split has none.
        first_patch: number of the first of them.
        offsets: where the rows of each slice begin and end, `(n + 1,)`.
    """

    split: int
    start: int
    slices: pl.DataFrame
    patches: pl.DataFrame | None
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
        patches_too: whether the slice's patches are worth reading all the same.
    """

    image: NDArray[Any] | None = None
    covered: NDArray[np.bool_] | None = None
    whole: bool = True
    why: str | None = None
    fault: str | None = None
    patches_too: bool = False


@dataclass(frozen=True, slots=True)
class PatchSeen:
    """Digest of a patch, and whether it is constant; None where that is on record already."""

    row: int
    digest: str | None
    constant: bool | None
    fault: str | None = None


class RunPixels(Protocol):
    """The pixels of one run."""

    def image(self, place: int, array: str) -> Seen:
        """A slice of the run."""
        ...

    def patches(self, place: int, array: str, image: NDArray[Any] | None) -> list[PatchSeen]:
        """The patches of a slice, where their digests are not on record; else none. `image` is the slice."""
        ...


class SplitPixels(Protocol):
    """The pixels of a split; it is sent to the processes that look at them."""

    @property
    def ps(self) -> PatchSet | None:
        """The patch set that holds them, where it is one of ours."""
        ...

    def begin(self, run: Run) -> RunPixels:
        """Begin with a run."""
        ...


@dataclass(slots=True)
class AuditedSplit:
    """A split, as tables of one form.

    Attributes:
        name: what the report calls it.
        folder: where it is, as the user would type it.
        kind: prepared slices, a patch set of ours, or one made elsewhere.
        layout: of a patch set of ours.
        arrays: those whose pixels are compared; labels are not.
        slice_table: name of the file whose rows stand for slices.
        patch_table: name of the file whose rows stand for patches.
        slices: a row for each slice: `line` (Int64), `id`, `path` (String), `patient_id` (String or null) and
            `digest:<array>`, and what is needed to read its pixels.
        patches: a row for each patch, in order of its slice: `at` (number of its slice), `line`, `id`,
            `digest:<array>`, `constant` (Boolean or null), and what is needed to read its pixels. None for
            prepared slices.
        slice_level: whether rows of `slices` are slices; else each stands for a patch, for want of anything better.
        digests_on_record: whether `slices` came with digests, so that no pixel is needed to tell equal ones.
        pixels: reads its pixels.
        not_checked: what cannot be checked, and why.
        faults: rows that could not be used.
    """

    name: str
    folder: str
    kind: Kind
    layout: str | None
    arrays: tuple[str, ...]
    slice_table: str
    patch_table: str | None
    slices: pl.DataFrame
    patches: pl.DataFrame | None
    pixels: SplitPixels
    slice_level: bool = True
    digests_on_record: bool = False
    not_checked: list[NotChecked] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def slice_ref(self, at: int) -> RowRef:
        """The row of a slice."""
        row = self.slices.row(at, named=True)
        return RowRef(self.name, self.slice_table, row["line"], row["id"], row["path"] or "")

    def patch_ref(self, number: int) -> RowRef:
        """The row of a patch."""
        assert self.patches is not None
        assert self.patch_table is not None
        row = self.patches.row(number, named=True)
        return RowRef(self.name, self.patch_table, row["line"], row["id"], row["path"] or "")

    def add_not_checked(self, what: str, why: str, count: int | None = None) -> None:
        """Note what cannot be checked."""
        self.not_checked.append(NotChecked(self.name, what, why, count))

    def runs(self, number: int, length: int) -> Iterator[Run]:
        """The split's slices in runs of `length`; `number` is the split's."""
        return (self._run(number, start, length) for start in range(0, self.slices.height, length))

    def _run(self, number: int, start: int, length: int) -> Run:
        slices = self.slices[start : start + length]
        if self.patches is None:
            return Run(number, start, slices, None, 0, np.zeros(slices.height + 1, np.int64))
        bounds = np.searchsorted(self.patches["at"].to_numpy(), np.arange(start, start + slices.height + 1))
        first, end = int(bounds[0]), int(bounds[-1])
        return Run(number, start, slices, self.patches[first:end], first, bounds.astype(np.int64) - first)

    def whole_slice(self, at: int, array: str) -> NDArray[Any] | None:
        """A copy of the pixels of a slice, where all of them can be read."""
        seen = self.pixels.begin(self._run(0, at, 1)).image(0, array)
        return seen.image.copy() if seen.image is not None and seen.whole else None
