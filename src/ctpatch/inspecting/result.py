"""What an inspection found, as values: nothing in it names a patient; files are named where that was asked for."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["image", "mask", "target"]


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence that is true of some slices or files.

    Attributes:
        kind: a short stable word.
        message: the sentence.
        count: of how many files it is true; 0 where it is true of a series as a whole.
        first: the first of these files, where names are shown.
        fault: whether `prepare` stops at it, unless such files are to be skipped.
    """

    kind: str
    message: str
    count: int = 0
    first: str | None = None
    fault: bool = False


@dataclass(frozen=True, slots=True)
class SeriesSeen:
    """One series.

    Attributes:
        number: from 1 on, in its section.
        patient: number of the patient, or of what stands for one, from 1 on.
        slices: how many there are.
        shape: rows and columns; of arrays whose axes are not known, as they are stored.
        name: of the file or folder, for formats that name series so; None where names are not shown.
        description, kernel: as the headers have them; blank where they say none.
        thickness_mm: of a slice; None where it is not known.
        step_mm: the usual distance between neighbouring slices; None where it is not known.
        spacing_mm: distance of rows and of columns; None where it is not known.
        missing: about how many slices the gaps have room for.
        plane: `axial`, `coronal`, `sagittal`, `oblique` or `unknown`.
        role: what the command makes of it.
        hu: lowest and highest HU of the slices that were read; None where none were, or values are not in HU.
        slices_read: how many were read.
        suspicions: what to look at before the series is used.
    """

    number: int
    patient: int
    slices: int
    shape: tuple[int, ...]
    name: str | None
    description: str
    kernel: str
    thickness_mm: float | None
    step_mm: float | None
    spacing_mm: tuple[float, float] | None
    missing: int
    plane: str
    role: Role
    hu: tuple[float, float] | None
    slices_read: int
    suspicions: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What is there of one format.

    Attributes:
        format: as `ctpatch prepare` calls it.
        title: what it is.
        patients: how many there are, or of what stands for a patient.
        patient_kind: what stands for a patient: `patient`, `study`, `series`, `folder` or `file`; several by `or`.
        series: all series.
        left_out: what `prepare` would leave out, and why.
        notes: what else to know.
        commands: lines that prepare it; words in capitals are to be replaced.
        hu_unknown: why no HU are shown; blank where they are.
    """

    format: str
    title: str
    patients: int
    patient_kind: str
    series: tuple[SeriesSeen, ...]
    left_out: tuple[Said, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]
    hu_unknown: str = ""

    @property
    def slices(self) -> int:
        """How many slices `prepare` would find."""
        return sum(each.slices for each in self.series)


@dataclass(frozen=True, slots=True)
class SetSeen:
    """A set that ctpatch wrote: what it is, how often it is there, and the command that looks at the first."""

    kind: str
    count: int
    command: str


@dataclass(frozen=True, slots=True, repr=False)
class Inspection:
    """What is in a tree.

    Attributes:
        source: as the user gave it.
        files: how many there are.
        sections: one for each format that has slices.
        others: files that are no CT which ctpatch reads, by what they are.
        sets: what ctpatch wrote.
        slices_asked: of each series, how many slices were to be read for the HU.
    """

    source: str
    files: int
    sections: tuple[Section, ...] = ()
    others: tuple[Said, ...] = ()
    sets: tuple[SetSeen, ...] = field(default=())
    slices_asked: int = 0

    @property
    def usable(self) -> bool:
        """Whether there is something to prepare, or a set."""
        return bool(self.sections or self.sets)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for programs."""
        return {**asdict(self), "usable": self.usable}

    def __repr__(self) -> str:
        from ctpatch.inspecting.text import inspection_lines  # noqa: PLC0415

        return "\n".join(inspection_lines(self))

    def _repr_html_(self) -> str:
        from ctpatch.inspecting.page import inspection_html  # noqa: PLC0415

        return inspection_html(self)
