"""A whole set predicted in parts: slices of the result, a manifest that `build` understands, and the meta."""

import csv
import io
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch._version import __version__
from ctpatch.config import PatchConfig
from ctpatch.core.grid import make_grid
from ctpatch.core.labels import holds_labels
from ctpatch.core.patches import extract_from_grid
from ctpatch.core.reassembly import Reassembler, WindowName
from ctpatch.errors import UsageError
from ctpatch.events import WorkAdvanced
from ctpatch.files.atomic import sync_outputs, system_errors, write_file
from ctpatch.files.digest import array_digest, bytes_digest, json_digest
from ctpatch.files.npy import header_bytes
from ctpatch.format.meta import now_utc
from ctpatch.format.prepared_meta import FORMAT_VERSION, PREDICT_META, PredictedMeta, read_dataset_meta
from ctpatch.format.splits import PREPARED
from ctpatch.format.tables import STATUS_OK
from ctpatch.predicting.model import Output
from ctpatch.reading.patchset import AnySet
from ctpatch.work.folder import WorkFolder, differences
from ctpatch.work.product import Begun, Product
from ctpatch.work.receipt import Receipt, Row, arrays_hold, receipts_of
from ctpatch.work.run import Work

_BATCHES_PER_PART = 8
"""A part ends with a batch that may not be full; with this many it costs next to nothing."""
_COLUMNS = ("index", "path", "min", "max", "patient_id")
_UNKNOWN = (
    "whether it is the same model cannot be told: give model_id=, a name of your own for the model, or use a "
    "torch.nn.Module"
)

