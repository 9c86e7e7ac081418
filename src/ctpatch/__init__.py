"""CT slices to patch datasets with proof of where each patch came from.

>>> import ctpatch
>>> cfg = ctpatch.PatchConfig(patch_size=128, stride=64)
>>> len(ctpatch.sliding_window_coords(512, 512, cfg))
49
"""

import importlib
from typing import Any

from ctpatch._version import __version__
from ctpatch.files import forks as _forks  # noqa: F401 - from now on it sees each fork, before anything is opened

# The same names with their types stand in __init__.pyi.
# Imported when first used: `import ctpatch` costs next to nothing, and nobody pays for what they do not need.
_HOMES = {
    "AuditReport": "checking.audit",
    "BuildResult": "cutting.result",
    "CtPatchError": "errors",
    "Evaluation": "evaluating.result",
    "FlipsAndRotations": "loading.transforms",
    "Inspection": "inspecting.result",
    "LabelWindows": "loading.windows",
    "PatchConfig": "config",
    "PatchSet": "reading.patchset",
    "PrepareResult": "prepare.pipeline",
    "RandomWindows": "loading.windows",
    "Reassembler": "core.reassembly",
    "Rule": "config",
    "ShareResult": "cutting.shares",
    "SliceSet": "reading.slice_set",
    "audit": "checking.audit",
    "build": "cutting.api",
    "build_share": "cutting.shares",
    "convert": "cutting.convert",
    "evaluate": "evaluating.api",
    "evaluation_page": "reporting.evaluation",
    "extract_patches_2d": "core.patches",
    "in_callers_thread": "loading.transforms",
    "inspect": "inspecting.api",
    "merge": "cutting.shares",
    "open": "reading.patchset",
    "open_slices": "reading.slice_set",
    "per_patch": "loading.transforms",
    "plan": "cutting.plan",
    "predict": "predicting.predict",
    "prepare_dicom": "prepare.api",
    "prepare_images": "prepare.formats",
    "prepare_lodopab": "prepare.api",
    "prepare_metaimage": "prepare.formats",
    "prepare_nifti": "prepare.api",
    "prepare_nrrd": "prepare.formats",
    "prepare_numpy": "prepare.formats",
    "prepare_raw": "prepare.api",
    "reassemble": "core.reassembly",
    "report": "reporting",
    "seam_error": "core.seams",
    "sliding_window_coords": "core.grid",
    "verify": "checking.verify",
}
_OTHER_NAMES = {"open": "open_set"}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - the table is the one list of names


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ctpatch' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ctpatch.{_HOMES[name]}"), _OTHER_NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
