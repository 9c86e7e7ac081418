"""Conditions as trees decide as the rules do, and say which thresholds can be moved."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.config import Rule
from ctpatch.core.rules import compile_rules
from ctpatch.core.statistics.columns import rule_columns
from ctpatch.reporting.rules import (
    ADDED,
    Fixed,
    Joined,
    Threshold,
    decide,
    fixed_of,
    offered_rules,
    thresholds_of,
    tunable_rule,
)

CONDITIONS = [
    "std < 0.3",
    "0.3 > std",
    "STD <= 0.25",
    '"std" < 0.25',
    "std < 0.3 AND mean < 0.5",
    "std < 0.3 OR mean < 0.5 AND air_fraction > 0.2",
    "(std < 0.3 OR mean < 0.5) AND air_fraction > 0.2",
    "NOT (std > 0.3 AND mean > 0.5)",
    "NOT std > 0.3 OR min < 0.01",
    "mean BETWEEN 0.2 AND 0.4",
    "NOT mean BETWEEN 0.2 AND 0.4",
    "std / mean < 0.5",
    "std < 0.5 AND std / mean < 0.5",
    "std < 1 / 3",
    "mean > -0.5 AND mean < 1e-1",
    "row IN (0, 64) OR col = 64",
    "slice_index >= 3 AND row < 64",
    "std < 0.25 -- a comment",
    "TRUE",
    "std < sqrt(0.04)",
    "air_fraction = 0.5 OR air_fraction > 0.5",
]


@pytest.fixture(scope="module")
def columns() -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(5)
    found = {name: rng.random(500) for name in rule_columns()}
    found["air_fraction"] = rng.integers(0, 9, 500) / 8  # values on thresholds
    found["std"][::7] = 0.25
    found["slice_index"] = rng.integers(0, 6, 500).astype(float)
    found["row"], found["col"] = (rng.choice([0.0, 64.0, 128.0], 500) for _ in range(2))
    return found


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_tree_decides_as_its_rule(condition: str, columns: dict[str, NDArray[np.float64]]) -> None:
    rule = Rule(name="r", condition=condition)
    wanted = compile_rules([rule]).all_hits(columns)[0]
    made = tunable_rule(rule, columns)
    assert np.array_equal(decide(made.root, columns), wanted)
    assert made.condition == condition


def test_thresholds_are_found_and_the_rest_is_kept_whole(columns: dict[str, NDArray[np.float64]]) -> None:
    def tree(condition: str) -> object:
        return tunable_rule(Rule(name="r", condition=condition), columns).root

    assert tree("0.3 > std") == Threshold("std", "<", 0.3)
    assert tree("mean > -0.5") == Threshold("mean", ">", -0.5)
    assert tree("std < 1 / 4") == Threshold("std", "<", 0.25)
    assert tree("mean BETWEEN 0.2 AND 0.4") == Joined(
        "and", (Threshold("mean", ">=", 0.2), Threshold("mean", "<=", 0.4))
    )
    assert tree("std < 1 AND mean < 2 AND max < 3") == Joined(
        "and", (Threshold("std", "<", 1.0), Threshold("mean", "<", 2.0), Threshold("max", "<", 3.0))
    )
    assert tree("NOT (std > 0.1)") == Joined("not", (Threshold("std", ">", 0.1),))
    mixed = tunable_rule(Rule(name="r", condition="std < 0.5 AND std / mean < 0.5"), columns).root
    assert list(thresholds_of(mixed)) == [Threshold("std", "<", 0.5)]
    assert list(fixed_of(mixed)) == [Fixed("std / mean < 0.5")]
    assert tree("std = 0.1") == Fixed("std = 0.1")


def test_what_the_set_has_no_threshold_for_is_offered(columns: dict[str, NDArray[np.float64]]) -> None:
    limits = dict.fromkeys(rule_columns(), (0.0, 1.0))
    everything = offered_rules([], limits)
    assert [(each.name, each.root) for each in everything] == [
        (name, Threshold(column, op, 0.0 if op == "<" else 1.0)) for name, column, op in ADDED
    ]
    for each in everything:
        assert not decide(each.root, columns).any(), "an offered rule begins where it drops nothing"
    own = [
        tunable_rule(Rule(name="low_variance", condition="air_fraction > 0.5"), columns),
        tunable_rule(Rule(name="keep", condition="NOT (std > 0.1)"), columns),
    ]
    offered = offered_rules(own, limits)
    assert [each.name for each in offered] == ["dark", "bright"]
    assert [each.name for each in offered_rules(own[:1], limits)] == ["low_variance_2", "dark", "bright"]
