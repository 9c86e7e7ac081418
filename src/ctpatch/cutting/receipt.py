"""What a finished part of a set left, and whether a later run may trust it.

Resume trusts a receipt only where its own digest holds, the plan is the same, the sources are what they were, and
every pixel written has the digest on record.
"""

from dataclasses import dataclass, field

from ctpatch.cutting.changes import refuse_changed_sources
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part
from ctpatch.cutting.values import SumsOnRecord
from ctpatch.errors import CtPatchError
from ctpatch.files.digest import file_digest
from ctpatch.format.tables import TABLES, read_table
from ctpatch.layouts import layout_of
from ctpatch.work.receipt import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class CutReceipt(Receipt):
    """What a finished part of a set did.

    Attributes:
        num_slices, num_skipped: slices cut and left out.
        num_windows, num_patches: windows judged and kept.
        dropped: windows dropped, for each rule.
        covered_pixels, total_pixels: of the slices that were cut.
        pixel_bytes: bytes of pixel files written.
        sources: for each slice its index and the digest of each array (none where it was left out).
        pieces: digest of its rows of each table.
        skipped: reasons of slices left out.
        mismatches: slices whose stated min or max is not that of the pixels.
        converted: dtypes other than float32 that were converted.
        without_windows: slices smaller than a patch.
        clipped: slices in which values were clipped that lay outside the range by rounding.
        labels: for each array of labels: each label with its pixels, the slices and the kept windows that hold it.
        uncounted: for each of these arrays the slices whose labels were not counted one by one.
        values: for each array without labels how the pixels of its patches and slices are spread.
    """

    num_slices: int
    num_skipped: int
    num_windows: int
    num_patches: int
    dropped: dict[str, int]
    covered_pixels: int
    total_pixels: int
    pixel_bytes: int
    sources: list[tuple[int, list[str]]]
    pieces: dict[str, str]
    skipped: list[str]
    mismatches: list[str]
    converted: list[str]
    without_windows: list[str]
    clipped: list[str] = field(default_factory=list)
    labels: dict[str, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    uncounted: list[int] = field(default_factory=list)
    values: dict[str, dict[str, SumsOnRecord]] = field(default_factory=dict)


def trusted_receipt(job: Job, part: Part, *, check_sources: bool) -> CutReceipt | None:
    """The receipt of an earlier run where everything it says still holds, else None: the part is done again.

    Raises:
        SourceChangedError: a source slice is no longer what the earlier run read.
    """
    receipt = CutReceipt.of_plan(job.state, part.number, job.plan_digest)
    indices = [task.slice_index for task in part.tasks]
    if (
        receipt is None
        or not counts_labels(job, receipt)
        or receipt.num_skipped
        or [source[0] for source in receipt.sources] != indices
    ):
        return None
    if check_sources:
        refuse_changed_sources(job, part, receipt.sources, receipt.started_ns, strict=job.strict)
    return receipt if _outputs_hold(job, part, receipt) else None


def counts_labels(job: Job, receipt: CutReceipt) -> bool:
    """Whether a part has counted the labels of a set; one of an earlier version has not, and its rows lack columns."""
    return list(receipt.labels) == list(job.counted)


def _outputs_hold(job: Job, part: Part, receipt: CutReceipt) -> bool:
    try:
        if any(file_digest(job.piece(part.number, table)) != receipt.pieces.get(table) for table in TABLES):
            return False
        # All three are read: rows of an earlier version, with fewer columns, are made anew.
        rows, slices, _ = (
            read_table(job.piece(part.number, table), job.schema(table), has_header=False) for table in TABLES
        )
        layout = layout_of(job.layout)
        wrong = layout.wrong_pixels(rows, slices, job.arrays, job.resolve_patch, job.config.patch_size)
        return next(wrong, None) is None
    except (OSError, CtPatchError):
        return False
