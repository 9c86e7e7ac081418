"""What a folder holds in the end: names of files, and what is put on record while they are made."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar


@dataclass(frozen=True, slots=True)
class Begun:
    """What a run was to do: the options that decide the result, and the digest of those and of the list of slices.

    Its files are called by `names`: the split, the layout, the arrays. All are plain values.
    """

    options: dict[str, Any]
    plan_digest: str
    names: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The record's file."""
        return json.dumps({"options": self.options, "plan_digest": self.plan_digest, **self.names}, indent=1).encode()


MetaT = TypeVar("MetaT")


class Product(ABC, Generic[MetaT]):
    """What a folder holds in the end: how its files are called, and which one says that it is complete.

    Attributes:
        noun: what an unfinished one is called in messages.
        made: how a finished one came to be.
        elsewhere: what a user does who does not want it touched.
        anew: the option that makes it anew.
        record: name of the file that says what was begun.
        meta: name of the file that stands last.
        tables: files that are written just before it.
        withdrawn: files that lead to the others: they are put aside before any of those is removed.
        name_fields: what the record says of names.
        later_fields: the same, where later versions added it: a record has it where it says something.
    """

    noun: str
    made: str
    elsewhere: str
    anew: str = "--overwrite"
    record: str
    meta: str
    tables: tuple[str, ...] = ()
    withdrawn: tuple[str, ...]
    name_fields: tuple[str, ...]
    later_fields: tuple[str, ...] = ()

    @abstractmethod
    def read_meta(self, path: Path) -> MetaT:
        """The meta in a file; FormatError where it is damaged or of another version, FileNotFoundError without one."""

    @abstractmethod
    def names_of(self, meta: MetaT) -> dict[str, Any]:
        """What the record of the run that made a finished one said of names."""

    @abstractmethod
    def folders(self, names: Mapping[str, Any]) -> list[str]:
        """The folders its files are in, relative to the folder itself."""

    @abstractmethod
    def patterns(self, names: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
        """For each such folder how its files are called."""

    def recorded(self, where: Path, meta: MetaT) -> Iterator[Path] | None:
        """The files that a finished one in a folder lists, or None where it has no list of them.

        What leads to them may have been put aside, into the state folder.
        """
        del where, meta
        return None
