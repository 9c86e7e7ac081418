"""What files and patients of the source are called where a user reads of them: their names, or pseudonyms."""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl

from ctpatch.errors import CtPatchError
from ctpatch.files.atomic import given_path, system_errors, write_file
from ctpatch.prepare.inputs import Found
from ctpatch.prepare.part import without_names
from ctpatch.prepare.planning import Row
from ctpatch.prepare.privacy.pseudonyms import Pseudonyms
from ctpatch.prepare.readers.base import LeftOut, RawSlice

_MAX_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Calling:
    """How a run speaks of its source.

    Names themselves are said with `names_shown`: a terminal is for the user's eyes, a log or a pipe is not.
    `names_file` is the user's own list of what stands for whom, readable by the user alone; None writes none.
    """

    pseudonyms: Pseudonyms
    names_shown: bool
    names_file: str | os.PathLike[str] | None

    def left_out(self, left: LeftOut) -> str:
        """A file that is left out, and why."""
        if self.names_shown:
            return f"{left.where}: {left.reason}"
        return f"{self.pseudonyms.file(left.where)}: {written_reason(left)}"

    @contextmanager
    def speaking_of(self, found: Found) -> Iterator[None]:
        """Errors raised inside call what was found as this says; the user's list is written for them too."""
        try:
            yield
        except CtPatchError as error:
            self.write_names(found.rows, found)
            if self.names_shown:
                raise
            hint = "" if self.names_file is not None else "; --names FILE says what stands for whom"
            said = self._without_names(error.message, found)
            raise type(error)(said if said == error.message else f"{said}{hint}") from None

    def _without_names(self, message: str, found: Found) -> str:
        stands_for: dict[str, str] = {}
        for each in (raw for row in found.rows for raw in row):
            stands_for[each.file] = self.pseudonyms.file(each.file)
            for quoted in (repr(each.group), repr(each.group[:_MAX_QUOTED])):
                stands_for[quoted] = self.pseudonyms.patient(each.group)
        stands_for |= {left.where: self.pseudonyms.file(left.where) for _, left in found.left_out}
        said = sorted(
            (name for name in stands_for if name in message and name not in found.given), key=len, reverse=True
        )
        if not said:
            return message
        names = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, said))})(?!\w)")
        return names.sub(lambda match: stands_for[match[1]], message)

    def write_names(self, rows: Sequence[Row], found: Found) -> None:
        """Write the user's list, where one is wanted: all slices that are prepared and all files that are not."""
        if self.names_file is None:
            return
        given = self.pseudonyms
        names = {("patient", row[0].group, given.patient(row[0].group)) for row in rows}
        names |= {("series", raw.series, given.series(raw.series)) for row in rows for raw in row}
        names |= {("file", raw.file, given.file(raw.file)) for row in rows for raw in row}
        names |= {("left-out", left.where, given.file(left.where)) for _, left in found.left_out}
        file, stream = given_path(self.names_file), io.BytesIO()
        pl.DataFrame(sorted(names), schema=["what", "name", "pseudonym"], orient="row").write_csv(stream)
        with system_errors("writing", file.name):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
            write_file(str(file), [stream.getvalue()])


def written_reason(left: LeftOut) -> str:
    """A reason as it may be written; readers keep names out of it, and this makes sure of those it knows."""
    return without_names(left.reason, [RawSlice(left.where, 0, (1, 1), left.where, "file", left.where, 0)])
