"""Tables of slices and patients, and the numbers of the set, from the numbers of each slice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ctpatch.evaluating.averages import Summary, mean_of, summarise
from ctpatch.evaluating.matching import Pair
from ctpatch.evaluating.metrics import ImageNumbers, LabelNumbers, dice
from ctpatch.evaluating.patients import Patients

IMAGE_METRICS = ("psnr", "ssim", "rmse")
LABEL_METRICS = ("dice", "hd95")
Schema = dict[str, type[pl.DataType]]
_WHO: Schema = {"slice_index": pl.Int64, "patient": pl.String}
_PATIENT: Schema = {"patient": pl.String, "slices": pl.Int64}
_COUNTS: Schema = {"predicted_pixels": pl.Int64, "target_pixels": pl.Int64}


@dataclass(frozen=True, slots=True)
class Tables:
    """What an `Evaluation` holds of slices, patients and the set."""

    slices: pl.DataFrame
    patients: pl.DataFrame
    summaries: tuple[Summary, ...]


def image_tables(
    pairs: Sequence[Pair],
    patients: Patients,
    found: Sequence[tuple[ImageNumbers, ImageNumbers | None]],
    *,
    seed: int,
    draws: int,
) -> Tables:
    """Those of images: of each slice its numbers and, where there is an input, the input's, with the gains."""
    with_input = bool(found) and found[0][1] is not None
    columns: dict[str, list[float | None]] = {}
    for metric in IMAGE_METRICS:
        columns[metric] = [getattr(numbers, metric) for numbers, _ in found]
    if with_input:
        for metric in IMAGE_METRICS:
            columns[f"input_{metric}"] = [getattr(numbers, metric) for _, numbers in found]
        for metric in IMAGE_METRICS:
            better, worse = columns[metric], columns[f"input_{metric}"]
            if metric == "rmse":  # less of it is better
                better, worse = worse, better
            columns[f"gain_{metric}"] = [_difference(*each) for each in zip(better, worse, strict=True)]
    by_patient = {
        name: [mean_of([values[row] for row in rows]) for rows in patients.groups.values()]
        for name, values in columns.items()
    }
    summaries = tuple(
        summarise(name, None, values, by_patient[name], seed=seed, draws=draws) for name, values in columns.items()
    )
    numbers: Schema = dict.fromkeys(columns, pl.Float64)
    slices = pl.DataFrame(
        {"slice_index": [pair.slice_index for pair in pairs], "patient": patients.names, **columns}, _WHO | numbers
    )
    counts = [len(rows) for rows in patients.groups.values()]
    frame = pl.DataFrame({"patient": list(patients.groups), "slices": counts, **by_patient}, _PATIENT | numbers)
    return Tables(slices, frame, summaries)


def _difference(one: float | None, other: float | None) -> float | None:
    if one is None or other is None or not (math.isfinite(one) and math.isfinite(other)):
        return None
    return one - other


def label_tables(
    pairs: Sequence[Pair], patients: Patients, found: Sequence[Sequence[LabelNumbers]], *, seed: int, draws: int
) -> Tables:
    """Those of labels: a row for each slice and label that one side has at least."""
    labels = sorted({each.label for numbers in found for each in numbers})
    rows = [
        (pair.slice_index, name, each.label, each.dice, each.hd95, each.predicted, each.target)
        for pair, name, numbers in zip(pairs, patients.names, found, strict=True)
        for each in numbers
    ]
    numbers: Schema = {"label": pl.Int64} | dict.fromkeys(LABEL_METRICS, pl.Float64)
    slices = pl.DataFrame(rows, _WHO | numbers | _COUNTS, orient="row")
    volumes: list[tuple[Any, ...]] = []
    summaries: list[Summary] = []
    for label in labels:
        of_label = [[each for each in numbers if each.label == label] for numbers in found]
        own = [volume for group in patients.groups.items() if (volume := _volume(label, *group, of_label))]
        volumes += own
        flat = [each for numbers in of_label for each in numbers]
        by_slice: dict[str, list[float | None]] = {
            "dice": [each.dice for each in flat],
            "hd95": [each.hd95 for each in flat],
        }
        by_patient: dict[str, list[float | None]] = {
            "dice": [volume[3] for volume in own],
            "hd95": [volume[4] for volume in own],
        }
        for metric in LABEL_METRICS:
            values = by_patient[metric]
            summaries.append(summarise(metric, label, by_slice[metric], values, seed=seed, draws=draws))
    frame = pl.DataFrame(volumes, _PATIENT | numbers | _COUNTS, orient="row")
    return Tables(slices, _in_order(frame, list(patients.groups)), tuple(summaries))


def _volume(
    label: int, patient: str, rows: Sequence[int], found: Sequence[Sequence[LabelNumbers]]
) -> tuple[str, int, int, float, float | None, int, int] | None:
    """A label of all slices of a patient together; None where no slice has it on either side."""
    numbers = [each for row in rows for each in found[row]]
    if not numbers:
        return None
    predicted, target, both = (sum(getattr(each, name) for each in numbers) for name in ("predicted", "target", "both"))
    distance = mean_of([each.hd95 for each in numbers])
    return patient, len(numbers), label, dice(predicted, target, both), distance, predicted, target


def _in_order(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Rows of patients in the order of their slices."""
    order = {name: at for at, name in enumerate(names)}
    places = pl.Series("place", [order[name] for name in frame["patient"]], dtype=pl.Int64)
    return frame.with_columns(places).sort("place", "label").drop("place")
