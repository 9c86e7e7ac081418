"""What the tests of earlier versions share: copies of fixtures, digests of files, made-up slices, windows by hand.

These tests stay while the code below them moves. They use the public API and the command line; the two names that are
neither are looked up here, in `write_phantom` and `use_compiled`.
"""

import csv
import hashlib
import importlib
import io
import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

import ctpatch

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
TWINS = FIXTURES / "twins.json"
LAYOUTS: tuple[Any, ...] = ("files", "shards", "slices", "index")

PAIRS = ctpatch.PatchConfig(
    patch_size=8, stride=8, pad_mode="zero", drop=("air: air_fraction > 0.6", "flat: std < 0.17")
)
MASKS = ctpatch.PatchConfig(patch_size=8, stride=8, pad_mode="shift", drop="dark: max < 0.75")
PARTS = ctpatch.PatchConfig(patch_size=4, stride=4, drop="faint: mean < 0.15")
"""One window of each slice of 4 x 6, none of one of 2 x 3."""

Image = NDArray[Any]


LATER_FILES = frozenset({"hu_values.csv"})
"""What later versions write beside the files of 0.1.0."""
LATER_BLOCKS = frozenset({"values", "hu"})
"""What later versions write into the meta beside the fields of 0.1.0; none of it decides a patch."""


def copy_group(name: str, to: Path) -> Path:
    """Copy a group of fixtures, which is a data root; times are those of the copy, as after a checkout."""
    return Path(shutil.copytree(FIXTURES / name, to / name, copy_function=shutil.copyfile))


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its relative path with `/`."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def digests_below(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that 0.1.0 wrote; of the metas without what names the version and the time."""
    return {
        name: hashlib.sha256(_lasting_bytes(path)).hexdigest()
        for name, path in files_below(folder).items()
        if path.name not in LATER_FILES
    }


def digests_but_lock(folder: Path) -> dict[str, str]:
    """The same of unfinished work, where a run that was refused leaves its lock."""
    return {name: digest for name, digest in digests_below(folder).items() if not name.endswith("/lock")}


