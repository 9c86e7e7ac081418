"""A folder that is written in parts: who holds it, what an earlier run left there, what is ours to remove.

While work goes on, the folder `.ctpatch` in it holds the lock, the record of what was begun, and what finished parts
left. It is gone when the meta stands.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from ctpatch.errors import OutputConflictError, OutputLockedError
from ctpatch.events import Listener
from ctpatch.files.atomic import Clearing, publish, ready_folder, remove_all, system_errors, write_atomic, write_file
from ctpatch.files.atomic import write_once
from ctpatch.format.meta import STATE_FOLDER
from ctpatch.work.lock import LOCK, OWNER, Hold
from ctpatch.work.product import CLEARING, Begun, MetaT, Product
from ctpatch.work.receipt import RECEIPT_SUFFIX
from ctpatch.work.share import Share

_STAYS = frozenset({LOCK, OWNER, CLEARING})
"""What stays in the state folder while the rest is removed."""
_WAS_HERE = "begun"
"""In a share's folder: it stays when the share is let go, so that a merge can name the shares that are missing."""


@dataclass(frozen=True, slots=True)
class Found(Generic[MetaT]):
    """What earlier runs left in a folder, read once, when it is held.

    Attributes:
        finished: the meta of what is complete.
        begun: what was begun and not finished; None beside a finished one that is to stay.
        clearing: whether a run was cut off while it removed what was here.
        has_receipts: whether a part of what was begun is done.
    """

    finished: MetaT | None
    begun: Begun | None
    clearing: bool
    has_receipts: bool


