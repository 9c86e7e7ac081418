"""Sliding-window inference: a model on patches, its output put back into whole slices."""

import csv
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from ctpatch.config import PatchConfig, check_name
from ctpatch.core.grid import make_grid
from ctpatch.core.patches import extract_from_grid
from ctpatch.core.reassembly import Reassembler, ReassemblyError, WindowName, reassemble
from ctpatch.errors import UsageError
from ctpatch.events import Listener, WorkAdvanced, WorkFinished, WorkStarted, ignore
from ctpatch.files.atomic import system_errors, write_atomic
from ctpatch.format.splits import PREPARED
from ctpatch.format.tables import STATUS_OK
from ctpatch.reading.patchset import PatchSet

Model = Callable[[Any], Any]
"""Takes `(B, 1, H, W)` float32 and gives the same shape, or `(B, H, W)`; NumPy or torch, on any device."""


def predict(
    model_fn: Model,
    image: ArrayLike | PatchSet,
    cfg: PatchConfig | None = None,
    batch_size: int = 16,
    window: WindowName = "hann",
    *,
    fill: float = float("nan"),
    as_tensor: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    clip: bool = True,
    listener: Listener = ignore,
) -> Any:
    """Run a model over a slice, or over every slice of a patch set, patch by patch, and put the output together.

    Args:
        model_fn: any callable on `(B, 1, H, W)` float32 that gives `(B, 1, H, W)` or `(B, H, W)`. A `torch.nn.Module`
            is given tensors on its own device, in evaluation mode and without gradients; other callables get NumPy
            arrays unless `as_tensor` is set.
        image: a slice `(H, W)`, or a patch set.
        cfg: geometry; None takes windows of 128 (those of the set) spread evenly, so that no border is lost.
        batch_size: patches given to the model at a time; a batch may hold patches of two slices.
        window: how a patch's pixels weigh where patches overlap.
        fill: what pixels get that no patch covers.
        as_tensor: give the model torch tensors; None does for torch modules.
        out: for a patch set: data root for the results (needed); they are `prepared/<dataset>/<split>/` below it.
        dataset: name of the result; None takes the set's, with `_predicted`.
        clip: for a patch set: clip results to the set's value range, so that `build` takes them.
        listener: is told of progress.

    Returns:
        The slice `(H, W)`; for a patch set the folder of the results, which `ctpatch.build` and `plan` understand.

    Raises:
        ReassemblyError: the model gives another shape, or NaN.
        UsageError: `out` is missing, or windows leave pixels uncovered and `fill` is no number.
    """
    call = _Caller(model_fn, as_tensor)
    if isinstance(image, PatchSet):
        if out is None:
            raise UsageError("out: where are the results of a whole set to go? Give a data root")
        job = _SetJob(image, cfg or _covering(image.config), batch_size, window, fill, clip)
        return job.run(call, Path(out), dataset or f"{image.meta.dataset}_predicted", listener)
    config = cfg or PatchConfig(pad_mode="even")
    pixels = np.asarray(image, dtype=np.float32)
    if pixels.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"a slice has 2 dimensions (row, col), got shape {pixels.shape}")
    grid = make_grid(pixels.shape[0], pixels.shape[1], config)
    patches = extract_from_grid(pixels, grid, config.pad_mode)
    blocks = [call(patches[start : start + batch_size]) for start in range(0, len(patches), batch_size)]
    result = np.concatenate(blocks) if blocks else np.empty((0, *config.patch_size), np.float32)
    return reassemble(result, list(grid), (pixels.shape[0], pixels.shape[1]), window, fill=fill)


def _covering(config: PatchConfig) -> PatchConfig:
    """The set's windows, spread so that they cover the border."""
    padded = config.pad_mode in {"zero", "edge", "reflect"}
    mode = config.pad_mode if padded else "even"
    return PatchConfig(patch_size=config.patch_size, stride=config.stride, pad_mode=mode)


