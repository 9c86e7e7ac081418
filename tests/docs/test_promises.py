"""Every promise names tests, and they are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "docs/promises.md").read_text(encoding="utf-8").splitlines() if "`test_" in line]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_the_tests_of_a_promise_are_there(row: str) -> None:
    promise, _, held = row.strip("| ").rpartition("|")
    assert promise
    names = re.findall(r"`(\w+)`", held)
    files = re.findall(r"`(\w+\.py)`", held)
    if held.strip().startswith("the same"):
        files = ["test_kill.py", "test_system_errors.py"]
    known = {
        node.name
        for file in files
        for node in ast.walk(ast.parse((ROOT / "tests/reliability" / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert files
    assert set(names) <= known


def test_every_test_of_the_suite_holds_a_promise() -> None:
    text = "\n".join(ROWS)
    for file in sorted((ROOT / "tests/reliability").glob("test_*.py")):
        tests = [
            node.name
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        assert [name for name in tests if name not in text] == []
