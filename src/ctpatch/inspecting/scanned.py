"""What is there of one format, as `prepare` would find it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from ctpatch.errors import SourceManifestError, UsageError, one_line
from ctpatch.inspecting.commands import prepare_line
from ctpatch.inspecting.partners import Partners, find_partners
from ctpatch.inspecting.result import Role, Said, Section, SeriesSeen
from ctpatch.inspecting.samples import Sample, sample, spread
from ctpatch.prepare.pairs import repeated_places
from ctpatch.prepare.readers import raw_format
from ctpatch.prepare.readers.base import LeftOut, RawFormat, RawSlice, Scan, SeriesFacts, SeriesNote
from ctpatch.prepare.readers.dicom.series import Steps
from ctpatch.prepare.readers.images import Images
from ctpatch.prepare.readers.lodopab import Lodopab
from ctpatch.prepare.readers.lodopab.reader import is_observation
from ctpatch.prepare.readers.numpy import Numpy

MOST_SERIES_READ = 100
"""Of so many series slices are read; of a large archive the first tell enough, and an inspection is to be quick."""
_PARTNERED = frozenset({"nifti", "metaimage", "nrrd", "numpy", "images"})
_NAMED_BY_FILES = _PARTNERED
_STRAIGHT = 0.8
"""A normal of at least this cosine with an axis has its plane, as in `prepare`: tilts of up to 36 degrees included."""
_AS_MASK = (
    "its values are whole numbers from 0 to {high}, {count} of them, as in a mask: masks go to --mask or "
    "--mask-series, not among the images"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What an inspection is asked for: the source as the user gave it and as it is, and how to look."""

    source: str
    root: Path
    slices: int
    names_shown: bool
    follow_links: bool
    workers: int


@dataclass(slots=True)
class Outcome:
    """The section of a format, None where it has no slice; what its reader left out; and files it has claimed."""

    section: Section | None
    left_out: list[LeftOut] = field(default_factory=list)
    claimed: set[str] = field(default_factory=set)


def look_at_format(
    reader: str, files: Sequence[str], elsewhere: frozenset[str], asked: Asked, advance: Callable[[int], None]
) -> Outcome:
    """Scan one format.

    Args:
        reader: its name.
        files: that are of this format by their first bytes or their names.
        elsewhere: files of other formats, and in sets: they are no matter of this one.
        asked: how to look.
        advance: is told how many files were looked at.
    """
    raw = _format(reader, files, asked)
    one = raw.reader("image" if reader != "lodopab" else "target", asked.workers)
    try:
        scan = one.scan(asked.root, advance)
    except (UsageError, SourceManifestError) as error:
        # A library that is not installed, or a list that is damaged: other formats can be looked at all the same.
        return Outcome(None, [LeftOut(name, "not-looked-at", error.message, fault=True) for name in files], set(files))
    scan.slices = [each for each in scan.slices if each.file not in elsewhere]
    own = set(files)
    left = [each for each in scan.left_out if _file(each, own) in own or (each.fault and each.where not in elsewhere)]
    left = [each for each in left if each.kind != "broken-link"]
    if not scan.slices:
        return Outcome(None, left, {_file(each, own) for each in left})
    claimed = own | {file for each in scan.slices for file in each.files} | {each.where for each in left}
    in_hu = (
        reader != "numpy"
        and raw.in_hu
        and (reader != "images" or (isinstance(raw, Images) and raw.hu_preset is not None))
    )
    partners = find_partners(scan.slices) if reader in _PARTNERED else []
    seen = _Series(asked, scan, {each: p.role for p in partners for each in p.others}, named=reader in _NAMED_BY_FILES)
    series: list[SeriesSeen] = []
    for number, (name, slices) in enumerate(_by_series(scan.slices), start=1):
        chosen = spread(slices, asked.slices) if in_hu and asked.slices and number <= MOST_SERIES_READ else []
        read = sample(one, asked.root, chosen)
        left += read.faults
        series.append(seen.describe(number, name, slices, read))
    kinds = " or ".join(sorted({each.who_kind for each in scan.slices}))
    section = Section(
        format=reader,
        title=raw.title,
        patients=len(seen.patients),
        patient_kind=kinds,
        series=tuple(series),
        left_out=tuple(said_of(left, names_shown=asked.names_shown)),
        notes=tuple(_notes(scan, seen.roles, partners)),
        commands=tuple(_commands(reader, raw, files, asked, partners)),
        hu_unknown="" if in_hu else _why_no_hu(reader),
    )
    return Outcome(section, left, claimed)


def _file(left: LeftOut, own: set[str]) -> str:
    """The file of what was left out, which can be an item of it: `a.hdf5[3]`."""
    return left.where if left.where in own or not left.where.endswith("]") else left.where.rpartition("[")[0]


def _format(reader: str, files: Sequence[str], asked: Asked) -> RawFormat:
    """The format, with what it needs to be scanned; what the user has to state is not shown."""
    kind = raw_format(reader)
    if reader == "numpy":
        return Numpy(axes="zyx", voxel_spacing=(1.0, 1.0, 1.0), follow_links=asked.follow_links)
    if reader == "images":
        if any("Images_png" in f"{asked.root.name}/{name}".split("/") for name in files):
            return Images(hu_preset="deeplesion", follow_links=asked.follow_links)
        return Images(hu_intercept=0.0, follow_links=asked.follow_links)
    return kind(follow_links=asked.follow_links)


