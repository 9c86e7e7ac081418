"""`ctpatch.evaluate`: predicted slices against their targets."""

import os
from collections.abc import Sequence

from ctpatch.errors import UsageError
from ctpatch.evaluating.matching import match
from ctpatch.evaluating.metrics import check_installed
from ctpatch.evaluating.options import EvaluateOptions
from ctpatch.evaluating.patients import patients_of
from ctpatch.evaluating.result import Evaluation
from ctpatch.evaluating.run import Run
from ctpatch.evaluating.sides import SetPath, open_side
from ctpatch.events import Listener, ignore
from ctpatch.files.atomic import given_path


def evaluate(
    predicted: SetPath,
    target: SetPath,
    *,
    input: SetPath | None = None,  # noqa: A002 - as the option is called
    hu: tuple[float, float] | None = None,
    data_range: float | None = None,
    values_hu: tuple[float, float] | None = None,
    array: str | None = None,
    predicted_array: str = "image",
    input_array: str = "image",
    labels: Sequence[int] | None = None,
    seed: int = 0,
    draws: int = 10_000,
    workers: int = 1,
    data_root: str | os.PathLike[str] | None = None,
    listener: Listener = ignore,
) -> Evaluation:
    """Compare predicted slices with their targets: PSNR, SSIM and RMSE of images, Dice and HD95 of labels.

    Slices belong together by their `slice_index`, one to one. Patients, paths, positions and series must agree where
    they are on record. Pairs are read one after the other, so memory does not grow with the set.

    Args:
        predicted: a split of prepared slices or of predictions (its folder or manifest, or from `open_slices`), or a
            patch set (its folder, or from `open`), of which whole slices are compared.
        target: the same, of what they should be.
        input: the same, of the slices that the model was given, whose own numbers and the gain over them are found too.
        hu: the window to compare in, lowest and highest HU. All images are mapped to HU, as it is on record, and
            clipped to the window; its width is the data range.
        data_range: in place of `hu`: compare values as they are stored, with this data range.
        values_hu: what 0 and 1 stand for in HU, for slices of which it is not on record.
        array: the array of the target; may be left out where there is one.
        predicted_array: the array of `predicted`.
        input_array: the array of `input`.
        labels: the labels to compare; None finds them, where the target holds labels by its name or dtype.
        seed: of the bootstrap over patients: the same slices and seed give the same numbers.
        draws: of the bootstrap.
        workers: threads that compute.
        data_root: what paths in manifests are relative to, for what is not below a folder `prepared` or `patches`.
        listener: is told of progress.

    Returns:
        Tables of slices and patients, the numbers of the set with intervals, and how all were made, in words.

    Raises:
        UsageError: nothing is there, the slices do not match one to one, what values are in HU is not on record, values
            that are compared as stored stand for different HU, or the extra `evaluate` is not installed.
        ConfigError: an option makes no sense, is missing, or contradicts another one.
        SliceError: slices that belong together have different shapes, or one is neither an image nor labels.
        RangeError: a slice holds NaN or infinity.
        SourceManifestError, FormatError, NpyError: a table or a file is missing or damaged.
    """
    options = EvaluateOptions(
        hu, data_range, values_hu, None if labels is None else tuple(labels), seed, draws, workers
    )
    check_installed()
    root = None if data_root is None else given_path(data_root).resolve()
    if root is not None and not root.is_dir():
        raise UsageError(f"the data root {str(data_root)!r} is not a folder")
    sides = {
        "predicted": open_side("predicted", predicted, predicted_array, root),
        "target": open_side("target", target, array, root),
    }
    if input is not None:
        sides["input"] = open_side("input", input, input_array, root)
    if sides["predicted"].place == sides["target"].place:
        raise UsageError(
            f"predicted and target are both {sides['target'].name}, {sides['target'].array}: that would be compared "
            "with itself; name another --array, or another split"
        )
    pairs = match(list(sides.values()))
    if not pairs:
        raise UsageError(f"{sides['target'].name} has no slices, so there is nothing to compare")
    run = Run(options, sides, pairs, patients_of([pair.patient for pair in pairs]), listener)
    return run.labels() if run.compares_labels() else run.images()
