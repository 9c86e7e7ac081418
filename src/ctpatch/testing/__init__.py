"""Tests that a part of ctpatch made elsewhere can be held to; they need pytest.

Subclass one in a module of tests, as `class TestMine(ReaderContract)`, and say what is to be tested.
"""

import pytest

pytest.register_assert_rewrite(
    "ctpatch.testing.executors", "ctpatch.testing.layouts", "ctpatch.testing.reader", "ctpatch.testing.samples"
)

from ctpatch.testing.executors import ExecutorContract  # noqa: E402 - asserts are rewritten before
from ctpatch.testing.layouts import LayoutContract, registered  # noqa: E402 - asserts are rewritten before
from ctpatch.testing.reader import RawTree, ReaderContract  # noqa: E402 - asserts are rewritten before

__all__ = ["ExecutorContract", "LayoutContract", "RawTree", "ReaderContract", "registered"]
