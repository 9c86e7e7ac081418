"""A folder that is written in parts: who holds it, what an earlier run left there, what is ours to remove.

While work goes on, the folder `.ctpatch` in it holds the lock, the record of what was begun, and what finished parts
left. It is gone when the meta stands.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic

from ctpatch.errors import FormatError, OutputConflictError, OutputLockedError
from ctpatch.events import Listener
from ctpatch.files.atomic import (
    explain_os_error,
    read_regular,
    remove_file,
    sync_folder,
    system_errors,
    write_atomic,
    write_file,
    write_once,
)
from ctpatch.format.meta import STATE_FOLDER
from ctpatch.work.lock import LOCK, OWNER, Hold
from ctpatch.work.product import Begun, MetaT, Product
from ctpatch.work.receipt import RECEIPT_SUFFIX
from ctpatch.work.share import Share

_LOCK_FILES = frozenset({LOCK, OWNER})
"""What stays in the state folder until it is let go."""
_CLEARING = "clearing.json"
_WAS_HERE = "begun"
"""In a share's folder: it stays when the share is let go, so that a merge can name the shares that are missing."""
_MAX_RECORD_BYTES = 16 << 20
_SHOWN_CHARACTERS = 200


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
        self._refuse_link(STATE_FOLDER)
        try:
            yield
        finally:
            if not existed:
                with suppress(OSError):
                    self.folder.rmdir()

    def _refuse_link(self, name: str) -> None:
        if (self.folder / name).is_symlink():
            raise OutputConflictError(
                f"{self.folder.name}/{name} is a link, which is not followed; remove it, or {self.product.elsewhere}"
            )

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

    def finished(self) -> MetaT | None:
        """The meta of what is complete in the folder, or None where nothing is; refuses one that is not ours."""
        try:
            return self.product.read_meta(self.folder / self.product.meta)
        except FileNotFoundError:
            return None
        except FormatError as error:
            raise OutputConflictError(
                f"{self.folder.name}: {error.message.partition('; ')[0]}; "
                f"{self.product.elsewhere}, or remove the folder yourself"
            ) from None

    def begun(self) -> Begun | None:
        """What was begun in the folder and not finished, or None; refuses a damaged record of it."""
        return self._record(self.product.record)

    def _record(self, name: str) -> Begun | None:
        try:
            content = json.loads(read_regular(self.state / name, _MAX_RECORD_BYTES))
            if content == {}:
                return None
            names = {each: content[each] for each in self.product.name_fields}
            return Begun(dict(content["options"]), str(content["plan_digest"]), names)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_os_error(error, "reading", f"{STATE_FOLDER}/{name}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise OutputConflictError(
                f"{self.folder.name}: the record of an unfinished {self.product.noun} ({STATE_FOLDER}/{name}) is "
                f"damaged; remove the folder, or {self.product.elsewhere}"
            ) from None

    def begin(self, begun: Begun) -> None:
        """Start in a folder that holds nothing of ours; refuses files under names that would be written."""
        self._refuse_foreign(begun, set())
        write_atomic(self.state / self.product.record, begun.to_bytes())
        self.make_folders(begun)

    def begin_share(self, now: Begun, share: Share) -> Begun:
        """Start, as `begin`, what other shares may start at the same time; returns the one that was begun first."""
        begun = self.begun()
        if begun is None:
            try:
                self._refuse_foreign(now, set())
            except OutputConflictError:
                # What lies here may be what another share has just begun to write.
                if self.begun() is None:
                    raise
            write_once(self.state / self.product.record, now.to_bytes())
            begun = self.begun()
        if begun is not None and begun.to_bytes() == now.to_bytes():
            self.make_folders(now)
            with system_errors("writing", self._place(share).name):
                write_file(str(self._place(share) / _WAS_HERE), [b""])
        return begun or now

    def _refuse_foreign(self, begun: Begun, ours: set[Path]) -> None:
        for name in self.product.named_like(self.folder, begun.names):
            if self.folder / name not in ours:
                raise OutputConflictError(
                    f"{self.folder.name} holds {name}, which this {self.product.noun} would write and ctpatch did not "
                    f"put there; move it away, or {self.product.elsewhere}"
                )

    def make_folders(self, begun: Begun) -> None:
        """Make the folders that its files go to."""
        for name in self.product.folders(begun.names):
            self._refuse_link(name)
            with system_errors("making the folder", name):
                (self.folder / name).mkdir(exist_ok=True)
        with system_errors("making durable", self.folder.name):
            sync_folder(self.folder)

    def is_clearing(self) -> bool:
        """Whether an earlier run was cut off while it removed what was here."""
        return (self.state / _CLEARING).exists()

    def has_receipts(self) -> bool:
        """Whether an unfinished run has finished any part."""
        return any(self.state.glob(f"*{RECEIPT_SUFFIX}"))

    def clear(self, then: Begun) -> None:
        """Remove what an earlier run put here and nothing else; resumes where an earlier clearing was cut off.

        Refuses what was not written by ctpatch, and what stands in the way of what is to be made `then`.
        """
        marker = self.state / _CLEARING
        if not marker.exists():
            finished, begun = self.finished(), self.begun()
            if finished is None and begun is None:
                return
            if finished is not None and begun is None:
                tables = {self.folder / name for name in (self.product.meta, *self.product.tables)}
                self._refuse_foreign(then, tables | set(self.product.recorded(self.folder, finished, self.folder)))
            write_atomic(marker, b"{}")
        # It stops being complete before its first file goes; what leads to the others is kept until they are gone.
        # A clearing that was cut off may have moved none of them, or some: what it moved is no longer here.
        for name in self.product.withdrawn:
            with system_errors("removing", name), suppress(FileNotFoundError):
                os.replace(self.folder / name, self.state / name)
        with system_errors("removing", self.folder.name):
            sync_folder(self.folder)
            folders = set()
            for path, names in self._ours():
                folders.update(self.product.folders(names))
                if path is not None:
                    remove_file(path)
            for name in self.product.tables:
                remove_file(self.folder / name)
            for name in folders:
                with suppress(OSError):
                    (self.folder / name).rmdir()
            self._forget({*_LOCK_FILES, _CLEARING})
            sync_folder(self.folder)
            remove_file(marker)

    def _ours(self) -> Iterator[tuple[Path | None, dict[str, Any]]]:
        """The files that are ours to remove, each with the names of the run that wrote it."""
        for begun in (self.begun(), self._record(_CLEARING)):
            if begun is not None:
                yield None, begun.names
                kept = {self.product.meta, *self.product.tables}
                for name in list(self.product.named_like(self.folder, begun.names)):
                    if name not in kept and not (self.folder / name).is_dir():
                        yield self.folder / name, begun.names
        withdrawn = self.state / self.product.meta
        if withdrawn.exists():
            meta = self.product.read_meta(withdrawn)
            names = self.product.names_of(meta)
            yield None, names
            for path in list(self.product.recorded(self.folder, meta, self.state)):
                yield path, names

    def publish(self, name: str) -> None:
        """Give a finished table or the meta, ready in the state folder, its place; `name` may lead to a subfolder."""
        path = self.folder / name
        with system_errors("writing", name):
            os.replace(self.state / path.name, path)
            sync_folder(path.parent)

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place, whole and durably; what a run that is cut off leaves of it lies in the state folder."""
        with system_errors("writing", name):
            write_atomic(self.state / os.path.basename(name), content)
        self.publish(name)

    def end(self) -> None:
        """It is complete: remove all that was needed to get there, save the lock."""
        with system_errors("removing what was needed to make", self.folder.name):
            self._forget(_LOCK_FILES)

    def _forget(self, but: set[str] | frozenset[str]) -> None:
        for entry in list(self.state.iterdir()) if self.state.is_dir() else []:
            if entry.name in but:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                remove_file(entry)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two sets of options, one line each."""
    names = [name for name in now if before.get(name) != now[name]]
    return [f"{name} was {_shown(before.get(name))}, now {_shown(now[name])}" for name in names]


def _shown(value: Any) -> str:
    return json.dumps(value)[:_SHOWN_CHARACTERS]


def unfinished(folder: Path, record: str) -> dict[str, Any]:
    """What is known of unfinished work in a folder: its options, and how many parts are done."""
    state = folder / STATE_FOLDER
    known: dict[str, Any] = {"parts_done": len(list(state.glob(f"*{RECEIPT_SUFFIX}")))}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known["options"] = json.loads((state / record).read_bytes())["options"]
    return known
