"""What a check found wrong, and the report of a verification."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_KEPT = 1000
"""Findings beyond these are counted, not kept."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: stable name of the check.
        file: file of the set, or source slice, relative.
        row: line of that table, the header being line 1; None where no row is meant.
        message: what is wrong: the value seen and the value wanted.
    """

    check: str
    file: str
    row: int | None
    message: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file} row {self.row}"
        return f"{where}: {self.message} [{self.check}]"


@dataclass(slots=True)
class VerifyReport:
    """What a verification saw.

    Attributes:
        name: the set, `dataset/split`.
        status: `ok`, `failed`, or `incomplete` (the build has not finished).
        deep: whether each patch was cut again from its source.
        num_patches, num_slices: how many were looked at.
        findings: what is wrong, at most `MAX_KEPT`.
        num_findings: how many there were.
        counts: how many for each check.
    """

    name: str
    deep: bool
    status: str = "ok"
    num_patches: int = 0
    num_slices: int = 0
    findings: list[Finding] = field(default_factory=list)
    num_findings: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return self.status == "ok"

    def add(self, findings: Iterable[Finding]) -> None:
        """Note findings; one is enough to fail."""
        for finding in findings:
            self.num_findings += 1
            self.counts[finding.check] += 1
            if len(self.findings) < MAX_KEPT:
                self.findings.append(finding)
            if self.status == "ok":
                self.status = "failed"

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for programs."""
        return {**asdict(self), "counts": dict(self.counts), "ok": self.ok}
