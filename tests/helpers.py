"""Small prepared splits, whole trees as bytes, and references that share no code with ctpatch."""

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from numpy.typing import DTypeLike, NDArray

import ctpatch
from ctpatch.errors import CtPatchError
from ctpatch.events import Event, Notice
from ctpatch.layouts.base import PartLimits

EPOCH = "1700000000"
CREATED = "2023-11-14T22:13:20Z"
LAYOUTS: tuple[Any, ...] = ("files", "shards", "slices", "index")
PAD_MODES: tuple[Any, ...] = ("none", "shift", "even", "zero", "edge", "reflect")
SMALL = ctpatch.PatchConfig(patch_size=16, stride=8)

Image = NDArray[Any]
Origin = tuple[int, int]


STATUS_AND_CODE = {
    "ConfigError": (2, "config"),
    "FormatError": (1, "format"),
    "NpyError": (1, "npy"),
    "PathError": (1, "path"),
    "RuleError": (2, "rule"),
    "SourceManifestError": (1, "source-manifest"),
    "UsageError": (2, "usage"),
}


def refusal(error: type[CtPatchError], call: Callable[[], object]) -> str:
    """The message that a call is refused with, by an error of this very class, which ends a command as it should."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert (caught.value.exit_status, caught.value.code) == STATUS_AND_CODE[error.__name__]
    return str(caught.value)


def data_folder() -> Path:
    """Real CT, where it is there: what CTPATCH_DATA names, else `shared/data` beside the checkout."""
    given = os.environ.get("CTPATCH_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared/data"


@dataclass
class Prepared:
    """A split on disk, and the pixels that were written."""

    root: Path
    folder: Path
    dataset: str
    split: str
    images: dict[str, list[Image]]
    paths: dict[str, list[str]]

    @property
    def out(self) -> Path:
        return self.root / "patches" / self.dataset / self.split

    @property
    def manifest(self) -> Path:
        return self.folder / f"{self.split}_manifest.csv"

    def file(self, number: int, array: str = "image") -> Path:
        return self.root / self.paths[array][number]


def small_parts(patch: pytest.MonkeyPatch, **limits: int) -> None:
    """Let plans from here on have parts of at most so much; see `ctpatch.layouts.base.PartLimits`."""
    patch.setattr("ctpatch.cutting.plan.LIMITS", PartLimits(**limits))


@dataclass
class Heard:
    """A listener that keeps everything."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def notices(self, code: str) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice) and event.code == code]


