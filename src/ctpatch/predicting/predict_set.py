"""A whole set predicted in parts: slices of the result, a manifest that `build` understands, and the meta."""

import csv
import io
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch._version import __version__
from ctpatch.core.labels import holds_labels
from ctpatch.core.reassembly import ReassembledSlice
from ctpatch.errors import ReassemblyError, UsageError
from ctpatch.events import WorkAdvanced
from ctpatch.files.atomic import sync_outputs, system_errors, write_file
from ctpatch.files.digest import array_digest, bytes_digest, json_digest
from ctpatch.files.npy import header_bytes
from ctpatch.format.manifest_columns import ARRAY_SUFFIX
from ctpatch.format.meta import now_utc
from ctpatch.format.prepared_meta import FORMAT_VERSION, PredictedMeta
from ctpatch.format.splits import PREPARED
from ctpatch.predicting.model import Caller
from ctpatch.predicting.options import Asked
from ctpatch.predicting.outputs import ALL, Output
from ctpatch.predicting.predicted_files import IMAGE, PredictedFiles, arrays_of, file_name, split_names
from ctpatch.predicting.shown import Shown
from ctpatch.predicting.sliding import slid
from ctpatch.predicting.sources import Read, Source, WithNeighbours
from ctpatch.predicting.windows import Windows, refuse_small
from ctpatch.work.folder import WorkFolder, differences
from ctpatch.work.product import Begun
from ctpatch.work.receipt import Receipt, Row, arrays_hold, receipts_of
from ctpatch.work.run import Work

_BATCHES_PER_PART = 8
"""A part ends with a batch that may not be full; with this many it costs next to nothing."""
_COLUMNS = ("index", "path", "min", "max", "patient_id")
_UNKNOWN = (
    "whether it is the same model cannot be told: give model_id=, a name of your own for the model, or use a "
    "torch.nn.Module"
)


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

    def __init__(self, source: Source, asked: Asked, windows: Windows, folder: Path, model: str | None) -> None:
        self.folder = folder
        self.task = f"predict {source.dataset}/{source.split}"
        self.others = "the slices of the set are others" if model is not None else _UNKNOWN
        self._source, self._windows, self._model = source, windows, model
        self._shown = Shown(asked, source.chosen.maps.get(IMAGE))
        near = WithNeighbours(source, asked) if asked.context else None
        # What the model is to see of a slice.
        self._image: Read = near or source.read
        self.left_out: list[str] = []
        self._tasks: list[PredictTask] = []
        rows = source.slices.table.select("slice_index", "src_path", "height", "width", "patient_id").rows()
        for at in range(len(rows)) if near is None else near.order:
            index, path, height, width, patient = rows[at]
            grid = windows.grid((height, width))
            if len(grid):
                windows.refuse_holes(grid, asked.fill, f"slice {index} ({path})")
                self._tasks.append(PredictTask(index, path, (height, width), patient or ""))
            elif source.was_cut[at]:
                refuse_small((height, width), windows, f"slice {index} ({path})")
            else:  # the set has no patch of it either
                self.left_out.append(path)
        every = asked.output == ALL and self._tasks
        self._asked = replace(asked, output=self._every_output(asked)) if every else asked
        self._call = Caller(self._asked, self._asked.output)
        described = {
            **self._asked.described(windows.config, asked.clip),
            "model": model,
            **source.chosen.identity,
            **self._shown.described(),
            "source": f"{source.dataset}/{source.split}",
            "source_fingerprint": source.fingerprint,
        }
        self._digest = json_digest(described)
        # Of two runs whose models cannot be compared, the second never resumes the first.
        nonce = "" if model is not None else f"-{secrets.token_hex(8)}"
        names = split_names(source.split, described.get("output"))
        self.begun = Begun(described, self._digest + nonce, names)

    def _every_output(self, asked: Asked) -> list[Any]:
        """The names of all outputs: files are called by them, so that the model is asked before any is written."""
        first = self._tasks[0]
        grid = self._windows.grid(first.shape)
        call = Caller(asked, ALL)
        padded = self._shown.apply(self._windows.padded(self._image(first.slice_index), grid))
        return list(call(call.batch([next(self._windows.patches(padded, grid))])))

    @property
    def num_tasks(self) -> int:
        """The slices."""
        return len(self._tasks)

    def parts(self) -> Iterator[PredictPart]:
        """Runs of slices that fill some batches."""
        wanted = _BATCHES_PER_PART * self._asked.batch_size
        number = windows = 0
        pending: list[PredictTask] = []
        for task in self._tasks:
            pending.append(task)
            windows += len(self._windows.grid(task.shape))
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
        rows = [row for _, receipt in receipts_of(folder.state, self.parts(), PredictReceipt) for row in receipt.rows]
        rows.sort(key=lambda row: int(str(row["index"])))  # with context, parts follow series
        columns = list(rows[0]) if rows else list(_COLUMNS)
        odd = next((row for row in rows if list(row) != columns), None)
        if odd is not None:
            raise ReassemblyError(
                f"slice {odd['index']} has the columns {', '.join(odd)}, slice {rows[0]['index']} has "
                f"{', '.join(columns)}: the model gave other outputs or channels; start anew with overwrite=True"
            )
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
        split = self._source.split
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
        for task, arrays in self._predicted(part):
            paths = {}
            for array, image in arrays.items():
                name = file_name(self._source.split, task.slice_index, array)
                with system_errors("writing", name):
                    write_file(str(place / name), [header_bytes(image.shape, image.dtype), image.data.cast("B")])
                digests[name] = array_digest(image)
                paths[array] = f"{PREPARED}/{self.folder.parent.name}/{self.folder.name}/{name}"
            image = arrays[IMAGE]
            values = task.slice_index, paths.pop(IMAGE), float(image.min()), float(image.max()), task.patient_id
            further = {f"{array}{ARRAY_SUFFIX}": path for array, path in paths.items()}
            rows[task.slice_index] = dict(zip(_COLUMNS, values, strict=True)) | further
        receipt = PredictReceipt(
            part=part.number, plan_digest=plan, started_ns=started, rows=[rows[at] for at in wanted], digests=digests
        )
        sync_outputs(place, [str(place / name) for name in digests])
        receipt.write(folder.state)
        return receipt

    def _predicted(self, part: PredictPart) -> Iterator[tuple[PredictTask, dict[str, NDArray[Any]]]]:
        """The arrays of whole results, slice by slice."""
        tasks = {task.slice_index: task for task in part.tasks}
        grids = {index: self._windows.grid(task.shape) for index, task in tasks.items()}
        for index, results in slid(grids, self._image, self._windows, self._call, self._asked, self._shown):
            images: dict[Output, NDArray[Any]] = {
                output: self._as_written(done, output) for output, done in results.items()
            }
            yield tasks[index], arrays_of(images)

    def _as_written(self, done: ReassembledSlice, output: Output) -> NDArray[Any]:
        asked = self._asked
        if done.uncovered and not np.isfinite(asked.fill):  # labels were refused before
            raise UsageError(
                f"slice {done.slice_index}: {done.uncovered} pixels are in no window of pad_mode "
                f"{self._windows.config.pad_mode!r}; use 'even' or 'shift', or give a fill"
            )
        clips = asked.clip and self._shown.is_stored(output)
        clips = clips and not holds_labels(done.image.dtype)  # label 2 is not label 1
        return np.clip(done.image, *self._source.value_range) if clips else done.image
