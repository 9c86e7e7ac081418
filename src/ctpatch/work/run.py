"""Work that is done in parts: hold the folder, begin or resume, run the parts, finish. One engine for all of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from ctpatch.errors import SliceError, SourceChangedError, SystemFailureError, WorkerLostError
from ctpatch.events import Listener, Notice, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.files.atomic import explain_os_error
from ctpatch.words import OnError
from ctpatch.work.executors.base import Done, Executor, Failed, ending
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.visible import in_sight
from ctpatch.work.folder import WorkFolder
from ctpatch.work.product import Begun, MetaT, Product
from ctpatch.work.receipt import Numbered, Receipt
from ctpatch.work.share import Share

_NAMES_SHOWN = 5


class Task(Protocol):
    """One item of a part, a dataclass: what messages call it, and why it cannot be used, where that is known."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def problem(self) -> str | None: ...  # noqa: D102


class Part(Numbered, Protocol):
    """The unit of work, a dataclass; `tasks` are what is to be done."""

    @property
    def tasks(self) -> Sequence[Task]: ...  # noqa: D102


PartT = TypeVar("PartT", bound=Part)
SharedT = TypeVar("SharedT")
ReceiptT = TypeVar("ReceiptT", bound=Receipt)


class Work(ABC, Generic[PartT, SharedT, ReceiptT, MetaT]):
    """Something that is made in a folder, in parts.

    A part is idempotent: it reads once, writes, makes what it wrote durable, and puts its receipt down last. Anyone may
    run it, however often, even twice at the same time: the bytes are the same.

    Attributes:
        product: the names of what is made.
        folder: where.
        begun: what this run is to do, as it is put on record.
        task: what progress calls it.
        verb: what is done to a slice.
        cure: what a user does about a slice that ends its process.
        on_fault: what is added to the message of a slice that cannot be used.
        others: what is said where only the slices differ from those of an earlier run.
        on_error: whether a task that cannot be done stops the run.
        software: packages, beside the core's, whose version can decide the bytes.
    """

    product: Product[MetaT]
    folder: Path
    begun: Begun
    task: str
    verb: str
    cure: str
    on_fault = ""
    others: str
    on_error: OnError
    software: Sequence[str] = ()

    @property
    @abstractmethod
    def num_tasks(self) -> int:
        """How many tasks there are in all."""

    @abstractmethod
    def parts(self) -> Iterator[PartT]:
        """The parts, in order; the same ones in every run, whatever the workers."""

    @abstractmethod
    def shared(self, folder: WorkFolder[MetaT]) -> SharedT:
        """What all parts share; small, and safe to send to another process."""

    @property
    @abstractmethod
    def run(self) -> Callable[[SharedT, PartT], ReceiptT]:
        """Does one part, or finds that it is done; a function of a module, so that it can be sent."""

    @property
    def probe(self) -> Callable[[SharedT, PartT], int] | None:
        """Reads a part without writing, to find a task that ends its process; None where that cannot be told."""
        return None

    @abstractmethod
    def check_finished(self, folder: WorkFolder[MetaT], meta: MetaT) -> None:
        """Refuse the finished one in the folder where it is another one than this, or damaged as a quick look tells."""

    def notices(self, receipt: ReceiptT) -> Iterable[Notice]:
        """What the user should be told of a part, each thing once."""
        del receipt
        return ()

    @abstractmethod
    def advanced(self, receipt: ReceiptT) -> WorkAdvanced:
        """A part's share of the progress."""

    def poisoned(self, task: Any) -> Any:
        """A task with the problem that it ends its process."""
        problem = "its process was ended twice while it was read; check the file and the memory limit"
        return replace(task, problem=problem)

    @abstractmethod
    def finish(self, folder: WorkFolder[MetaT]) -> MetaT:
        """Write tables and meta from the receipts of all parts; it is complete when this returns."""

    def to_see(self) -> list[Path]:
        """Files that every worker, on whichever machine, must see."""
        return []

    def span(self, part: PartT) -> str:
        """A part, as messages call it."""
        return f"part {part.number} of {self.task}, from {part.tasks[0].name} to {part.tasks[-1].name}"

    def starts(self) -> None:
        """Called when nothing of an earlier run is there and this one begins."""


@dataclass(frozen=True, slots=True)
class Made(Generic[MetaT]):
    """What came of it: `made`, `resumed` (an earlier run's parts were kept) or `complete` (there was nothing to do)."""

    outcome: Literal["made", "resumed", "complete"]
    meta: MetaT