Call = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What decides the result, beside the model and the slices; see `ctpatch.predict`."""

    config: PatchConfig
    batch_size: int
    window: WindowName
    fill: float
    clip: bool
    output: Output = None

    def described(self) -> dict[str, Any]:
        """As plain values; a fill that is no number as text, since JSON has none."""
        geometry = self.config.model_dump(mode="json", include={"patch_size", "stride", "pad_mode"})
        rest = {"batch_size": self.batch_size, "window": self.window, "fill": str(float(self.fill)), "clip": self.clip}
        return {**geometry, **rest, **({} if self.output is None else {"output": self.output})}


def refuse_small(shape: tuple[int, int], config: PatchConfig, name: str) -> NoReturn:
    """Refuse a slice in which there is no window."""
    seen, wanted = ("x".join(map(str, size)) for size in (shape, config.patch_size))
    raise UsageError(
        f"{name}: {seen} pixels are less than a patch of {wanted}, and pad_mode {config.pad_mode!r} does not pad; give "
        "a cfg with a smaller patch_size, or with pad_mode 'reflect', 'edge' or 'zero'"
    )


class PredictedFiles(Product[PredictedMeta]):
    """The files of a predicted split."""

    noun = "prediction"
    made = "predicted"
    elsewhere = "give another dataset="
    anew = "overwrite=True"
    record = "predict.json"
    meta = PREDICT_META
    withdrawn = (PREDICT_META,)
    name_fields = ("split",)

    def read_meta(self, path: Path) -> PredictedMeta:
        """The meta in a file."""
        return read_dataset_meta(path, PredictedMeta)

    def names_of(self, meta: PredictedMeta) -> dict[str, Any]:
        """The split."""
        return {"split": meta.split}

    def folders(self, names: Mapping[str, Any]) -> list[str]:
        """None but its own."""
        del names
        return []

    def patterns(self, names: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
        """Slices and the manifest."""
        split = re.escape(names["split"])
        return {"": re.compile(rf"{split}_\d{{6,}}\.npy|{split}_manifest\.csv")}


@dataclass(frozen=True, slots=True)
class PredictTask:
    """One slice to predict."""

    slice_index: int
    name: str
    shape: tuple[int, int]
    patient_id: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PredictPart:
    """A run of slices: the unit of work."""

    number: int
    tasks: tuple[PredictTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictReceipt(Receipt):
    """What a finished part did: its rows of the manifest, and the digest of each slice, by file."""

    rows: list[Row]
    digests: dict[str, str]


class PredictWork(Work[PredictPart, WorkFolder[PredictedMeta], PredictReceipt, PredictedMeta]):
    """The slices of a set, as a model gives them."""

    product = PredictedFiles()
    verb = "predicts"
    cure = "remove them"
    on_error = "stop"

    def __init__(self, ps: AnySet, call: Call, options: PredictOptions, folder: Path, model: str | None) -> None:
        self.folder = folder
        self.task = f"predict {ps.meta.dataset}/{ps.meta.split}"
        self.others = "the slices of the set are others" if model is not None else _UNKNOWN
        self._ps, self._call, self._options, self._model = ps, call, options, model
        described = {
            **options.described(),
            "model": model,
            "source": f"{ps.meta.dataset}/{ps.meta.split}",
            "source_fingerprint": ps.meta.fingerprint,
        }
        self._digest = json_digest(described)
        # Of two runs whose models cannot be compared, the second never resumes the first.
        nonce = "" if model is not None else f"-{secrets.token_hex(8)}"
        self.begun = Begun(described, self._digest + nonce, {"split": ps.meta.split})
        self.left_out: list[str] = []
        self._tasks: list[PredictTask] = []
        columns = ps.slices.filter(pl.col("status") == STATUS_OK).select(
            "slice_index", "src_path", "height", "width", "patient_id", "num_windows"
        )
        for index, path, height, width, patient, windows in columns.iter_rows():
            if len(make_grid(height, width, options.config)):
                self._tasks.append(PredictTask(index, path, (height, width), patient or ""))
            elif windows:
                refuse_small((height, width), options.config, f"slice {index} ({path})")
            else:  # the set has no patch of it either
                self.left_out.append(path)

    @property
    def num_tasks(self) -> int:
        """The slices."""
        return len(self._tasks)

    def parts(self) -> Iterator[PredictPart]:
        """Runs of slices that fill some batches."""
        wanted = _BATCHES_PER_PART * self._options.batch_size
        number = windows = 0
        pending: list[PredictTask] = []
        for task in self._tasks:
            pending.append(task)
            windows += len(make_grid(*task.shape, self._options.config))
            if windows >= wanted:
                yield PredictPart(number, tuple(pending))
                number, windows, pending = number + 1, 0, []
        if pending:
            yield PredictPart(number, tuple(pending))

    def shared(self, folder: WorkFolder[PredictedMeta]) -> WorkFolder[PredictedMeta]:
        """The folder: the rest stays in this process, since a model may live on a device."""
        return folder

    def check_finished(self, folder: WorkFolder[PredictedMeta], meta: PredictedMeta) -> None:
        """Refuse other options, another model or another set."""
        if meta.plan_digest != self._digest or self._model is None:
            folder.refuse_changed(differences(meta.options, self.begun.options) or [self.others])

    def advanced(self, receipt: PredictReceipt) -> WorkAdvanced:
        """A part's slices."""
        return WorkAdvanced(self.task, len(receipt.rows), reused=receipt.reused)

    def finish(self, folder: WorkFolder[PredictedMeta]) -> PredictedMeta:
        """The manifest, then the meta."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        for _, receipt in receipts_of(folder.state, self.parts(), PredictReceipt):
            writer.writerows(receipt.rows)
        content = text.getvalue().encode()
        split = self._ps.meta.split
        manifest = f"{split}_manifest.csv"
        folder.put(manifest, content)
        meta = PredictedMeta(
            format_version=FORMAT_VERSION,
            ctpatch_version=__version__,
            created=now_utc(),
            dataset=self.folder.parent.name,
            split=split,
            source=self.begun.options["source"],
            source_fingerprint=self.begun.options["source_fingerprint"],
            options=self.begun.options,
            num_slices=len(self._tasks),
            manifest=manifest,
            manifest_digest=bytes_digest(content),
            plan_digest=self._digest,
        )
        folder.complete(meta.to_bytes())
        return meta

    def run(self, folder: WorkFolder[PredictedMeta], part: PredictPart) -> PredictReceipt:
        """Predict the slices of a part, or find that it is done."""
        place, plan = folder.folder.resolve(), self.begun.plan_digest
        done = PredictReceipt.of_plan(folder.state, part.number, plan)
        wanted = [task.slice_index for task in part.tasks]
        if done is not None and [row.get("index") for row in done.rows] == wanted and arrays_hold(place, done.digests):
            return done
        started = time.time_ns()
        rows: dict[int, dict[str, Any]] = {}
        digests: dict[str, str] = {}
        for task, image in self._predicted(part):
            name = f"{self._ps.meta.split}_{task.slice_index:06d}.npy"
            with system_errors("writing", name):
                write_file(str(place / name), [header_bytes(image.shape, image.dtype), image.data.cast("B")])
            digests[name] = array_digest(image)
            path = f"{PREPARED}/{self.folder.parent.name}/{self.folder.name}/{name}"
            values = task.slice_index, path, float(image.min()), float(image.max()), task.patient_id
            rows[task.slice_index] = dict(zip(_COLUMNS, values, strict=True))
        receipt = PredictReceipt(
            part=part.number, plan_digest=plan, started_ns=started, rows=[rows[at] for at in wanted], digests=digests
        )
        sync_outputs(place, [str(place / name) for name in digests])
        receipt.write(folder.state)
        return receipt

    def _predicted(self, part: PredictPart) -> Iterator[tuple[PredictTask, NDArray[Any]]]:
        """Whole results one by one; batches run on over the ends of slices."""
        options = self._options
        tasks = {task.slice_index: task for task in part.tasks}
        grids = {index: make_grid(*task.shape, options.config) for index, task in tasks.items()}
        origins = np.array([origin for grid in grids.values() for origin in grid], np.int64).reshape(-1, 2)
        whole = Reassembler(
            np.repeat(list(grids), [len(grid) for grid in grids.values()]),
            origins[:, 0],
            origins[:, 1],
            {index: grid.shape for index, grid in grids.items()},
            options.config.patch_size,
            options.window,
            fill=options.fill,
        )
        images = ((self._ps.slice(index, arrays="image"), grid) for index, grid in grids.items())
        windows = enumerate(
            patch for image, grid in images for patch in extract_from_grid(image, grid, options.config.pad_mode)
        )
        while batch := list(islice(windows, options.batch_size)):
            numbers, patches = zip(*batch, strict=True)
            for done in whole.add(numbers, self._call(np.stack(patches))):
                if done.uncovered and not np.isfinite(options.fill):  # labels were refused before
                    raise UsageError(
                        f"slice {done.slice_index}: {done.uncovered} pixels are in no window of pad_mode "
                        f"{options.config.pad_mode!r}; use 'even' or 'shift', or give a fill"
                    )
                clips = options.clip and not holds_labels(done.image.dtype)  # label 2 is not label 1
                result = np.clip(done.image, *self._ps.meta.value_range) if clips else done.image
                yield tasks[done.slice_index], np.ascontiguousarray(result)
        whole.finish()
