"""The file that mypy checks the public names with does what it says, and leaves none of them out."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

import ctpatch
from helpers import Prepared, build_one, make_split

API = Path(__file__).parents[1] / "typing" / "api.py"


@pytest.fixture(scope="module")
def api() -> Any:
    spec = importlib.util.spec_from_file_location("typed_api", API)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def single(tmp_path: Path) -> Prepared:
    prepared = make_split(tmp_path, [(40, 48)] * 2, dataset="single")
    build_one(prepared, layout="shards")
    return prepared


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    prepared = make_split(tmp_path, [(40, 48)] * 2, arrays={"target": "f4"}, dataset="pairs")
    build_one(prepared, layout="slices")
    return prepared.out


def test_every_public_name_is_in_it() -> None:
    tree = ast.parse(API.read_text())
    used = {
        each.attr
        for each in ast.walk(tree)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "ctpatch"
    }
    assert used == set(ctpatch.__all__)
    imported = {
        each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "ctpatch.torch"
        for each in node.names
    }
    path = Path(ctpatch.__file__).with_name("torch.py")
    (listed,) = [
        ast.literal_eval(each.value)
        for each in ast.parse(path.read_text()).body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__"
    ]
    assert imported == set(listed)


def test_geometry(api: Any, single: Prepared) -> None:
    api.geometry(single.images["image"][0])


def test_cutting(api: Any, tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(40, 48)] * 2)
    assert api.cutting(prepared.folder, tmp_path) == prepared.out


def test_showing(api: Any, single: Prepared, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the report's libraries are not installed: pip install ctpatch[report]")
    api.showing(single.out, tmp_path / "report.html")


def test_evaluating(api: Any, pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install ctpatch[evaluate]")
    pytest.importorskip("jinja2", reason="the report's libraries are not installed: pip install ctpatch[report]")
    api.evaluating(pairs, tmp_path / "page.html")


def test_preparing(api: Any, tmp_path: Path) -> None:
    api.preparing(tmp_path / "nowhere", tmp_path / "out")


def test_reading(api: Any, single: Prepared, pairs: Path) -> None:
    api.reading_one(single.out)
    api.reading_several(pairs)


def test_drawing(api: Any, single: Prepared) -> None:
    api.drawing(single.folder)


def test_loading_and_predicting(api: Any, single: Prepared, tmp_path: Path) -> None:
    ps = ctpatch.open(single.out)
    api.loading(ps)
    api.predicting(ps, tmp_path / "results")


def test_loading_with_torch(api: Any, pairs: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    api.loading_with_torch(pairs)
