"""The script that finds the floors, on small projects and on this one."""

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = {
    "name": "thing",
    "dependencies": ["core>=1.2", "capped >= 3.0.1 , <4"],
    "optional-dependencies": {
        "a": ["one[more]>=2026.1.0; python_version < '4'"],
        "b": ["two.of-them<9,>=2"],
        "both": ["thing[a,b]", "thing[both]", "core>=1.2"],
        "none": ["three"],
        "exact": ["four==1"],
        "other": ["core>=1.3"],
    },
}


def lowest_versions(project: dict[str, Any], extras: list[str]) -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("lowest_versions", ROOT / "scripts/lowest_versions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, str] = module.lowest_versions(project, extras)
    return found


def test_floors_of_the_core_and_of_extras() -> None:
    core = {"core": "1.2", "capped": "3.0.1"}
    assert lowest_versions(PROJECT, []) == core
    assert lowest_versions(PROJECT, ["b"]) == core | {"two.of-them": "2"}
    assert lowest_versions(PROJECT, ["both"]) == core | {"one": "2026.1.0", "two.of-them": "2"}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("none", "'three' has no floor"),
        ("exact", "'four==1' has no floor"),
        ("other", "core has two floors, 1.2 and 1.3"),
        ("c", "'c' is no extra; there are a, b, both"),
    ],
)
def test_what_has_no_floor_is_named(extra: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lowest_versions(PROJECT, [extra])


def test_all_that_ctpatch_asks_for_has_one_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = lowest_versions(project, list(project["optional-dependencies"]))
    assert {"numpy", "polars", "scipy", "torch", "pytest"} <= set(floors)
