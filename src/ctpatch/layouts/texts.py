"""Texts of a column as NumPy arrays: for processes that cannot use polars, and small when they are pickled."""

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray


class Texts:
    """The texts of a column, by number.

    Python objects would take ten times the memory, and a forked process would copy each page that it reads them from.

    Args:
        column: texts, none of them null.
    """

    def __init__(self, column: pl.Series) -> None:
        self._bytes = "".join(column.to_list()).encode()
        self._ends: NDArray[np.int64] = np.cumsum(column.str.len_bytes().to_numpy(), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, numbers: NDArray[np.int64]) -> list[str]:
        """The texts of these numbers, in the order asked."""
        starts = np.where(numbers > 0, self._ends[numbers - 1], 0)
        places: Iterable[tuple[int, int]] = zip(starts.tolist(), self._ends[numbers].tolist(), strict=True)
        return [self._bytes[start:end].decode() for start, end in places]
