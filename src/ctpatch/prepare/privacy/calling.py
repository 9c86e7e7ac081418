"""What files and patients of the source are called where a user reads of them: their names, or pseudonyms."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import polars as pl

from ctpatch.errors import CtPatchError
from ctpatch.events import Listener, Notice
from ctpatch.files.atomic import given_path, system_errors, write_file
from ctpatch.prepare.inputs import Found
from ctpatch.prepare.part import without_names
from ctpatch.prepare.planning import Row
from ctpatch.prepare.privacy.hiding import replace_names
from ctpatch.prepare.privacy.pseudonyms import Pseudonyms
from ctpatch.prepare.readers.base import LeftOut, RawSlice, SeriesNote
from ctpatch.prepare.short import left_out_lines, series_lines

_MAX_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Calling:
    """How a run speaks of its source.

    Names themselves are said with `names_shown`: a terminal is for the user's eyes, a log or a pipe is not.
    `names_file` is the user's own table of pseudonyms, readable by the user alone; None writes none.
    """

    pseudonyms: Pseudonyms
    names_shown: bool
    names_file: str | os.PathLike[str] | None

    def left_out(self, left: LeftOut) -> str:
        """A file that is left out, and why."""
        if self.names_shown:
            return f"{written_name(left.where)}: {left.reason}"
        return f"{self.pseudonyms.file(left.where)}: {written_reason(left)}"

    def lines(self, left: Iterable[LeftOut]) -> list[str]:
        """The same of several, in a line for each kind: with the first three names, or the count alone."""
        reason = (lambda each: each.reason) if self.names_shown else written_reason
        spoken = (replace(each, where=written_name(each.where), reason=reason(each)) for each in left)
        return left_out_lines(spoken, names_shown=self.names_shown)

    def tell_notes(self, notes: Sequence[SeriesNote], rows: Sequence[Row], listener: Listener) -> None:
        """Say what is odd about series, in a line for each kind; the meta has all."""
        for kind, said in series_lines(notes, self._series(rows), names_shown=self.names_shown).items():
            listener(Notice(kind, said))

    def by_pseudonym(self, rows: Sequence[Row]) -> dict[str, str]:
        """What series are called, by their pseudonyms; nothing where names are not shown."""
        if not self.names_shown:
            return {}
        return {self.pseudonyms.series(series): said for series, said in self._series(rows).items()}

    @staticmethod
    def _series(rows: Sequence[Row]) -> dict[str, str]:
        called: dict[str, str] = {}
        for raw in (raw for row in rows for raw in row):
            place = raw.file.rpartition("/")[0] or raw.file
            label = raw.label.strip()
            # A label can be the name of the file itself, as that of a NIfTI volume is.
            said = f"{label!r} in {place}" if label and raw.file not in label else label or raw.file
            called.setdefault(raw.series, written_name(said))
        return called

    @contextmanager
    def speaking_of(self, found: Found) -> Iterator[None]:
        """Errors raised inside call what was found as this says; the user's list is written for them too."""
        try:
            yield
        except CtPatchError as error:
            self.write_names(found.rows, found)
            if self.names_shown:
                raise
            hint = "" if self.names_file is not None else "; --names FILE writes the table of pseudonyms"
            said = self._without_names(error.message, found)
            raise type(error)(said if said == error.message else f"{said}{hint}") from None

    def _without_names(self, message: str, found: Found) -> str:
        stands_for: dict[str, str] = {}
        for each in (raw for row in found.rows for raw in row):
            stands_for[each.file] = self.pseudonyms.file(each.file)
            for name in {each.group, each.who}:
                for quoted in (repr(name), repr(name[:_MAX_QUOTED])):
                    stands_for[quoted] = self.pseudonyms.patient(name)
        stands_for |= {left.where: self.pseudonyms.file(left.where) for _, left in found.left_out}
        # What the user named on the command line is no secret to the user.
        return replace_names(message, {name: said for name, said in stands_for.items() if name not in found.given})

    def write_names(self, rows: Sequence[Row], found: Found) -> None:
        """Write the user's list, where one is wanted: all slices that are prepared and all files that are not."""
        if self.names_file is None:
            return
        given = self.pseudonyms
        names = {("patient", row[0].who, given.patient(row[0].who)) for row in rows}
        names |= {("group", row[0].group, given.patient(row[0].group)) for row in rows if row[0].patient is not None}
        names |= {("series", raw.series, given.series(raw.series)) for row in rows for raw in row}
        names |= {("file", raw.file, given.file(raw.file)) for row in rows for raw in row}
        names |= {("left-out", left.where, given.file(left.where)) for _, left in found.left_out}
        file, stream = given_path(self.names_file), io.BytesIO()
        written = sorted((what, written_name(name), pseudonym) for what, name, pseudonym in names)
        pl.DataFrame(written, schema=["what", "name", "pseudonym"], orient="row").write_csv(stream)
        with system_errors("writing", file.name):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
            write_file(str(file), [stream.getvalue()])


def written_name(name: str) -> str:
    r"""A name as a text of UTF-8: bytes of a file's name that are none stand there as `\xfc`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def written_reason(left: LeftOut) -> str:
    """A reason as it may be written; readers keep names out of it, and this makes sure of those it knows."""
    return without_names(left.reason, [RawSlice(left.where, 0, (1, 1), left.where, "file", left.where, 0)])
