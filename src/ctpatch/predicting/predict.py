"""Sliding-window inference: a model on patches, its output put back into whole slices."""

from pathlib import Path
from typing import Any, overload

from numpy.typing import NDArray

from ctpatch.config import PatchConfig, check_name
from ctpatch.core.arrays import as_array
from ctpatch.errors import UsageError
from ctpatch.events import Notice
from ctpatch.files.atomic import given_path
from ctpatch.format.splits import PREPARED
from ctpatch.loading.options import takes_all
from ctpatch.predicting.model import Caller, model_digest
from ctpatch.predicting.options import Asked, Model, OfSet, OfSlice, OutputsOfSlice
from ctpatch.predicting.outputs import Key, is_several
from ctpatch.predicting.predict_set import PredictWork
from ctpatch.predicting.predicted_files import IMAGE
from ctpatch.predicting.shown import Shown
from ctpatch.predicting.sliding import slid
from ctpatch.predicting.sources import source_of
from ctpatch.predicting.windows import Windows, refuse_small
from ctpatch.reading.patchset import AnySet, PatchSet
from ctpatch.reading.slice_set import SliceSet
from ctpatch.reading.values import maps_for_array
from ctpatch.work.executors.serial import SerialExecutor
from ctpatch.work.run import make

__all__ = ["Model", "predict"]


@overload
@takes_all(OfSet)
def predict(asked: OfSet) -> Path: ...
@overload
@takes_all(OutputsOfSlice)
def predict(asked: OutputsOfSlice) -> dict[Key, NDArray[Any]]: ...  # type: ignore[overload-overlap]  # "all" is a text too, and comes first
@overload
@takes_all(OfSlice)
def predict(asked: OfSlice) -> NDArray[Any]: ...
@takes_all(Asked)
def predict(asked: Asked) -> NDArray[Any] | dict[Key, NDArray[Any]] | Path:
    """Run a model over a slice, or over every slice of a set, patch by patch, and put the output together.

    The results of a set are written in parts, as a build is: the same call resumes a run that was cut off, finds a
    finished one complete, and refuses a folder that holds results of another model, other options or another set.

    Returns:
        The slice `(H, W)`, or `(C, H, W)` where the model gives 2 or more channels; for several outputs a dict of
        these; for a patch set the folder of the results, which `ctpatch.build` and `plan` understand. It is float32
        (float64 where the model gives that): the weighted mean of the patches. Labels keep their dtype and are never
        averaged: a pixel takes the label whose weights have the largest sum, of equal ones the smallest. With `argmax`
        class numbers, uint8 (int32 where there are more than 256 classes). With `scale` height and width are so many
        times those of the slice.

    Raises:
        ReassemblyError: the model gives another shape, NaN, no numbers, or several outputs of which none is chosen.
        ConfigError: an option makes no sense; names it.
        UsageError: `out` is missing, the model cannot be called with a batch or is on another device, a slice is
            smaller than a patch and `cfg` does not pad, or windows leave pixels of a set uncovered and `fill` is no
            number.
        OutputConflictError: the folder of the results holds something else, or the results of a model that cannot be
            compared with this one.
        OutputLockedError: another process writes there.
    """
    return _of_set(asked, asked.image) if isinstance(asked.image, PatchSet | SliceSet) else _of_slice(asked)


def _of_set(asked: Asked, given: AnySet | SliceSet) -> Path:
    if asked.out is None:
        raise UsageError("out: where are the results of a whole set to go? Give a data root")
    source = source_of(given, asked)
    windows = Windows(asked.cfg or source.config, asked.margin)
    name = check_name(asked.dataset or f"{source.dataset}_predicted", "dataset")
    identity = asked.model_id if asked.model_id is not None else model_digest(asked.model_fn)
    folder = given_path(asked.out) / PREPARED / name / source.split
    work = PredictWork(source, asked, windows, folder, identity)
    if work.left_out:
        asked.listener(
            Notice(
                "small-slices",
                f"{len(work.left_out):,} slices are smaller than a patch and get no prediction, the first is "
                f"{work.left_out[0]}; a cfg with pad_mode 'reflect' includes them",
            )
        )
    make(work, SerialExecutor(), asked.listener, overwrite=asked.overwrite)
    return work.folder


def _of_slice(asked: Asked) -> NDArray[Any] | dict[Key, NDArray[Any]]:
    """One slice, as a model gives it."""
    pixels = as_array(asked.image, "the slice")
    beside = 2 * asked.context + 1
    if asked.context and (pixels.ndim != 3 or len(pixels) != beside):  # noqa: PLR2004
        raise UsageError(
            f"context: with context={asked.context} a single slice comes with its neighbours, as an array "
            f"({beside}, H, W) with the slice in the middle; got shape {pixels.shape}"
        )
    if not asked.context and pixels.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"a slice has 2 dimensions (row, col), got shape {pixels.shape}")
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"a slice holds real numbers, got dtype {pixels.dtype}")
    windows = Windows(asked.cfg or PatchConfig(pad_mode="even"), asked.margin)
    grid = windows.grid((pixels.shape[-2], pixels.shape[-1]))
    if not len(grid) and asked.cfg is None:
        windows = Windows(PatchConfig(pad_mode="reflect"), asked.margin)
        grid = windows.grid(grid.shape)
    if not len(grid):
        refuse_small(grid.shape, windows, "the slice")
    windows.refuse_holes(grid, asked.fill, "the slice")
    call = Caller(asked, asked.output)
    shown = Shown(asked, maps_for_array(asked, IMAGE, "the slice").maps.get(IMAGE))
    names = [str(origin) for origin in grid]
    ((_, results),) = slid({0: grid}, lambda _: pixels, windows, call, asked, shown, names)
    images = {output: done.image for output, done in results.items()}
    if is_several(asked.output):
        return {output: image for output, image in images.items() if output is not None}
    return images[next(iter(images))]
