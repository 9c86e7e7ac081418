"""Rules: named SQL conditions on one window's numbers, decided row by row.

A condition is parsed by sqlglot and evaluated in numpy. Only what depends on its own row alone is let through,
so that the decision on a window cannot depend on what else is in its part; all numbers are float64 and division
is real division. As everywhere in numpy, `1 / 0` is infinity, `sqrt(-1)` is NaN and NaN compares false.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np
import sqlglot
from numpy.typing import NDArray
from sqlglot import exp

from ctpatch.config import Rule
from ctpatch.core.statistics.columns import opt_in_statistics, rule_columns
from ctpatch.errors import RuleError

Columns = Mapping[str, NDArray[Any]]
_Evaluate = Callable[[Columns], Any]

# What computes a node, whether it takes conditions (else numbers), and whether it gives one.
_UFUNCS: dict[type[exp.Expression], tuple[Any, bool, bool]] = {
    exp.LT: (np.less, False, True),
    exp.LTE: (np.less_equal, False, True),
    exp.GT: (np.greater, False, True),
    exp.GTE: (np.greater_equal, False, True),
    exp.EQ: (np.equal, False, True),
    exp.NEQ: (np.not_equal, False, True),
    exp.Add: (np.add, False, False),
    exp.Sub: (np.subtract, False, False),
    exp.Mul: (np.multiply, False, False),
    exp.Div: (np.true_divide, False, False),
    exp.Mod: (np.fmod, False, False),
    exp.Pow: (np.power, False, False),
    exp.And: (np.logical_and, True, True),
    exp.Or: (np.logical_or, True, True),
    exp.Not: (np.logical_not, True, True),
    exp.Neg: (np.negative, False, False),
    exp.Abs: (np.abs, False, False),
    exp.Sqrt: (np.sqrt, False, False),
    exp.Floor: (np.floor, False, False),
    exp.Ceil: (np.ceil, False, False),
    exp.Ln: (np.log, False, False),
    exp.Exp: (np.exp, False, False),
}
_HORIZONTAL: dict[type[exp.Expression], Any] = {exp.Least: np.minimum, exp.Greatest: np.maximum}
_MAX_DEPTH = 200
"""Levels of a condition: each takes three of the thousand calls that Python nests, and the caller has some as well."""
_ALLOWED = "comparisons, AND, OR, NOT, BETWEEN, IN, + - * / %, abs, sqrt, floor, ceil, ln, exp, power, least, greatest"


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """Rules that are ready to judge windows, in the order in which they are tried."""

    names: tuple[str, ...]
    conditions: tuple[_Evaluate, ...]

    def first_hits(self, columns: Columns) -> NDArray[np.int16]:
        """For each row the number of the first rule that hits, or -1, shape `(N,)`."""
        hits = self.all_hits(columns)
        first = np.full(hits.shape[1], -1, np.int16)
        for number in reversed(range(len(hits))):
            first[hits[number]] = number
        return first

    def all_hits(self, columns: Columns) -> NDArray[np.bool_]:
        """Which rule hits which row, each rule on its own, shape `(rules, N)`."""
        count = len(next(iter(columns.values())))
        hits = np.zeros((len(self.conditions), count), dtype=bool)
        with np.errstate(all="ignore"):
            for name, row, condition in zip(self.names, hits, self.conditions, strict=True):
                with _deep_calls(f"rule {name!r}"):
                    row[:] = condition(columns)
        return hits


class Further(NamedTuple):
    """Names, in small letters, that an expression may hold beside those of rules: of numbers, and of texts."""

    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def names(self) -> str:
        """All that an expression may name, for messages."""
        return ", ".join((*rule_columns(), *self.numbers, *self.texts))


NOTHING_FURTHER = Further()


def compile_rules(rules: Sequence[Rule], further: Further = NOTHING_FURTHER) -> CompiledRules:
    """Make rules ready to judge windows; conditions may hold `further` columns where what they judge has them.

    Raises:
        RuleError: a condition has a syntax error, names an unknown column, or looks at more than its own row.
    """
    return CompiledRules(
        tuple(rule.name for rule in rules), tuple(_compile(rule.name, rule.condition, further) for rule in rules)
    )


def opposite(rule: Rule) -> Rule:
    """The rule that drops just what `rule` does not.

    Raises:
        RuleError: see `compile_rules`; or the condition holds a comment, which would swallow what is put around it.
    """
    compile_rules([rule])
    if any(node.comments for node in sqlglot.parse_one(rule.condition).walk()):
        raise RuleError(f"rule {rule.name!r}: {rule.condition!r} holds a comment; leave it out")
    return Rule(name=rule.name, condition=f"NOT ({rule.condition})")


@lru_cache(maxsize=256)
def _compile(name: str, condition: str, further: Further) -> _Evaluate:
    fault = f"rule {name!r}: {condition!r}"
    example = "is no SQL condition{}; write for example 'std < 0.01'"
    tree = _parse(condition, fault, example)
    with _deep_calls(fault):
        evaluate, is_condition = _translate(tree, fault, further)
    if not is_condition:
        raise RuleError(f"{fault} is a number, not a condition: compare it with something, as in 'std < 0.01'")
    return evaluate


def _parse(text: str, fault: str, refusal: str) -> exp.Expression:
    """The tree of an expression; RuleError where there is none, or where it is too deep to work on."""
    try:
        tree = sqlglot.parse_one(text)
    except Exception as error:  # noqa: BLE001 - at odd texts the parser fails in any way: as TypeError, AttributeError
        where = ""
        if isinstance(error, sqlglot.errors.ParseError) and error.errors:
            where = f": syntax error near {error.errors[0].get('highlight') or 'its end'!r}"
        if isinstance(error, RecursionError):
            raise _too_deep(fault) from None
        raise RuleError(f"{fault} {refusal.format(where or ': syntax error')}") from None
    if not isinstance(tree, exp.Expression):
        raise RuleError(f"{fault} {refusal.format('')}")
    level = [tree]
    for _ in range(_MAX_DEPTH + 1):  # so many terms, and the comparison that each may be
        level = [part for node in level for part in node.iter_expressions() if not isinstance(part, exp.Identifier)]
        if not level:
            return tree
    raise _too_deep(fault)


def _too_deep(fault: str) -> RuleError:
    return RuleError(
        f"{fault} is nested too deeply, or a chain of more than {_MAX_DEPTH} terms; write it flatter (BETWEEN, IN), or "
        "as several rules"
    )


@contextmanager
def _deep_calls(fault: str) -> Iterator[None]:
    """The caller may leave fewer calls than `_MAX_DEPTH` levels take."""
    try:
        yield
    except RecursionError:
        raise _too_deep(fault) from None


def _translate(node: exp.Expression, fault: str, further: Further) -> tuple[_Evaluate, bool]:
    """A function of the columns that computes the node, and whether it gives true or false."""
    kind = type(node)
    if isinstance(node, exp.Paren):
        return _translate(node.this, fault, further)
    if isinstance(node, exp.Column):
        return _column(node, fault, further), False
    if isinstance(node, exp.Boolean):
        truth = bool(node.this)
        return lambda _: truth, True
    if isinstance(node, exp.Literal) and not node.is_string:
        try:
            number = float(node.this)
        except ValueError:
            raise RuleError(f"{fault} holds {str(node.this)[:60]!r}, which is no number; write it as 0.01") from None
        return lambda _: number, False
    if isinstance(node, exp.EQ | exp.NEQ | exp.In) and (compared := _text_comparison(node, fault, further)):
        return compared, True
    if kind in _UFUNCS and not any(node.args.get(extra) for extra in ("decimals", "to")):
        ufunc, takes, gives = _UFUNCS[kind]
        parts = [_operand(part, fault, further, condition=takes) for part in (node.this, node.expression)[: ufunc.nin]]
        return lambda columns: ufunc(*(part(columns) for part in parts)), gives
    if kind in _HORIZONTAL:
        ufunc = _HORIZONTAL[kind]
        parts = [_operand(part, fault, further, condition=False) for part in (node.this, *node.expressions)]
        return lambda columns: reduce(ufunc, (part(columns) for part in parts)), False
    if isinstance(node, exp.Between) and not node.args.get("symmetric"):
        value, low, high = (
            _operand(node.args[part], fault, further, condition=False) for part in ("this", "low", "high")
        )
        return lambda columns: np.logical_and(value(columns) >= low(columns), value(columns) <= high(columns)), True
    if isinstance(node, exp.In) and node.expressions:
        value = _operand(node.this, fault, further, condition=False)
        listed = [_operand(one, fault, further, condition=False) for one in node.expressions]
        return lambda columns: reduce(np.logical_or, (value(columns) == one(columns) for one in listed)), True
    raise _refusal(node, fault)


def _refusal(node: Any, fault: str) -> RuleError:
    if not isinstance(node, exp.Expression):  # `floor(` and a comment: the parser gives a function of nothing
        return RuleError(f"{fault} has a function without its number; write for example 'floor(mean)'")
    text = _sql(node)
    if isinstance(node, exp.AggFunc | exp.Window):
        return RuleError(
            f"{fault} looks at more than one row ({text}): a rule decides each window by its own numbers; "
            "compute the threshold first and write it as a number"
        )
    if isinstance(node, exp.Query | exp.Subquery):
        return RuleError(f"{fault} holds a query ({text}): a rule is a condition on one row")
    return RuleError(f"{fault} holds {text!r}, which rules do not know; they know {_ALLOWED}")


def _sql(node: exp.Expression) -> str:
    try:
        return node.sql()[:60]
    except Exception:  # noqa: BLE001 - what could be read cannot always be written: see `_parse`
        return type(node).__name__


def _text_comparison(node: exp.EQ | exp.NEQ | exp.In, fault: str, further: Further) -> _Evaluate | None:
    """What compares a column of texts with texts; None where neither side is such a column."""
    sides = [node.this, *(node.expressions if isinstance(node, exp.In) else [node.expression])]
    places = [place for place, side in enumerate(sides) if _is_text_column(side, further)]
    if not places:
        return None
    column = sides.pop(places[0])
    if not sides or not all(isinstance(side, exp.Literal) and side.is_string for side in sides):
        raise RuleError(
            f"{fault} compares the text {column.name!r} with something else; wanted texts in single quotes, as in "
            f"\"{column.name} = 'A'\" or \"{column.name} IN ('A', 'B')\""
        )
    name, texts = column.name.lower(), [side.this for side in sides]

    def equal(columns: Columns) -> Any:
        return reduce(np.logical_or, (columns[name] == text for text in texts))

    if not isinstance(node, exp.NEQ):
        return equal
    # As in SQL, an empty cell neither equals a text nor differs from it.
    nothing: Any = None
    return lambda columns: np.logical_and(~equal(columns), np.not_equal(columns[name], nothing))


def _is_text_column(node: Any, further: Further) -> bool:
    return isinstance(node, exp.Column) and not node.table and node.name.lower() in further.texts


def _column(node: exp.Column, fault: str, further: Further) -> _Evaluate:
    name = node.name.lower()
    if name in further.texts and not node.table:
        raise RuleError(f"{fault} takes {name!r} for a number, it is a text; compare it, as in \"{name} = 'A'\"")
    if (name not in rule_columns() and name not in further.numbers) or node.table:
        raise RuleError(f"{fault} names an unknown column {_sql(node)!r}; known are {further.names()}")

    def values(columns: Columns) -> Any:
        if name not in columns:
            named = f" with statistics={name!r} (--statistics {name})" if name in opt_in_statistics() else ""
            raise RuleError(
                f"{fault} names the column {name!r}, which is not there; known are {', '.join(columns)}. A set that is "
                f"older than a column, or was built without naming it, does not have it (build it again{named}), nor "
                "has a whole slice what only its windows have"
            )
        return columns[name]

    return values


def _operand(node: exp.Expression, fault: str, further: Further, *, condition: bool) -> _Evaluate:
    evaluate, is_condition = _translate(node, fault, further)
    if is_condition is not condition:
        wanted = "a condition" if condition else "a number"
        raise RuleError(f"{fault} needs {wanted} where it has {_sql(node)!r}")
    return evaluate


def compile_number(
    name: str, expression: str, further: Further = NOTHING_FURTHER
) -> Callable[[Columns], NDArray[np.float64]]:
    """Make a numeric expression ready, for example `std * (1 - air_fraction)`; it may hold `further` numbers.

    Raises:
        RuleError: it has a syntax error, names an unknown column, or is a condition.
    """
    fault = f"{name} {expression!r}"
    tree = _parse(expression, fault, "is no SQL expression{}; write for example 'std'")
    with _deep_calls(fault):
        evaluate = _operand(tree, fault, further, condition=False)

    def number(columns: Columns) -> NDArray[np.float64]:
        count = len(next(iter(columns.values())))
        with np.errstate(all="ignore"), _deep_calls(fault):
            return np.array(np.broadcast_to(evaluate(columns), (count,)), np.float64)

    return number
