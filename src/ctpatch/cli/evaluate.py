"""The command `evaluate`: predicted slices against their targets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ctpatch.cli.options import Json, OptionGroup, json_text
from ctpatch.errors import EXIT_DONE, ConfigError, printable

if TYPE_CHECKING:
    from ctpatch.evaluating.result import Evaluation

Slices = Annotated[Path, Parameter(help="Prepared or predicted slices (a split's folder or manifest), or a patch set.")]


@Parameter(name="*")
@dataclass(frozen=True)
class ComparedOptions(OptionGroup):
    """What is compared, and how.

    Attributes:
        input: The slices that the model was given, whose own numbers are shown too.
        hu: Lowest and highest HU of the window to compare in: -160 240.
        data_range: Compare values as they are stored, with this data range, instead of --hu.
        values_hu: What 0 and 1 stand for in HU where that is not on record: -1024 3072.
        array: The array of TARGET. [the only one]
        predicted_array: The array of PREDICTED. [image]
        input_array: The array of --input. [image]
        seed: Of the bootstrap over patients.
        draws: Of the bootstrap. [10000]
        workers: Threads that compute. [1]
        data_root: What paths in manifests are relative to. [the folder above prepared or patches]
    """

    input: Path | None = None
    hu: tuple[float, float] | None = None
    data_range: float | None = None
    values_hu: tuple[float, float] | None = None
    array: str | None = None
    predicted_array: str | None = None
    input_array: str | None = None
    seed: int | None = None
    draws: int | None = None
    workers: int | None = None
    data_root: Path | None = None


def evaluate(
    predicted: Slices,
    target: Slices,
    *,
    compared: ComparedOptions = ComparedOptions(),
    labels: Annotated[str | None, Parameter(help="Labels to compare: 1,2. [all, where TARGET holds labels]")] = None,
    csv: Annotated[Path | None, Parameter(help="Write the numbers of each slice to this file.")] = None,
    page: Annotated[Path | None, Parameter(help="Write a page with the worst slices to this file.")] = None,
    worst: Annotated[int, Parameter(help="Slices on the page.")] = 8,
    json_output: Json = False,
) -> int:
    """Compare predicted slices with their targets: PSNR, SSIM and RMSE in HU; Dice and HD95 of labels."""
    from ctpatch.cli.screen import ConsoleListener, print_out, shown_path  # noqa: PLC0415
    from ctpatch.evaluating.api import evaluate as run_evaluate  # noqa: PLC0415

    if page is not None:
        from ctpatch.reporting.evaluation import check_page  # noqa: PLC0415

        check_page(page, worst)
    if csv is not None:
        from ctpatch.evaluating.result import check_csv  # noqa: PLC0415

        check_csv(csv)
    with ConsoleListener(quiet=json_output) as listener:
        found = run_evaluate(predicted, target, labels=_labels(labels), listener=listener, **compared.given())
    written = []
    if csv is not None:
        written.append(f"slices: {shown_path(found.write_csv(csv).resolve())}")
    if page is not None:
        from ctpatch.reporting.evaluation import evaluation_page  # noqa: PLC0415

        written.append(f"page: {shown_path(evaluation_page(found, page, worst=worst).resolve())}")
    if json_output:
        print_out(json_text(found.as_dict()))
    else:
        print_out("\n".join([*map(printable, evaluation_lines(found)), *written]))
    return EXIT_DONE


def _labels(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise ConfigError(f"labels: {text!r}, wanted whole numbers above 0 as 1,2") from None


def evaluation_lines(found: "Evaluation") -> Iterator[str]:
    """What an evaluation found, as lines of text."""
    from ctpatch.evaluating.result import number_table  # noqa: PLC0415

    yield f"{found.title()}: {found.frame()}"
    head, *rows = number_table(found)
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    for row in (head, *rows):
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join(["", row[0].ljust(widths[0]), *cells]).rstrip()
    yield from (f"  {each}" for each in (*found.notes, *found.conventions))
