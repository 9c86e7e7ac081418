"""CT slices from a folder of DICOM files, whatever their names, depth and order."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError, UsageError
from ctpatch.files.digest import array_digest
from ctpatch.prepare.readers.base import LeftOut, Observed, RawSlice, Scan
from ctpatch.prepare.readers.dicom import GroupBy
from ctpatch.prepare.readers.dicom.acquisitions import told_apart
from ctpatch.prepare.readers.dicom.choices import ALL, Choices, none_of_kernel, plane_of
from ctpatch.prepare.readers.dicom.file import FileProblemError, import_pydicom
from ctpatch.prepare.readers.dicom.header import CtHeader, Permission, named_frame
from ctpatch.prepare.readers.dicom.kinds import SCOUT
from ctpatch.prepare.readers.dicom.look import look_at
from ctpatch.prepare.readers.dicom.pixels import read_pixels
from ctpatch.prepare.readers.dicom.series import (
    Placed,
    Stack,
    Turn,
    group_of,
    into_series,
    is_scout,
    oddities,
    place,
    raw_slices,
    same_position,
    series_facts,
    upright_turn,
)
from ctpatch.prepare.readers.tree import find_files, source_folder
from ctpatch.work.executors.base import Done, Failed
from ctpatch.work.executors.choose import local_executor
from ctpatch.work.executors.processes import ProcessExecutor

_FILES_AT_ONCE = 64
_NOT_HU = ("not-hu", "its RescaleType leaves open what its values are, and they do not reach down to air as HU do")
_AIR_OR_LUNG_HU = -500.0
_SHARE_OF_AIR = 0.001
"""Every slice of a body shows air around or in it; a thousandth is far less, and more than some defective pixels."""
_ENDS_PROCESS = "it ended the process that looked at it, twice"


@dataclass(frozen=True, slots=True)
class DicomReader:
    """Finds CT slices by content and reads them as HU, upright or, with `keep_orientation`, as they are stored.

    Attributes:
        group_by: what must not be divided between splits; where it is blank, the next in the order patient, study,
            series, folder counts. `top-folder` is the first folder below the source.
        allow_deflated: read deflated files, within bounds.
        labels: the files are masks: padding is left as it is.
        workers: processes that look at headers.
        assume_hu: stored values of files that lack RescaleSlope or RescaleIntercept are HU.
        keep_reformats: read reformats and projections too; masks are read whatever they were made from.
        follow_links: whether links that leave the source are followed.
        choices: which planes, kernels and thicknesses are meant.
    """

    group_by: GroupBy = "patient"
    allow_deflated: bool = False
    keep_orientation: bool = False
    labels: bool = False
    workers: int = 1
    name: str = "dicom"
    assume_hu: bool = False
    keep_reformats: bool = False
    follow_links: bool = False
    choices: Choices = ALL

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find the slices below a folder by the headers of its files."""
        import_pydicom()
        files, left_out = find_files(root, follow_links=self.follow_links)
        root = source_folder(root)
        looked = list(self._look(root, files, advance))
        headers = [each for each in looked if isinstance(each, CtHeader)]
        found = Scan(left_out=[*left_out, *(each for each in looked if isinstance(each, LeftOut))])
        placed = (place(header, keep_orientation=self.keep_orientation) for header in headers)
        for stack in self._chosen(into_series(placed, self.group_by), found):
            kept = self._without_duplicates(root, stack.slices, found)
            series, notes = told_apart(stack.name, kept)
            found.notes.extend(notes)
            for name, slices in series.items():
                self._add(root, replace(stack, name=name, slices=slices), found)
        found.left_out.sort(key=lambda each: each.where)
        found.notes.extend(_one_id_for_all(headers, self.group_by))
        return found

    def _add(self, root: Path, stack: Stack, found: Scan) -> None:
        """Add a series to what was found, without what its slices together show to be no slices in HU."""
        kept = stack.slices
        if kept and self._is_scout(kept):
            found.left_out.extend(LeftOut(each.header.where, *SCOUT) for each in kept)
            return
        unknown = [each for each in kept if each.header.unit_unknown]
        if unknown and not self.labels and not self._reaches_air(root, stack.name, unknown):
            found.left_out.extend(LeftOut(each.header.where, *_NOT_HU) for each in unknown)
            kept = [each for each in kept if not each.header.unit_unknown]
        if kept:
            found.notes.extend(oddities(stack.name, kept, stack.orientations))
            found.facts[stack.name] = series_facts(kept)
            found.slices.extend(raw_slices(stack.name, kept, self.group_by))

    def _is_scout(self, series: list[Placed]) -> bool:
        return not self.keep_reformats and not self.labels and is_scout(series)

    def _chosen(self, stacks: list[Stack], found: Scan) -> Iterator[Stack]:
        """The series without the slices that are not meant; scout views are left out later, for what they are."""
        others = (stack for stack in stacks if not self._is_scout(stack.slices))
        judged = [(each, self.choices.against(each.header)) for stack in others for each in stack.slices]
        if self.choices.kernel is not None and judged and all(why and why[0] == "other-kernel" for _, why in judged):
            raise UsageError(none_of_kernel(self.choices.kernel, (each.header.kernel for each, _ in judged)))
        found.left_out.extend(LeftOut(each.header.where, *why) for each, why in judged if why is not None)
        meant = {each.header.where for each, why in judged if why is None}
        with_axial = {
            group_of(each.header, "study") for each, why in judged if not why and plane_of(each.header.axes) == "axial"
        }
        for stack in stacks:
            if self._is_scout(stack.slices):
                yield stack
                continue
            kept: list[Placed] = []
            for each in (each for each in stack.slices if each.header.where in meant):
                study = group_of(each.header, "study")
                why = self.choices.against_plane(each.header, with_axial=study in with_axial)
                if why is None:
                    kept.append(each)
                else:
                    found.left_out.append(LeftOut(each.header.where, *why))
            if kept:
                yield replace(stack, slices=kept)

    def _reaches_air(self, root: Path, name: str, series: list[Placed]) -> bool:
        """Whether the values of a middle slice go down to those of air, as HU do; also where it cannot be read."""
        (one,) = raw_slices(name, [series[len(series) // 2]], self.group_by)
        try:
            image = next(iter(self.read(root, [one])))
        except SliceError:
            return True
        return float((image <= _AIR_OR_LUNG_HU).mean()) >= _SHARE_OF_AIR

    def _permissions(self) -> frozenset[Permission]:
        given: dict[Permission, bool] = {
            "assume-hu": self.assume_hu,
            "keep-reformats": self.keep_reformats or self.labels,
            "labels": self.labels,
        }
        return frozenset(name for name, value in given.items() if value)

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        """Read slices: `(H, W)` float32 in HU, upright unless their orientation is kept."""
        return (each.image for each in self.observe(root, slices))

    def observe(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[Observed]:
        """Read slices as `read` does, with their padding and what is odd about their bits."""
        root = source_folder(root)
        for file, run in groupby(slices, key=lambda each: each.file):
            together = list(run)
            images = self._read(root, file, [each.item for each in together])
            for each in together:
                where = named_frame(file, each.item)
                try:
                    seen = next(images)
                except FileProblemError as problem:
                    raise SliceError(f"{where}: {problem}") from None
                if seen.image.shape != each.shape:
                    raise SliceError(f"{where}: it has shape {seen.image.shape}, when it was found it had {each.shape}")
                yield seen

    def _ways(self) -> dict[str, bool]:
        return {"allow_deflated": self.allow_deflated, "follow_links": self.follow_links}

    def _read(self, root: Path, file: str, frames: Iterable[int]) -> Iterator[Observed]:
        for pixels in read_pixels(str(root), file, frames, raw=self.labels, **self._ways()):
            turn = Turn() if self.keep_orientation else upright_turn(pixels.axes) or Turn()
            padding = None if pixels.padding is None else turn.apply(pixels.padding)
            yield Observed(np.ascontiguousarray(turn.apply(pixels.hu)), padding, pixels.padding_hu, pixels.remarks)

    def _look(self, root: Path, files: list[str], advance: Callable[[int], None]) -> Iterator[CtHeader | LeftOut]:
        executor = local_executor(self.workers if len(files) > _FILES_AT_ONCE else 1)
        batches = [tuple(files[start : start + _FILES_AT_ONCE]) for start in range(0, len(files), _FILES_AT_ONCE)]
        shared = (str(root), self._ways(), self._permissions())
        while batches:
            lost: list[str] = []
            for outcome in executor.run(_look_at_all, shared, batches):
                if isinstance(outcome, Failed):
                    raise outcome.error
                if isinstance(outcome, Done):
                    yield from outcome.result
                elif len(outcome.item) > 1:
                    lost.extend(outcome.item)
                    continue
                else:
                    yield LeftOut(outcome.item[0], "ends-process", _ENDS_PROCESS, fault=True)
                advance(len(outcome.item))
            # Which file of a batch it was shows when each is looked at alone.
            executor, batches = ProcessExecutor(1), [(file,) for file in lost]

    def _without_duplicates(self, root: Path, series: list[Placed], found: Scan) -> list[Placed]:
        """The series without slices that lie where another one lies and have its pixels."""
        surplus: dict[str, LeftOut] = {}
        for run in same_position(series):
            seen: set[str] = set()
            for header in (each.header for each in run):
                try:
                    (read,) = self._read(root, header.file, [header.frame])
                except FileProblemError as problem:
                    surplus[header.where] = problem.left_out(header.where)
                    continue
                digest = array_digest(read.image)
                if digest in seen:
                    reason = "another slice of its series lies at the same place and has the same pixels"
                    surplus[header.where] = LeftOut(header.where, "duplicate", reason)
                seen.add(digest)
        found.left_out.extend(surplus.values())
        return [each for each in series if each.header.where not in surplus]


def _look_at_all(
    shared: tuple[str, dict[str, bool], frozenset[Permission]], files: tuple[str, ...]
) -> list[CtHeader | LeftOut]:
    root, ways, permissions = shared
    return [each for file in files for each in look_at(root, file, permissions=permissions, **ways)]


def _one_id_for_all(headers: list[CtHeader], group_by: GroupBy) -> Iterator[str]:
    """A word where one id stands for what are likely many patients: it would put all of them into one split."""
    groups = Counter(group_of(header, group_by) for header in headers)
    studies = {header.study for header in headers if header.study}
    tops = {header.file.partition("/")[0] for header in headers if "/" in header.file}
    if len(groups) == 1 and group_by == "patient" and next(iter(groups))[1] == "patient" and len(studies) > 1:
        yield (
            f"all {len(headers)} slices of {len(studies)} studies in {len(tops)} top folders have one patient id: they "
            "are one patient to the splits; where they are not, use --group-by study or top-folder"
        )
