"""CT slices to patch datasets with proof of where each patch came from.

>>> import ctpatch
>>> cfg = ctpatch.PatchConfig(patch_size=128, stride=64)
>>> len(ctpatch.sliding_window_coords(512, 512, cfg))
49
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ctpatch._version import __version__

if TYPE_CHECKING:
    from ctpatch.audit import AuditReport, audit
    from ctpatch.build import build
    from ctpatch.config import PatchConfig, Rule
    from ctpatch.convert import convert
    from ctpatch.dataset import PatchSet
    from ctpatch.dataset import open_set as open  # noqa: A004 - ctpatch.open reads as it should
    from ctpatch.errors import CtPatchError
    from ctpatch.grid import sliding_window_coords
    from ctpatch.make import BuildResult
    from ctpatch.patches import extract_patches_2d
    from ctpatch.plan import plan
    from ctpatch.predict import predict
    from ctpatch.prepare.api import prepare_dicom, prepare_lodopab, prepare_nifti
    from ctpatch.prepare.run import PrepareResult
    from ctpatch.reassemble import Reassembler, reassemble, seam_error
    from ctpatch.report import report
    from ctpatch.shares import ShareResult, build_share, merge
    from ctpatch.verify import verify

# Imported when first used: `import ctpatch` costs next to nothing, and nobody pays for what they do not need.
_HOMES = {
    "AuditReport": "ctpatch.audit",
    "BuildResult": "ctpatch.make",
    "CtPatchError": "ctpatch.errors",
    "PatchConfig": "ctpatch.config",
    "PatchSet": "ctpatch.dataset",
    "PrepareResult": "ctpatch.prepare.run",
    "Reassembler": "ctpatch.reassemble",
    "Rule": "ctpatch.config",
    "ShareResult": "ctpatch.shares",
    "audit": "ctpatch.audit",
    "build": "ctpatch.build",
    "build_share": "ctpatch.shares",
    "convert": "ctpatch.convert",
    "extract_patches_2d": "ctpatch.patches",
    "merge": "ctpatch.shares",
    "open": "ctpatch.dataset",
    "plan": "ctpatch.plan",
    "predict": "ctpatch.predict",
    "prepare_dicom": "ctpatch.prepare.api",
    "prepare_lodopab": "ctpatch.prepare.api",
    "prepare_nifti": "ctpatch.prepare.api",
    "reassemble": "ctpatch.reassemble",
    "report": "ctpatch.report",
    "seam_error": "ctpatch.reassemble",
    "sliding_window_coords": "ctpatch.grid",
    "verify": "ctpatch.verify",
}
_OTHER_NAMES = {"open": "open_set"}

__all__ = [
    "AuditReport",
    "BuildResult",
    "CtPatchError",
    "PatchConfig",
    "PatchSet",
    "PrepareResult",
    "Reassembler",
    "Rule",
    "ShareResult",
    "__version__",
    "audit",
    "build",
    "build_share",
    "convert",
    "extract_patches_2d",
    "merge",
    "open",
    "plan",
    "predict",
    "prepare_dicom",
    "prepare_lodopab",
    "prepare_nifti",
    "reassemble",
    "report",
    "seam_error",
    "sliding_window_coords",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ctpatch' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), _OTHER_NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `ctpatch.plan` the function: importing the module of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