class WorkFolder(Generic[MetaT]):
    """A folder while it is held by this process."""

    def __init__(self, folder: Path, product: Product[MetaT], listener: Listener) -> None:
        self.folder = folder
        self.product = product
        self.state = folder / STATE_FOLDER
        self._listener = listener

    @contextmanager
    def held(self, share: Share | None = None, *, beside_shares: bool = False) -> Iterator[None]:
        """Hold the folder, or one share of it: no other process writes the same meanwhile.

        Shares are held side by side, on any number of machines; who holds the whole folder is alone, or with
        `beside_shares` not. Raises OutputLockedError where another process holds it; says which.
        """
        # Each takes its own hold first and looks for the other's then: of two, at least one sees the other.
        with self._made():
            try:
                with self._hold(share).held():
                    if not beside_shares:
                        self._refuse_others(share)
                    yield
            finally:
                if share is not None:
                    with suppress(OSError):  # it stays where there is anything in it
                        self.state.rmdir()

    @contextmanager
    def _made(self) -> Iterator[None]:
        """Make the folder; remove it again where it is empty in the end and was not there before."""
        existed = self.folder.exists()
        with system_errors("making the folder", self.folder.name):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.product.refuse_links(self.folder, [STATE_FOLDER])
        try:
            yield
        finally:
            if not existed:
                with suppress(OSError):
                    self.folder.rmdir()

    def _refuse_others(self, share: Share | None) -> None:
        held = self.shares_held() if share is None else {None: self._hold(None).holder()}
        for other, holder in held.items():
            if holder is not None:
                what = "" if other is None else f" share {other} of"
                raise OutputLockedError(
                    f"{self.folder.name} is not free:{what} it is being written by {holder}; wait until it has ended, "
                    f"or if that process is gone, remove {self._hold(other).shown} in the folder and run again"
                )

    def _hold(self, share: Share | None) -> Hold:
        if share is None:
            return Hold(self.state, self.folder.name, f"{STATE_FOLDER}/{OWNER}", self._listener)
        place = self._place(share)
        shown = f"{STATE_FOLDER}/{place.name}/{OWNER}"
        return Hold(place, f"share {share} of {self.folder.name}", shown, self._listener, elsewhere="follow")

    def _place(self, share: Share) -> Path:
        return self.state / f"share-{share.number}-of-{share.of}"

    def shares_held(self) -> dict[Share | None, str | None]:
        """The shares that are being worked on, by whom."""
        held = {share: self._hold(share).holder() for share in self.shares_begun()}
        return {share: holder for share, holder in held.items() if holder is not None}

    def shares_begun(self) -> list[Share]:
        """The shares that were ever worked on since the work began."""
        names = sorted(os.listdir(self.state)) if self.state.is_dir() else []
        found = (re.fullmatch(r"share-(\d{1,6})-of-(\d{1,6})", name) for name in names)
        return [Share(int(each[1]), int(each[2])) for each in found if each]

    def look(self, *, anew: bool = False) -> Found[MetaT]:
        """Read what is here; all of it where it is to be made anew. Refuses what was not written by ctpatch."""
        clearing = (self.state / CLEARING).exists()
        finished = self.product.finished(self.folder)
        begun = self.product.begun(self.folder) if finished is None or clearing or anew else None
        return Found(finished, begun, clearing, any(self.state.glob(f"*{RECEIPT_SUFFIX}")))

    def resume(self, begun: Begun) -> None:
        """Make the folders that its files go to, where one is gone."""
        self._ready(begun)

    def begin(self, begun: Begun, found: Found[MetaT]) -> None:
        """Start anew: what earlier runs put here goes, and nothing else; also where that was cut off before.

        Refuses files that are not ours under names that would be written.
        """
        clearing, ours = None, set[Path]()
        if found.finished is not None or found.begun is not None or found.clearing:
            clearing = self._clearing(found)
            ours = {*clearing.files, *(self.folder / name for name in (self.product.meta, *self.product.tables))}
        self.product.refuse_foreign(self.folder, begun.names, ours)
        self._ready(begun, clearing, record=True)

    def _ready(self, begun: Begun, clearing: Clearing | None = None, *, record: bool = False) -> None:
        names = self.product.folders(begun.names)
        self.product.refuse_links(self.folder, names)
        written = (self.state / self.product.record, begun.to_bytes()) if record else None
        ready_folder(self.folder, clearing, written, [self.folder / name for name in names])

    def begin_share(self, now: Begun, found: Found[MetaT], share: Share) -> Begun:
        """Start, as `begin`, what other shares may start at the same time; returns the one that was begun first."""
        product, begun = self.product, found.begun
        if begun is None:
            try:
                product.refuse_foreign(self.folder, now.names)
            except OutputConflictError:
                # What lies here may be what another share has just begun to write.
                if product.begun(self.folder) is None:
                    raise
            write_once(self.state / product.record, now.to_bytes())
            begun = product.begun(self.folder)
        if begun is not None and begun.to_bytes() == now.to_bytes():
            self.resume(now)
            with system_errors("writing", self._place(share).name):
                write_file(str(self._place(share) / _WAS_HERE), [b""])
        return begun or now

    def _clearing(self, found: Found[MetaT]) -> Clearing:
        """What earlier runs put here: all that is called as the files of one that was begun, or that a meta lists."""
        product, folder, state = self.product, self.folder, self.state
        last = {product.meta, *product.tables}
        files: list[Path] = []
        folders: set[str] = set()
        for begun in (found.begun, product.begun(folder, CLEARING)):
            if begun is not None:
                folders.update(product.folders(begun.names))
                named = (folder / name for name in product.named_like(folder, begun.names) if name not in last)
                files.extend(path for path in named if not path.is_dir())
        # A clearing that was cut off may have put aside none of those that lead to the others, or some.
        aside = [(folder / name, state / name) for name in product.withdrawn]
        meta = found.finished
        if meta is None and (state / product.meta).exists():
            meta = product.read_meta(state / product.meta)
        if meta is not None:
            folders.update(product.folders(product.names_of(meta)))
            files.extend(product.recorded(folder, meta))
        files.extend(folder / name for name in product.tables)
        return Clearing(state / CLEARING, aside, files, [folder / name for name in folders], _STAYS)

    def publish(self, name: str) -> None:
        """Give a finished table or the meta, ready in the state folder, its place; `name` may lead to a subfolder."""
        path = self.folder / name
        with system_errors("writing", name):
            publish(self.state / path.name, path)

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place, whole and durably; what a run that is cut off leaves of it lies in the state folder."""
        with system_errors("writing", name):
            write_atomic(self.state / os.path.basename(name), content)
        self.publish(name)

    def end(self) -> None:
        """It is complete: remove all that was needed to get there, save the lock."""
        with system_errors("removing what was needed to make", self.folder.name):
            remove_all(self.state, but=_STAYS)


def unfinished(folder: Path, record: str) -> dict[str, Any]:
    """What is known of unfinished work in a folder: its options, and how many parts are done."""
    state = folder / STATE_FOLDER
    known: dict[str, Any] = {"parts_done": len(list(state.glob(f"*{RECEIPT_SUFFIX}")))}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known["options"] = json.loads((state / record).read_bytes())["options"]
    return known
