"""A folder that is written in parts: who holds it, what an earlier run left there, what is ours to remove.

While work goes on, the folder `.ctpatch` in it holds the lock, the record of what was begun, and what finished parts
left. It is gone when the meta stands.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from ctpatch.errors import FormatError, OutputConflictError, OutputLockedError, SystemFailureError
from ctpatch.events import Listener
from ctpatch.files.atomic import (
    Clearing,
    explain_os_error,
    publish,
    read_regular,
    ready_folder,
    remove_all,
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

_CLEARING = "clearing.json"
"""Stands while what is in the folder is removed; earlier versions wrote there what they had begun."""
_STAYS = frozenset({LOCK, OWNER, _CLEARING})
"""What stays in the state folder while the rest is removed."""
_MAX_RECORD_BYTES = 16 << 20
_SHOWN_CHARACTERS = 200
_WAS_HERE = "begun"
"""In a share's folder: it stays when the share is let go, so that a merge can name the shares that are missing."""


@dataclass(frozen=True, slots=True)
class Found(Generic[MetaT]):
    """What earlier runs left in a folder, read once, when it is held.

    Attributes:
        finished: the meta of what is complete.
        begun: what was begun and not finished.
        anew: whether all of it is to go: it is made anew, or a run was cut off while it removed what was here.
    """

    finished: MetaT | None
    begun: Begun | None
    anew: bool


