"""What a folder holds in the end: names of files, and what is put on record while they are made."""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ctpatch.errors import FormatError, OutputConflictError
from ctpatch.files.atomic import explain_os_error, read_regular
from ctpatch.format.meta import STATE_FOLDER

CLEARING = "clearing.json"
"""In the state folder while what is in the folder is removed; earlier versions wrote there what they had begun."""
_MAX_RECORD_BYTES = 16 << 20
_SHOWN_CHARACTERS = 200


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

    def changes_since(self, before: Mapping[str, Any]) -> list[str]:
        """The options that were others before, one line each."""
        changed = {name: now for name, now in self.options.items() if before.get(name) != now}
        return [f"{name} was {_shown(before.get(name))}, now {_shown(now)}" for name, now in changed.items()]


def _shown(value: Any) -> str:
    return json.dumps(value)[:_SHOWN_CHARACTERS]


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

    def recorded(self, where: Path, meta: MetaT) -> Iterator[Path]:
        """The files of a finished one in a folder; where it has no list of them, all that are called as its own.

        What leads to them may have been put aside, into the state folder.
        """
        yield from (where / name for name in self.named_like(where, self.names_of(meta)))

    def named_like(self, where: Path, names: Mapping[str, Any]) -> Iterator[str]:
        """Files in a folder that are called as those such a run writes; its tables and its meta among them."""
        yield from (name for name in (self.meta, *self.tables) if os.path.lexists(where / name))
        for folder, pattern in self.patterns(names).items():
            place = where / folder
            if folder and place.is_symlink():
                yield folder
            elif place.is_dir():
                with os.scandir(place) as entries:
                    yield from (
                        f"{folder}/{entry.name}".lstrip("/") for entry in entries if pattern.fullmatch(entry.name)
                    )

    def finished(self, where: Path) -> MetaT | None:
        """The meta of what is complete in a folder, or None where nothing is; refuses one that is not ours."""
        try:
            return self.read_meta(where / self.meta)
        except FileNotFoundError:
            return None
        except FormatError as error:
            raise OutputConflictError(
                f"{where.name}: {error.message.partition('; ')[0]}; {self.elsewhere}, or remove the folder yourself"
            ) from None

    def begun(self, where: Path, record: str | None = None) -> Begun | None:
        """What was begun in a folder and not finished, or None; refuses a damaged record of it."""
        shown = f"{STATE_FOLDER}/{record or self.record}"
        try:
            content = json.loads(read_regular(where / shown, _MAX_RECORD_BYTES))
            if content == {}:
                return None
            names = {each: content[each] for each in self.name_fields}
            return Begun(dict(content["options"]), str(content["plan_digest"]), names)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_os_error(error, "reading", shown) from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise OutputConflictError(
                f"{where.name}: the record of an unfinished {self.noun} ({shown}) is damaged; remove the folder, or "
                f"{self.elsewhere}"
            ) from None

    def refuse_foreign(self, where: Path, names: Mapping[str, Any], ours: Collection[Path] = ()) -> None:
        """Raise where a file that is not ours has the name of one that would be written."""
        for name in self.named_like(where, names):
            if where / name not in ours:
                raise OutputConflictError(
                    f"{where.name} holds {name}, which this {self.noun} would write and ctpatch did not put there; "
                    f"move it away, or {self.elsewhere}"
                )

    def refuse_links(self, where: Path, names: Iterable[str]) -> None:
        """Raise where one of these folders is a link."""
        for name in names:
            if (where / name).is_symlink():
                raise OutputConflictError(
                    f"{where.name}/{name} is a link, which is not followed; remove it, or {self.elsewhere}"
                )
