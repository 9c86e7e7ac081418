"""What every worker of a preparation must see and have, on whichever machine it is."""

from pathlib import Path

from ctpatch.prepare.planning import PreparePlan
from ctpatch.prepare.readers import READERS, raw_format

_RESAMPLED_WITH = ("scipy",)


def files_to_see(plan: PreparePlan) -> list[Path]:
    """One raw file of each array: the first that is read."""
    first = next(plan.all_tasks())
    return [source.folder / raw.file for source, raw in zip(plan.arrays, first.slices, strict=True)]


def software_to_have(plan: PreparePlan) -> list[str]:
    """Packages whose version can decide the bytes."""
    kinds = [source.reader.name for source in plan.arrays]
    names = [name for kind in kinds if kind in READERS for name in raw_format(kind).packages]
    return list(dict.fromkeys([*names, *(_RESAMPLED_WITH if plan.geometry.spacing_mm else ())]))
