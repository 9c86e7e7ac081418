"""The report: one page, or one picture, that shows patch sets and lets their rules be tuned by eye."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ctpatch.errors import ConfigError, UsageError
from ctpatch.events import Listener, Notice, ignore
from ctpatch.files.atomic import write_atomic
from ctpatch.files.replacing import file_to_write
from ctpatch.reading.patchset import AnySet, PatchSet, open_set
from ctpatch.reporting.windows import gather, stored_note

ReportFormat = Literal["html", "png"]
SetPath = str | os.PathLike[str] | AnySet
MARK = b"ctpatch report"
"""Stands near the beginning of every report, so that one may be written over another and over nothing else."""
_MOST_SLICES = 200
_MAX_SEED = 2**63
_NEEDED = {"html": ("jinja2", "PIL"), "png": ("matplotlib", "PIL")}


def report(
    patches: SetPath | Sequence[SetPath],
    out: str | os.PathLike[str] | None = None,
    *,
    format: ReportFormat = "html",  # noqa: A002 - as the option is called
    slices: int = 24,
    seed: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    listener: Listener = ignore,
) -> Path:
    """Show patch sets on one page without a network, or as one picture.

    Args:
        patches: a finished set (its folder, or the opened set), or several, such as the splits of a dataset.
        out: the file to write; None takes `report.html` or `report.png` in the current folder. An earlier report
            is replaced, anything else is not.
        format: `html`, a page of less than 10 MB that also tries other rules; `png`, an overview for papers and logs.
        slices: how many slices are shown, of all sets together.
        seed: decides which slices and patches are shown where that is left to chance; the same sets and seed give
            the same bytes.
        data_root: what source paths are relative to, for sets outside their data root.
        listener: is told of progress, and of pixel files that are missing or cut short.

    Returns:
        The file that was written.

    Raises:
        UsageError: there is no patch set, or the extra `report` is not installed.
        ConfigError: an option makes no sense.
        OutputConflictError: the file is there and is no report.
        FormatError: a set is unfinished or damaged.
        SystemFailureError: the file cannot be written.
    """
    if format not in _NEEDED:
        raise ConfigError(f"format: {format!r}, wanted html or png")
    if type(slices) is not int or not 1 <= slices <= _MOST_SLICES:
        raise ConfigError(f"slices: {slices!r}, wanted 1 to {_MOST_SLICES}")
    if type(seed) is not int or not 0 <= seed < _MAX_SEED:
        raise ConfigError(f"seed: {seed!r}, wanted 0 to 2**63 - 1")
    check_installed(format)
    given: Sequence[SetPath] = [patches] if isinstance(patches, str | os.PathLike | PatchSet) else list(patches)
    if not given:
        raise UsageError("no patch set given: name its folder")
    target = file_to_write(out if out is not None else f"report.{format}", MARK, "report", "report.html", "-o")
    sets = [each if isinstance(each, PatchSet) else open_set(each, data_root) for each in given]
    # Others are compared with the first, and what one compares with is the training split.
    windows = gather(sorted(sets, key=lambda ps: ps.meta.split != "train"))
    notes = [note for each in windows.sets if (note := stored_note(each))]
    for note in notes:
        listener(Notice("pixels-damaged", note))

    from ctpatch.reporting.gallery import make_gallery  # noqa: PLC0415 - needs the extra

    gallery = make_gallery(windows, slices, seed, listener)
    if format == "html":
        from ctpatch.reporting.page import render_page  # noqa: PLC0415

        content = render_page(windows, gallery, notes)
    else:
        from ctpatch.reporting.overview import draw_overview  # noqa: PLC0415

        content = draw_overview(windows, gallery)
    write_atomic(target, content)
    return target


def report_along(
    folders: Sequence[Path], data_root: str | os.PathLike[str] | None, listener: Listener = ignore
) -> Path:
    """Write `report.html` along with sets that were built: into the set's folder, or that above several."""
    where = folders[0] if len(folders) == 1 else Path(os.path.commonpath(folders))
    return report(list(folders), where / "report.html", data_root=data_root, listener=listener)


def check_installed(kind: ReportFormat = "html") -> None:
    """Raise a UsageError where libraries of a report are missing; it says how to install them."""
    missing = [name for name in _NEEDED[kind] if find_spec(name) is None]
    if missing:
        raise UsageError(f"a report needs {' and '.join(missing)}: pip install 'ctpatch[report]'")
