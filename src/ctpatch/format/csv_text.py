"""CSV files as people write them: in UTF-8 or UTF-16, with commas, semicolons or tabs, with lines ended in any way.

A CSV in UTF-8 is read from its file, a piece at a time. Another one is made UTF-8 in memory first.
"""

import csv
import io
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ctpatch.errors import SourceManifestError

_HEAD_BYTES = 1 << 16
_MAX_REWRITTEN_BYTES = 256 << 20
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a zip archive, such as an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"\x1f\x8b", "packed with gzip"),
    (b"PAR1", "a Parquet file"),
)
_SEPARATORS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}
_LEAST_ZEROS, _MOST_ZEROS = 0.7, 0.1
"""Shares of zeros in every other byte: a header is nearly all Latin letters, so UTF-16 has 1.0 there and 0 between."""


@dataclass(frozen=True, slots=True)
class CsvText:
    """A CSV that polars reads: its file or its bytes, in UTF-8 with lines ended by a line feed, and what parts cells.

    Attributes:
        place: the file, or its content where it had to be written anew.
        separator: one character.
    """

    place: Path | io.BytesIO
    separator: str = ","

    @property
    def separator_name(self) -> str:
        """As messages name it."""
        return _SEPARATORS[self.separator]


def open_csv(path: Path, name: str, wanted: Collection[str]) -> CsvText:
    """Find out how a CSV is written. The separator is the one by which the header has one of the `wanted` columns.

    Args:
        path: the file.
        name: what messages call it.
        wanted: names of columns, in small letters.

    Raises:
        OSError: the file cannot be read.
        SourceManifestError: it is no text, or is too large to be rewritten.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        encoding = _encoding(head, name)
        if encoding == "utf-8" and not _ends_lines_by_return(head):
            return CsvText(_for_polars(path), _separator(head.decode("utf-8", "replace"), name, wanted))
        content = head + file.read(_MAX_REWRITTEN_BYTES - len(head) + 1)
    if len(content) > _MAX_REWRITTEN_BYTES:
        raise SourceManifestError(
            f"{name} has more than {_MAX_REWRITTEN_BYTES >> 20} MiB, and is not UTF-8 with lines ended by a line feed; "
            "save it as such a CSV"
        )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise SourceManifestError(
            f"{name} begins as {encoding.upper()} and is not at byte {error.start}; save it as a CSV in UTF-8"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return CsvText(io.BytesIO(text.encode("utf-8", "surrogatepass")), _separator(text[:_HEAD_BYTES], name, wanted))


def csv_rows(path: Path, name: str, wanted: Collection[str], rows: int) -> Iterator[pl.DataFrame]:
    """The rows of a CSV as texts, `rows` at a time, so that memory does not grow with the file.

    See `open_csv` for the other arguments, and `column_names` for how columns are called.

    Raises:
        SourceManifestError: it cannot be read, is empty, is no such CSV, or has a column twice.
    """
    empty = SourceManifestError(f"{name} is empty; wanted a header with 'path' and a row for each slice")
    separator = "','"
    try:
        written = open_csv(path, name, wanted)
        separator = written.separator_name
        table = pl.scan_csv(written.place, infer_schema=False, glob=False, separator=written.separator)
        columns = table.collect_schema().names()
        if not any(column.strip() for column in columns):
            raise empty
        twice = [column for column in columns if "_duplicated_" in column]
        if twice:
            raise SourceManifestError(
                f"{name} has two columns {twice[0].partition('_duplicated_')[0]!r}; each column is there once"
            )
        table = table.rename(column_names(columns, wanted))
        yield from table.collect_batches(chunk_size=rows, maintain_order=True, lazy=True)
    except OSError as error:
        raise SourceManifestError(f"{name} cannot be read: {error.strerror}") from None
    except pl.exceptions.NoDataError:
        raise empty from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SourceManifestError(
            f"{name} is not a CSV in UTF-8 with as many cells in each row, separated by {separator}: {reason}"
        ) from None


def column_names(columns: Sequence[str], wanted: Collection[str]) -> dict[str, str]:
    """What to call the columns of a CSV: without spaces around; in small letters if those `wanted` have others.

    >>> column_names([" path", "Patient_ID"], ["path"])
    {' path': 'path', 'Patient_ID': 'Patient_ID'}
    >>> column_names(["Path", "Patient_ID"], ["path"])
    {'Path': 'path', 'Patient_ID': 'patient_id'}
    """
    names = [column.strip() for column in columns]
    small = [name.casefold() for name in names]
    capitals = not set(wanted) & set(names) and set(wanted) & set(small)
    return dict(zip(columns, small if capitals and len(set(small)) == len(small) else names, strict=True))


def _for_polars(path: Path) -> Path | io.BytesIO:
    """The file, or its content where its path is no UTF-8: polars opens no such path."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return io.BytesIO(path.read_bytes())
    return path


def _encoding(head: bytes, name: str) -> str:
    for start, kind in _NO_TEXT:
        if head.startswith(start):
            raise SourceManifestError(f"{name} is no CSV, it is {kind}; save it as a CSV in UTF-8")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" not in head:
        return "utf-8"
    # The first line decides: what comes later may be in other letters.
    start = head[: max(head.find(b"\n"), 8)][:256]
    even, odd = (part.count(0) / len(part) if part else 0.0 for part in (start[::2], start[1::2]))
    if odd >= _LEAST_ZEROS and even <= _MOST_ZEROS:
        return "utf-16-le"
    if even >= _LEAST_ZEROS and odd <= _MOST_ZEROS:
        return "utf-16-be"
    if start.count(0) > _MOST_ZEROS * len(start):
        raise SourceManifestError(f"{name} is no CSV: it holds bytes that are zero; save it as a CSV in UTF-8")
    return "utf-8"  # the cell with the zero is refused


def _ends_lines_by_return(head: bytes) -> bool:
    header, feed, _ = head.partition(b"\n")
    # Within quotes a return may stand for itself, where line feeds end the lines.
    return b"\r" in header.rstrip(b"\r") and (not feed or b'"' not in header)


def _separator(text: str, name: str, wanted: Collection[str]) -> str:
    """What parts the cells of the header; a comma where that cannot be told."""
    line = re.split(r"[\r\n]", text.removeprefix("\ufeff"), maxsplit=1)[0]
    if re.fullmatch(r'"?sep=."?', line.strip(), re.IGNORECASE):
        raise SourceManifestError(
            f"{name} begins with {line.strip()!r}, which only a spreadsheet understands; remove this line"
        )
    cells = {mark: _cells(line, mark) for mark in _SEPARATORS}
    for mark, found in cells.items():
        if any(cell.strip().casefold() in wanted for cell in found):
            return mark
    return max(cells, key=lambda mark: len(cells[mark]))


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []
