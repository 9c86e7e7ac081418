"""What a loader can be asked for: the one list of its options, and the batch that it gives.

`takes` turns the list into the keyword parameters of a function, so that `ps.batches` and `ctpatch.torch.PatchLoader`
show the same names, types, defaults and descriptions in `help()`, in an editor and to a type checker.
"""

import functools
import inspect
import operator
import os
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.context import ContextEdge, ContextGap
from ctpatch.errors import ConfigError
from ctpatch.format.meta import PatchMeta

if TYPE_CHECKING:
    from ctpatch.loading.windows import RandomWindows

Array = TypeVar("Array")
P = ParamSpec("P")
Owner = TypeVar("Owner")
Options = TypeVar("Options")
Result = TypeVar("Result")

_MAX_SEED = 2**63
_MAX_CONTEXT = 64
_BATCH_SIZE = 64


@dataclass(slots=True)
class Batch(Generic[Array]):
    """One batch.

    Attributes:
        arrays: for each array of the set its patches `(B, C, H, W)`; C is 1, or more with context.
        columns: for each column asked for its values `(B,)`.
        indices: numbers of the patches in the set, or of the draws in the epoch where windows are drawn, `(B,)`.
        epoch, seed: where the batch belongs, for transforms that need random numbers of their own.
        set_size: patches in the whole set, or draws in an epoch.
    """

    arrays: dict[str, Array]
    columns: dict[str, Array]
    indices: NDArray[np.int64]
    epoch: int
    seed: int
    set_size: int


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """Which patches an epoch has, in which order: two loaders with the same ones, of one set, give the same epochs.

    Attributes:
        shuffle: a new order each epoch; False keeps the manifest's.
        seed: of the order and of transforms, 0 to 2**63 - 1; the same seed gives the same epochs.
        subset: SQL condition; only patches for which it holds are drawn. It may name columns that the set keeps of its
            slices, and compare texts: `scanner = 'A'`.
        weight: SQL number; patches are drawn with replacement, as often as it says relative to the others.
        balance: a column (`patient_id`, `slice_index`, …); patches are drawn with replacement so that each of its
            values comes as often as every other.
        block_size: shuffle blocks of so many neighbours, and the patches of 16 blocks among each other, so that
            reads stay near each other on disk; None shuffles all.
        drop_last: leave out the last batch where it is not full, and the remainder that ranks cannot share; refused
            where it would leave nothing.
    """

    shuffle: bool = False
    seed: int = 0
    subset: str | None = None
    weight: str | None = None
    balance: str | None = None
    block_size: int | None = None
    drop_last: bool = False

    def __post_init__(self) -> None:
        if not 0 <= whole_number("seed", self.seed) < _MAX_SEED:
            raise ConfigError(f"seed: wanted 0 to 2**63 - 1, got {self.seed}")
        if self.weight is not None and self.balance is not None:
            raise ConfigError("weight and balance both decide how often a patch is drawn: give one of them")
        if (self.weight or self.balance) and self.block_size is not None:
            raise ConfigError("block_size: draws by weight or balance are not neighbours: give one of them")
        if self.block_size is not None and (whole_number("block_size", self.block_size) < 1 or not self.shuffle):
            raise ConfigError(f"block_size: wanted 1 or more together with shuffle, got {self.block_size}")


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """Which neighbours of a slice come along with a window of it: its context.

    Attributes:
        context: so many slices on each side, of the same series in the order of position: a patch is
            `(2 * context + 1, H, W)`, its own slice in the middle. Needs whole slices: layout `slices` or `index`.
        context_edge: what is beyond the ends of a series: `repeat` its last slice, `zero`, or `drop` the windows of
            slices without all neighbours.
        context_gap: where neighbours cannot be told, at gaps wider than 1.5 times the usual spacing or without
            positions: `refuse` the set, `end` the series there, or `ignore` it and take the next slice of the table.
        context_arrays: arrays that get context; None gives it to `image`.
    """

    context: int = 0
    context_edge: ContextEdge = "repeat"
    context_gap: ContextGap = "refuse"
    context_arrays: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= whole_number("context", self.context) <= _MAX_CONTEXT:
            raise ConfigError(f"context: wanted 0 to {_MAX_CONTEXT} slices on each side, got {self.context}")
        for name, known in (("context_edge", ContextEdge), ("context_gap", ContextGap)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(f"{name}: wanted {', '.join(get_args(known))}, got {getattr(self, name)!r}")
        if isinstance(self.context_arrays, str):
            raise ConfigError(f"context_arrays: wanted a list of names, got the text {self.context_arrays!r}")

    @property
    def arrays_with_context(self) -> tuple[str, ...]:
        """The arrays that get context."""
        return ("image",) if self.context_arrays is None else tuple(self.context_arrays)


class HasMeta(Protocol):
    """A patch set, as far as its meta goes."""

    @property
    def meta(self) -> PatchMeta: ...  # noqa: D102


Normalize: TypeAlias = str | os.PathLike[str] | HasMeta | tuple[float, float] | None
"""Whose mean and standard deviation values are normalised by."""

HuShown: TypeAlias = str | tuple[float, float] | Sequence[str | tuple[float, float]] | None
"""The windows of HU that values are shown through."""


class HasValues(Protocol):
    """Options, as far as they say how values are mapped."""

    @property
    def normalize(self) -> Normalize: ...  # noqa: D102
    @property
    def hu(self) -> HuShown: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(ContextOptions, SamplerOptions, Generic[Array]):
    """All options of a loader whose batches hold arrays of one kind.

    Attributes:
        batch_size: patches in a batch.
        group: a column of patches (`slice_index`, `patient_id`, ...): all patches that share its value come as one
            batch, a bag, so batches differ in size and `batch_size` is left out. `shuffle` shuffles groups, ranks share
            groups. It excludes `weight`, `balance`, `block_size` and `LabelWindows`.
        prefetch: batches read ahead; 0 reads when asked.
        columns: columns that come with each batch: numbers of the manifest (`row`, `std`, `slice_index`, …), and
            columns that the set keeps of its slices (`series`, `position_mm`, `patient_id`, …). Texts come as int64
            codes, -1 for none; `loader.codes` and `ps.codes` have the texts. `weight` tells how much a patch counts
            where patches overlap, as `ps.weights` does.
        arrays: which arrays, or the name of one; None takes all.
        windows: what is drawn anew from whole slices each epoch, `RandomWindows` or `LabelWindows`; None gives the
            patches of the set.
        normalize: takes the mean from each value and divides by the standard deviation: `train` takes both from the
            patches of the set of the split train, this one or the one beside it; a set of the split train or its
            folder; or `(mean, std)`. Labels stay as they are.
        hu: shows values through windows of HU, each a channel from 0 to 1: `(-160, 240)`, `lung`, or a list of such.
        transform: gets each `Batch` in the reading thread and returns the `Batch` that the caller gets, the same or
            another; `FlipsAndRotations()` is one, and `per_patch` makes one of a function for a single patch.
        copy: deprecated, without effect: a batch that is kept is never overwritten.
    """

    batch_size: int = field(default=_BATCH_SIZE, kw_only=False)
    group: str | None = None
    prefetch: int = 2
    columns: Sequence[str] = ()
    arrays: str | Sequence[str] | None = None
    windows: "RandomWindows | None" = None
    normalize: Normalize = None
    hu: HuShown = None
    transform: Callable[[Batch[Array]], Batch[Array]] | None = None
    copy: bool | None = None

    def __post_init__(self) -> None:
        SamplerOptions.__post_init__(self)
        ContextOptions.__post_init__(self)
        if self.copy is not None:
            # The levels between: this, the dataclass's __init__, and the method that `takes` gave its parameters.
            warnings.warn(
                "copy: deprecated, and without effect: a batch that is kept is never overwritten; leave it out",
                DeprecationWarning,
                stacklevel=4,
            )
        if whole_number("batch_size", self.batch_size) < 1:
            raise ConfigError(f"batch_size: wanted 1 or more, got {self.batch_size}")
        if self.group is not None:
            self._check_group()
        if whole_number("prefetch", self.prefetch) < 0:
            raise ConfigError(f"prefetch: wanted 0 or more, got {self.prefetch}")

    def _check_group(self) -> None:
        if self.batch_size != _BATCH_SIZE:
            raise ConfigError(
                f"batch_size: with group={self.group!r} a batch is a group, whatever its size; leave batch_size out"
            )
        for name in ("weight", "balance", "block_size"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name}: it decides how single patches are drawn, and with group={self.group!r} each group comes "
                    f"once, whole; leave {name} or group out"
                )


