"""Examples in docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import ctpatch

ROOT = Path(ctpatch.__file__).parent
WITH_EXAMPLES = sorted(
    module.name
    for module in pkgutil.walk_packages(ctpatch.__path__, "ctpatch.")
    if "\n    >>> "
    in (ROOT.parent / (module.name.replace(".", "/") + ("/__init__.py" if module.ispkg else ".py"))).read_text()
)


@pytest.mark.parametrize("name", ["ctpatch", *WITH_EXAMPLES])
def test_examples_of_a_module(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


def test_examples_are_found() -> None:
    assert "ctpatch.core.grid" in WITH_EXAMPLES