def _lasting_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name not in {"patch_meta.json", "prepare_meta.json"}:
        return content
    values = json.loads(content)
    covered = {name: value for name, value in values.items() if name not in {"created", "meta_digest"}}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    assert values["meta_digest"] == xxhash.xxh3_128_hexdigest(text.encode()), f"the digest of {path.name} does not hold"
    lasting, count = re.subn(rb'"(created|ctpatch_version|meta_digest)": "[^"]*"', rb'"\1": ""', content)
    assert count == len(("created", "ctpatch_version", "meta_digest")), path.name
    for name in LATER_BLOCKS & values.keys():
        lasting, count = re.subn(rb'  "%s": \{\n.*?\n  \},\n' % name.encode(), b"", lasting, flags=re.DOTALL)
        assert count == 1, name
    return lasting


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with digests by name: empty where all are there and the same."""
    wrong = {name: "missing" for name in wanted if name not in found}
    wrong |= {name: "too many" for name in found if name not in wanted}
    return wrong | {name: "other bytes" for name in wanted if name in found and found[name] != wanted[name]}


def run_command(*words: str | Path, status: int = 0) -> str:
    """Run the command line in this process, as `python -m ctpatch` does; returns what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["ctpatch", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("ctpatch", run_name="__main__", alter_sys=True)
    assert ended.value.code == status, f"{words}: {out.getvalue()}{err.getvalue()}"
    return out.getvalue()


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write a CSV file column by column."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def cut_by_hand(image: Image, row: int, col: int, size: tuple[int, int], dtype: Any) -> Image:
    """One window, pixel after pixel; what lies beyond the border is 0."""
    patch = np.zeros(size, dtype)
    for down in range(size[0]):
        for right in range(size[1]):
            if row + down < image.shape[0] and col + right < image.shape[1]:
                patch[down, right] = image[row + down, col + right]
    return patch


def origins_by_hand(length: int, config: ctpatch.PatchConfig, axis: int) -> list[int]:
    """Where windows begin along an axis, for the pad modes `none`, `shift` and `zero`."""
    size, stride = config.patch_size[axis], config.stride[axis]
    if config.pad_mode == "zero":
        return [start for start in range(0, length, stride) if start == 0 or start - stride + size < length]
    starts = [start for start in range(0, length, stride) if start + size <= length]
    if config.pad_mode == "shift" and starts and starts[-1] + size < length:
        starts.append(length - size)
    return starts


# Made-up slices. Values are multiples of 1/256 below 1, and windows have a power of two of pixels: float64 holds all
# sums and squares without rounding, and the square root is the nearest number by IEEE 754. So statistics have the same
# digits on every machine, in whatever order they are added up.


def picture(seed: int, shape: tuple[int, int], dtype: Any = np.float32) -> Image:
    """Blocks of 17 grey values with a corner of air."""
    rows, cols = np.indices(shape)
    levels = ((rows // 3) * 37 + (cols // 4) * 59 + seed * 101) * 73 % 17
    levels[(rows < shape[0] // 2) & (cols < shape[1] // 2)] = 0
    return (levels * 15 / 256).astype(dtype)


def labels(seed: int, shape: tuple[int, int], dtype: Any = np.uint8) -> Image:
    """Blocks of four labels."""
    rows, cols = np.indices(shape)
    return ((rows // 5 + cols // 4 + seed) % 4).astype(dtype)


def write_split(
    root: Path, dataset: str, split: str, arrays: Mapping[str, Iterable[Image]], **columns: Sequence[object]
) -> Path:
    """Write prepared slices and their manifest; returns the split's folder."""
    folder = root / "prepared" / dataset / split
    folder.mkdir(parents=True)
    paths: dict[str, Sequence[object]] = {}
    for array, images in arrays.items():
        name, column = ("", "path") if array == "image" else (f"_{array}", f"{array}_path")
        paths[column] = []
        for number, image in enumerate(images):
            path = folder / f"{split}_{number:06d}{name}.npy"
            np.save(path, image)
            paths[column] = [*paths[column], path.relative_to(root).as_posix()]
    write_table(folder / f"{split}_manifest.csv", {**columns, **paths})
    return folder


def write_pairs(root: Path, split: str = "train", count: int = 3, first: int = 0) -> Path:
    """Slices of 20 x 12 with a target."""
    numbers = range(first, first + count)
    return write_split(
        root,
        "pairs",
        split,
        {
            "image": [picture(number, (20, 12)) for number in numbers],
            "target": [picture(number, (20, 12)) / 2 for number in numbers],
        },
        patient_id=[f"P{number // 2}" for number in numbers],
    )


def write_masks(root: Path) -> Path:
    """Slices of several dtypes with a mask; the third is too small, the fifth out of range, the last cut short."""
    images = [
        picture(10, (12, 12)),
        picture(11, (12, 12), np.float16),
        picture(12, (6, 12)),
        np.asfortranarray(picture(13, (12, 16), ">f8")),
        picture(14, (12, 12)) * 2,
        picture(15, (12, 12)),
    ]
    folder = write_split(
        root,
        "masks",
        "train",
        {"image": images, "mask": [labels(number, image.shape) for number, image in enumerate(images)]},
        index=[3, 5, 6, 8, 20, 1000000],
        patient_id=["a", "a", "", "b, c", '"d"', "e"],
    )
    short = folder / "train_000005.npy"
    short.write_bytes(short.read_bytes()[:-100])
    return folder


def write_parts(root: Path, split: str = "val", count: int = 71) -> Path:
    """So many slices that the layouts `files` and `index` make two parts of them; four of five give no window."""
    shapes = [(2, 3) if number % 5 else (4, 6) for number in range(count)]
    images = [picture(number, shape) for number, shape in enumerate(shapes)]
    return write_split(root, "parts", split, {"image": images})


def write_phantom(root: Path, **options: Any) -> list[Path]:
    """The project's phantom CT."""
    module = importlib.import_module("ctpatch.phantom.slices")
    splits = [module.PhantomSplit("train", 2, 2)]
    folders: list[Path] = module.write_phantom(root, "phantom", splits, **options)
    return folders


def use_compiled(wanted: bool | None) -> bool:
    """Choose between numpy and machine code for statistics; returns whether machine code is there."""
    found: bool = importlib.import_module("ctpatch.core.statistics.api").use_compiled(wanted)
    return found
