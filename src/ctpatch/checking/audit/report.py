"""What an audit found: leaks between splits, duplicates within them, and what could not be checked."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ctpatch.checking.findings import counted

MAX_KEPT = 1000
"""Leaks of one check beyond these are counted, not kept; faults likewise."""

CHECKS = {
    "patient": "patients in more than one split",
    "patient-spelling": "patients in more than one split whose ids are the same but for spelling",
    "identical-slice": "identical slices",
    "mirrored-slice": "identical slices, mirrored or turned",
    "near-slice": "near-duplicate slices",
    "identical-patch": "identical patches",
    "overlapping-patch": "patches that overlap in one slice",
    "same-source": "slices made from the same source",
}
"""The checks between splits, by their stable names, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class RowRef:
    """A row of a split's table.

    Attributes:
        split: name of the split.
        file: name of the table's file.
        row: line of that file, the header being line 1.
        id: what the row is about: the slice, or the patch.
        path: its file as the table names it; empty where it names none.
    """

    split: str
    file: str
    row: int
    id: str
    path: str

    def __str__(self) -> str:
        path = f", {self.path}" if self.path else ""
        return f"{self.split}: {self.file} row {self.row}, {self.id}{path}"


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that is in two splits.

    Attributes:
        check: stable name of the check, one of `CHECKS`.
        first, second: the two rows.
        message: what they share.
        correlation: of the block means, for near-duplicates.
        detail: the detail correlation, for near-duplicates.
        symmetry: how the second is turned against the first, where it is.
        others: how many further rows of the first split share the same with the second row.
    """

    check: str
    first: RowRef
    second: RowRef
    message: str
    correlation: float | None = None
    detail: float | None = None
    symmetry: str | None = None
    others: int = 0

    def __str__(self) -> str:
        return f"{self.first} | {self.second} | {self.message} [{self.check}]"


@dataclass(frozen=True, slots=True)
class NotChecked:
    """A check that was not made, of a whole split or of `count` of its slices, and why."""

    split: str
    what: str
    why: str
    count: int | None = None

    def __str__(self) -> str:
        count = "" if self.count is None else f", {counted(self.count, 'slice', 'slices')}"
        return f"{self.split}: {self.what}{count}: {self.why}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that could not be used though it should: its file is missing, damaged, or lies elsewhere.

    Attributes:
        row: the row, or the first of several with the very same fault, such as those of one file.
        message: what is wrong.
        rows: how many rows have it.
    """

    row: RowRef
    message: str
    rows: int = 1

    def __str__(self) -> str:
        more = f", and {self.rows - 1:,} more with the same fault" if self.rows > 1 else ""
        return f"{self.row.split}: {self.row.file} row {self.row.row}: {self.message}{more}"


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        name, folder, kind, layout, arrays: as in `AuditedSplit`.
        slices, patches: rows that were looked at.
        patients: different patients; None where there is no such column.
        constant_slices, constant_patches: those whose pixels are all equal, which are not compared.
        duplicate_slices: slices that repeat an earlier one of the split to the bit.
        mirrored_slices: slices that repeat an earlier one mirrored or turned.
        duplicate_patches: patches that repeat an earlier one to the bit.
        from_patches: slices that were put together from their patches.
    """

    name: str
    folder: str
    kind: str
    layout: str | None
    arrays: tuple[str, ...]
    slices: int
    patches: int | None
    patients: int | None
    constant_slices: int
    constant_patches: int
    duplicate_slices: int
    mirrored_slices: int
    duplicate_patches: int
    from_patches: int


@dataclass(slots=True)
class AuditReport:
    """What an audit saw.

    Attributes:
        threshold, detail_threshold: from which correlations two slices were near-duplicates.
        splits: what was compared.
        findings: the leaks, at most `MAX_KEPT` for each check.
        counts: how many there were, for each check.
        alike: pairs of slices that reach `threshold` and not `detail_threshold`: no findings.
        implied_patches: identical patches of slices that are findings themselves.
        not_checked: what could not be checked, and why.
        faults: rows that could not be used, those of one split with the same fault once; at most `MAX_KEPT`.
        num_faults: how many rows there were.
    """

    threshold: float
    detail_threshold: float
    splits: list[SplitSummary] = field(default_factory=list)
    findings: list[Leak] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    alike: int = 0
    implied_patches: int = 0
    not_checked: list[NotChecked] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    num_faults: int = 0
    _places: dict[tuple[str, str, str], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def status(self) -> str:
        """`leaks`; or `incomplete`, where none was found but rows could not be used; or `ok`."""
        if self.num_findings:
            return "leaks"
        return "incomplete" if self.num_faults else "ok"

    @property
    def ok(self) -> bool:
        """Whether no leak was found and every row could be used."""
        return self.status == "ok"

    @property
    def num_findings(self) -> int:
        """How many leaks there were."""
        return self.counts.total()

    def add(self, leaks: Iterable[Leak]) -> None:
        """Note leaks."""
        for leak in leaks:
            self.counts[leak.check] += 1
            if self.counts[leak.check] <= MAX_KEPT:
                self.findings.append(leak)

    def add_fault(self, fault: Fault) -> None:
        """Note a row that could not be used."""
        self.num_faults += fault.rows
        key = (fault.row.split, fault.row.file, fault.message)
        if key in self._places:
            earlier = self.faults[self._places[key]]
            self.faults[self._places[key]] = replace(earlier, rows=earlier.rows + fault.rows)
        elif len(self.faults) < MAX_KEPT:
            self._places[key] = len(self.faults)
            self.faults.append(fault)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for programs."""
        return {
            "status": self.status,
            "ok": self.ok,
            **{name: value for name, value in asdict(self).items() if not name.startswith("_")},
            "counts": {check: self.counts[check] for check in CHECKS},
            "num_findings": self.num_findings,
        }
