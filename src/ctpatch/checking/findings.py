"""What a check found wrong, and the report of a verification."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ctpatch.errors import one_line

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
        patches: how many patches a fault of a whole file concerns; None where it is not about a file of pixels.
    """

    check: str
    file: str
    row: int | None
    message: str
    patches: int | None = None

    def __post_init__(self) -> None:
        # They quote cells and names of files, which may come from anyone.
        object.__setattr__(self, "message", one_line(self.message))

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file} row {self.row}"
        said = self.message if self.message.startswith(where) else f"{where}: {self.message}"
        concerned = f" ({counted(self.patches, 'patch', 'patches')})" if self.patches else ""
        return f"{said}{concerned} [{self.check}]"


def counted(count: int, one: str, several: str) -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else several}"


@dataclass(slots=True)
class VerifyReport:
    """What a verification saw.

    Attributes:
        name: the set, `dataset/split`.
        status: `ok`, `failed`, or `incomplete` (the build has not finished).
        deep: whether the set was built again from its sources, in thought, and compared.
        num_patches, num_slices: how many were looked at.
        findings: what is wrong, at most `MAX_KEPT`; a fault of a file of pixels once, with its number of patches.
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
    _files: dict[tuple[str, str], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return self.status == "ok"

    def add(self, findings: Iterable[Finding]) -> None:
        """Note findings; one is enough to fail. Of one file's faults of one check only the first is told."""
        for finding in findings:
            key = (finding.check, finding.file)
            if finding.patches is not None:
                if key in self._files:
                    self._add_patches(self._files[key], finding.patches)
                    continue
                self._files[key] = len(self.findings)
            self.num_findings += 1
            self.counts[finding.check] += 1
            if len(self.findings) < MAX_KEPT:
                self.findings.append(finding)
            if self.status == "ok":
                self.status = "failed"

    def _add_patches(self, place: int, patches: int) -> None:
        if place < len(self.findings):  # else the finding was counted, not kept
            earlier = self.findings[place]
            self.findings[place] = replace(earlier, patches=(earlier.patches or 0) + patches)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for programs."""
        plain = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        return {**plain, "counts": dict(self.counts), "ok": self.ok}
