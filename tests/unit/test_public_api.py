"""The names a user imports, and what importing them costs."""

import inspect
import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

import ctpatch

NAMES = {
    "AuditReport",
    "BuildResult",
    "CtPatchError",
    "Evaluation",
    "FlipsAndRotations",
    "Inspection",
    "LabelWindows",
    "PatchConfig",
    "PatchSet",
    "PrepareResult",
    "RandomWindows",
    "Reassembler",
    "Rule",
    "ShareResult",
    "SliceSet",
    "__version__",
    "audit",
    "build",
    "build_share",
    "convert",
    "evaluate",
    "evaluation_page",
    "extract_patches_2d",
    "in_callers_thread",
    "inspect",
    "merge",
    "open",
    "open_slices",
    "per_patch",
    "plan",
    "predict",
    "prepare_dicom",
    "prepare_images",
    "prepare_lodopab",
    "prepare_metaimage",
    "prepare_nifti",
    "prepare_nrrd",
    "prepare_numpy",
    "prepare_raw",
    "reassemble",
    "report",
    "seam_error",
    "sliding_window_coords",
    "verify",
}
FUNCTIONS = [
    "audit",
    "build",
    "build_share",
    "convert",
    "evaluate",
    "evaluation_page",
    "extract_patches_2d",
    "in_callers_thread",
    "inspect",
    "merge",
    "open",
    "open_slices",
    "per_patch",
    "plan",
    "predict",
    "prepare_dicom",
    "prepare_images",
    "prepare_lodopab",
    "prepare_metaimage",
    "prepare_nifti",
    "prepare_nrrd",
    "prepare_numpy",
    "prepare_raw",
    "reassemble",
    "report",
    "seam_error",
    "sliding_window_coords",
    "verify",
]
CLASSES = [
    "AuditReport",
    "BuildResult",
    "CtPatchError",
    "Evaluation",
    "FlipsAndRotations",
    "Inspection",
    "PatchConfig",
    "PatchSet",
    "LabelWindows",
    "PrepareResult",
    "RandomWindows",
    "Reassembler",
    "Rule",
    "ShareResult",
    "SliceSet",
]


def fresh(code: str) -> Any:
    """What a new interpreter prints as JSON."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_names_are_those_of_the_design() -> None:
    assert set(ctpatch.__all__) == NAMES
    assert dir(ctpatch) == sorted(ctpatch.__all__)
    assert len(set(ctpatch.__all__)) == len(ctpatch.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_functions(name: str) -> None:
    function = getattr(ctpatch, name)
    assert inspect.isfunction(function)
    assert function.__module__.startswith("ctpatch.")
    assert function.__doc__
    assert getattr(ctpatch, name) is function


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_classes(name: str) -> None:
    found = getattr(ctpatch, name)
    assert inspect.isclass(found)
    assert found.__name__ == name


def test_the_version_is_that_of_the_distribution() -> None:
    assert ctpatch.__version__ == version("ctpatch")


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="module 'ctpatch' has no attribute 'bulid'"):
        ctpatch.bulid  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = fresh("import json, sys, ctpatch; ctpatch.__version__; print(json.dumps(sorted(sys.modules)))")
    heavy = {"polars", "numpy", "torch", "matplotlib", "dask", "pydantic", "sqlglot", "rich", "cyclopts", "xxhash"}
    assert heavy.isdisjoint(loaded)
    ours = ["ctpatch", "ctpatch._version", "ctpatch.errors", "ctpatch.files", "ctpatch.files.forks"]
    assert [name for name in loaded if name.startswith("ctpatch")] == ours


def test_geometry_needs_no_tables() -> None:
    code = (
        "import json, sys, ctpatch\n"
        "coords = ctpatch.sliding_window_coords(362, 362, ctpatch.PatchConfig())\n"
        "ctpatch.extract_patches_2d([[0.0]], ctpatch.PatchConfig())\n"
        "print(json.dumps([len(coords), 'polars' in sys.modules, 'sqlglot' in sys.modules]))"
    )
    assert fresh(code) == [16, False, False]


def test_using_all_of_it_imports_no_optional_library() -> None:
    code = (
        "import json, sys, ctpatch\n"
        "found = [type(getattr(ctpatch, name)).__name__ for name in ctpatch.__all__]\n"
        "optional = [name for name in ('torch', 'matplotlib', 'dask', 'pandas') if name in sys.modules]\n"
        "print(json.dumps([found, optional]))"
    )
    kinds, optional = fresh(code)
    assert optional == []
    assert "module" not in kinds


@pytest.mark.parametrize("room", ["cutting.plan", "cutting.api", "checking.verify", "reporting", "predicting.predict"])
def test_no_module_bears_the_name_of_a_function(room: str) -> None:
    code = (
        f"import ctpatch.{room}\nimport json, ctpatch, pickle\nfrom ctpatch import *\n"
        "kinds = [type(getattr(ctpatch, name)).__name__ for name in ('build', 'plan', 'verify', 'convert', 'report')]\n"
        "print(json.dumps([kinds, pickle.loads(pickle.dumps(plan)) is ctpatch.plan]))"
    )
    assert fresh(code) == [["function"] * 5, True]


def test_names_can_be_set_as_on_any_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(*_sources: Any, **_options: Any) -> list[Any]:
        return []

    monkeypatch.setattr(ctpatch, "plan", stand_in)
    assert ctpatch.plan is stand_in
    monkeypatch.undo()
    assert ctpatch.plan.__module__ == "ctpatch.cutting.plan"
