"""An inspection as text of 80 columns; a line to copy is never broken."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ctpatch.errors import printable
from ctpatch.inspecting.result import Inspection, Said, Section, SeriesSeen

WIDTH = 80
MOST_SERIES = 20
HEADS = ("#", "patient", "slices", "size", "thick", "step", "pixel", "missing", "plane", "HU")
_LEFT = frozenset({"plane"})
_SETS = {
    "prepared": ("prepared data set", "prepared data sets"),
    "predicted": ("set of predicted slices", "sets of predicted slices"),
    "patches": ("patch set", "patch sets"),
    "unfinished": ("unfinished set", "unfinished sets"),
}
_TITLES = {
    "dicom": "DICOM",
    "nifti": "NIfTI",
    "metaimage": "MetaImage",
    "nrrd": "NRRD",
    "numpy": "NumPy arrays",
    "images": "pictures",
    "lodopab": "LoDoPaB-CT",
}


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 slice`, `2 slices`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def title_of(section: Section) -> str:
    """What there is of a format, in one line."""
    who = counted(section.patients, "patient")
    series = counted(len(section.series), "series", "series")
    return f"{_TITLES.get(section.format, section.format)}: {who}, {series}, {counted(section.slices, 'slice')}"


def patients_line(section: Section) -> str:
    """What stands for patients where no id does; blank where ids do."""
    kinds = section.patient_kind.split(" or ")
    others = " or ".join(each for each in kinds if each != "patient")
    if not others:
        return ""
    which = "Some slices" if "patient" in kinds else "Slices"
    return f"{which} have no patient id: each {others} counts as a patient."


def cells_of(each: SeriesSeen) -> tuple[str, ...]:
    """A series as cells, in the order of `HEADS`; lengths in mm."""
    spacing = each.spacing_mm
    pixel = "-" if spacing is None else _mm(spacing[0])
    if spacing is not None and _mm(spacing[1]) != pixel:
        pixel = f"{pixel}x{_mm(spacing[1])}"
    return (
        str(each.number),
        str(each.patient),
        f"{each.slices:,}",
        "x".join(map(str, each.shape)),
        _mm(each.thickness_mm),
        _mm(each.step_mm),
        pixel,
        str(each.missing),
        each.plane,
        "-" if each.hu is None else f"{each.hu[0]:.0f} to {each.hu[1]:.0f}",
    )


def _mm(length: float | None) -> str:
    return "-" if length is None else f"{length:.3g}"


def called(each: SeriesSeen) -> str:
    """Role, description and kernel, or the name of the file."""
    names = [part for part in (each.description, each.kernel) if part] or [part for part in (each.name,) if part]
    role = [] if each.role == "image" else [f"[{each.role}]"]
    return printable(" ".join([*role, " / ".join(names)]).strip())


def said_line(said: Said) -> str:
    """A sentence with its count and the first file."""
    first = "" if said.first is None else f" (the first: {said.first})" if said.count > 1 else f" ({said.first})"
    return printable(f"{said.count:,} {said.kind}: {said.message}{first}")


def inspection_lines(found: Inspection) -> Iterator[str]:
    """All of it."""
    yield printable(f"{found.source}: {counted(found.files, 'file')}")
    for section in found.sections:
        yield ""
        yield from _section_lines(section)
    if found.sets:
        yield ""
        for each in found.sets:
            one, many = _SETS[each.kind]
            which = "it" if each.count == 1 else "the first"
            yield f"{counted(each.count, one, many)}, written by ctpatch; this looks at {which}:"
            yield f"  {printable(each.command)}"
    if found.others:
        yield ""
        yield "Other files:"
        for said in found.others:
            yield from _wrapped(said_line(said), "  ", "    ")
    if not found.usable:
        yield ""
        yield "There is no CT here that ctpatch can prepare."


def hu_line(section: Section) -> str:
    """How the HU were found, or why there are none."""
    if section.hu_unknown:
        return f"No HU: {section.hu_unknown}."
    most = max(each.slices_read for each in section.series)
    return (
        f"Lengths in mm. HU: lowest and highest of up to {counted(most, 'slice')} of each series."
        if most
        else "Lengths in mm."
    )


def _section_lines(section: Section) -> Iterator[str]:
    yield title_of(section)
    shown = section.series[:MOST_SERIES]
    yield from _table([cells_of(each) for each in shown], shown)
    hidden = section.series[MOST_SERIES:]
    if hidden:
        odd = sum(bool(each.suspicions) for each in hidden)
        yield f"  and {len(hidden):,} more series, {odd:,} with something to look at; --json has all"
    yield from _wrapped(" ".join(filter(None, [hu_line(section), patients_line(section)])), "  ", "  ")
    for note in section.notes:
        yield from _wrapped(printable(note), "  note: ", "    ")
    if section.left_out:
        yield "  prepare would leave out:"
        for said in section.left_out:
            yield from _wrapped(said_line(said), "    ", "      ")
    if faults := sum(each.count for each in section.left_out if each.fault):
        yield from _wrapped(
            f"prepare stops at {faults:,} of these files: fix or remove them, or add --on-error skip.", "  ", "  "
        )
    yield "  to prepare it:" if len(section.commands) == 1 else "  to prepare it, one line for each folder of images:"
    yield from (f"    {printable(line)}" for line in section.commands)


def _table(rows: Sequence[tuple[str, ...]], series: Sequence[SeriesSeen]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in (HEADS, *rows)) for at in range(len(HEADS))]
    yield _row(HEADS, widths)
    for row, each in zip(rows, series, strict=True):
        yield _row(row, widths)
        indent = " " * (widths[0] + 4)
        if name := called(each):
            yield indent + (name if len(name) <= WIDTH - len(indent) else f"{name[: WIDTH - len(indent) - 1]}…")
        for said in each.suspicions:
            yield from _wrapped(printable(said.message), f"{indent}! ", f"{indent}  ")


def _row(cells: Iterable[str], widths: Sequence[int]) -> str:
    shown = (
        cell.ljust(width) if head in _LEFT else cell.rjust(width)
        for cell, width, head in zip(cells, widths, HEADS, strict=True)
    )
    return "  " + " ".join(shown).rstrip()


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False, break_long_words=False
    )
