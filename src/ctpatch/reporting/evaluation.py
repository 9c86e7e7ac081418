"""The page of an evaluation: its numbers, and the worst slices as they were compared."""

import os
from pathlib import Path
from typing import Any

from ctpatch._version import __version__
from ctpatch.errors import ConfigError, CtPatchError
from ctpatch.evaluating.result import Evaluation, number_table
from ctpatch.files.atomic import write_atomic
from ctpatch.files.replacing import file_to_write
from ctpatch.reporting.html import MOST_BYTES, assets, render

MARK = b"ctpatch evaluation"
"""Stands near the beginning of every such page, so that one may be written over another and over nothing else."""
_MOST_SLICES = 64
_STYLES = ("page.css", "parts.css", "evaluation.css")


def evaluation_page(found: Evaluation, out: str | os.PathLike[str], *, worst: int = 8) -> Path:
    """Show an evaluation on one page without a network: its numbers, and its worst slices with their differences.

    Args:
        found: what `ctpatch.evaluate` found.
        out: the file to write. An earlier page of an evaluation is replaced, anything else is not.
        worst: how many slices are shown.

    Returns:
        The file that was written.

    Raises:
        UsageError: the extra `report` is not installed, or the folder of the file is not there.
        ConfigError: `worst` makes no sense.
        OutputConflictError: the file is there and is no page of an evaluation.
        NpyError, SourceChangedError: a slice is no longer there, or no longer the one that was compared.
        SystemFailureError: the file cannot be written.
    """
    target = check_page(out, worst)
    numbers = found.worst(worst)
    head, *rows = number_table(found)
    from ctpatch.reporting.evaluation_pictures import label_key, make_cards  # noqa: PLC0415 - needs the extra

    cards, key = make_cards(found, numbers)
    page = render(
        "evaluation.html.j2",
        assets(_STYLES),
        "",
        version=__version__,
        title=found.title(),
        frame=found.frame(),
        notes=found.notes,
        conventions=found.conventions,
        libraries=", ".join(f"{name} {version}" for name, version in found.libraries.items()),
        head=head,
        rows=rows,
        patients=_patient_table(found),
        cards=cards,
        key=key,
        **label_key(found),
        ranked="lowest PSNR" if found.kind == "images" else "lowest mean Dice",
    )
    if len(page) >= MOST_BYTES:
        raise CtPatchError(
            f"the page would have {len(page):,} bytes, wanted less than {MOST_BYTES:,}; show fewer slices (--worst)"
        )
    write_atomic(target, page)
    return target


def check_page(out: str | os.PathLike[str], worst: int) -> Path:
    """The file that a page is written to; refuses what `evaluation_page` refuses, before any work is done."""
    from ctpatch.reporting import check_installed  # noqa: PLC0415

    check_installed()
    if type(worst) is not int or not 1 <= worst <= _MOST_SLICES:
        raise ConfigError(f"worst: {worst!r}, wanted 1 to {_MOST_SLICES} slices")
    return file_to_write(out, MARK, "page of an evaluation", "evaluation.html", "--page")


def _patient_table(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """The table of patients as cells of text: its header, and its rows."""
    names = found.patients.columns
    rows = [[_cell(found, *each) for each in row.items()] for row in found.patients.iter_rows(named=True)]
    return [name.replace("_", " ") for name in names], rows


def _cell(found: Evaluation, name: str, value: Any) -> str:
    if isinstance(value, float):
        return found.shown(value, name)
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
