"""A raw format is one folder and one line: its command, its options and its place in Python follow from them."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError, OutputConflictError, UsageError
from ctpatch.prepare.options import CommonKeywords, CommonOptions, HuKeywords
from ctpatch.prepare.readers import READERS, raw_format
from ctpatch.prepare.readers.lodopab import Lodopab
from grid_files import Grid, write_grid
from helpers import csv_rows

TESTS = Path(__file__).parents[1]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that a new format needs."""
    monkeypatch.setitem(READERS, "grid", "grid_files:Grid")
    monkeypatch.setitem(READERS, "plain", "grid_files:PlainGrid")


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """Two slices, their HU by position, and where the rest goes."""
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef" * 4)
    values = {1.5: np.array([[-1024, 0, 1024]], np.int16), 4.0: np.array([[3072, 100, -500]], np.int16)}
    for position, hu in values.items():
        write_grid(tmp_path / f"raw/ann/{position}", hu, position)
    return {"source": tmp_path / "raw", "out": tmp_path / "data", "key": key, "values": values}


def prepared(tree: dict[str, Any], dataset: str) -> dict[float, Any]:
    """What was prepared, by position."""
    rows = csv_rows(tree["out"] / f"prepared/{dataset}/train/train_manifest.csv")
    return {float(row["position_mm"]): np.load(tree["out"] / row["path"]) for row in rows}


def assert_prepared(tree: dict[str, Any], dataset: str, offset: int) -> None:
    found = prepared(tree, dataset)
    assert sorted(found) == sorted(tree["values"])
    for position, hu in tree["values"].items():
        wanted = [[min(max((int(value) + offset + 1024) / 4096, 0), 1) for value in row] for row in hu]
        np.testing.assert_array_equal(found[position], np.array(wanted, np.float32))


@pytest.mark.usefixtures("listed")
def test_python_prepares_a_new_format_by_its_name_or_with_its_options(tree: dict[str, Any]) -> None:
    where = (tree["source"], tree["out"])
    for dataset, raw, offset in (("plain", "plain", 0), ("name", "grid", 0), ("options", Grid(offset=24), 24)):
        result = ctpatch.prepare_raw(raw, *where, dataset, split=["train=1"], key=tree["key"])
        assert (result.outcome, result.meta.source) == ("prepared", "grid")
        assert_prepared(tree, dataset, offset)
    again: dict[str, Any] = {"split": ["train=1"], "key": tree["key"]}
    assert ctpatch.prepare_raw(Grid(24), *where, "options", **again).outcome == "complete"
    with pytest.raises(OutputConflictError, match="offset"):
        ctpatch.prepare_raw(Grid(25), *where, "options", **again)


_RUN = """
import sys
from ctpatch.prepare.readers import READERS
READERS["grid"] = "grid_files:Grid"
READERS["plain"] = "grid_files:PlainGrid"
from ctpatch.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def run(*words: object) -> str:
    """The command line with the two lines that the new formats need."""
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{_RUN}"
    command = [sys.executable, "-c", code, "prepare", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "140"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_has_a_command_for_a_new_format(tree: dict[str, Any]) -> None:
    words = [tree["source"], "--out", tree["out"], "--key", tree["key"], "--split", "train=1"]
    run("grid", *words, "--dataset", "grid", "--offset", "24", "--series", "SERIES a*", "--crop", "1x3")
    assert_prepared(tree, "grid", 24)
    meta = json.loads((tree["out"] / "prepared/grid/prepare_meta.json").read_bytes())
    assert (meta["options"]["offset"], meta["options"]["crop"]) == (24, [1, 3])
    assert "plain prepared: " in run("plain", *words, "--dataset", "plain")
    assert_prepared(tree, "plain", 0)
    assert "Slices in a format that nobody has; goes on where an earlier run was cut off." in run("--help")
    shown = run("grid", "--help")
    assert "--offset" in shown
    assert "HU to add to each pixel. [default: 0]" in shown
    assert "--offset" not in run("plain", "--help")


def test_a_format_that_is_not_listed_is_refused_naming_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match="there is no raw format 'dicon'; wanted one of dicom, images, lodopab, metaimage, nifti, nrrd, numpy",
    ):
        ctpatch.prepare_raw("dicon", tmp_path, tmp_path / "data", "set")


def test_what_is_for_hu_alone_is_refused_where_values_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no option 'preset'; options are out, dataset, split"):
        ctpatch.prepare_raw(Lodopab(), tmp_path, tmp_path / "data", "set", preset="lung")


@pytest.mark.parametrize("name", READERS)
def test_python_shows_every_option_with_its_usual_value(name: str) -> None:
    function = getattr(ctpatch, f"prepare_{name}")
    shown = inspect.signature(function).parameters
    assert not [each for each in shown.values() if each.kind is each.VAR_KEYWORD]
    assert list(shown)[:3] == ["source", "out", "dataset"]
    kind = raw_format(name)
    own = {each.name: each.default for each in fields(kind)}
    common = {each.name: each.default for each in fields(CommonOptions) if each.name not in {"out", "dataset"}}
    in_hu = dict.fromkeys(set(HuKeywords.__annotations__) - set(common)) if kind.in_hu else {}
    assert {each.name: each.default for each in list(shown.values())[3:]} == {**own, **in_hu, **common}
    hints = get_type_hints(kind)
    assert {each: shown[each].annotation for each in own} == {each: hints[each] for each in own}


def test_keywords_for_type_checkers_are_the_options() -> None:
    options = get_type_hints(CommonOptions)
    assert {**get_type_hints(CommonKeywords), "out": options["out"], "dataset": str} == options
    shown = inspect.signature(ctpatch.prepare_raw).parameters
    assert {name: shown[name].annotation for name in HuKeywords.__annotations__} == get_type_hints(HuKeywords)


@pytest.mark.parametrize("name", READERS)
def test_a_format_is_known_by_the_name_it_is_listed_under(name: str) -> None:
    kind = raw_format(name)
    needed: dict[str, Any] = {"images": {"hu_intercept": 0}, "numpy": {"axes": "zyx", "voxel_spacing": (1, 1, 1)}}
    assert kind.name == name == kind(**needed.get(name, {})).reader("image", 1).name
    assert kind.packages
    assert not kind.title.endswith(".")


def test_the_help_of_every_format_imports_no_reader_and_no_numpy() -> None:
    code = (
        "import json, sys\nfrom ctpatch.cli.app import main\nmain(['prepare', 'dicom', '--help'])\n"
        "heavy = {'numpy', 'polars', 'pydantic', 'pydicom', 'h5py', 'nibabel', 'distributed'} & set(sys.modules)\n"
        "print(json.dumps(sorted(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
