"""Tests that a new layout must pass, for ctpatch's own and for those of others; needs pytest.

>>> from ctpatch.testing import LayoutContract  # doctest: +SKIP
>>> class TestMine(LayoutContract):  # doctest: +SKIP
...     layout = MyLayout()
"""

import pytest

pytest.register_assert_rewrite("ctpatch.testing.layouts", "ctpatch.testing.samples")

from ctpatch.testing.layouts import LayoutContract, registered  # noqa: E402 - asserts are to say what they saw

__all__ = ["LayoutContract", "registered"]
