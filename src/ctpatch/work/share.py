"""Shares of the parts, done by commands that know nothing of each other."""

import re
from dataclasses import dataclass
from typing import Self

from ctpatch.errors import ConfigError

MAX_SHARES = 100_000


@dataclass(frozen=True, slots=True)
class Share:
    """One of several shares of the parts, from 1 on: every `of`-th part, beginning with the `number`-th."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share in `3/16`; ConfigError where it is not written so, or there is no such share."""
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
