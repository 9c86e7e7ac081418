"""The folder of a prepared data set: what an earlier run left, what is ours to remove."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctpatch.errors import FormatError, OutputConflictError
from ctpatch.files.atomic import read_regular, remove_file, sync_folder, system_errors, write_atomic
from ctpatch.format.meta import STATE_FOLDER
from ctpatch.format.prepared_meta import PREPARE_META, PreparedMeta, read_prepared_meta
from ctpatch.work.folder import LOCK_FILES, HeldFolder

LEFT_OUT = "left_out.csv"
RECEIPT_SUFFIX = ".receipt.json"
_BEGUN = "prepare.json"
_CLEARING = "clearing.json"
_MAX_RECORD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Begun:
    """What a run was to do.

    Attributes:
        options: what decides the result, by name, as plain values.
        plan_digest: of those and of the slices.
        splits, arrays: what its files are called by.
    """

    options: dict[str, Any]
    plan_digest: str
    splits: tuple[str, ...]
    arrays: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The record's file."""
        return json.dumps(asdict(self), indent=1).encode()


def slice_name(split: str, array: str, index: int) -> str:
    """A prepared slice's file, relative to the data set's folder."""
    middle = "" if array == "image" else f"{array}_"
    return f"{split}/{split}_{middle}{index:06d}.npy"


def manifest_name(split: str) -> str:
    """A split's manifest, relative to the data set's folder."""
    return f"{split}/{split}_manifest.csv"


class PreparedFolder(HeldFolder):
    """A prepared data set's folder while it is held by this process."""

    def finished(self) -> PreparedMeta | None:
        """The meta of the complete set, or None where there is none.

        Raises:
            OutputConflictError: the meta there cannot be read.
        """
        try:
            return read_prepared_meta(self.folder / PREPARE_META)
        except FileNotFoundError:
            return None
        except FormatError as error:
            raise OutputConflictError(
                f"{self.folder.name}: {error.message}; choose another --dataset, or remove the folder yourself"
            ) from None

    def begun(self) -> Begun | None:
        """The run that was begun here and not finished, or None."""
        return self._record(_BEGUN)

    def _record(self, name: str) -> Begun | None:
        try:
            content = json.loads(read_regular(self.state / name, _MAX_RECORD_BYTES))
            return Begun(
                content["options"], str(content["plan_digest"]), tuple(content["splits"]), tuple(content["arrays"])
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise OutputConflictError(
                f"{self.folder.name}: the record of an unfinished run ({STATE_FOLDER}/{name}) is damaged; "
                "remove the folder, or choose another --dataset"
            ) from None

    def begin(self, now: Begun) -> None:
        """Start in a folder that holds nothing of ours.

        Raises:
            OutputConflictError: there are files of names that would be written, and they are not ours.
        """
        for name in self._named_like(now):
            raise OutputConflictError(
                f"{self.folder.name} holds {name}, which would be written and ctpatch prepare did not put there; "
                "move it away, or choose another --dataset"
            )
        write_atomic(self.state / _BEGUN, now.to_bytes())
        self.make_folders(now)

    def make_folders(self, now: Begun) -> None:
        """Make a folder for each split."""
        for split in now.splits:
            path = self.folder / split
            if path.is_symlink():
                raise OutputConflictError(f"{self.folder.name}/{split} is a link, which is not followed; remove it")
            with system_errors("making the folder", split):
                path.mkdir(exist_ok=True)
        with system_errors("making durable", self.folder.name):
            sync_folder(self.folder)

    def _named_like(self, now: Begun) -> Iterator[str]:
        """Names in the folder that such a run writes."""
        yield from (name for name in (PREPARE_META, LEFT_OUT) if os.path.lexists(self.folder / name))
        arrays = "|".join(re.escape(array) for array in now.arrays)
        for split in now.splits:
            pattern = re.compile(rf"{re.escape(split)}_(({arrays})_)?\d{{6,}}\.npy|{re.escape(split)}_manifest\.csv")
            where = self.folder / split
            if where.is_symlink():
                yield split
            elif where.is_dir():
                yield from (f"{split}/{name}" for name in sorted(os.listdir(where)) if pattern.fullmatch(name))

    def is_clearing(self) -> bool:
        """Whether an earlier run was cut off while it removed a set."""
        return (self.state / _CLEARING).exists()

    def has_receipts(self) -> bool:
        """Whether an unfinished run has finished any part."""
        return any(self.state.glob(f"*{RECEIPT_SUFFIX}"))

    def clear(self) -> None:
        """Remove what an earlier run put here and nothing else; goes on where an earlier clearing was cut off."""
        marker = self.state / _CLEARING
        ours = self._record(_CLEARING)
        if ours is None:
            finished, begun = self.finished(), self.begun()
            if finished is not None:
                ours = Begun({}, finished.plan_digest, tuple(finished.splits), tuple(finished.arrays))
            elif begun is not None:
                ours = begun
            else:
                return
            write_atomic(marker, ours.to_bytes())
        with system_errors("removing", self.folder.name):
            # The set stops being complete before its first file goes.
            remove_file(self.folder / PREPARE_META)
            sync_folder(self.folder)
            for name in list(self._named_like(ours)):
                if not (self.folder / name).is_dir():
                    remove_file(self.folder / name)
            for split in ours.splits:
                with suppress(OSError):
                    (self.folder / split).rmdir()
            for entry in list(self.state.iterdir()):
                if entry.name not in {*LOCK_FILES, _CLEARING}:
                    remove_file(entry)
            sync_folder(self.folder)
            remove_file(marker)

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place, whole and durably; what a run that is cut off leaves of it lies in the state folder."""
        path = self.folder / name
        ready = self.state / path.name
        with system_errors("writing", name):
            write_atomic(ready, content)
            os.replace(ready, path)
            sync_folder(path.parent)

    def receipt(self, number: int) -> Path:
        """The receipt of a part."""
        return self.state / f"{number:06d}{RECEIPT_SUFFIX}"
