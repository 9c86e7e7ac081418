"""What an evaluation found: tables of slices and patients, the numbers of the set, and how they were made."""

import html
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.evaluating.averages import CONFIDENCE, Summary
from ctpatch.files.atomic import write_atomic
from ctpatch.files.replacing import file_to_write

Kind = Literal["images", "labels"]
Pictures = dict[str, NDArray[Any]]
_DECIMALS = {"psnr": 2, "ssim": 4, "rmse": 2, "dice": 4, "hd95": 2}
_DECIMALS_OF_STORED = 5
"""For RMSE of values that are stored as they are, mostly in [0, 1]."""
CSV_BEGINS = b"slice_index,patient,"
"""How every table of slices begins, so that one may be written over another and over nothing else."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Evaluation:
    """Predicted slices against their targets.

    Attributes:
        kind: `images` (PSNR, SSIM, RMSE) or `labels` (Dice, HD95).
        sides: for `predicted`, `target` and, where it was given, `input`: the `name` of the split and its `array`.
        unit: of RMSE, `HU` or `stored values`; of HD95, `mm` or `pixels`.
        hu: the window in HU; None for stored values and labels.
        data_range: of PSNR and SSIM; None for labels.
        seed, draws: of the bootstrap.
        slices: a row for each slice, and for each label: `slice_index`, `patient`, and the numbers.
        patients: a row for each patient, and for each label; no rows where a slice names no patient.
        summaries: the numbers of the set.
        conventions: how the numbers are defined and averaged, in sentences.
        notes: what a reader of the numbers should know of these slices, in sentences.
        libraries: the libraries that computed them, and their versions.
    """

    kind: Kind
    sides: dict[str, dict[str, str]]
    unit: str
    hu: tuple[float, float] | None
    data_range: float | None
    seed: int
    draws: int
    slices: pl.DataFrame
    patients: pl.DataFrame
    summaries: tuple[Summary, ...]
    conventions: tuple[str, ...]
    notes: tuple[str, ...]
    libraries: dict[str, str]
    look: Callable[[int], Pictures]

    def __getitem__(self, name: str | tuple[str, int]) -> Summary:
        """A number of the set: `result["psnr"]`, `result["gain_psnr"]`, `result["dice", 1]`.

        Raises:
            KeyError: there is no such number; lists them.
        """
        metric, label = (name, None) if isinstance(name, str) else name
        for each in self.summaries:
            if (each.metric, each.label) == (metric, label):
                return each
        known = [each.metric if each.label is None else (each.metric, each.label) for each in self.summaries]
        raise KeyError(f"there is no number {name!r}; there are {', '.join(map(str, known))}")

    def __repr__(self) -> str:
        first = " ".join(
            f"{heading(self, each)} {self.shown(each.headline, each.metric)}" for each in self.summaries[:3]
        )
        return f"Evaluation({self.title()}: {first}; {self.frame()})"

    def title(self) -> str:
        """What was compared with what."""
        predicted, target = (f"{self.sides[role]['name']} {self.sides[role]['array']}" for role in _SIDES)
        return f"{predicted} against {target}"

    def frame(self) -> str:
        """The window and the data range, or the unit of distances."""
        if self.kind == "labels":
            return f"distances in {self.unit}"
        if self.hu is None:
            return f"stored values, data range {self.data_range:g}"
        return f"window {self.hu[0]:g} to {self.hu[1]:g} HU, data range {self.data_range:g} HU"

    def _repr_html_(self) -> str:
        head, *rows = number_table(self)
        body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
        said = html.escape(f"{self.title()}; {self.frame()}")
        return f"<table><caption>{said}</caption><thead><tr>{_cells(head)}</tr></thead><tbody>{body}</tbody></table>"

    def shown(self, value: float | None, metric: str) -> str:
        """A number as it is shown, by what it is; `-` where there is none."""
        if value is None or math.isnan(value):
            return "-"
        kind, _, name = metric.rpartition("_")
        stored = name == "rmse" and self.unit != "HU"
        digits = _DECIMALS_OF_STORED if stored else _DECIMALS[name]
        return f"{value:{'+' if kind == 'gain' else ''}.{digits}f}"

    def worst(self, count: int = 8) -> list[int]:
        """The `slice_index` of the worst slices, the worst first: of lowest PSNR, or of lowest mean Dice."""
        name = "psnr" if self.kind == "images" else "dice"
        ranked = self.slices.group_by("slice_index").agg(pl.col(name).mean()).sort(name, "slice_index")
        found: list[int] = ranked["slice_index"].head(max(count, 0)).to_list()
        return found

    def images(self, slice_index: int) -> Pictures:
        """The pixels that were compared, by role: float64 in the unit and clipped to the window, or labels.

        Raises:
            KeyError: there is no such slice.
        """
        return self.look(slice_index)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for programs; a number that is not finite is None."""
        return {
            "kind": self.kind,
            "sides": self.sides,
            "unit": self.unit,
            "window_hu": None if self.hu is None else list(self.hu),
            "data_range": self.data_range,
            "interval": {"confidence": CONFIDENCE, "method": "percentile", "draws": self.draws, "seed": self.seed},
            "set": [each.as_dict() for each in self.summaries],
            "patients": _plain(self.patients),
            "slices": _plain(self.slices),
            "conventions": list(self.conventions),
            "notes": list(self.notes),
            "libraries": self.libraries,
        }

    def write_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the table of slices as a CSV; window, data range and unit stand in each row.

        Returns:
            The file that was written.

        Raises:
            OutputConflictError: the file is there and is no such table.
            UsageError: its folder is not there.
            SystemFailureError: it cannot be written.
        """
        target = check_csv(path)
        low, high = self.hu or (None, None)
        frame = self.slices.with_columns(
            pl.lit(self.unit).alias("unit"),
            pl.lit(low, pl.Float64).alias("window_low_hu"),
            pl.lit(high, pl.Float64).alias("window_high_hu"),
            pl.lit(self.data_range, pl.Float64).alias("data_range"),
        )
        write_atomic(target, frame.write_csv().encode())
        return target


_SIDES = ("predicted", "target")
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
_WORDS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "rmse": "RMSE", "dice": "Dice", "hd95": "HD95"}


def check_csv(path: str | os.PathLike[str]) -> Path:
    """The file that a table of slices is written to; UsageError or OutputConflictError where it cannot be."""
    return file_to_write(path, CSV_BEGINS, "table of slices", "evaluation.csv", "--csv", len(CSV_BEGINS))


def number_table(found: Evaluation) -> list[tuple[str, ...]]:
    """The numbers of the set as cells of text, the header first."""
    head = ("", "mean over patients", INTERVAL, "patients", "mean over slices", "slices", "left out")
    return [head, *(_row(found, each) for each in found.summaries)]


def _row(found: Evaluation, each: Summary) -> tuple[str, ...]:
    mean, low, high, over_slices = (
        found.shown(value, each.metric) for value in (each.mean, each.low, each.high, each.mean_over_slices)
    )
    between = "-" if each.low is None else f"{low} to {high}"
    counts = f"{each.slices:,}", f"{each.left_out:,}"
    return heading(found, each), mean, between, f"{each.patients:,}", over_slices, *counts


def _cells(row: tuple[str, ...]) -> str:
    first, *others = map(html.escape, row)
    return f"<th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in others)


def heading(found: Evaluation, summary: Summary) -> str:
    """What a number is called."""
    kind, _, metric = summary.metric.rpartition("_")
    about = {"": "", "input": ", input", "gain": ", gain"}[kind]
    label = "" if summary.label is None else f", label {summary.label}"
    unit = f" ({found.unit})" if metric in {"rmse", "hd95"} else ""
    return f"{_WORDS[metric]}{unit}{about}{label}"


def _plain(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in row.items()}
        for row in frame.iter_rows(named=True)
    ]
