"""Transforms of other libraries as transforms for loaders, with random numbers that belong to the patch.

Each function takes a transform as its library makes it, and gives one for the option `transform` of a loader, of
`ps.batches` and of `ctpatch.torch.PatchLoader` the same way. The library is imported when its function is first used.

All arrays of a patch are treated with the same choices. Arrays of whole numbers are labels: where the library knows
labels, it moves them without interpolation.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ctpatch.errors import UsageError

if TYPE_CHECKING:
    from ctpatch.adapters.albumentations import from_albumentations as from_albumentations
    from ctpatch.adapters.kornia import from_kornia as from_kornia
    from ctpatch.adapters.monai import from_monai as from_monai
    from ctpatch.adapters.torchio import from_torchio as from_torchio
    from ctpatch.adapters.torchvision import from_torchvision as from_torchvision

_LIBRARIES = ("albumentations", "kornia", "monai", "torchio", "torchvision")

__all__ = [
    "from_albumentations",
    "from_kornia",
    "from_monai",
    "from_torchio",
    "from_torchvision",
]


def __getattr__(name: str) -> Any:
    library = name.removeprefix("from_")
    if library == name or library not in _LIBRARIES:
        raise AttributeError(f"module 'ctpatch.adapters' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"ctpatch.adapters.{library}"), name)
    except ModuleNotFoundError as error:
        if error.name in (library, "torch"):
            raise UsageError(f"{name} needs {error.name}, which is not installed: pip install {error.name}") from None
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
