"""What a kind of raw CT is: slices as its reader finds them, before anything is decided; its reader; its options.

Nothing heavy is imported here: the help of the command line comes from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from ctpatch.words import MatchBy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GroupKind = Literal["patient", "study", "series", "folder", "file", "case"]
Unit = Literal["HU", "mapped"]


class References(NamedTuple):
    """Ids by which other DICOM objects refer to a slice; blank where it does not say them. They are never written."""

    frame: str
    series: str
    instance: str


@dataclass(frozen=True, slots=True)
class RawSlice:
    """One slice that could be prepared.

    Identifiers stand here as the source has them: they never reach an output file, only keyed pseudonyms of them do.
    What the source does not say is None.

    Attributes:
        file: the file it is in, relative to the source folder, with `/`.
        item: which frame, plane or row of that file; 0 where there is one.
        shape: `(H, W)` in pixels.
        group: what must not be divided between splits.
        group_kind: what `group` is: the patient, or, where that is blank, the next wider thing that is known.
        series: what belongs together as one stack.
        order: place in its series, from 0, along the slice normal.
        position_mm: position along the slice normal.
        spacing_mm: distance of pixel centres along rows and columns, `(row, col)`.
        unit: `HU`, or `mapped` where values are in [0, 1] already.
        split: the split that the source itself gives.
        label: what a series is called in the source, for `--series` patterns; never written.
        names: the parts of the label that a pattern can fit alone: description and kernel.
        origin_mm: centre of the first pixel in the patient.
        axes: directions of the columns' and the rows' numbers in the patient, six cosines.
        patient: whose slice it is, where splits keep something else together than the patient: `group` then is a
            series, say, and `patient` the patient; None says that the group is, or stands for, the patient.
        patient_kind: what `patient` is: the patient, or the study that stands for one without an id.
        beside: files that hold pixels of it, where `file` has the header alone; relative to the source folder.
        known_as: ids by which other objects refer to it; None where its format has none.
    """

    file: str
    item: int
    shape: tuple[int, int]
    group: str
    group_kind: GroupKind
    series: str
    order: int
    position_mm: float | None = None
    spacing_mm: tuple[float, float] | None = None
    unit: Unit = "HU"
    split: str | None = None
    label: str = ""
    names: tuple[str, ...] = ()
    origin_mm: tuple[float, float, float] | None = None
    axes: tuple[float, float, float, float, float, float] | None = None
    patient: str | None = None
    patient_kind: GroupKind | None = None
    beside: tuple[str, ...] = ()
    known_as: References | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files that the slice is in."""
        return (self.file, *self.beside)

    @property
    def who(self) -> str:
        """The patient, or what stands for one."""
        return self.group if self.patient is None else self.patient

    @property
    def who_kind(self) -> GroupKind:
        """What `who` is."""
        return self.patient_kind or self.group_kind


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or slice that is not prepared, and why.

    Attributes:
        where: the file, relative to the source folder, with the item where it has several.
        kind: a short stable word, by which they are counted: `not-dicom`, `other-modality`, `duplicate` …
        reason: a sentence, which is written to the output: no name of a file or person, no id, no date stands in it.
        fault: whether it is a slice that cannot be used rather than something that was never meant: `on_error` decides.
    """

    where: str
    kind: str
    reason: str
    fault: bool = False


@dataclass(frozen=True, slots=True)
class SeriesNote:
    """What a user should know of one series: a gap, a tilt, mixed spacing.

    Attributes:
        kind: a short stable word.
        series: the series as its slices name it; its pseudonym is written.
        message: a sentence, written to the output: no name of a file or person, no id, no date stands in it.
    """

    kind: str
    series: str
    message: str


@dataclass(frozen=True, slots=True, order=True)
class SliceRemark:
    """What a user should know of a slice: of its header, or of its pixels, seen when they are read.

    Attributes:
        kind: a short stable word.
        message: a sentence that is the same for all slices it is true of: no name of a file or person, no id, no date
            stands in it.
    """

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The pixels of a slice, and what its file says of them that they no longer show.

    Attributes:
        image: `(H, W)` float32.
        padding: `(H, W)` bool, pixels that the file declares to be no part of the image; None where it declares none.
        padding_hu: lowest and highest HU that the declared pixels would have; None where it declares none.
        remarks: what a user should know.
    """

    image: "NDArray[np.float32]"
    padding: "NDArray[np.bool_] | None" = None
    padding_hu: tuple[float, float] | None = None
    remarks: tuple[SliceRemark, ...] = ()


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What headers say of a series and no slice needs: for the user's eyes, never written to a set.

    Attributes:
        description, kernel: as the source has them; blank where it does not say.
        thickness_mm: of a slice; None where it is not said, or differs between the slices.
    """

    description: str = ""
    kernel: str = ""
    thickness_mm: float | None = None


@dataclass(slots=True)
class Scan:
    """What a reader found in a source tree.

    Attributes:
        slices: in a fixed order: by series, then along the slice normal.
        left_out: what is not prepared.
        notes: what a user should know. A plain sentence is shown and never written, as it may hold names.
        facts: what headers say of series besides, by the names that slices have for them, where a reader knows it.
    """

    slices: list[RawSlice] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str | SeriesNote] = field(default_factory=list)
    facts: dict[str, SeriesFacts] = field(default_factory=dict)


class Reader(Protocol):
    """Finds and reads the slices of one format; small, and safe to send to another process."""

    @property
    def name(self) -> str:
        """Kind of the raw files, as the meta records it."""
        ...

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find the slices below a folder (or in a file) without keeping pixels.

        `advance` is called with the number of files looked at, for progress.

        Raises:
            UsageError: there is no such folder, or a library is not installed.
            SourceManifestError: a list that belongs to the files is damaged.
            SystemFailureError: a folder cannot be listed.
        """
        ...

    def read(self, root: Path, slices: Iterable[RawSlice]) -> "Iterable[NDArray[np.float32]]":
        """Read slices of one file, in order: `(H, W)` float32 each, in the unit their record says.

        Raises:
            SliceError: a file is damaged, is not what its header says, or is no longer what it was.
            RangeError: values are not finite, or not in [0, 1] where they should be.
        """
        ...