def make(
    work: Work[Any, Any, Any, MetaT], executor: Executor, listener: Listener, *, overwrite: bool = False
) -> Made[MetaT]:
    """Do the work, or resume it, or find that it is done.

    Raises:
        OutputConflictError: the folder holds something else.
        OutputLockedError: another process writes into it.
        SliceError, SourceChangedError: a task cannot be done.
        SystemFailureError: the system refused a read or a write.
        WorkerLostError: a task ends the process that does it.
    """
    folder = WorkFolder(work.folder, work.product, listener)
    with folder.held():
        found = folder.look(anew=overwrite)
        if found.finished is not None and not found.anew:
            work.check_finished(folder, found.finished)
            folder.end()
            return Made("complete", found.finished)
        if folder.begin(found, work.begun, work.others):
            work.starts()
        reused = run_parts(work, folder, executor, listener)
        return Made("resumed" if reused else "made", work.finish(folder))


def run_parts(
    work: Work[PartT, Any, ReceiptT, MetaT],
    folder: WorkFolder[MetaT],
    executor: Executor,
    listener: Listener,
    share: Share | None = None,
    done: Callable[[ReceiptT], None] = lambda _receipt: None,
) -> int:
    """Run the parts, or those of a share, that an earlier run has not done; their receipts are then in the folder.

    The folder is held; `done` is given each receipt as it comes, in any order. Returns how many parts were done before.
    """
    parts, number, task = work.parts(), work.num_tasks, work.task
    if share is not None:
        parts = (part for part in work.parts() if share.takes(part.number))
        number = sum(len(part.tasks) for part in work.parts() if share.takes(part.number))
        task = f"{work.task} {share}"
    run = _Run(work, work.shared(folder), task, listener, done)
    seen = in_sight(executor, work.to_see(), listener, folder=folder.state.resolve(), software=work.software)
    listener(WorkStarted(task, number, "slices"))
    try:
        with seen as guard, ending(executor.run(guard(work.run), run.shared, parts)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    run.note(outcome.result)
                elif isinstance(outcome, Failed):
                    run.fail(outcome.error, outcome.item)
                else:
                    for receipt in run.isolate(outcome.item):
                        run.note(receipt)
    finally:
        listener(WorkFinished(task))
    if run.lost:
        raise WorkerLostError(
            f"{len(run.lost)} slice(s) end the process that {work.verb} them, twice each: "
            f"{', '.join(run.lost[:_NAMES_SHOWN])}; the other parts are done and kept. Check these files and the "
            f"memory limit; {work.cure}, or use --on-error skip"
        )
    return run.reused


@dataclass(slots=True)
class _Run(Generic[PartT, ReceiptT]):
    """One pass over the parts: what is done, what an earlier run had done, which tasks end their process."""

    work: Work[PartT, Any, ReceiptT, Any]
    shared: Any
    task: str
    listener: Listener
    done: Callable[[ReceiptT], None]
    parts: int = 0
    reused: int = 0
    lost: list[str] = field(default_factory=list)

    def note(self, receipt: ReceiptT) -> None:
        self.parts += 1
        self.reused += receipt.reused
        self.done(receipt)
        for notice in self.work.notices(receipt):
            self.listener(notice)
        self.listener(replace(self.work.advanced(receipt), task=self.task))

    def fail(self, error: Exception, part: PartT) -> None:
        kept = f" ({self.parts} finished parts are kept; run the same command again to resume)" if self.parts else ""
        where = self.work.span(part)
        if isinstance(error, SliceError | SourceChangedError):
            raise type(error)(f"{error.message}{self.work.on_fault}{kept}") from error
        if isinstance(error, MemoryError):
            raise SystemFailureError(
                f"memory ran out on {where}; use fewer workers or raise the limit, then run the same command "
                f"again{kept}"
            ) from error
        if isinstance(error, OSError):
            raise explain_os_error(error, "working on", where) from error
        raise error

    def isolate(self, part: PartT) -> Iterator[ReceiptT]:
        """Find the tasks of a part that end their process; with `skip`, do the part without them."""
        work, alone = self.work, ProcessExecutor(1)
        poisoned: set[int] = set()
        if work.probe is not None:
            single = [_with_tasks(part, [task]) for task in part.tasks]
            for outcome in alone.run(work.probe, self.shared, single):
                if not isinstance(outcome, Done | Failed):
                    poisoned.add(part.tasks.index(outcome.item.tasks[0]))
        names = [part.tasks[place].name for place in sorted(poisoned)]
        if work.on_error == "stop" or not poisoned:
            self.lost.extend(names or [f"some slice of {work.span(part)}"])
            return
        # What is wrong with them is known; their files are not opened again.
        tasks = [work.poisoned(task) if place in poisoned else task for place, task in enumerate(part.tasks)]
        for again in alone.run(work.run, self.shared, [_with_tasks(part, tasks)]):
            if isinstance(again, Done):
                yield again.result
            elif isinstance(again, Failed):
                raise again.error
            else:
                self.lost.extend(names)


def _with_tasks(part: Any, tasks: Sequence[Any]) -> Any:
    return replace(part, tasks=tuple(tasks))
