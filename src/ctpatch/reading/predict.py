"""Sliding-window inference: a model on patches, its output put back into whole slices."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.config import PatchConfig, check_name
from ctpatch.core.grid import PADDING_MODES, make_grid
from ctpatch.core.patches import extract_from_grid
from ctpatch.core.reassembly import ReassemblyError, WindowName, reassemble
from ctpatch.errors import UsageError
from ctpatch.events import Listener, ignore
from ctpatch.files.atomic import given_path
from ctpatch.format.splits import PREPARED
from ctpatch.reading.patchset import AnySet, PatchSet
from ctpatch.reading.predict_set import PredictOptions, PredictWork, is_torch_module, model_digest
from ctpatch.work.executors.serial import SerialExecutor
from ctpatch.work.run import make

Model = Callable[[Any], Any]
"""Takes `(B, 1, H, W)` float32 and gives the same shape, or `(B, H, W)`; NumPy or torch, on any device."""


@overload
def predict(
    model_fn: Model,
    image: AnySet,
    cfg: PatchConfig | None = None,
    batch_size: int = 16,
    window: WindowName = "hann",
    *,
    fill: float = float("nan"),
    as_tensor: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    clip: bool = True,
    model_id: str | None = None,
    overwrite: bool = False,
    listener: Listener = ignore,
) -> Path: ...
@overload
def predict(
    model_fn: Model,
    image: ArrayLike,
    cfg: PatchConfig | None = None,
    batch_size: int = 16,
    window: WindowName = "hann",
    *,
    fill: float = float("nan"),
    as_tensor: bool | None = None,
) -> NDArray[np.floating[Any]]: ...
def predict(
    model_fn: Model,
    image: ArrayLike | AnySet,
    cfg: PatchConfig | None = None,
    batch_size: int = 16,
    window: WindowName = "hann",
    *,
    fill: float = float("nan"),
    as_tensor: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    clip: bool = True,
    model_id: str | None = None,
    overwrite: bool = False,
    listener: Listener = ignore,
) -> NDArray[np.floating[Any]] | Path:
    """Run a model over a slice, or over every slice of a patch set, patch by patch, and put the output together.

    The results of a set are written in parts, as a build is: the same call resumes a run that was cut off, finds a
    finished one complete, and refuses a folder that holds results of another model, other options or another set.

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
        model_id: for a patch set: a name of your own for the model, put on record, by which a later run knows it again.
            A `torch.nn.Module` needs none: the digest of its weights is taken.
        overwrite: for a patch set: start anew over earlier results of ours.
        listener: is told of progress.

    Returns:
        The slice `(H, W)`; for a patch set the folder of the results, which `ctpatch.build` and `plan` understand.

    Raises:
        ReassemblyError: the model gives another shape, or NaN.
        UsageError: `out` is missing, or windows leave pixels uncovered and `fill` is no number.
        OutputConflictError: the folder of the results holds something else, or the results of a model that cannot be
            compared with this one.
        OutputLockedError: another process writes there.
    """
    call = Caller(model_fn, as_tensor)
    if isinstance(image, PatchSet):
        if out is None:
            raise UsageError("out: where are the results of a whole set to go? Give a data root")
        options = PredictOptions(cfg or _covering(image.config), batch_size, window, fill, clip)
        name = check_name(dataset or f"{image.meta.dataset}_predicted", "dataset")
        identity = model_id if model_id is not None else model_digest(model_fn)
        work = PredictWork(image, call, options, given_path(out) / PREPARED / name / image.meta.split, identity)
        make(work, SerialExecutor(), listener, overwrite=overwrite)
        return work.folder
    config = cfg or PatchConfig(pad_mode="even")
    pixels = np.asarray(image, dtype=np.float32)
    if pixels.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"a slice has 2 dimensions (row, col), got shape {pixels.shape}")
    grid = make_grid(pixels.shape[0], pixels.shape[1], config)
    patches = extract_from_grid(pixels, grid, config.pad_mode)
    blocks = [call(patches[start : start + batch_size]) for start in range(0, len(patches), batch_size)]
    result = np.concatenate(blocks) if blocks else np.empty((0, *config.patch_size), np.float32)
    return reassemble(result, list(grid), grid.shape, window, fill=fill)


def _covering(config: PatchConfig) -> PatchConfig:
    """The set's windows, spread so that they cover the border."""
    mode = config.pad_mode if config.pad_mode in PADDING_MODES else "even"
    return PatchConfig(patch_size=config.patch_size, stride=config.stride, pad_mode=mode)


class Caller:
    """Gives batches to the model in the form it wants and checks what comes back."""

    def __init__(self, model: Any, as_tensor: bool | None) -> None:
        self._model = model
        self._is_module = is_torch_module(model)
        self._tensors = self._is_module if as_tensor is None else as_tensor

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """What the model gives for patches `(B, h, w)`, in the same shape."""
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

        tensor = torch.from_numpy(batch)
        training = self._is_module and self._model.training
        if self._is_module:
            parameter = next(self._model.parameters(), tensor)
            tensor = tensor.to(parameter.device)
            self._model.eval()
        try:
            with torch.no_grad():
                return np.asarray(self._model(tensor).detach().cpu().float().numpy())
        finally:
            if self._is_module:
                self._model.train(training)
