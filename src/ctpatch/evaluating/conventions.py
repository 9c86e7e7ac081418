"""How numbers are defined and averaged, in sentences that go with every output."""

from collections.abc import Sequence

from ctpatch.evaluating.averages import FEW_PATIENTS, FEWEST_PATIENTS
from ctpatch.evaluating.metrics import PERCENTILE, SSIM_SIGMA, SSIM_WINDOW
from ctpatch.evaluating.options import EvaluateOptions

_MEANS = (
    "The mean over patients counts each patient once; a patient's value is {one}. The mean over slices counts each "
    "slice once."
)

_PSNR = (
    "PSNR is 10 log10(data range² / mean squared error) of each slice, in dB. A slice that equals its target has an "
    "infinite PSNR, which is left out of all means."
)
_SSIM = (
    f"SSIM has a Gaussian window of sigma {SSIM_SIGMA} and {SSIM_WINDOW} x {SSIM_WINDOW} pixels, population covariance,"
    " K1 = 0.01 and K2 = 0.03; 5 pixels at the border are left out. Slices smaller than the window have no SSIM."
)
_NO_PATIENTS = (
    "{unknown:,} slices name no patient, so there are no means over patients and no intervals; a column patient_id in "
    "the manifest gives them."
)
_DICE = (
    "Dice is 2 |P and T| / (|P| + |T|) in pixels, for each label. That of a patient is of all its slices together, as "
    "one volume. What has a label on neither side is left out; on one side alone, Dice is 0."
)
_HD95 = (
    "HD95 is measured in each slice (2-D), in {unit}: the larger of the two directed "
    f"{PERCENTILE}th percentiles of the distances between the outlines, which are the pixels with one of 4 neighbours "
    "outside. A slice that has the label on one side alone has no HD95: it is left out and counted."
)


def image_conventions(options: EvaluateOptions, *, with_input: bool) -> list[str]:
    """Those of PSNR, SSIM and RMSE."""
    if options.hu is not None:
        low, high = options.hu
        frame = (
            f"All images are mapped to HU and clipped to {low:g} to {high:g} HU; the data range of PSNR and SSIM is "
            f"{high - low:g} HU."
        )
    else:
        frame = f"Images are compared as they are stored; the data range of PSNR and SSIM is {options.data_range:g}."
    said = [
        frame,
        _PSNR,
        _SSIM,
        "RMSE is the root of the mean squared error of each slice.",
        _MEANS.format(one="the mean over its slices"),
    ]
    if with_input:
        said.append(
            "A gain is a slice's number less that of its input, for RMSE the input's number less that of the slice: "
            "above 0 is better."
        )
    return said


def label_conventions(unit: str) -> list[str]:
    """Those of Dice and HD95."""
    return [
        _DICE,
        _HD95.format(unit=unit),
        _MEANS.format(one="that of its volume for Dice, and the mean over its slices for HD95"),
    ]


def interval_convention(options: EvaluateOptions) -> str:
    """How intervals were made."""
    return (
        f"Intervals are 95 % intervals of the mean over patients: percentile bootstrap over patients, "
        f"{options.draws:,} draws, seed {options.seed}; for fewer than {FEWEST_PATIENTS} patients there is none."
    )


def patient_notes(count: int, unknown: int, *, numbered: bool, first: Sequence[int]) -> list[str]:
    """What is to be known of the patients.

    Args:
        count: how many there are.
        unknown: slices that name none.
        numbered: whether numbers stand for their ids.
        first: the first slice of each.
    """
    if unknown:
        return [_NO_PATIENTS.format(unknown=unknown)]
    notes = []
    if numbered:
        shown = ", ".join(f"{at} has slice {number}" for at, number in enumerate(first[:3], 1))
        notes.append(f"Patients are numbered in the order of their slices, in place of their ids: {shown}.")
    if count < FEWEST_PATIENTS:
        notes.append(f"{_patients(count)} too few for an interval; wanted {FEWEST_PATIENTS} or more.")
    elif count < FEW_PATIENTS:
        notes.append(
            f"{_patients(count)} few: intervals by bootstrap are unreliable below {FEW_PATIENTS} patients, and "
            "narrower than they should be."
        )
    return notes


def _patients(count: int) -> str:
    return "1 patient is" if count == 1 else f"{count:,} patients are"
