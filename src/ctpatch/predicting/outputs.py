"""Which of a model's outputs are meant: one, several by name, or all."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ctpatch.errors import ConfigError, ReassemblyError

Key = int | str
"""An output: its index in a tuple or list, its name in a dict."""

Output = Key | None
"""Which of several outputs is meant; None where there is one."""

Outputs = Literal["all"] | list[int] | list[str] | list[int | str] | tuple[int | str, ...]
"""The outputs that are put together, each by itself."""

ALL: Literal["all"] = "all"
_MAX_NAMED = 10


def is_several(output: object) -> bool:
    """Whether several outputs are asked for, which are then given by their names."""
    return output == ALL or isinstance(output, list | tuple)


def key_list(output: object) -> Any:
    """What was asked for as plain values."""
    return list(output) if isinstance(output, tuple) else output


def check_asked(name: str, output: object) -> None:
    """Refuse a list of outputs that is empty, names one twice, or holds what names none."""
    if not isinstance(output, list | tuple):
        return
    if not output or not all(isinstance(each, int | str) and not isinstance(each, bool) for each in output):
        raise ConfigError(f"{name}: wanted indices or names of the model's outputs in the list, got {output!r}")
    twice = [each for at, each in enumerate(output) if each in output[:at]]
    if twice:
        raise ConfigError(f"{name}: {twice[0]!r} stands there twice; name each output once")


def picked(given: Any, output: Output | Outputs) -> dict[Output, Any]:
    """The outputs that are meant, by what they were asked for; by None where the model gives one.

    Raises:
        ReassemblyError: there is no such output, or it is not said which of several is meant.
    """
    if output == ALL:
        return _every(given)
    if isinstance(output, list | tuple):
        return {each: _one(given, each) for each in output}
    return {output: _one(given, output)}


def _every(given: Any) -> dict[Output, Any]:
    names: Sequence[Any]
    if isinstance(given, Mapping):
        names = list(given)
        if ALL in names:
            raise ReassemblyError(
                f"output='all' means every output, and the model calls one of its outputs so (it gives a dict of "
                f"{listed(names)}); list those that you want, output=['all'] for it alone"
            )
        values = [given[name] for name in names]
    elif isinstance(given, tuple | list):
        names, values = getattr(given, "_fields", None) or range(len(given)), list(given)
    else:
        raise _only_one(given, ALL)
    if not values:
        raise ReassemblyError(f"the model gave an empty {type(given).__name__}: there is nothing to predict")
    return dict(zip(names, values, strict=True))


def _one(given: Any, output: Output) -> Any:
    if isinstance(given, Mapping):
        names = list(given)
        if output is None or output not in names:
            raise _not_picked(f"a dict of {listed(names)}", output, names)
        return given[output]
    if isinstance(given, tuple | list):
        fields = getattr(given, "_fields", ())
        if isinstance(output, str) and output in fields:
            return getattr(given, output)
        places = list(range(-len(given), len(given)))
        if isinstance(output, bool) or not hasattr(output, "__index__") or output not in places:
            names = list(fields) or list(range(len(given)))
            raise _not_picked(f"a {type(given).__name__} of {len(given)}", output, names)
        return given[output]
    if output is not None:
        raise _only_one(given, output)
    return given


def _only_one(given: Any, output: Output) -> ReassemblyError:
    return ReassemblyError(
        f"output={output!r} picks one of several outputs, and the model gives one ({type(given).__name__}); leave "
        "output out"
    )


def _not_picked(what: str, output: Output, names: list[Any]) -> ReassemblyError:
    seen = "" if output is None else f", and none of it is output={output!r}"
    if not names:
        return ReassemblyError(f"the model gave {what}{seen}: there is nothing to predict")
    return ReassemblyError(
        f"the model gave {what}{seen}; say which is the prediction, output={names[0]!r} for example (there are "
        f"{listed(names)}), or output='all' for each of them"
    )


def listed(names: Sequence[Any]) -> str:
    """Names of outputs, as messages list them."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(map(repr, names[:_MAX_NAMED])) + more
