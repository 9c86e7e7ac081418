"""A reader of volumes that takes the images, or the masks, that a naming means."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.naming.names import Naming, Role
from ctpatch.prepare.pairs import difference
from ctpatch.prepare.readers.base import LeftOut, RawSlice, Scan
from ctpatch.prepare.readers.tree import find_files
from ctpatch.prepare.readers.volume.reader import VolumeReader


@dataclass(frozen=True, slots=True)
class NamedReader:
    """Reads what a naming means as images or as masks; their series is the case, so that partners are found by it.

    Attributes:
        structures: names of structures, in the order of their numbers from 1, that have a file each; empty where a mask
            holds all its labels.
        shared: whether images and masks lie in one source, so that a file that fits both is an image.
    """

    base: VolumeReader
    naming: Naming
    role: Role
    structures: tuple[str, ...] = ()
    shared: bool = True

    @property
    def name(self) -> str:
        """Kind of the raw files."""
        return self.base.name

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find the slices; files of other names are not opened."""
        files, _ = find_files(root, follow_links=self.base.follow_links)
        wanted = frozenset(file for file in files if self._wanted(file))
        scan = replace(self.base, only=wanted).scan(root, advance)
        if self.role == "image" or not self.shared:
            used = {file for one in scan.slices for file in one.files} | wanted
            others = (file for file in files if file not in used and not (self.shared and self._role(file)))
            scan.left_out += (LeftOut(file, "other-name", "its name is none of the naming's") for file in others)
        else:  # what is no regular file is on record with the images
            scan.left_out = [left for left in scan.left_out if left.where in wanted]
        scan.slices = [self._renamed(one) for one in scan.slices]
        if self.structures:
            self._merge(scan)
        return scan

    def _role(self, file: str) -> Role | None:
        roles: tuple[Role, ...] = ("image", "mask") if self.shared else (self.role,)
        return next((role for role in roles if re.fullmatch(self.naming.pattern(role), file)), None)

    def _wanted(self, file: str) -> bool:
        if self._role(file) != self.role:
            return False
        named = self.naming.named(self.role, file)
        return named is not None and (not self.structures or named.structure in self.structures)

    def _renamed(self, one: RawSlice) -> RawSlice:
        named = self.naming.named(self.role, one.file)
        assert named is not None
        group, kind = self.naming.group(self.role, one.file)
        # A file of four dimensions keeps the number of its volume.
        series = named.case + one.series.removeprefix(one.file)
        return replace(one, group=group, group_kind=kind, series=series)

    def _merge(self, scan: Scan) -> None:
        """Make one slice of those that show a structure each; one that is missing, or lies elsewhere, is a fault."""
        places: dict[tuple[str, int], dict[str, RawSlice]] = defaultdict(dict)
        for one in scan.slices:
            named = self.naming.named(self.role, one.file)
            assert named is not None
            places[one.series, one.order].setdefault(named.structure, one)
        scan.slices = []
        for found in places.values():
            first = next(iter(found.values()))
            where = f"{first.file}[{first.item}]"
            missing = [name for name in self.structures if name not in found]
            if missing:
                said = (
                    f"{len(missing)} of {len(self.structures)} structures have no slice there; choose with --structures"
                )
                scan.left_out.append(LeftOut(where, "missing-structure", said, fault=True))
                continue
            first, *others = (found[name] for name in self.structures)
            apart = next(filter(None, (difference(first, other) for other in others)), None)
            if apart is not None:
                scan.left_out.append(
                    LeftOut(where, "structures-differ", f"a structure lies elsewhere: {apart}", fault=True)
                )
                continue
            scan.slices.append(replace(first, beside=tuple(file for one in (first, *others) for file in one.files)[1:]))

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        """Read slices, in order; of structures a label map with the number of each."""
        if not self.structures:
            yield from self.base.read(root, slices)
            return
        for _, run in groupby(slices, key=lambda each: each.files):
            yield from self._label_maps(root, list(run))

    def _label_maps(self, root: Path, run: list[RawSlice]) -> list[NDArray[np.float32]]:
        maps = [np.zeros(one.shape, np.float32) for one in run]
        files = [file for file in run[0].files if self._wanted(file)]
        for number, file in enumerate(files, start=1):
            shown = self.base.read(root, [replace(one, file=file, beside=()) for one in run])
            for one, labels, plane in zip(run, maps, shown, strict=True):
                if not np.isin(plane, (0, 1)).all():
                    raise SliceError(
                        f"{file}[{one.item}] holds other values than 0 and 1, wanted the mask of one structure"
                    )
                inside = plane == 1
                if labels[inside].any():
                    other = files[int(labels[inside].max()) - 1]
                    raise SliceError(
                        f"{file}[{one.item}] overlaps {other}: {np.count_nonzero(labels[inside])} pixels have two "
                        "labels; choose structures that do not overlap (--structures)"
                    )
                labels[inside] = number
        return maps
