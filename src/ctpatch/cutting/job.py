"""What all parts of a build share; small, and safe to send to another process or machine."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ctpatch.config import PatchConfig
from ctpatch.errors import ConfigError
from ctpatch.format.meta import ArrayInfo
from ctpatch.layouts import layout_of
from ctpatch.words import LayoutName, OnError

RECEIPT_SUFFIX = ".receipt.json"
MAX_SHARES = 100_000


@dataclass(frozen=True, slots=True)
class Share:
    """One of several shares of the parts: every `of`-th part, beginning with the `number`-th.

    Attributes:
        number: from 1 to `of`.
        of: how many shares there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share in `3/16`.

        Raises:
            ConfigError: it is not written so, or there is no such share.
        """
        found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]) <= MAX_SHARES:
            raise ConfigError(
                f"share: {text[:40]!r}, wanted the number of a share and how many there are, as 3/16: "
                f"from 1/16 to 16/16, at most {MAX_SHARES:,}"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def takes(self, part: int) -> bool:
        """Whether a part, by its number from 0, is in the share."""
        return part % self.of == self.number - 1


@dataclass(frozen=True, slots=True)
class Job:
    """What all parts of a build share.

    Attributes:
        data_root: what source paths are relative to.
        folder: the patch set's folder; absolute.
        state: the folder of receipts.
        path_prefix: what stands before a patch's path in the manifest.
        split: the split's name.
        config: geometry, range and rules.
        layout: how patches are written.
        arrays: `image` and those beside it.
        plan_digest: what a receipt must agree with.
        on_error: whether a faulty slice stops the part.
        strict: compare digests of sources before a receipt is trusted.
    """

    data_root: Path
    folder: Path
    state: Path
    path_prefix: str
    split: str
    config: PatchConfig
    layout: LayoutName
    arrays: dict[str, ArrayInfo]
    plan_digest: str
    on_error: OnError
    strict: bool

    def resolve_patch(self, path: str) -> str:
        """Where a patch's file is: below the set's folder, or below the data root where the set has no pixels."""
        if layout_of(self.layout).reads_sources:
            return str(self.data_root / path)
        return str(self.folder / path.removeprefix(self.path_prefix))

    def piece(self, number: int, table: str) -> Path:
        """The rows of one of the tables that a part contributes."""
        return self.state / f"{number:06d}.{table}"

    def receipt(self, number: int) -> Path:
        """The receipt of a part."""
        return self.state / f"{number:06d}{RECEIPT_SUFFIX}"
