"""Checks on the block `values` of the meta: against a build again, and against the tables."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from ctpatch.checking.findings import Finding
from ctpatch.core.spread import Moments
from ctpatch.format.meta import PATCH_META
from ctpatch.format.tables import STATUS_OK
from ctpatch.format.value_record import Spread, ValueRecord
from ctpatch.reading.patchset import PatchSet

_ROUNDING = 1e-9
"""Sums of a set that was cut in parts of another size may differ by so much, as a share of the largest value."""
_NUMBERS = ("mean", "std", "min", "max")


def compare_values(seen: ValueRecord | None, wanted: ValueRecord | None) -> Iterator[Finding]:
    """What differs from the record that a build from the same sources writes."""
    one, other = ({} if each is None else _flat(each.model_dump(mode="json")) for each in (seen, wanted))
    for name in dict.fromkeys([*one, *other]):
        if not _same(one.get(name), other.get(name)):
            message = f"{name} is {one.get(name)!r}, a build from these sources writes {other.get(name)!r}"
            yield Finding("meta", PATCH_META, None, message)


def check_values(ps: PatchSet) -> Iterator[Finding]:
    """What the tables say as well: how many pixels there are, and how those of one array are spread."""
    record = ps.meta.values
    if record is None:
        return
    cut = ps.slices.filter(pl.col("status") == STATUS_OK)
    pixels = int((cut["height"].cast(pl.Int64) * cut["width"].cast(pl.Int64)).sum() or 0)
    area = ps.patch_size[0] * ps.patch_size[1]
    for name, values in record.arrays.items():
        wanted: dict[str, dict[str, Any]] = {
            "patches": {"count": ps.manifest.height * area},
            "slices": {"count": pixels},
        }
        if name == ps.meta.rules_on and ps.manifest.height:
            columns = (ps.manifest[each].to_numpy().astype(np.float64) for each in ("mean", "std", "min", "max"))
            with np.errstate(all="ignore"):  # a table may hold any numbers
                moments = Moments.of_groups(*columns, size=area)
            if moments is not None:
                numbers = (moments.mean, moments.std, moments.low, moments.high)
                wanted["patches"] |= dict(zip(_NUMBERS, numbers, strict=True))
        if name == "image" and values.slices.sampled:
            wanted["slices"] |= {"min": cut["min"].min(), "max": cut["max"].max()}
        for scope, spread in (("patches", values.patches), ("slices", values.slices)):
            for each, value in wanted[scope].items():
                seen = getattr(spread, each)
                if not _same(seen, value):
                    message = f"values.arrays.{name}.{scope}.{each} is {seen!r}, the tables give {value!r}"
                    yield Finding("meta", PATCH_META, None, message)
            yield from _check_order(f"values.arrays.{name}.{scope}", spread, len(record.percents))


def _check_order(where: str, spread: Spread, count: int) -> Iterator[Finding]:
    """Percentiles ascend between the extremes."""
    if spread.percentiles is None or spread.min is None or spread.max is None:
        return
    ordered = [spread.min, *spread.percentiles, spread.max]
    if len(spread.percentiles) != count or ordered != sorted(ordered):
        message = f"{where}.percentiles are not {count} ascending numbers from min to max"
        yield Finding("meta", PATCH_META, None, message)


def _flat(values: Any, name: str = "values") -> dict[str, Any]:
    """Nested objects as one, with names such as `values.every`; lists are taken apart too."""
    if isinstance(values, list):
        values = {str(place): value for place, value in enumerate(values)}
    if not isinstance(values, dict):
        return {name: values}
    return {key: value for inner, each in values.items() for key, value in _flat(each, f"{name}.{inner}").items()}


def _same(seen: Any, wanted: Any) -> bool:
    if isinstance(seen, float) and isinstance(wanted, float | int):
        return math.isclose(seen, wanted, rel_tol=_ROUNDING, abs_tol=_ROUNDING * 1e-3)
    return bool(seen == wanted)
