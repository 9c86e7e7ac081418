"""The options of a preparation in Python: real keywords, the same for every kind of raw CT."""

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, get_args

from ctpatch.config import BuildConfig, check_name
from ctpatch.errors import ConfigError
from ctpatch.events import Listener, ignore
from ctpatch.prepare.readers import formats_with
from ctpatch.prepare.splits import DEFAULT_SPLITS
from ctpatch.words import MatchBy, OnError
from ctpatch.work.executors.choose import AnyExecutor, as_executor

SourcePath = str | os.PathLike[str]
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """What all kinds of raw CT have in common, with the usual values.

    Attributes:
        out: the data root; the set goes to `prepared/<dataset>` in it.
        dataset: its name.
        split: shares of the patients, as `train=0.8`.
        seed: chooses the assignment.
        exact: meet the shares of the patients exactly, to rounding; adding patients can then move others.
        folds: divide the patients into so many folds of one size, `fold0` and so on, instead of `split`.
        patients: a CSV with `patient_id` and, where splits are given, `split`.
        stratify: a column of that table within whose values the shares are kept.
        crop: pixels cut out of the middle, `(H, W)`.
        spacing: millimetres between pixels, `(row, col)`, to resample to.
        key: file of the key that pseudonyms are made with; None takes the user's own.
        new_key: make that file where it is not there; the user's own is made without being asked for.
        names: file for the table of pseudonyms, for the user alone; None writes none.
        names_shown: whether errors and the result call files and patients as the source does, or by pseudonyms.
        workers: processes that work.
        executor: what slices are given to instead: a dask `Client`, or any `concurrent.futures.Executor`; its workers
            need the same files under the same paths. Headers are looked at by `workers` processes here.
        follow_links: follow symbolic links that leave the source, and links to folders.
        on_error: whether a slice that cannot be used stops the run or is skipped.
        strict: whether a series whose values are hardly HU is an error; nothing is published then. Otherwise it is
            reported.
        overwrite: start anew over an earlier set of ours.
        listener: is told what happens.
    """

    out: SourcePath
    dataset: str
    split: Sequence[str] = DEFAULT_SPLITS
    seed: int = 0
    exact: bool = False
    folds: int | None = None
    patients: SourcePath | None = None
    stratify: str | None = None
    crop: tuple[int, int] | None = None
    spacing: tuple[float, float] | None = None
    key: SourcePath | None = None
    new_key: bool = False
    names: SourcePath | None = None
    names_shown: bool = True
    workers: int = 1
    executor: AnyExecutor | None = None
    follow_links: bool = False
    on_error: OnError = "stop"
    strict: bool = False
    overwrite: bool = False
    listener: Listener = ignore


class CommonKeywords(TypedDict, total=False):
    """`CommonOptions` as keywords, for type checkers."""

    split: Sequence[str]
    seed: int
    exact: bool
    folds: int | None
    patients: SourcePath | None
    stratify: str | None
    crop: tuple[int, int] | None
    spacing: tuple[float, float] | None
    key: SourcePath | None
    new_key: bool
    names: SourcePath | None
    names_shown: bool
    workers: int
    executor: AnyExecutor | None
    follow_links: bool
    on_error: OnError
    strict: bool
    overwrite: bool
    listener: Listener


class HuKeywords(CommonKeywords, total=False):
    """What `prepare_raw` takes, as keywords for type checkers."""

    target: SourcePath | None
    mask: SourcePath | None
    series: str | None
    target_series: str | None
    mask_series: str | None
    naming: str | None
    pair: str | None
    structures: Sequence[str] | None
    match_by: MatchBy | None
    window: tuple[float, float] | None
    preset: str | None


def shown_keywords(like: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Show the keywords of `**options: Unpack[...]` one by one in help and completion, with the defaults `like` has."""
    usual = inspect.signature(like).parameters

    def show(function: _Function) -> _Function:
        signature = inspect.signature(function)
        *named, options = signature.parameters.values()
        keywords = get_args(options.annotation)[0].__annotations__
        shown = [each.replace(kind=each.KEYWORD_ONLY) for name, each in usual.items() if name in keywords]
        vars(function)["__signature__"] = signature.replace(parameters=[*named, *shown])
        return function

    return show


def common_options(out: SourcePath, dataset: str, given: CommonKeywords) -> CommonOptions:
    """The options that were given and the usual ones, checked; ConfigError or UsageError where one makes no sense."""
    refuse_unknown(given, CommonOptions.__slots__)
    options = CommonOptions(out, check_name(dataset, "the dataset"), **given)
    BuildConfig(workers=options.workers, on_error=options.on_error, overwrite=options.overwrite)
    as_executor(options.executor, options.workers)
    if isinstance(options.split, str):
        raise ConfigError(
            f"split: {options.split!r}, wanted one text for each split, such as ['train=0.8', 'test=0.2']"
        )
    return options


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError for an option that is not known; it names those that are."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        if having := formats_with(unknown[0]):
            raise ConfigError(f"{unknown[0]} is an option of {' and '.join(having)} alone; leave it out")
        raise ConfigError(f"there is no option {unknown[0]!r}; options are {', '.join(known)}")