@dataclass(frozen=True, kw_only=True)
class NumpyOptions(LoaderOptions[NDArray[Any]]):
    """Options of `ps.batches`.

    Attributes:
        epoch: the first pass is this epoch, 0 to 2**56 - 1.
        rank, world_size: this process draws every `world_size`-th patch of the epoch, beginning with `rank`. Ranks
            are equal in length: the last ones repeat patches from the epoch's beginning (fewer than `world_size`
            repeats in all), or with `drop_last` the epoch is cut.
    """

    epoch: int = 0
    rank: int = 0
    world_size: int = 1


def whole_number(name: str, value: object) -> int:
    """A number as an int; ConfigError where it is none, or has a fraction."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name}: wanted a whole number, got {value!r}") from None


def takes(
    options: Callable[P, Options],
) -> Callable[[Callable[[Owner, Options], Result]], Callable[Concatenate[Owner, P], Result]]:
    """Give a method the fields of a dataclass as parameters, and its docstring their descriptions.

    The method itself gets the dataclass, checked.
    """
    wanted = inspect.signature(options).parameters

    def decorate(method: Callable[[Owner, Options], Result]) -> Callable[Concatenate[Owner, P], Result]:
        own = inspect.signature(method)
        signature = own.replace(parameters=[next(iter(own.parameters.values())), *wanted.values()])

        @functools.wraps(method)
        def call(this: Owner, /, *args: P.args, **kwargs: P.kwargs) -> Result:
            try:
                signature.bind(this, *args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{type(this).__name__}.{method.__name__}(): {error}") from None
            return method(this, options(*args, **kwargs))

        described: Any = call
        described.__signature__ = signature
        hints = {name: each.annotation for name, each in wanted.items()}
        described.__annotations__ = {**hints, "return": own.return_annotation}
        described.__doc__ = _with_arguments(inspect.getdoc(method), options)
        return call

    return decorate


def takes_all(options: Callable[P, Options]) -> Callable[[Callable[[Options], Result]], Callable[P, Result]]:
    """Give a function the fields of a dataclass as its parameters, and its docstring their descriptions.

    As `takes`, for a function that has no other parameters.
    """
    signature = inspect.signature(options)

    def decorate(function: Callable[[Options], Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__qualname__}(): {error}") from None
            return function(options(*args, **kwargs))

        described: Any = call
        returned = inspect.signature(function).return_annotation
        described.__signature__ = signature.replace(return_annotation=returned)
        described.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        described.__annotations__["return"] = returned
        described.__doc__ = _with_arguments(inspect.getdoc(function), options)
        return call

    return decorate


def _with_arguments(text: str | None, options: object) -> str:
    """A docstring with a section `Args` put before `Returns` or `Raises`, or at the end."""
    kinds = reversed(inspect.getmro(options)) if inspect.isclass(options) else ()
    attributes = [(each.__dict__.get("__doc__") or "").partition("Attributes:\n")[2] for each in kinds]
    arguments = "\n".join(inspect.cleandoc(f"\n{part}") for part in attributes if part)
    lines = (text or "").splitlines()
    at = next((at for at, line in enumerate(lines) if line in {"Returns:", "Raises:"}), len(lines))
    return "\n".join([*lines[:at], "Args:", textwrap.indent(arguments, "    "), "", *lines[at:]])
