"""One evaluation, once its slices are matched: pixels read pair by pair, numbers computed, tables made."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, UsageError
from ctpatch.evaluating import conventions
from ctpatch.evaluating.matching import Pair
from ctpatch.evaluating.metrics import ImageNumbers, LabelNumbers, Spacing, image_numbers, label_numbers
from ctpatch.evaluating.options import EvaluateOptions
from ctpatch.evaluating.patients import Patients
from ctpatch.evaluating.pixels import ImagePixels, LabelPixels
from ctpatch.evaluating.result import Evaluation, Kind, Pictures
from ctpatch.evaluating.sides import Side
from ctpatch.evaluating.tables import Tables, image_tables, label_tables
from ctpatch.events import Listener, WorkAdvanced, working
from ctpatch.format.hu_scale import HuScale

_MOST_LABELS = 256
_AHEAD = 2
"""Pairs that are read ahead for each thread."""
_NEAR_HU = 0.01
_TASK = "evaluate"
Found = TypeVar("Found")
Arrays = dict[str, NDArray[Any]]


class Run:
    """One evaluation, once its slices are matched."""

    def __init__(
        self,
        options: EvaluateOptions,
        sides: dict[str, Side],
        pairs: list[Pair],
        patients: Patients,
        listener: Listener,
    ) -> None:
        self.options, self.sides, self.pairs, self.patients, self.listener = options, sides, pairs, patients, listener

    def compares_labels(self) -> bool:
        """Whether the target holds labels; ConfigError where options for images are given then."""
        side = self.sides["target"]
        found = self.options.labels is not None or side.labels
        found = found or side.read(self.pairs[0].rows["target"]).dtype.kind != "f"
        if found and (self.options.hu is not None or self.options.data_range is not None):
            raise ConfigError(
                f"hu, data_range: the array {side.array} of {side.name} holds labels, which have neither; leave them "
                "out, or name another --array"
            )
        return found

    def images(self) -> Evaluation:
        """PSNR, SSIM and RMSE."""
        options = self.options
        if options.hu is None and options.data_range is None:
            raise ConfigError(
                "hu: missing. Give the window to compare in, such as --hu -160 240, or --data-range for values as they "
                "are stored: PSNR and SSIM mean nothing without one"
            )
        scales, notes = self._scales() if options.hu is not None else self._no_scales()
        read = ImagePixels(self.sides, options.hu, scales)
        width = options.data_range if options.hu is None else options.hu[1] - options.hu[0]
        assert width is not None
        found = list(self._computed(read, partial(_image_pair, data_range=float(width))))
        notes += _image_notes(found)
        said = conventions.image_conventions(options, with_input="input" in self.sides)
        unit = "stored values" if options.hu is None else "HU"
        tables = image_tables(self.pairs, self.patients, found, seed=options.seed, draws=options.draws)
        return self._result("images", unit, float(width), tables, said, notes, read)

    def labels(self) -> Evaluation:
        """Dice and HD95."""
        if "input" in self.sides:
            raise ConfigError(
                "input: labels are compared, and what an input gains is not defined for them; leave it out"
            )
        read = LabelPixels(self.sides)
        spacings = [pair.spacing for pair in self.pairs if pair.spacing is not None]
        known = len(spacings) == len(self.pairs)
        given = self.options.labels
        found = list(self._computed(read, partial(_label_pair, labels=given, known=known)))
        seen = {each.label for numbers in found for each in numbers}
        if not seen:
            raise UsageError(
                f"no slice of {self.sides['predicted'].name} or {self.sides['target'].name} holds a label"
                + (f" of {', '.join(map(str, given))}" if given else "")
            )
        notes = [] if known else ["Distances are in pixels: the spacing of some slices is not on record."]
        if spacings and not known:
            notes = [f"Distances are in pixels: only {len(spacings):,} of {len(self.pairs):,} slices have a spacing."]
        notes += [f"Label {label} is in no slice." for label in given or () if label not in seen]
        unit = "mm" if known else "pixels"
        tables = label_tables(self.pairs, self.patients, found, seed=self.options.seed, draws=self.options.draws)
        lone = sum(each.hd95 is None for numbers in found for each in numbers)
        if lone:
            notes.append(f"{lone:,} times a slice has a label on one side alone: Dice 0 there, and no HD95.")
        return self._result("labels", unit, None, tables, conventions.label_conventions(unit), notes, read)

    def _recorded(self) -> dict[str, HuScale | None]:
        """What the values of each side stand for in HU, as it is on record."""
        roots = [side.data_root for side in self.sides.values() if side.data_root is not None]
        return {role: side.scale(roots) for role, side in self.sides.items()}

    def _no_scales(self) -> tuple[dict[str, HuScale], list[str]]:
        """None; values that are compared as they are stored must not stand for different HU."""
        known = {role: scale for role, scale in self._recorded().items() if scale is not None}
        if len(set(known.values())) > 1:
            seen = ", ".join(f"{role} {scale.low_hu:g} to {scale.high_hu:g} HU" for role, scale in known.items())
            raise UsageError(f"data_range: 0 to 1 stand for other HU on each side ({seen}); compare in HU, with --hu")
        return {}, []

    def _scales(self) -> tuple[dict[str, HuScale], list[str]]:
        """What values stand for in HU on each side, and what is to be known of it."""
        hu, given = self.options.hu, self.options.values_hu
        assert hu is not None
        recorded = self._recorded()
        unknown = [role for role, scale in recorded.items() if scale is None]
        if unknown and given is None:
            names = " and ".join(f"{role} ({self.sides[role].name})" for role in unknown)
            raise UsageError(
                f"hu: what the stored values of {names} are in HU is not on record; say what 0 and 1 stand for with "
                "--values-hu, such as -1024 3072, or compare values as they are stored with --data-range"
            )
        if given is not None and not unknown:
            raise ConfigError("values_hu: what stored values are in HU is on record for all slices; leave it out")
        stated = None if given is None else HuScale(kind="window", low_hu=given[0], high_hu=given[1])
        scales = {role: scale or stated for role, scale in recorded.items()}
        said: dict[str, list[str]] = {}
        for role, scale in scales.items():
            assert scale is not None
            if role in unknown:
                text = (
                    f"0 and 1 stand for {scale.low_hu:g} and {scale.high_hu:g} HU, as values_hu says; it is not on "
                    "record"
                )
                said.setdefault(text, []).append(role)
            if hu[0] < scale.low_hu - _NEAR_HU or hu[1] > scale.high_hu + _NEAR_HU:
                text = (
                    f"the window reaches beyond the stored range, {scale.low_hu:g} to {scale.high_hu:g} HU; what was "
                    "outside of it was clipped when the slices were prepared"
                )
                said.setdefault(text, []).append(role)
        notes = [f"{', '.join(roles)}: {text}." for text, roles in said.items()]
        return {role: scale for role, scale in scales.items() if scale is not None}, notes

    def _computed(self, read: Callable[[Pair], Arrays], compute: Callable[[Pair, Arrays], Found]) -> Iterator[Found]:
        """The numbers of each pair, in order; pixels are read here, a few pairs ahead of the threads at most."""
        workers = self.options.workers
        with working(self.listener, _TASK, len(self.pairs), "slices"), ThreadPoolExecutor(workers) as pool:
            waiting: deque[Future[Found]] = deque()
            try:
                for pair in self.pairs:
                    waiting.append(pool.submit(compute, pair, read(pair)))
                    if len(waiting) > _AHEAD * workers:
                        yield self._next(waiting)
                while waiting:
                    yield self._next(waiting)
            finally:
                for each in waiting:
                    each.cancel()

    def _next(self, waiting: "deque[Future[Found]]") -> Found:
        found = waiting.popleft().result()
        self.listener(WorkAdvanced(_TASK, 1))
        return found

    def _result(
        self,
        kind: Kind,
        unit: str,
        data_range: float | None,
        tables: Tables,
        said: list[str],
        notes: list[str],
        read: Callable[[Pair], Arrays],
    ) -> Evaluation:
        patients = self.patients
        first = [self.pairs[rows[0]].slice_index for rows in patients.groups.values()]
        notes += conventions.patient_notes(len(first), patients.unknown, numbered=patients.numbered, first=first)
        libraries = ("scikit-image",) if kind == "images" else ("scipy",)
        return Evaluation(
            kind=kind,
            sides={role: side.described() for role, side in self.sides.items()},
            unit=unit,
            hu=self.options.hu,
            data_range=data_range,
            seed=self.options.seed,
            draws=self.options.draws,
            slices=tables.slices,
            patients=tables.patients,
            summaries=tables.summaries,
            conventions=(*said, conventions.interval_convention(self.options)),
            notes=tuple(notes),
            libraries={name: version(name) for name in libraries},
            look=partial(_look, {pair.slice_index: pair for pair in self.pairs}, read),
        )


def _look(pairs: Mapping[int, Pair], read: Callable[[Pair], Arrays], slice_index: int) -> Pictures:
    if slice_index not in pairs:
        raise KeyError(f"there is no slice {slice_index}; the slices are {min(pairs)} to {max(pairs)}")
    return read(pairs[slice_index])


def _image_pair(_pair: Pair, images: Arrays, *, data_range: float) -> tuple[ImageNumbers, ImageNumbers | None]:
    target = images["target"]
    own = image_numbers(images["predicted"], target, data_range)
    return own, image_numbers(images["input"], target, data_range) if "input" in images else None


def _label_pair(pair: Pair, images: Arrays, *, labels: tuple[int, ...] | None, known: bool) -> list[LabelNumbers]:
    spacing: Spacing = pair.spacing if known and pair.spacing is not None else (1.0, 1.0)
    wanted = labels
    if wanted is None:
        there = np.union1d(*(np.unique(images[role]) for role in ("predicted", "target")))
        wanted = tuple(there[there > 0].tolist())
        if len(wanted) > _MOST_LABELS:
            raise ConfigError(
                f"labels: slice {pair.slice_index} holds {len(wanted):,} labels, more than {_MOST_LABELS}; name those "
                "that are compared with --labels, or name another --array if these are not labels"
            )
    return label_numbers(images["predicted"], images["target"], wanted, spacing)


def _image_notes(found: Sequence[tuple[ImageNumbers, ImageNumbers | None]]) -> list[str]:
    notes = []
    for place, what in ((0, "equal their target"), (1, "of the input equal their target")):
        equal = sum(numbers.psnr == np.inf for each in found if (numbers := each[place]) is not None)
        if equal:
            notes.append(f"{equal:,} slices {what}: their PSNR is infinite, and in no mean; SSIM is 1 and RMSE 0.")
    small = sum(each[0].ssim is None for each in found)
    if small:
        notes.append(f"{small:,} slices are smaller than SSIM's window and have no SSIM.")
    return notes