class WorkFolder(Generic[MetaT]):
    """A folder while it is held by this process."""

    def __init__(self, folder: Path, product: Product[MetaT], listener: Listener) -> None:
        self.folder = folder
        self.product = product
        self.state = folder / STATE_FOLDER
        self._listener = listener
        self._not_held: SystemFailureError | None = None

    @contextmanager
    def held(self, share: Share | None = None, *, beside_shares: bool = False) -> Iterator[None]:
        """Hold the folder, or one share of it: no other process writes the same meanwhile.

        Shares are held side by side, on any number of machines; who holds the whole folder is alone, or with
        `beside_shares` not. Raises OutputLockedError where another process holds it; says which.

        What is finished in a folder that cannot be written is only looked at, which needs no hold: what would write
        raises the error then.
        """
        self._refuse_links([STATE_FOLDER])
        with ExitStack() as holds:
            try:
                # Each takes its own hold first and looks for the other's then: of two, at least one sees the other.
                holds.enter_context(self._hold(share).held())
            except SystemFailureError as error:
                if not self.folder.is_dir() or self._finished() is None:
                    raise
                self._not_held = error
            else:
                if not beside_shares:
                    self._refuse_others(share)
            yield

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
            return Hold(self.folder, self.state, self.folder.name, self._listener)
        name = f"share {share} of {self.folder.name}"
        return Hold(self.folder, self._place(share), name, self._listener, elsewhere="follow")

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
        """Read what is here: what is finished, else what is begun, or both where it is to be made anew.

        Refuses what was not written by ctpatch, and a damaged record.
        """
        anew = anew or (self.state / _CLEARING).exists()
        finished = self._finished()
        return Found(finished, self._begun() if finished is None or anew else None, anew)

    def _finished(self) -> MetaT | None:
        try:
            return self.product.read_meta(self.folder / self.product.meta)
        except FileNotFoundError:
            return None
        except FormatError as error:
            raise OutputConflictError(
                f"{self.folder.name}: {error.message.partition('; ')[0]}; "
                f"{self.product.elsewhere}, or remove the folder yourself"
            ) from None

    def _begun(self, record: str | None = None) -> Begun | None:
        name = record or self.product.record
        try:
            content = json.loads(read_regular(self.state / name, _MAX_RECORD_BYTES))
            if content == {}:
                return None
            names = {each: content[each] for each in self.product.name_fields}
            names |= {each: content[each] for each in self.product.later_fields if each in content}
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

    def refuse_changed(self, changed: Sequence[str]) -> None:
        """Raise where what is complete here is not what a run would make: it says what differs."""
        if changed:
            raise OutputConflictError(
                f"{self.folder.name} holds a finished set {self.product.made} otherwise: {'; '.join(changed)}; "
                f"{self.product.anew} makes it anew, or {self.product.elsewhere}"
            )

    def refuse_damaged(self, damage: str | None) -> None:
        """Raise where what is complete here is damaged."""
        if damage is not None:
            raise OutputConflictError(
                f"{self.folder.name} holds a finished set that is damaged: {damage}; restore the file, or make the set "
                f"anew with {self.product.anew}"
            )

    def refuse_other_run(self, earlier: Begun, now: Begun, others: str) -> None:
        """Raise where the unfinished run here is another one; `others` is said where only its slices differ."""
        if earlier.plan_digest != now.plan_digest:
            # An option that few runs have is missing from the record of the others.
            wanted = {**dict.fromkeys(earlier.options), **now.options}
            changed = differences(earlier.options, wanted) or [others]
            raise OutputConflictError(
                f"{self.folder.name} holds an unfinished {self.product.noun} that was made otherwise: "
                f"{'; '.join(changed)}; {self.product.anew} starts anew, the same options as before resume it, or "
                f"{self.product.elsewhere}"
            )

    def begin(self, found: Found[MetaT], now: Begun, others: str) -> bool:
        """Make the folder ready for what is to be done now; returns whether that begins, and does not resume.

        Where it begins, what earlier runs put here goes, and nothing else; also where that was cut off before.
        Refuses an unfinished run with other options, and files that are not ours under names that would be written.
        """
        if self._not_held is not None:
            raise self._not_held
        resumed = found.begun is not None and not found.anew and self._resumes(found.begun, now, others)
        record = clearing = None
        if not resumed:
            record = (self.state / self.product.record, now.to_bytes())
            clearing = self._clearing(found)
            self._refuse_foreign(now, clearing)
        folders = self._folders(now)
        ready_folder(self.folder, folders, record, clearing)
        return not resumed

    def _resumes(self, earlier: Begun, now: Begun, others: str) -> bool:
        # Where another run came to nothing, no work is lost by starting anew.
        if any(self.state.glob(f"*{RECEIPT_SUFFIX}")):
            self.refuse_other_run(earlier, now, others)
        return earlier.plan_digest == now.plan_digest

    def begin_share(self, now: Begun, found: Found[MetaT], share: Share) -> Begun:
        """Start, as `begin`, what other shares may start at the same time; returns the one that was begun first."""
        begun = found.begun
        if begun is None:
            try:
                self._refuse_foreign(now)
            except OutputConflictError:
                # What lies here may be what another share has just begun to write.
                if self._begun() is None:
                    raise
            write_once(self.state / self.product.record, now.to_bytes())
            begun = self._begun()
        if begun is not None and begun.to_bytes() == now.to_bytes():
            ready_folder(self.folder, self._folders(now))
            with system_errors("writing", self._place(share).name):
                write_file(str(self._place(share) / _WAS_HERE), [b""])
        return begun or now

    def _folders(self, begun: Begun) -> list[Path]:
        """The folders that its files go to; none of them is a link."""
        names = self.product.folders(begun.names)
        self._refuse_links(names)
        return [self.folder / name for name in names]

    def _refuse_links(self, names: Iterable[str]) -> None:
        for name in names:
            if (self.folder / name).is_symlink():
                raise OutputConflictError(
                    f"{self.folder.name}/{name} is a link, which is not followed; remove it, or "
                    f"{self.product.elsewhere}"
                )

    def _refuse_foreign(self, now: Begun, clearing: Clearing | None = None) -> None:
        ours = set() if clearing is None else {*clearing.files, *(path for path, _ in clearing.aside)}
        for path in self._named_like(now.names):
            if path not in ours:
                raise OutputConflictError(
                    f"{self.folder.name} holds {path.relative_to(self.folder).as_posix()}, which this "
                    f"{self.product.noun} would write and ctpatch did not put there; move it away, or "
                    f"{self.product.elsewhere}"
                )

    def _named_like(self, names: Mapping[str, Any]) -> Iterator[Path]:
        """What is called as the files that such a run writes; its tables and its meta first."""
        last = (self.folder / name for name in (self.product.meta, *self.product.tables))
        yield from (path for path in last if os.path.lexists(path))
        for name, pattern in self.product.patterns(names).items():
            place = self.folder / name
            if name and place.is_symlink():
                yield place
            elif place.is_dir():
                with os.scandir(place) as entries:
                    yield from (place / entry.name for entry in entries if pattern.fullmatch(entry.name))

    def _clearing(self, found: Found[MetaT]) -> Clearing | None:
        """What earlier runs put here: all that is called as the files of one that was begun, or that a meta lists."""
        product, folder, state = self.product, self.folder, self.state
        if found.finished is None and found.begun is None and not (state / _CLEARING).exists():
            return None
        last = {folder / name for name in (product.meta, *product.tables)}
        runs = [begun.names for begun in (found.begun, self._begun(_CLEARING)) if begun is not None]
        meta = found.finished
        if meta is None and (state / product.meta).exists():  # a clearing that was cut off had put it aside
            meta = product.read_meta(state / product.meta)
        made = [] if meta is None else [product.names_of(meta)]
        folders = {name for names in (*runs, *made) for name in product.folders(names)}
        listed = None if meta is None else product.recorded(folder, meta)
        if listed is None:
            runs += made
        named = (path for names in runs for path in self._named_like(names) if path not in last and not path.is_dir())
        return Clearing(
            marker=state / _CLEARING,
            aside=[(folder / name, state / name) for name in product.withdrawn],
            files=[*(listed or ()), *named, *(folder / name for name in product.tables)],
            folders=[folder / name for name in folders],
            stays=_STAYS,
        )

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

    def complete(self, meta: bytes) -> None:
        """Put the meta in its place: it is complete. All that was needed to get there goes, save the lock."""
        self.put(self.product.meta, meta)
        self.end()

    def end(self) -> None:
        """Remove all that was needed to make what is complete, save the lock."""
        if self._not_held is not None:
            return
        with system_errors("removing what was needed to make", self.folder.name):
            remove_all(self.state, but=_STAYS)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of options, one line each."""
    # An option that says nothing is left out of a record, so that either may lack it.
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return [f"{name} was {_shown(before.get(name))}, now {_shown(now.get(name))}" for name in names]


def _shown(value: Any) -> str:
    return json.dumps(value)[:_SHOWN_CHARACTERS]


def unfinished(folder: Path, record: str) -> dict[str, Any]:
    """What is known of unfinished work in a folder: its options, and how many parts are done."""
    state = folder / STATE_FOLDER
    known: dict[str, Any] = {"parts_done": len(list(state.glob(f"*{RECEIPT_SUFFIX}")))}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known["options"] = json.loads((state / record).read_bytes())["options"]
    return known