@runtime_checkable
class ObservingReader(Reader, Protocol):
    """A reader of files that say more of pixels than their values."""

    def observe(self, root: Path, slices: Iterable[RawSlice]) -> Iterable[Observed]:
        """Read slices as `read` does, with what their file says of them."""
        ...


@dataclass(slots=True)
class Labelled:
    """What label objects say of slices.

    Attributes:
        partners: a slice of labels for each slice that is covered.
        images_left: slices that no object covers, and why.
        left_out: files that are not used, and why.
        notes: what a user should know of a series.
        record: what goes on record of the labels, as plain values.
    """

    partners: dict[RawSlice, RawSlice] = field(default_factory=dict)
    images_left: list[LeftOut] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[SeriesNote] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class LabelReader(Reader, Protocol):
    """A reader of objects that have no slices of their own: they mark places in slices that are there."""

    def label(
        self, root: Path, images: "list[RawSlice]", advance: Callable[[int], None], *, names_shown: bool
    ) -> Labelled:
        """Find what the objects below `root` mark in `images`; with `names_shown`, errors may quote names of labels.

        Raises:
            UsageError: the labels asked for do not fit the objects.
        """
        ...


def observed(reader: Reader, root: Path, slices: Iterable[RawSlice]) -> Iterator[Observed]:
    """Read slices with any reader; what it says of them beside their values, where it says something."""
    if isinstance(reader, ObservingReader):
        yield from reader.observe(root, slices)
    else:
        yield from (Observed(image) for image in reader.read(root, slices))


@dataclass(frozen=True)
class RawFormat(ABC):
    """A kind of raw CT, as a frozen dataclass whose fields are the options that it alone has.

    The command line and Python take the fields as they stand; what the docstring of the subclass says of an attribute
    is the help of the option. `Annotated[bool, "Splits"]` puts it under that heading of the help, and a text such as
    `"--filter"` there is its name on the command line. A subclass lies in a folder beside this file and imports its
    libraries where it needs them.

    Attributes:
        name: what the command and the reader are called.
        title: what it is, for the help: one sentence without a full stop.
        packages: distributions whose version can decide the pixels.
        match_by: how partners are found where the user does not say.
        in_hu: whether its values are HU: a window, a second source, a mask and series can then be given. Otherwise
            they are in [0, 1] already.
        follow_links: whether its readers follow links that leave the source, and links to folders. All formats have
            this option; a reader hands it to `find_files` and `source_file`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    match_by: ClassVar[MatchBy] = "position"
    in_hu: ClassVar[bool] = True

    follow_links: bool = field(default=False, kw_only=True)

    @abstractmethod
    def reader(self, array: str, workers: int) -> Reader:
        """The reader of an array, with these options.

        Args:
            array: `image`, `target` or `mask`, whose values are to stay as they are.
            workers: processes on this machine that may look at headers.

        Raises:
            ConfigError: the options make no sense.
        """

    def mask_reader(self, source: Path, workers: int) -> Reader:
        """The reader of a source of masks for which no pattern is given, by what lies there."""
        del source
        return self.reader("mask", workers)

    def arrays(self) -> tuple[str, ...]:
        """The arrays that one source gives: `image`, and what lies beside it."""
        return ("image",)

    def recorded(self) -> dict[str, Any]:
        """What decides the result, by name, for the record."""
        return {}
