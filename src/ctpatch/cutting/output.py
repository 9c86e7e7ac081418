"""The folder a patch set is written into: who holds it, what an earlier run left, what is ours to remove.

While a set is being made, the folder `.ctpatch` in it holds the lock, the options of the build, and the receipts and
rows of finished parts. It is gone when `patch_meta.json` stands.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ctpatch.cutting.job import RECEIPT_SUFFIX, Share
from ctpatch.errors import FormatError, OutputConflictError, OutputLockedError
from ctpatch.files.atomic import (
    explain_os_error,
    remove_file,
    sync_folder,
    system_errors,
    write_atomic,
    write_file,
    write_once,
)
from ctpatch.format.meta import PATCH_META, PatchMeta, read_meta
from ctpatch.format.tables import PATCH_MANIFEST, SLICE_MANIFEST, TABLES, patch_schema, read_table, schema_of
from ctpatch.layouts import layout_of
from ctpatch.layouts.base import path_column
from ctpatch.words import LayoutName
from ctpatch.work.folder import LOCK_FILES, STATE_FOLDER, HeldFolder, remove_entry
from ctpatch.work.lock import Hold

_BUILD = "build.json"
_CLEARING = "clearing.json"
_WAS_HERE = "begun"
"""In a share's folder: it stays when the share is let go, so that a merge can name the shares that are missing."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A build that was begun in a folder: what it was to do.

    Attributes:
        options: what decides the result, by name, as plain values.
        plan_digest: digest of those and of the list of slices.
        split, layout, arrays: what its files are called by.
    """

    options: dict[str, Any]
    plan_digest: str
    split: str
    layout: LayoutName
    arrays: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The record's file."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, indent=1).encode()


class OutputFolder(HeldFolder):
    """A patch set's folder while it is held by this process."""

    @contextmanager
    def held(self, share: Share | None = None, *, beside_shares: bool = False) -> Iterator[None]:
        """Hold the folder, or one share of it: no other process writes the same meanwhile.

        Args:
            share: shares are held side by side, on any number of machines; who holds the whole folder is alone.
            beside_shares: hold the whole folder whatever shares are being worked on.

        Raises:
            OutputLockedError: another process holds it; says which.
            SystemFailureError: the folder cannot be made or written.
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
            return self._whole()
        place = self._place(share)
        shown = f"{STATE_FOLDER}/{place.name}/owner.json"
        return Hold(place, f"share {share} of {self.folder.name}", shown, self._listener, elsewhere="follow")

    def _place(self, share: Share) -> Path:
        return self.state / f"share-{share.number}-of-{share.of}"

    def shares_held(self) -> dict[Share | None, str | None]:
        """The shares that are being worked on, by whom."""
        held = {share: self._hold(share).holder() for share in self.shares_begun()}
        return {share: holder for share, holder in held.items() if holder is not None}

    def shares_begun(self) -> list[Share]:
        """The shares that were ever worked on since the build began."""
        names = sorted(os.listdir(self.state)) if self.state.is_dir() else []
        found = (re.fullmatch(r"share-(\d{1,6})-of-(\d{1,6})", name) for name in names)
        return [Share(int(each[1]), int(each[2])) for each in found if each]

    def finished(self) -> PatchMeta | None:
        """The meta of the complete set in the folder, or None where there is no complete set.

        Raises:
            OutputConflictError: there is a meta file that is not ours or cannot be read.
        """
        try:
            return read_meta(self.folder / PATCH_META)
        except FileNotFoundError:
            return None
        except FormatError as error:
            raise OutputConflictError(
                f"{self.folder.name}: {error.message.partition('; ')[0]}; "
                "choose another --out, or remove the folder yourself"
            ) from None

    def begun(self) -> Begun | None:
        """The build that was begun in the folder and not finished, or None."""
        try:
            raw = (self.state / _BUILD).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_os_error(error, "reading", f"{STATE_FOLDER}/{_BUILD}") from None
        try:
            content = json.loads(raw)
            content["arrays"] = tuple(content["arrays"])
            return Begun(**content)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise OutputConflictError(
                f"{self.folder.name}: the record of an unfinished build ({STATE_FOLDER}/{_BUILD}) is damaged; "
                "remove the folder, or choose another --out"
            ) from None

    def begin(self, build: Begun) -> None:
        """Start a build in a folder that holds nothing of ours.

        Raises:
            OutputConflictError: there are files of names that the build would write, and they are not ours.
        """
        self._refuse_foreign(build, set())
        write_atomic(self.state / _BUILD, build.to_bytes())
        self.make_folders(build)

    def begin_share(self, build: Begun, share: Share) -> Begun:
        """Start a build that other shares may start at the same time; returns the one that was begun first.

        Raises:
            OutputConflictError: as for `begin`.
        """
        begun = self.begun()
        if begun is None:
            try:
                self._refuse_foreign(build, set())
            except OutputConflictError:
                # What lies here may be what another share has just begun to write.
                if self.begun() is None:
                    raise
            write_once(self.state / _BUILD, build.to_bytes())
            begun = self.begun()
        if begun == build:
            self.make_folders(build)
            with system_errors("writing", self._place(share).name):
                write_file(str(self._place(share) / _WAS_HERE), [b""])
        return begun or build

    def _refuse_foreign(self, build: Begun, ours: set[Path]) -> None:
        for name in self._named_like(build):
            if self.folder / name not in ours:
                raise OutputConflictError(
                    f"{self.folder.name} holds {name}, which this build would write and ctpatch did not put there; "
                    "move it away, or choose another --out"
                )

    def make_folders(self, build: Begun) -> None:
        """Make the folders that the layout needs."""
        for name in layout_of(build.layout).folders(build.arrays):
            path = self.folder / name
            if path.is_symlink():
                raise OutputConflictError(f"{self.folder.name}/{name} is a link, which is not followed; remove it")
            with system_errors("making the folder", name):
                path.mkdir(exist_ok=True)
        with system_errors("making durable", self.folder.name):
            sync_folder(self.folder)

    def _named_like(self, build: Begun) -> Iterator[str]:
        """Names in the folder that a build of this split and layout writes; our tables and meta among them."""
        for name in (PATCH_META, *TABLES):
            if os.path.lexists(self.folder / name):
                yield name
        for folder, pattern in layout_of(build.layout).names(build.split, build.arrays).items():
            where = self.folder / folder
            if where.is_symlink() and folder:
                yield folder
            elif where.is_dir():
                with os.scandir(where) as entries:
                    yield from (
                        f"{folder}/{entry.name}".lstrip("/") for entry in entries if pattern.fullmatch(entry.name)
                    )

    def clear(self, build: Begun) -> None:
        """Remove what an earlier build put here and nothing else; goes on where an earlier clearing was cut off.

        Args:
            build: what is to be made next.

        Raises:
            OutputConflictError: what is here was not written by ctpatch, or stands in the way of what is to be made.
        """
        marker = self.state / _CLEARING
        if not marker.exists():
            finished = self.finished()
            begun = self.begun()
            if finished is None and begun is None:
                return
            if finished is not None and begun is None:
                self._refuse_foreign(build, self._files_of(finished))
            write_atomic(marker, b"{}")
        # The set stops being complete before its first file goes; its manifest is the list of what to remove.
        # A clearing that was cut off may have moved neither of them, or one: what it moved is no longer here.
        for name in (PATCH_META, PATCH_MANIFEST):
            with system_errors("removing", name), suppress(FileNotFoundError):
                os.replace(self.folder / name, self.state / name)
        with system_errors("removing", PATCH_META):
            sync_folder(self.folder)
        with system_errors("removing", self.folder.name):
            for path in self._ours():
                remove_file(path)
            for name in TABLES:
                remove_file(self.folder / name)
            for entry in list(self.state.iterdir()):
                if entry.name not in {*LOCK_FILES, _CLEARING}:
                    remove_entry(entry)
            sync_folder(self.folder)
            remove_file(marker)

    def has_receipts(self) -> bool:
        """Whether an unfinished build has finished any part."""
        return any(self.state.glob(f"*{RECEIPT_SUFFIX}"))

    def is_clearing(self) -> bool:
        """Whether an earlier run was cut off while it removed a set."""
        return (self.state / _CLEARING).exists()

    def _ours(self) -> Iterator[Path]:
        begun = self.begun()
        folders: set[str] = set()
        if begun is not None:
            yield from (self.folder / name for name in self._named_like(begun) if name not in {PATCH_META, *TABLES})
            folders.update(layout_of(begun.layout).folders(begun.arrays))
        meta_path = self.state / PATCH_META
        if meta_path.exists():
            meta = read_meta(meta_path)
            folders.update(layout_of(meta.layout).folders(tuple(meta.arrays)))
            if not layout_of(meta.layout).reads_sources:
                yield from self._recorded_files(meta, self.state / PATCH_MANIFEST)
        for name in folders:
            with suppress(OSError):
                (self.folder / name).rmdir()

    def _files_of(self, meta: PatchMeta) -> set[Path]:
        """The files of the finished set in the folder, its tables among them."""
        tables = {self.folder / name for name in (PATCH_META, *TABLES)}
        pixels = (
            () if layout_of(meta.layout).reads_sources else self._recorded_files(meta, self.folder / PATCH_MANIFEST)
        )
        return tables | set(pixels)

    def first_damage(self, meta: PatchMeta) -> str | None:
        """The first file of the finished set that is gone, or not as long as it should be; None where none is.

        What is in the files is left to `verify`.
        """
        arrays = tuple(meta.arrays)
        try:
            rows, slices = (
                read_table(self.folder / name, schema_of(name, arrays)) for name in (PATCH_MANIFEST, SLICE_MANIFEST)
            )
        except FormatError as error:
            return error.message
        size = meta.patch_config().patch_size
        for file in layout_of(meta.layout).pixel_files(rows, slices, meta.arrays, size):
            damage = file.damage(str(self.folder / (file.path or "").removeprefix(meta.path_prefix)))
            if damage is not None:
                return damage
        return None

    def _recorded_files(self, meta: PatchMeta, table: Path) -> Iterator[Path]:
        if not table.exists():
            return
        try:
            rows = read_table(table, patch_schema(tuple(meta.arrays)))
        except FormatError as error:
            raise OutputConflictError(
                f"{self.folder.name}: {error.message}; without it, which files are ours cannot be told: "
                "remove the folder yourself, or choose another --out"
            ) from None
        prefix = meta.path_prefix
        for array in meta.arrays:
            for path in rows.select(pl.col(path_column(array)).unique(maintain_order=True)).to_series():
                name = path.removeprefix(prefix)
                if ".." not in name.split("/") and not Path(name).is_absolute():
                    yield self.folder / name


def unfinished_build(folder: Path) -> dict[str, Any]:
    """What is known of an unfinished build in a folder: its options, and how many parts are done."""
    state = folder / STATE_FOLDER
    known: dict[str, Any] = {"parts_done": len(list(state.glob(f"*{RECEIPT_SUFFIX}")))}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known["options"] = json.loads((state / _BUILD).read_bytes())["options"]
    return known
