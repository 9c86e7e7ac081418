"""The user's own list of what stands for whom: outside the output, readable by the user alone."""

import io
import os
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ctpatch.errors import UsageError
from ctpatch.files.atomic import given_path, system_errors, write_file


class Name(NamedTuple):
    """A name as the source has it, what it names, and its pseudonym."""

    what: str
    name: str
    pseudonym: str


def refuse_inside(path: str | os.PathLike[str], data_root: Path) -> None:
    """Refuse a list that would lie in what is written, and may be given away.

    Raises:
        UsageError: it lies there.
    """
    file = given_path(path)
    if Path(os.path.realpath(file)).is_relative_to(os.path.realpath(data_root)):
        raise UsageError(f"{file.name} would say who is who, in the folder that is written; choose a --names elsewhere")


def write_names(path: str | os.PathLike[str], names: list[Name]) -> None:
    """Write the list as a CSV.

    Raises:
        SystemFailureError: the system refused.
    """
    file = given_path(path)
    stream = io.BytesIO()
    pl.DataFrame(names, schema=list(Name._fields), orient="row").write_csv(stream)
    with system_errors("writing", file.name):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
        write_file(str(file), [stream.getvalue()])
