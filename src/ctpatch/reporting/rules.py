"""Rules that a slider moves: conditions as trees, and the stops of their thresholds.

A comparison of one column with a constant becomes a `Threshold`. What else a condition holds (`std / mean < 0.1`)
becomes a `Fixed` part: it is decided once, for each window, by `ctpatch.core.rules` itself.

A comparison of a float64 with a threshold must come out in the browser as it does in `ctpatch.core.rules`, for each of
half a million windows, from two bytes a value. So a slider has stops, and a value is not rounded but placed: code
`2k + 1` is a value equal to stop `k`, code `2k` one between stops `k - 1` and `k`. `v < stop[k]` is `code < 2k + 1`,
`v <= stop[k]` is `code <= 2k + 1`, exactly.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import sqlglot
from numpy.typing import NDArray
from sqlglot import exp

from ctpatch.config import Rule
from ctpatch.core.rules import compile_number, compile_rules
from ctpatch.core.statistics.columns import rule_columns

Op = Literal["<", "<=", ">", ">="]
Columns = Mapping[str, NDArray[np.float64]]
_OPS: dict[type[exp.Expression], Op] = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_MIRRORED: dict[Op, Op] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_UFUNCS: dict[str, Any] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "and": np.logical_and.reduce,
    "or": np.logical_or.reduce,
    "not": lambda parts: ~parts[0],
}

ADDED: tuple[tuple[str, str, Op], ...] = (
    ("low_variance", "std", "<"),
    ("air", "air_fraction", ">"),
    ("dark", "mean", "<"),
    ("bright", "mean", ">"),
)
"""Rules that are offered, switched off, where the set has no threshold of that kind: name, column, comparison."""

MOST_STOPS = 4000
_LARGEST_WHOLE = 2.0**50
"""Multiples of the step stay whole numbers that float64, and so JavaScript, holds."""
_LEAST_STEP = 1e-300
"""Far above the numbers that float64 holds with fewer digits."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A comparison of a column with a threshold."""

    column: str
    op: Op
    value: float


@dataclass(frozen=True, slots=True)
class Fixed:
    """A part of a condition without a threshold to move."""

    condition: str


@dataclass(frozen=True, slots=True)
class Joined:
    """Parts joined by AND or OR, or one part that is negated."""

    by: Literal["and", "or", "not"]
    parts: tuple["Node", ...]


Node = Threshold | Fixed | Joined


@dataclass(frozen=True, slots=True)
class TunableRule:
    """A rule as a tree; the condition is as it is written in the set, and empty for a rule that is only offered."""

    name: str
    condition: str
    root: Node


def tunable_rule(rule: Rule, columns: Columns) -> TunableRule:
    """A rule of a set as a tree that decides every window, in `columns`, as the rule does."""
    tree = sqlglot.parse_one(rule.condition)
    assert isinstance(tree, exp.Expression)
    root, whole = _node(tree), Fixed(rule.condition)
    same = np.array_equal(decide(root, columns), decide(whole, columns))
    return TunableRule(rule.name, rule.condition, root if same else whole)


def offered_rules(rules: Sequence[TunableRule], limits: Mapping[str, tuple[float, float]]) -> list[TunableRule]:
    """The rules of `ADDED` for which there is no threshold yet, each at the limit where it drops nothing."""
    present = {
        (leaf.column, ("<" in leaf.op) is not negated)
        for rule in rules
        for leaf, negated in _leaves(rule.root)
        if isinstance(leaf, Threshold)
    }
    taken = {rule.name for rule in rules}
    offered = []
    for name, column, op in ADDED:
        if (column, op == "<") in present:
            continue
        free = next(each for each in (name, *(f"{name}_{k}" for k in range(2, len(taken) + 3))) if each not in taken)
        offered.append(TunableRule(free, "", Threshold(column, op, limits[column][0 if op == "<" else 1])))
    return offered


def thresholds_of(node: Node) -> Iterator[Threshold]:
    """The thresholds in a tree, from left to right."""
    return (leaf for leaf, _ in _leaves(node) if isinstance(leaf, Threshold))


def fixed_of(node: Node) -> Iterator[Fixed]:
    """The fixed parts in a tree, from left to right."""
    return (leaf for leaf, _ in _leaves(node) if isinstance(leaf, Fixed))


def _leaves(node: Node, *, negated: bool = False) -> Iterator[tuple[Threshold | Fixed, bool]]:
    """What a tree joins, from left to right, and whether it counts the other way round."""
    if not isinstance(node, Joined):
        yield node, negated
        return
    for part in node.parts:
        yield from _leaves(part, negated=negated is not (node.by == "not"))


