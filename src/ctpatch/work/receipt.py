"""The record that a part is complete, written last: from there on the part is done."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from ctpatch.errors import CtPatchError, FormatError
from ctpatch.files.atomic import explain_os_error, write_atomic
from ctpatch.files.digest import array_digest, json_digest
from ctpatch.files.npy import SliceBuffer

RECEIPT_SUFFIX = ".receipt.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a finished part did; each kind of work adds its own fields.

    Attributes:
        part: its number.
        plan_digest: the plan it belongs to.
        started_ns: when its first source was read, nanoseconds since 1970.
        reused: whether an earlier run had done the part; not on disk.
    """

    part: int
    plan_digest: str
    started_ns: int
    reused: bool = field(default=False, compare=False)

    @classmethod
    def _required(cls) -> set[str]:
        return {each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING}

    def to_bytes(self) -> bytes:
        """The file's content."""
        content = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "reused"}
        # Fields that were added later stand there where they have something to say.
        content = {name: value for name, value in content.items() if value or name in self._required()}
        return json.dumps({**content, "digest": json_digest(content)}, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self | None:
        """The receipt in a file's content, or None where it is damaged or of another version."""
        try:
            values = json.loads(content)
            known = {each.name for each in fields(cls)} - {"reused"}
            whole = values.pop("digest") == json_digest(values) and cls._required() <= set(values) <= known
            return cls(**values, reused=True) if whole else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, state: Path) -> None:
        """Put the receipt down: from here on the part is done."""
        write_atomic(receipt_path(state, self.part), self.to_bytes())

    @classmethod
    def of_plan(cls, state: Path, part: int, plan_digest: str) -> Self | None:
        """The receipt of a part where it is whole and belongs to a plan, else None."""
        try:
            receipt = cls.from_bytes(receipt_path(state, part).read_bytes())
        except OSError:
            return None
        return receipt if receipt is not None and receipt.plan_digest == plan_digest else None


class Numbered(Protocol):
    """A part, as far as its receipt is concerned: its position among the parts, from 0."""

    @property
    def number(self) -> int: ...  # noqa: D102


PartT = TypeVar("PartT", bound=Numbered)
ReceiptT = TypeVar("ReceiptT", bound=Receipt)


def receipt_path(state: Path, number: int) -> Path:
    """Where the receipt of a part is."""
    return state / f"{number:06d}{RECEIPT_SUFFIX}"


def receipts_of(state: Path, parts: Iterable[PartT], kind: type[ReceiptT]) -> Iterator[tuple[PartT, ReceiptT]]:
    """All parts with their receipts, in order; FormatError where one is gone or damaged."""
    for part in parts:
        path = receipt_path(state, part.number)
        try:
            receipt: Any = kind.from_bytes(path.read_bytes())
        except FileNotFoundError:
            receipt = None
        except OSError as error:
            raise explain_os_error(error, "reading", path.name) from None
        if receipt is None:
            raise FormatError(f"the receipt of part {part.number} is gone or damaged; run the same command again")
        yield part, receipt


def arrays_hold(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether .npy files, by their names below a folder, still have the digests on record."""
    buffer = SliceBuffer()
    try:
        return all(
            array_digest(buffer.read(str(folder / name), name, integers_allowed=True)[0]) == digest
            for name, digest in digests.items()
        )
    except CtPatchError:
        return False
