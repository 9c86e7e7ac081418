"""One byte wrong, one too many, one too few, a file gone or another's: verify finds every one, and reading is safe."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import CtPatchError, UsageError
from helpers import LAYOUTS, Prepared, build_one, make_split, tree_bytes
from reliability.common import FULL, Count

CONFIG = ctpatch.PatchConfig(
    patch_size=8, stride=4, pad_mode="edge", drop=("top: row = 0 and col = 0", "flat: std < 0.001")
)
PER_FILE = 64 if FULL else 2
PER_PATCH = 8 if FULL else 1


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def tiny(tmp_path: Path, layout: Any) -> Prepared:
    """Two slices of 12x14 with a target and a mask, some windows dropped, some padded."""
    prepared = make_split(
        tmp_path,
        [(12, 14)] * 2,
        arrays={"target": np.float32, "mask": np.uint8},
        columns={"patient_id": ["P1", "P2, the second"]},
    )
    meta = build_one(prepared, CONFIG, layout=layout).meta
    assert meta.num_patches > 4
    assert meta.num_rejected == 2
    return prepared


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree_bytes(folder).items() if not name.endswith("/")}


def is_found(folder: Path) -> bool:
    """Whether verify says that the set is not as it was written; an error other than ours goes through."""
    try:
        return ctpatch.verify(folder).status == "failed"
    except UsageError:
        return not (folder / "patch_meta.json").exists()


def positions(name: str, content: bytes, number: int, rng: random.Random) -> list[int]:
    """Places spread over a file, at its ends and in the header of a .npy among them."""
    length = len(content)
    if length <= number:
        return list(range(length))
    chosen = {0, length - 1} if number > 1 else set()
    if name.endswith(".npy"):
        chosen |= set(rng.sample(range(min(length, 128)), min(number // 4, 32)))
    step = length / number
    chosen |= {min(int(k * step + rng.random() * step), length - 1) for k in range(number)}
    return sorted(chosen)


def is_time_alone(name: str, content: bytes, changed: bytes, at: int) -> bool:
    """Whether only a digit of `created` became another: the one thing that no digest covers (docs/design/006)."""
    start = content.find(b'"created": "') + len(b'"created": "')
    inside = name == "patch_meta.json" and start <= at < content.index(b'"', start)
    return inside and content[at : at + 1].isdigit() and changed[at : at + 1].isdigit()


def test_a_flipped_byte_is_found(tiny: Prepared, layout: Any, count: Count) -> None:
    rng = random.Random(f"flip {layout}")
    missed, times = [], 0
    for name, content in files_of(tiny.out).items():
        number = PER_PATCH if layout == "files" and name.endswith(".npy") else PER_FILE
        for at in positions(name, content, number, rng):
            mask = rng.choice([1, 2, 4, 8, 16, 32, 64, 128, rng.randrange(1, 256)])
            changed = bytearray(content)
            changed[at] ^= mask
            (tiny.out / name).write_bytes(changed)
            count("bytes flipped")
            if is_found(tiny.out):
                count("bytes flipped and found")
            elif is_time_alone(name, content, bytes(changed), at):
                count("bytes flipped in the digits of created, which no digest covers")
                times += 1
            else:
                missed.append((name, at, mask))
        (tiny.out / name).write_bytes(content)
    assert missed == []
    assert times <= 14
    assert ctpatch.verify(tiny.out).ok


def test_every_bit_of_the_meta(tiny: Prepared, layout: Any, count: Count) -> None:
    """All bytes in the full run: a small file, each byte of which matters."""
    if layout != "shards" and not FULL:
        pytest.skip("in the full run")
    content = (tiny.out / "patch_meta.json").read_bytes()
    rng = random.Random(1)
    missed = []
    for at in range(0, len(content), 1 if FULL else 40):
        changed = bytearray(content)
        changed[at] ^= 1 << rng.randrange(8)
        (tiny.out / "patch_meta.json").write_bytes(changed)
        count("bytes flipped")
        if is_found(tiny.out):
            count("bytes flipped and found")
        elif is_time_alone("patch_meta.json", content, bytes(changed), at):
            count("bytes flipped in the digits of created, which no digest covers")
        else:
            missed.append((at, content[at - 20 : at + 20]))
    assert missed == []


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda _content: None,
    "one byte short": lambda content: content[:-1],
    "one byte short in front": lambda content: content[1:],
    "one byte long": lambda content: content + b"\0",
    "one byte long in front": lambda content: b"\n" + content,
    "cut in the middle": lambda content: content[: len(content) // 2],
    "all zeros": lambda content: bytes(len(content)),
    "no bytes": lambda _content: b"",
}


# A line break more or less at the end is still the same JSON; verify says that it was not written so.
_STILL_JSON = {"one byte short", "one byte long in front"}


def chosen_names(folder: Path, layout: str) -> list[str]:
    names = list(files_of(folder))
    pixels = [name for name in names if name.endswith(".npy")]
    return names if FULL or layout != "files" else [name for name in names if name not in pixels[3:-3]]


@pytest.mark.parametrize("damage", DAMAGES if FULL else ["one byte short", "one byte long"])
def test_a_damaged_file_is_found_and_read_without_a_crash(
    tiny: Prepared, layout: Any, damage: str, count: Count
) -> None:
    tree = files_of(tiny.out)
    for name in chosen_names(tiny.out, layout):
        bad = DAMAGES[damage](tree[name])
        (tiny.out / name).unlink()
        if bad is not None:
            (tiny.out / name).write_bytes(bad)
        count(f"files {damage}")
        assert is_found(tiny.out), name
        count("damaged files found")
        refused = read_all(tiny.out)
        if name.endswith(".npy") and damage != "all zeros":
            assert refused is not None, name
            assert Path(name).name in refused
        if (name == "patch_meta.json" and damage not in _STILL_JSON) or (
            name == "patch_manifest.csv" and damage != "one byte long"
        ):
            assert refused is not None, name
        (tiny.out / name).write_bytes(tree[name])
    assert ctpatch.verify(tiny.out).ok


def read_all(folder: Path) -> str | None:
    """Open a set and read all of it; the message where that is refused. Any other error goes through."""
    try:
        ps = ctpatch.open(folder)
        ps.read(range(len(ps)))
        _ = ps.slices, ps.rejected
    except CtPatchError as error:
        return error.message
    return None


def swaps(tree: dict[str, bytes]) -> Iterator[tuple[str, str]]:
    pixels = [name for name in tree if name.endswith(".npy")]
    same = [(one, two) for one, two in itertools.combinations(pixels, 2) if len(tree[one]) == len(tree[two])]
    rng = random.Random(len(same))
    yield from rng.sample(same, min(len(same), 200 if FULL else 5))
    rest = [name for name in tree if not name.endswith(".npy")]
    yield from itertools.combinations([*rest, *pixels[:1]], 2)


def test_swapped_files_are_found(tiny: Prepared, count: Count) -> None:
    tree = files_of(tiny.out)
    for one, two in swaps(tree):
        if tree[one] == tree[two]:
            continue
        (tiny.out / one).write_bytes(tree[two])
        (tiny.out / two).write_bytes(tree[one])
        count("pairs of files swapped")
        assert is_found(tiny.out), (one, two)
        count("pairs of files swapped and found")
        read_all(tiny.out)
        (tiny.out / one).write_bytes(tree[one])
        (tiny.out / two).write_bytes(tree[two])
    assert ctpatch.verify(tiny.out).ok