def decide(node: Node, columns: Columns) -> NDArray[np.bool_]:
    """What a tree says of each window, shape `(N,)`."""
    hits: NDArray[np.bool_]
    if isinstance(node, Threshold):
        hits = _UFUNCS[node.op](columns[node.column], node.value)
    elif isinstance(node, Fixed):
        hits = compile_rules([Rule(name="part", condition=node.condition)]).all_hits(columns)[0]
    else:
        hits = _UFUNCS[node.by]([decide(part, columns) for part in node.parts])
    return hits


def _node(tree: exp.Expression) -> Node:
    if isinstance(tree, exp.Paren):
        return _node(tree.this)
    if isinstance(tree, exp.Not):
        return Joined("not", (_node(tree.this),))
    if isinstance(tree, exp.And | exp.Or):
        by: Literal["and", "or"] = "and" if isinstance(tree, exp.And) else "or"
        sides = (_node(tree.this), _node(tree.expression))
        flat = [side.parts if isinstance(side, Joined) and side.by == by else (side,) for side in sides]
        return Joined(by, (*flat[0], *flat[1]))
    found = _between(tree) if isinstance(tree, exp.Between) else _comparison(tree)
    return found or Fixed(tree.sql(comments=False))


def _comparison(tree: exp.Expression) -> Threshold | None:
    op = _OPS.get(type(tree))
    if op is None:
        return None
    column, value = _column(tree.this), _constant(tree.expression)
    if column is None or value is None:
        column, value, op = _column(tree.expression), _constant(tree.this), _MIRRORED[op]
    return None if column is None or value is None else Threshold(column, op, value)


def _between(tree: exp.Between) -> Node | None:
    column = _column(tree.this)
    low, high = _constant(tree.args["low"]), _constant(tree.args["high"])
    if column is None or low is None or high is None:
        return None
    return Joined("and", (Threshold(column, ">=", low), Threshold(column, "<=", high)))


def _column(tree: exp.Expression) -> str | None:
    while isinstance(tree, exp.Paren):
        tree = tree.this
    return tree.name.lower() if isinstance(tree, exp.Column) and tree.name.lower() in rule_columns() else None


def _constant(tree: exp.Expression) -> float | None:
    """The value of an expression without columns, where it is finite."""
    if any(isinstance(node, exp.Column) for node in tree.walk()):
        return None
    value = float(compile_number("threshold", tree.sql(comments=False))({"row": np.zeros(1)})[0])
    return value if np.isfinite(value) else None


@dataclass(frozen=True)
class Stops:
    """Stops `(first + k) * step * 10**exponent` for `k = 0 … count - 1`, and some more.

    Attributes:
        first, count, step, exponent: whole numbers; a value is read from its decimal text, as JavaScript reads it.
        extra: further stops, such as the thresholds of the set's own rules.
    """

    first: int
    count: int
    step: int
    exponent: int
    extra: tuple[float, ...]

    @cached_property
    def regular(self) -> NDArray[np.float64]:
        """The stops at equal distances, float64 `(count,)`."""
        return np.array([float(f"{(self.first + k) * self.step}e{self.exponent}") for k in range(self.count)])

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """All stops, ascending, each once."""
        return np.unique(np.concatenate([self.regular, np.asarray(self.extra, np.float64)]))

    def number_of(self, value: float) -> int:
        """The position of a stop; ValueError where it is none."""
        at = int(np.searchsorted(self.values, value))
        if at == len(self.values) or self.values[at] != value:
            raise ValueError(f"{value} is no stop")
        return at

    def codes(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """The place of each value among the stops, uint16 `(N,)`."""
        below = np.searchsorted(self.values, values, side="left")
        upto = np.searchsorted(self.values, values, side="right")
        return (below + upto).astype(np.uint16)


def make_stops(
    low: float, high: float, extra: Iterable[float], *, most: int = MOST_STOPS, whole: bool = False
) -> Stops:
    """At most about `most` stops at round decimal distances, and those that must be stops too.

    The first lies at or below `low`, the last at or above `high`; both are finite. `whole`: only whole numbers.
    """
    span = high - low if high > low else max(abs(low), 1.0) * 1e-3
    least = max(span / most, max(abs(low), abs(high)) / _LARGEST_WHOLE, 1.0 if whole else _LEAST_STEP)
    exponent = math.floor(math.log10(least))
    step = next((each for each in (1, 2, 5) if each * 10.0**exponent >= least), None)
    if step is None:
        step, exponent = 1, exponent + 1
    distance = float(f"{step}e{exponent}")
    first, last = math.floor(low / distance), math.ceil(high / distance)
    if float(f"{first * step}e{exponent}") > low:  # the division was rounded
        first -= 1
    if float(f"{last * step}e{exponent}") < high:
        last += 1
    return Stops(first, max(last, first + 1) - first + 1, step, exponent, tuple(sorted(set(extra))))
