"""What a build did: sums over the receipts of its parts, and what the user is told in the end."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import polars as pl
import xxhash

from ctpatch.cutting.label_totals import LabelSums, add_labels
from ctpatch.cutting.plan import SplitPlan
from ctpatch.cutting.receipt import CutReceipt
from ctpatch.cutting.values import SetValues
from ctpatch.format.meta import PatchMeta, source_line
from ctpatch.format.tables import STATUS_OK

MAX_SHOWN = 100
_SUMMED = ["num_slices", "num_skipped", "num_windows", "num_patches", "pixel_bytes", "covered_pixels", "total_pixels"]

Outcome = Literal["built", "resumed", "complete", "merged"]


@dataclass(slots=True)
class Totals:
    """Sums over the receipts; `sources`, the digest of all sources, is right where they come in order."""

    parts: int = 0
    reused: int = 0
    num_slices: int = 0
    num_skipped: int = 0
    num_windows: int = 0
    num_patches: int = 0
    pixel_bytes: int = 0
    covered_pixels: int = 0
    total_pixels: int = 0
    num_without_windows: int = 0
    num_clipped: int = 0
    values: SetValues = field(default_factory=SetValues)
    dropped: Counter[str] = field(default_factory=Counter)
    labels: dict[str, LabelSums] = field(default_factory=dict)
    uncounted: Counter[str] = field(default_factory=Counter)
    sources: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    skipped: list[str] = field(default_factory=list)
    without_windows: list[str] = field(default_factory=list)

    def add(self, receipt: CutReceipt) -> None:
        """Count a receipt."""
        self.parts += 1
        self.reused += receipt.reused
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(receipt, name))
        self.dropped.update(receipt.dropped)
        for (array, rows), uncounted in zip(receipt.labels.items(), receipt.uncounted, strict=False):
            add_labels(self.labels.setdefault(array, {}), rows)
            self.uncounted[array] += uncounted
        for index, digests in receipt.sources:
            self.sources.update(source_line(index, digests))
        self.skipped.extend(receipt.skipped[: MAX_SHOWN - len(self.skipped)])
        self.num_without_windows += len(receipt.without_windows)
        self.num_clipped += len(receipt.clipped)
        self.values.add(receipt.part, receipt.values)
        self.without_windows.extend(receipt.without_windows[: MAX_SHOWN - len(self.without_windows)])

    @classmethod
    def of_finished(cls, slices: pl.DataFrame) -> Self:
        """What a summary says of a set that was complete already, from its slice manifest."""
        good = pl.col("status") == STATUS_OK
        skipped, without = slices.filter(~good), slices.filter(good, pl.col("num_windows") == 0)
        return cls(
            skipped=skipped["reason"].head(MAX_SHOWN).to_list(),
            without_windows=without["src_path"].head(MAX_SHOWN).to_list(),
            num_without_windows=without.height,
        )


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build of one split did.

    Attributes:
        folder: the patch set.
        outcome: `built`, `resumed` (an earlier run's parts were kept), `complete` (there was nothing to do) or `merged`
            (from shares).
        meta: the set's meta.
        seconds: how long it took.
        skipped: reasons of slices that were left out, the first 100.
        covering_stride: the stride that would cover the whole slice; None where nothing is lost.
        planned_windows: windows of all slices listed, before any was left out.
        windows_at_covering_stride: how many that would be at the covering stride.
        windows_spread_evenly: how many with `pad_mode="even"`, which loses nothing at the same stride.
        slices_without_windows: slices smaller than a patch, the first 100.
        num_without_windows: how many those are.
    """

    folder: Path
    outcome: Outcome
    meta: PatchMeta
    seconds: float
    skipped: list[str] = field(default_factory=list)
    covering_stride: int | tuple[int, int] | None = None
    planned_windows: int = 0
    windows_at_covering_stride: int = 0
    windows_spread_evenly: int = 0
    slices_without_windows: list[str] = field(default_factory=list)
    num_without_windows: int = 0

    @property
    def complete(self) -> bool:
        """Whether every slice of the manifest is in the set."""
        return self.meta.num_skipped == 0


def result_of(
    plan: SplitPlan | None, folder: Path, meta: PatchMeta, outcome: Outcome, started: float, totals: Totals
) -> BuildResult:
    """What a build that came to this end did; where there is no plan any more, the windows are those of the set."""
    return BuildResult(
        folder=folder,
        outcome=outcome,
        meta=meta,
        seconds=time.perf_counter() - started,
        skipped=totals.skipped,
        covering_stride=plan.covering_stride if plan else None,
        planned_windows=plan.num_windows if plan else meta.num_windows,
        windows_at_covering_stride=plan.windows_at_covering_stride() if plan else meta.num_windows,
        windows_spread_evenly=plan.windows_spread_evenly() if plan else meta.num_windows,
        slices_without_windows=totals.without_windows,
        num_without_windows=totals.num_without_windows,
    )