class _Caller:
    """Gives batches to the model in the form it wants and checks what comes back."""

    def __init__(self, model: Model, as_tensor: bool | None) -> None:
        self._model = model
        is_module = any(base.__module__ == "torch.nn.modules.module" for base in type(model).__mro__)
        self._tensors = is_module if as_tensor is None else as_tensor
        self._is_module = is_module

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        batch = np.ascontiguousarray(patches[:, np.newaxis])
        result = self._on_tensors(batch) if self._tensors else np.asarray(self._model(batch))
        if result.shape == batch.shape:
            result = result[:, 0]
        if result.shape != patches.shape:
            raise ReassemblyError(
                f"the model gave shape {result.shape} for a batch of {batch.shape}, wanted the same shape"
            )
        return result

    def _on_tensors(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        import torch  # noqa: PLC0415

        model: Any = self._model
        tensor = torch.from_numpy(batch)
        if not self._is_module:
            with torch.no_grad():
                return np.asarray(model(tensor).detach().cpu().float().numpy())
        parameter = next(model.parameters(), None)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                if parameter is not None:
                    tensor = tensor.to(parameter.device)
                return np.asarray(model(tensor).detach().cpu().float().numpy())
        finally:
            model.train(training)


@dataclass(frozen=True, slots=True)
class _SetJob:
    ps: PatchSet
    config: PatchConfig
    batch_size: int
    window: WindowName
    fill: float
    clip: bool

    def run(self, call: _Caller, root: Path, dataset: str, listener: Listener) -> Path:
        """Predict all slices and write them; the manifest comes last."""
        split = self.ps.meta.split
        folder = root / PREPARED / check_name(dataset, "dataset") / split
        with system_errors("making the folder", folder.name):
            folder.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        task = f"predict {self.ps.meta.dataset}/{split}"
        slices = self.ps.slices.filter((pl.col("status") == STATUS_OK) & (pl.col("num_windows") > 0))
        listener(WorkStarted(task, slices.height, "slices"))
        try:
            for record, image in self._slices(call, slices):
                name = f"{split}_{record['slice_index']:06d}.npy"
                stream = io.BytesIO()
                np.save(stream, image)
                write_atomic(folder / name, stream.getvalue())
                rows.append(
                    {
                        "index": record["slice_index"],
                        "path": f"{PREPARED}/{dataset}/{split}/{name}",
                        "min": float(image.min()),
                        "max": float(image.max()),
                        "patient_id": record["patient_id"] or "",
                    }
                )
                listener(WorkAdvanced(task, 1))
        finally:
            listener(WorkFinished(task))
        text = io.StringIO()
        writer = csv.DictWriter(text, ["index", "path", "min", "max", "patient_id"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(folder / f"{split}_manifest.csv", text.getvalue().encode())
        return folder

    def _slices(self, call: _Caller, slices: pl.DataFrame) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
        """Whole results one by one; batches run on over the ends of slices."""
        records = {record["slice_index"]: record for record in slices.iter_rows(named=True)}
        waiting: list[tuple[int, NDArray[np.float32]]] = []
        grids = {index: make_grid(record["height"], record["width"], self.config) for index, record in records.items()}
        owners = np.concatenate([np.full(len(grid), index) for index, grid in grids.items()] or [np.empty(0)])
        origins = np.array([origin for grid in grids.values() for origin in grid] or np.empty((0, 2)), np.int64)
        shapes = {index: grid.shape for index, grid in grids.items()}
        whole = Reassembler(
            owners.astype(np.int64),
            origins[:, 0],
            origins[:, 1],
            shapes,
            self.config.patch_size,
            self.window,
            fill=self.fill,
        )
        number = 0
        for index, grid in grids.items():
            patches = extract_from_grid(self._image(index), grid, self.config.pad_mode)
            waiting.extend(enumerate(patches, number))
            number += len(patches)
            while len(waiting) >= self.batch_size or (waiting and number == len(owners)):
                batch, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
                output = call(np.stack([patch for _, patch in batch]))
                for done in whole.add([at for at, _ in batch], output):
                    yield records[done.slice_index], self._result(done.image, done.uncovered, done.slice_index)
        whole.finish()

    def _image(self, index: int) -> NDArray[np.float32]:
        found = self.ps.slice(index)
        image: NDArray[np.float32] = found["image"] if isinstance(found, dict) else found
        return image

    def _result(self, image: NDArray[Any], uncovered: int, index: int) -> NDArray[np.float32]:
        if uncovered and not np.isfinite(self.fill):
            raise UsageError(
                f"slice {index}: {uncovered} pixels are in no window of pad_mode {self.config.pad_mode!r}; "
                "use 'even' or 'shift', or give a fill"
            )
        low, high = self.ps.meta.value_range
        return np.clip(image, low, high) if self.clip else image
