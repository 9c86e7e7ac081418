"""An inspection as HTML, for notebooks."""

import html
from collections.abc import Iterable, Iterator

from ctpatch.inspecting.result import Inspection, Section
from ctpatch.inspecting.text import (
    HEADS,
    called,
    cells_of,
    hu_line,
    inspection_lines,
    patients_line,
    said_line,
    title_of,
)

_MOST_SERIES = 100


def inspection_html(found: Inspection) -> str:
    """A table for each format; the rest as text."""
    rest = Inspection(found.source, found.files, (), found.others, found.sets, found.slices_asked)
    lines = [line for line in inspection_lines(rest) if not (found.usable and line.startswith("There is no CT"))]
    return "".join(["<div>", *map(_section, found.sections), _text(lines), "</div>"])


def _section(section: Section) -> str:
    rows = (
        [*cells_of(each), called(each), "; ".join(said.message for said in each.suspicions)]
        for each in section.series[:_MOST_SERIES]
    )
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    head = _cells([*HEADS, "series", "suspicions"], "th")
    below = [hu_line(section), patients_line(section), *section.notes]
    below += [f"left out: {said_line(said)}" for said in section.left_out]
    more = len(section.series) - _MOST_SERIES
    below += [f"and {more:,} more series"] if more > 0 else []
    return (
        f"<table><caption>{html.escape(title_of(section))}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{_text([*below, *section.commands])}"
    )


def _cells(texts: Iterable[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)


def _text(lines: Iterable[str]) -> str:
    return f"<pre>{html.escape(chr(10).join(_stripped(lines)))}</pre>"


def _stripped(lines: Iterable[str]) -> Iterator[str]:
    """Without blank lines, which a page does not need."""
    return (line for line in lines if line)
