"""What a writer is given and what it gives back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.patches import cut
from ctpatch.files.digest import array_digests
from ctpatch.words import LayoutName

SHARDS_FOLDER = "shards"
_BLOCK_BYTES = 32 << 20
"""Patches of one slice are cut in blocks of about this size, so that memory does not depend on the stride."""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """Where and under which names a part is written.

    Attributes:
        folder: the patch set's folder.
        path_prefix: what stands before a path in the manifest: `patches/<dataset>/<split>/`, or nothing.
        split: begins every name.
        patch_size: height and width in pixels.
        arrays: `image` and those beside it.
        shards: number of the shard for slices of a shape, where the layout has shards.
    """

    folder: Path
    path_prefix: str
    split: str
    patch_size: tuple[int, int]
    arrays: tuple[str, ...]
    shards: dict[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class SliceToWrite:
    """One slice with the windows that are kept.

    Attributes:
        slice_index: number of the slice.
        src_paths: its source files, one for each array.
        images: the slice as it was read, `(H, W)`, for each array.
        padded: the same, padded so that every window lies inside.
        rows, cols: origins of the kept windows.
    """

    slice_index: int
    src_paths: tuple[str, ...]
    images: tuple[NDArray[Any], ...]
    padded: tuple[NDArray[Any], ...]
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]


@dataclass(slots=True)
class Addresses:
    """Where the kept patches of a slice went.

    Attributes:
        paths: for each array the file of each patch.
        items: the item in that file for each patch, or None where a file holds one image.
        digests: for each array the digest of each patch, or empty where the layout has none.
    """

    paths: list[list[str]]
    items: list[int] | None
    digests: list[list[str]] = field(default_factory=list)


class PartWriter(Protocol):
    """Writes the patches of one part; a new one for each part."""

    def write(self, piece: SliceToWrite) -> Addresses:
        """Write the kept patches of a slice."""
        ...

    def finish(self) -> list[str]:
        """End the part's files; returns them, not yet durable."""
        ...

    def abandon(self) -> None:
        """Let go of open files after a fault."""
        ...

    @property
    def bytes_written(self) -> int:
        """Bytes written so far."""
        ...


def patch_blocks(piece: SliceToWrite, size: tuple[int, int]) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
    """The kept patches of a slice in blocks: which of them, and for each array `(n, h, w)`."""
    largest = max(image.dtype.itemsize for image in piece.padded) * size[0] * size[1]
    step = max(1, _BLOCK_BYTES // largest)
    for start in range(0, len(piece.rows), step):
        which = slice(start, min(start + step, len(piece.rows)))
        yield which, [cut(image, piece.rows[which], piece.cols[which], size) for image in piece.padded]


def digests_of(patches: NDArray[Any]) -> list[str]:
    """The digest of each patch."""
    return array_digests(patches)


def array_suffix(array: str) -> str:
    """What tells the files of an array beside `image` apart in a folder they share."""
    return "" if array == "image" else f"_{array}"


def shard_name(split: str, number: int, array: str) -> str:
    """Path of a shard in the set's folder: `shards/train_00003.npy`, `shards/train_00003_target.npy`."""
    return f"{SHARDS_FOLDER}/{split}_{number:05d}{array_suffix(array)}.npy"


def patch_name(patch_id: str, array: str) -> str:
    """Path of a patch's own file in the set's folder: `<patch_id>.npy`, `target/<patch_id>.npy`."""
    return f"{patch_id}.npy" if array == "image" else f"{array}/{patch_id}.npy"


def folders_of(layout: LayoutName, arrays: Sequence[str]) -> list[str]:
    """The folders a layout needs in the set's folder."""
    if layout == "files":
        return [array for array in arrays if array != "image"]
    return [SHARDS_FOLDER] if layout in {"shards", "slices"} else []
