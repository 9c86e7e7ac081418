"""Conditions as trees with thresholds that can be moved.

A comparison of one column with a constant becomes a `Threshold` that a slider moves. What else a condition holds
(`std / mean < 0.1`) becomes a `Fixed` part: it is decided once, for each window, by `ctpatch.core.rules` itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sqlglot
from numpy.typing import NDArray
from sqlglot import exp

from ctpatch.config import Rule
from ctpatch.core.rules import compile_number, compile_rules
from ctpatch.core.statistics.columns import rule_columns

Op = Literal["<", "<=", ">", ">="]
_OPS: dict[type[exp.Expression], Op] = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_MIRRORED: dict[Op, Op] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_UFUNCS: dict[Op, Any] = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}

ADDED: tuple[tuple[str, str, Op], ...] = (
    ("low_variance", "std", "<"),
    ("air", "air_fraction", ">"),
    ("dark", "mean", "<"),
    ("bright", "mean", ">"),
)
"""Rules that are offered, switched off, where the set has no threshold of that kind: name, column, comparison."""


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
class Negated:
    """NOT part."""

    part: "Node"


@dataclass(frozen=True, slots=True)
class Joined:
    """Parts joined by AND or OR."""

    by: Literal["and", "or"]
    parts: tuple["Node", ...]


Node = Threshold | Fixed | Negated | Joined


@dataclass(frozen=True, slots=True)
class TunableRule:
    """A rule as a tree.

    Attributes:
        name: the rule's name.
        condition: as it is written in the set; empty for a rule that is only offered.
        root: the same as a tree.
    """

    name: str
    condition: str
    root: Node


def tunable_rule(rule: Rule, columns: Mapping[str, NDArray[np.float64]]) -> TunableRule:
    """A rule of a set as a tree that decides every window as the rule does.

    Args:
        rule: a rule that `compile_rules` understands.
        columns: the windows, by which tree and rule are held against each other.
    """
    tree = sqlglot.parse_one(rule.condition)
    assert isinstance(tree, exp.Expression)
    root = _node(tree)
    wanted = compile_rules([rule]).all_hits(columns)[0]
    if not np.array_equal(decide(root, columns), wanted):
        root = Fixed(rule.condition)
    return TunableRule(rule.name, rule.condition, root)


def offered_rules(rules: Sequence[TunableRule], limits: Mapping[str, tuple[float, float]]) -> list[TunableRule]:
    """The rules of `ADDED` for which there is no threshold yet, each at the limit where it drops nothing."""
    present = {(test.column, low) for rule in rules for test, low in _directions(rule.root)}
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
    return (test for test, _ in _directions(node))


def fixed_of(node: Node) -> Iterator[Fixed]:
    """The fixed parts in a tree, from left to right."""
    if isinstance(node, Fixed):
        yield node
    elif isinstance(node, Negated):
        yield from fixed_of(node.part)
    elif isinstance(node, Joined):
        for part in node.parts:
            yield from fixed_of(part)


def decide(node: Node, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """What a tree says of each window, shape `(N,)`."""
    if isinstance(node, Threshold):
        hits: NDArray[np.bool_] = _UFUNCS[node.op](columns[node.column], node.value)
        return hits
    if isinstance(node, Fixed):
        found: NDArray[np.bool_] = compile_rules([Rule(name="part", condition=node.condition)]).all_hits(columns)[0]
        return found
    if isinstance(node, Negated):
        spared: NDArray[np.bool_] = np.logical_not(decide(node.part, columns))
        return spared
    parts = [decide(part, columns) for part in node.parts]
    joined: NDArray[np.bool_] = (np.logical_and if node.by == "and" else np.logical_or).reduce(parts)
    return joined


def _directions(node: Node, *, negated: bool = False) -> Iterator[tuple[Threshold, bool]]:
    """Each threshold, and whether it drops what lies low."""
    if isinstance(node, Threshold):
        yield node, (node.op in {"<", "<="}) is not negated
    elif isinstance(node, Negated):
        yield from _directions(node.part, negated=not negated)
    elif isinstance(node, Joined):
        for part in node.parts:
            yield from _directions(part, negated=negated)


def _node(tree: exp.Expression) -> Node:
    if isinstance(tree, exp.Paren):
        return _node(tree.this)
    if isinstance(tree, exp.And | exp.Or):
        by: Literal["and", "or"] = "and" if isinstance(tree, exp.And) else "or"
        return Joined(by, tuple(_flat(by, (_node(tree.this), _node(tree.expression)))))
    if isinstance(tree, exp.Not):
        return Negated(_node(tree.this))
    found = _between(tree) if isinstance(tree, exp.Between) else _comparison(tree)
    return found or Fixed(tree.sql(comments=False))


def _flat(by: str, parts: Iterable[Node]) -> Iterator[Node]:
    for part in parts:
        if isinstance(part, Joined) and part.by == by:
            yield from part.parts
        else:
            yield part


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