def random_image(rng: np.random.Generator, shape: tuple[int, int], dtype: DTypeLike = np.float32) -> Image:
    """Noise in [0, 1] with a patch of air and a flat part, so that windows differ in every statistic."""
    if np.dtype(dtype).kind in "bui":
        return rng.integers(0, 2 if np.dtype(dtype).kind == "b" else 5, shape).astype(dtype)
    image = rng.random(shape, dtype=np.float32)
    height, width = shape
    image[: height // 3, : width // 2] = 0.0
    image[height // 2 :, width // 2 :] *= np.float32(0.001)
    return image.astype(dtype)


def make_split(
    root: Path,
    shapes: Sequence[tuple[int, int]] = ((40, 50),) * 3,
    *,
    dataset: str = "phantoms",
    split: str = "train",
    dtype: DTypeLike = np.float32,
    arrays: Mapping[str, DTypeLike] | None = None,
    images: Sequence[Image] | None = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    seed: int = 0,
) -> Prepared:
    """Write a split of small random slices and its manifest; `columns` are added to the manifest as they are."""
    rng = np.random.default_rng(seed)
    folder = root / "prepared" / dataset / split
    folder.mkdir(parents=True)
    pictures: dict[str, list[Image]] = {
        "image": [random_image(rng, shape, dtype) for shape in shapes] if images is None else list(images)
    }
    for array, kind in (arrays or {}).items():
        pictures[array] = [random_image(rng, (len(image), len(image[0])), kind) for image in pictures["image"]]
    paths: dict[str, list[str]] = {}
    for array, stack in pictures.items():
        suffix = "" if array == "image" else f"_{array}"
        paths[array] = [f"prepared/{dataset}/{split}/{split}_{k:06d}{suffix}.npy" for k in range(len(stack))]
        for path, image in zip(paths[array], stack, strict=True):
            np.save(root / path, image)
    table: dict[str, Sequence[object]] = {"path": paths["image"]}
    table |= {f"{array}_path": names for array, names in paths.items() if array != "image"}
    made = Prepared(root, folder, dataset, split, pictures, paths)
    write_manifest(made.manifest, {**table, **(columns or {})})
    return made


def write_manifest(path: Path, table: Mapping[str, Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def build_one(prepared: Prepared, config: ctpatch.PatchConfig = SMALL, **options: Any) -> ctpatch.BuildResult:
    """Build the one split and return its result."""
    results = ctpatch.build(prepared.folder, config=config, **options)
    assert len(results) == 1
    return results[0]


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes; folders end in `/`."""
    found: dict[str, bytes] = {}
    for where, folders, files in os.walk(folder):
        base = Path(where)
        found |= {f"{(base / name).relative_to(folder).as_posix()}/": b"" for name in folders}
        found |= {(base / name).relative_to(folder).as_posix(): (base / name).read_bytes() for name in files}
    return found


def assert_same_tree(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> None:
    """As `==`, with a message that can be read."""
    assert sorted(found) == sorted(wanted)
    assert [name for name, content in wanted.items() if found[name] != content] == []


def tree_stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Modification time, size and inode of everything below a folder."""
    stamps = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        stamps[path.relative_to(folder).as_posix()] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return stamps


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def csv_columns(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").partition("\n")[0].split(",")


def rewrite_table(folder: Path, table: str, row: int, column: str, value: str) -> None:
    """Change one cell of a set's table, and the meta so that it agrees: what a forger would do."""
    path = folder / table
    names, rows = csv_columns(path), csv_rows(path)
    rows[row][column] = value
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    content = path.read_bytes()
    change_meta(
        folder,
        lambda meta: meta["tables"][table].update(bytes=len(content), digest=xxhash.xxh3_128(content).hexdigest()),
    )


def change_meta(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a set's meta and give it the digest it would have."""
    path = folder / "patch_meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    said = {name: value for name, value in meta.items() if name not in {"created", "meta_digest"}}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    meta["meta_digest"] = xxhash.xxh3_128(text.encode()).hexdigest()
    path.write_text(json.dumps(meta, indent=2) + "\n")


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def reference_starts(length: int, size: int, stride: int, pad_mode: str) -> list[int]:
    """Window origins along an axis, by trying origins and counts one after the other; no formula of the code."""
    if pad_mode in {"zero", "edge", "reflect"}:
        starts = [0]
        while starts[-1] + size < length:
            starts.append(starts[-1] + stride)
        return [start for start in starts if start < length]
    if length < size:
        return []
    last = length - size
    if pad_mode == "even":
        gaps = 0
        while gaps * stride < last:
            gaps += 1
        return [last * k // gaps for k in range(gaps + 1)] if gaps else [0]
    starts = [start for start in range(last + 1) if start % stride == 0]
    return [*starts, last] if pad_mode == "shift" and last not in starts else starts


def reference_origins(
    shape: tuple[int, int], size: int | tuple[int, int], stride: int | tuple[int, int], pad_mode: str = "none"
) -> list[Origin]:
    sides = [reference_starts(*axis, pad_mode) for axis in zip(shape, pair(size), pair(stride), strict=True)]
    return [(row, col) for row in sides[0] for col in sides[1]]


def _source_index(position: int, length: int, pad_mode: str) -> int:
    if position < length or pad_mode == "zero":
        return min(position, length - 1)
    if pad_mode == "edge" or length == 1:
        return length - 1
    period = 2 * (length - 1)
    position %= period
    return position if position < length else period - position


def reference_patch(image: Image, origin: Origin, size: tuple[int, int], pad_mode: str = "none") -> Image:
    """One window, pixel index by pixel index, without numpy.pad."""
    rows, cols = (range(start, start + side) for start, side in zip(origin, size, strict=True))
    height, width = image.shape
    patch = image[
        np.ix_([_source_index(r, height, pad_mode) for r in rows], [_source_index(c, width, pad_mode) for c in cols])
    ].copy()
    if pad_mode == "zero":
        patch[[r >= height for r in rows]] = 0
        patch[:, [c >= width for c in cols]] = 0
    return patch


def reference_set(
    images: Sequence[Image],
    size: int | tuple[int, int] = 16,
    stride: int | tuple[int, int] = 8,
    pad_mode: str = "none",
    *,
    dtype: DTypeLike = np.float32,
) -> tuple[list[tuple[int, int, int]], Image]:
    """All windows of all slices, in order: `(slice, row, col)` and the patches `(N, h, w)`."""
    where, patches = [], []
    for number, image in enumerate(images):
        for row, col in reference_origins((len(image), len(image[0])), size, stride, pad_mode):
            where.append((number, row, col))
            patches.append(reference_patch(image, (row, col), pair(size), pad_mode).astype(dtype))
    return where, np.array(patches, dtype=dtype).reshape(-1, *pair(size))


def reference_coverage(shapes: Sequence[tuple[int, int]], size: int, stride: int, pad_mode: str = "none") -> float:
    """Share of pixels in at least one window, by painting."""
    painted = total = 0
    for shape in shapes:
        canvas = np.zeros(shape, dtype=bool)
        for row, col in reference_origins(shape, size, stride, pad_mode):
            canvas[row : row + size, col : col + size] = True
        painted += int(canvas.sum())
        total += canvas.size
    return painted / total


def reference_statistics(patch: Image, air_level: float = 0.02) -> dict[str, float]:
    """Two passes in float64."""
    pixels = patch.astype(np.float64)
    mean = float(pixels.sum() / pixels.size)
    return {
        "min": float(pixels.min()),
        "max": float(pixels.max()),
        "mean": mean,
        "std": float(np.sqrt(((pixels - mean) ** 2).sum() / pixels.size)),
        "air_fraction": int((pixels <= air_level).sum()) / pixels.size,
    }


def assert_bits(found: Any, wanted: Image) -> None:
    """Same shape, dtype and bits."""
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert found.tobytes() == wanted.tobytes()
