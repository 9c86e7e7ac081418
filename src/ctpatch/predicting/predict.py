"""Sliding-window inference: a model on patches, its output put back into whole slices."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.config import PatchConfig, check_name
from ctpatch.core.arrays import as_array
from ctpatch.core.grid import PADDING_MODES, make_grid
from ctpatch.core.patches import extract_from_grid
from ctpatch.core.reassembly import Reassembler, WindowName
from ctpatch.errors import ConfigError, UsageError
from ctpatch.events import Listener, Notice, ignore
from ctpatch.files.atomic import given_path
from ctpatch.format.splits import PREPARED
from ctpatch.predicting.model import Caller, Output, model_digest
from ctpatch.predicting.predict_set import PredictOptions, PredictWork, refuse_small
from ctpatch.reading.patchset import AnySet, PatchSet
from ctpatch.work.executors.serial import SerialExecutor
from ctpatch.work.run import make

Model = Callable[[Any], Any]
"""Takes `(B, 1, H, W)` and gives the same shape, or `(B, H, W)`, or several such; NumPy or torch, on any device."""


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
    output: Output = None,
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
    output: Output = None,
) -> NDArray[Any]: ...
def predict(
    model_fn: Model,
    image: ArrayLike | AnySet,
    cfg: PatchConfig | None = None,
    batch_size: int = 16,
    window: WindowName = "hann",
    *,
    fill: float = float("nan"),
    as_tensor: bool | None = None,
    output: Output = None,
    out: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    clip: bool = True,
    model_id: str | None = None,
    overwrite: bool = False,
    listener: Listener = ignore,
) -> NDArray[Any] | Path:
    """Run a model over a slice, or over every slice of a patch set, patch by patch, and put the output together.

    The results of a set are written in parts, as a build is: the same call resumes a run that was cut off, finds a
    finished one complete, and refuses a folder that holds results of another model, other options or another set.

    Args:
        model_fn: any callable on `(B, 1, H, W)` float32 that gives `(B, 1, H, W)` or `(B, H, W)`. A `torch.nn.Module`
            is given tensors on its own device and in the dtype of its weights, in evaluation mode and without
            gradients; afterwards each layer has the mode it had. Other callables get NumPy arrays unless `as_tensor`
            is set. Whole numbers or booleans are labels.
        image: a slice `(H, W)`, or a patch set.
        cfg: geometry; None takes windows of 128 (those of the set) spread evenly, so that no border is lost, and pads a
            single slice that is smaller than 128 by reflection.
        batch_size: patches given to the model at a time; a batch may hold patches of two slices.
        window: how a patch's pixels weigh where patches overlap.
        fill: what pixels get that no patch covers; labels need a whole number where there are such pixels.
        as_tensor: give the model torch tensors; None does for torch modules. A function around a
            torch network needs it.
        output: for a model that gives several outputs: the index in its tuple or list, or the name in its dict.
        out: for a patch set: data root for the results (needed); they are `prepared/<dataset>/<split>/` below it.
        dataset: name of the result; None takes the set's, with `_predicted`.
        clip: for a patch set: clip results to the set's value range, so that `build` takes them; labels never are.
        model_id: for a patch set: a name of your own for the model, put on record, by which a later run knows it again.
            A `torch.nn.Module` needs none: the digest of its weights is taken.
        overwrite: for a patch set: start anew over earlier results of ours.
        listener: is told of progress.

    Returns:
        The slice `(H, W)`; for a patch set the folder of the results, which `ctpatch.build` and `plan` understand. It
        is float32 (float64 where the model gives that): the weighted mean of the patches. Labels keep their dtype and
        are never averaged: a pixel takes the label whose weights have the largest sum, of equal ones the smallest.

    Raises:
        ReassemblyError: the model gives another shape, NaN, no numbers, or several outputs of which none is chosen.
        ConfigError: `batch_size` is less than 1.
        UsageError: `out` is missing, the model cannot be called with a batch, a slice is smaller than a patch and `cfg`
            does not pad, or windows leave pixels of a set uncovered and `fill` is no number.
        OutputConflictError: the folder of the results holds something else, or the results of a model that cannot be
            compared with this one.
        OutputLockedError: another process writes there.
    """
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size < 1:
        raise ConfigError(f"batch_size: must be a whole number, 1 or more, got {batch_size!r}")
    call = Caller(model_fn, as_tensor, output)
    if isinstance(image, PatchSet):
        if out is None:
            raise UsageError("out: where are the results of a whole set to go? Give a data root")
        options = PredictOptions(cfg or _covering(image.config), batch_size, window, fill, clip, output)
        name = check_name(dataset or f"{image.meta.dataset}_predicted", "dataset")
        identity = model_id if model_id is not None else model_digest(model_fn)
        work = PredictWork(image, call, options, given_path(out) / PREPARED / name / image.meta.split, identity)
        if work.left_out:
            listener(
                Notice(
                    "small-slices",
                    f"{len(work.left_out):,} slices are smaller than a patch and get no prediction, the first is "
                    f"{work.left_out[0]}; a cfg with pad_mode 'reflect' includes them",
                )
            )
        make(work, SerialExecutor(), listener, overwrite=overwrite)
        return work.folder
    options = PredictOptions(cfg or PatchConfig(pad_mode="even"), batch_size, window, fill, clip, output)
    return _of_slice(call, image, cfg, options)


def _covering(config: PatchConfig) -> PatchConfig:
    """The set's windows, spread so that they cover the border."""
    mode = config.pad_mode if config.pad_mode in PADDING_MODES else "even"
    return PatchConfig(patch_size=config.patch_size, stride=config.stride, pad_mode=mode)


def _of_slice(call: Caller, image: Any, cfg: PatchConfig | None, options: PredictOptions) -> NDArray[Any]:
    """One slice, as a model gives it."""
    pixels = as_array(image, "the slice")
    if pixels.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"a slice has 2 dimensions (row, col), got shape {pixels.shape}")
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"a slice holds real numbers, got dtype {pixels.dtype}")
    config = options.config
    grid = make_grid(pixels.shape[0], pixels.shape[1], config)
    if not len(grid) and cfg is None:
        config = PatchConfig(pad_mode="reflect")
        grid = make_grid(pixels.shape[0], pixels.shape[1], config)
    if not len(grid):
        refuse_small(grid.shape, config, "the slice")
    patches = extract_from_grid(pixels.astype(np.float32, copy=False), grid, config.pad_mode)
    rows, cols = grid.origins()
    places = [str(origin) for origin in grid]
    size, fill = config.patch_size, options.fill
    whole = Reassembler(
        np.zeros(len(grid), np.int64), rows, cols, {0: grid.shape}, size, options.window, fill=fill, names=places
    )
    finished = []
    for start in range(0, len(patches), options.batch_size):
        batch = patches[start : start + options.batch_size]
        # Taken at once: a model may write each batch into the same memory.
        finished += whole.add(np.arange(start, start + len(batch)), call(batch))
    return finished[0].image