def _why_no_hu(reader: str) -> str:
    if reader == "lodopab":
        return "values are in [0, 1] already"
    if reader == "numpy":
        return "arrays do not say their axes and spacing: you state them (--axes, --voxel-spacing)"
    return "pictures do not say what HU their numbers stand for: you state it (--hu-intercept, --hu-slope)"


def _by_series(slices: Iterable[RawSlice]) -> list[tuple[str, list[RawSlice]]]:
    return [(name, list(each)) for name, each in groupby(slices, key=lambda raw: raw.series)]


class _Series:
    """Describes series, and numbers patients in the order in which they are found."""

    def __init__(self, asked: Asked, scan: Scan, roles: dict[RawSlice, str], *, named: bool) -> None:
        self.patients: dict[str, int] = {}
        self.roles = roles
        self._asked, self._facts, self._named = asked, scan.facts, named
        self._notes: dict[str, list[SeriesNote]] = defaultdict(list)
        for note in scan.notes:
            if isinstance(note, SeriesNote):
                self._notes[note.series].append(note)

    def describe(self, number: int, name: str, slices: list[RawSlice], read: Sample) -> SeriesSeen:
        first = slices[0]
        facts = self._facts.get(name, SeriesFacts())
        patient = self.patients.setdefault(first.who, len(self.patients) + 1)
        positions = [each.position_mm for each in slices if each.position_mm is not None]
        steps = Steps.between(positions)
        given = self.roles.get(first)
        role: Role = "mask" if given == "mask" else "target" if given == "target" else "image"
        tally = read.tally
        return SeriesSeen(
            number=number,
            patient=patient,
            slices=len(slices),
            shape=first.shape,
            name=one_line(first.label or name) if self._named and self._asked.names_shown else None,
            description=one_line(facts.description),
            kernel=one_line(facts.kernel),
            thickness_mm=facts.thickness_mm,
            step_mm=None if steps is None else round(steps.usual, 6),
            spacing_mm=first.spacing_mm,
            missing=0 if steps is None else steps.missing,
            plane=plane_of(first),
            role=role,
            hu=(tally.low, tally.high) if tally.pixels else None,
            slices_read=tally.slices,
            suspicions=tuple(self._suspicions(name, role, read)),
        )

    def _suspicions(self, name: str, role: Role, read: Sample) -> list[Said]:
        found = [Said(note.kind, one_line(note.message)) for note in self._notes[name]]
        if role == "mask":
            return found
        if read.like_a_mask:
            labels = read.labels or set()
            return [*found, Said("like-a-mask", _AS_MASK.format(high=max(labels), count=len(labels)))]
        return found + [Said(kind, one_line(message)) for kind, message in read.suspicions()]


def plane_of(raw: RawSlice) -> str:
    """`axial`, `coronal`, `sagittal`, `oblique`, or `unknown`, by the direction that a slice looks in."""
    if raw.axes is None:
        return "unknown"
    normal = np.abs(np.cross(np.array(raw.axes[:3]), np.array(raw.axes[3:])))
    largest = int(normal.argmax())
    return ("sagittal", "coronal", "axial")[largest] if normal[largest] >= _STRAIGHT else "oblique"


def said_of(left: Iterable[LeftOut], *, names_shown: bool) -> list[Said]:
    """What was left out, a record for each kind and reason, the most frequent first."""
    found: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for each in left:
        found[each.kind, each.reason, each.fault].append(each.where)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        Said(kind, one_line(reason), len(where), one_line(min(where)) if names_shown else None, fault)
        for (kind, reason, fault), where in ordered
    ]


def _notes(scan: Scan, roles: dict[RawSlice, str], partners: Sequence[Partners]) -> Iterable[str]:
    yield from (one_line(note) for note in scan.notes if isinstance(note, str))
    images = [each for each in scan.slices if each not in roles]
    if repeated := repeated_places(images):
        yield repeated
    for each in partners:
        yield f"{each.pairs:,} of {len(each.images):,} slices have a {each.role} that lies on them, pixel on pixel"
    if any(each.pairs < len(each.images) for each in partners):
        yield "prepare leaves out slices that have no partner"
    many = Counter(each.series for each in scan.slices)
    if len(many) > MOST_SERIES_READ:
        yield f"slices of the first {MOST_SERIES_READ} series were read for the HU"


def _commands(
    reader: str, raw: RawFormat, files: Sequence[str], asked: Asked, partners: Sequence[Partners]
) -> Iterable[str]:
    options = ["--follow-links"] if asked.follow_links else []
    if reader == "numpy":
        options += ["--axes", "AXES", "--voxel-spacing", "MM", "MM", "MM"]
    if isinstance(raw, Images):
        options += ["--hu-preset", "deeplesion"] if raw.hu_preset else ["--hu-intercept", "HU"]
    if isinstance(raw, Lodopab) and any(map(is_observation, files)):
        options += ["--pairs"]
    if not partners:
        yield prepare_line(reader, asked.source, options)
    yield from (prepare_line(reader, asked.source, options, each) for each in partners)
