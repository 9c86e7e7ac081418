"""Ids as people mean them: which texts say that there is none, and which are the same but for spelling."""

import re
import unicodedata

import polars as pl

BLANKS = frozenset(
    (
        "", "nan", "-nan", "+nan", "na", "n/a", "<na>", "none", "null", "nat", "#n/a", "#na", "#n/a n/a", "#value!",
        "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
    )
)  # fmt: skip
"""In small letters, texts that pandas, R, NumPy, spreadsheets and databases write where there is no value."""

_FLOAT_OF_WHOLE = re.compile(r"([0-9]+)[.,]0+")
_LEADING_ZEROS = re.compile(r"(?<![0-9.,])0+(?=[0-9])")


def without_blanks(values: pl.Series) -> pl.Series:
    """The texts of a column without spaces around them; those that stand for no value as null.

    Numbers are given back with NaN as null, other kinds as they are.

    >>> without_blanks(pl.Series([" 7", "nan", "NA", "", None, "Nancy"])).to_list()
    ['7', None, None, None, None, 'Nancy']
    """
    if values.dtype.is_float():
        return values.fill_nan(None)
    if values.dtype != pl.String:
        return values
    stripped = values.str.strip_chars()
    return stripped.set(stripped.str.to_lowercase().is_in(list(BLANKS)), None)


def id_key(text: str) -> str:
    """What an id comes to without its spelling: two ids with one key are meant as one.

    Letter case, spaces, leading zeros of a number and the `.0` of a whole number do not count. What follows a dot
    anywhere else does: `1.2.840.0` is not `1.2.840`, and `1.05` is not `1.5`.

    >>> {id_key(text) for text in ("7", "7.0", "007", " 7 ")}
    {'7'}
    >>> id_key("LIDC-0007") == id_key("lidc-7"), id_key("70") == id_key("7")
    (True, False)
    """
    bare = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    if whole := _FLOAT_OF_WHOLE.fullmatch(bare):
        bare = whole[1]
    return _LEADING_ZEROS.sub("", bare)
