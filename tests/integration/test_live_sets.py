"""A set that is built again while it is read: the patches of the set that was opened, or an error, never others."""

import copy
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import CtPatchError, SetChangedError, SourceChangedError
from ctpatch.events import Event, WorkAdvanced
from helpers import LAYOUTS, Prepared, build_one, make_split, small_parts

BEFORE = ctpatch.PatchConfig(patch_size=8, stride=2)
AFTER: dict[str, ctpatch.PatchConfig] = {
    "a rule more": ctpatch.PatchConfig(patch_size=8, stride=2, drop=["dark: mean < 0.4"]),
    "fewer": ctpatch.PatchConfig(patch_size=8, stride=8),
    "more": ctpatch.PatchConfig(patch_size=8, stride=1),
    "larger": ctpatch.PatchConfig(patch_size=9, stride=2),
}
ARRAYS: dict[str, dict[str, Any]] = {
    "alone": {},
    "pairs": {"target": "f4"},
    "pairs and masks": {"target": "f4", "mask": "u1"},
}
Patches = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part, and a shard, for each slice or two: there are always further files to open."""
    small_parts(monkeypatch, slices=1, windows=12, packed_windows=12, shard_bytes=12 * 8 * 8 * 4)


def made(root: Path, arrays: str) -> Prepared:
    return make_split(root, ((12, 14), (12, 14), (10, 16), (12, 14)), arrays=ARRAYS[arrays])


def expected(prepared: Prepared, config: ctpatch.PatchConfig = BEFORE) -> Patches:
    """Every patch that is kept where there are no rules, cut by hand from the slices."""
    (height, width), (down, right) = config.patch_size, config.stride
    return {
        array: np.stack(
            [
                image[row : row + height, col : col + width]
                for image in images
                for row in range(0, image.shape[0] - height + 1, down)
                for col in range(0, image.shape[1] - width + 1, right)
            ]
        )
        for array, images in prepared.images.items()
    }


def reads(ps: Any, numbers: Any) -> Patches:
    """Patches as a dict, whatever arrays the set has."""
    names = list(ps.arrays)
    found: Patches = ps.read(numbers, arrays=names)
    return found


def old_or_refused(ps: Any, wanted: Patches, numbers: Any) -> bool:
    """Whether patches came; they are those of the set that was opened. An error says that it has changed."""
    try:
        got = reads(ps, numbers)
    except SetChangedError:
        return False
    for array, patches in wanted.items():
        assert got[array].tobytes() == patches[numbers].tobytes(), array
    return True


def numbers_of(count: int) -> Iterator[list[int]]:
    """Every patch once, in an order that jumps between files."""
    order = np.random.default_rng(3).permutation(count).tolist()
    return (order[start : start + 8] for start in range(0, count, 8))


READ_BEFORE: dict[str, Callable[[Any], object]] = {
    "nothing": lambda ps: ps.meta,
    "the manifest": lambda ps: ps.manifest,
    "a patch": lambda ps: reads(ps, [0]),
    "all": lambda ps: reads(ps, range(len(ps))),
    "a patch, and closed": lambda ps: (reads(ps, [0]), ps.close()),
}
SENT: dict[str, Callable[[Any], Any]] = {
    "here": lambda ps: ps,
    "pickled": lambda ps: pickle.loads(pickle.dumps(ps)),
    "copied": copy.copy,
}


# Each two of layout, arrays and change meet; all three do not.
MEETINGS = [
    (layout, list(ARRAYS)[(row + column) % len(ARRAYS)], after)
    for row, layout in enumerate(LAYOUTS)
    for column, after in enumerate(AFTER)
]


@pytest.mark.parametrize(("layout", "arrays", "after"), MEETINGS)
def test_an_open_set_gives_what_it_had_or_an_error(tmp_path: Path, layout: Any, arrays: str, after: str) -> None:
    prepared = made(tmp_path, arrays)
    wanted = expected(prepared)
    for in_memory in (False, True):
        for before, read in READ_BEFORE.items():
            build_one(prepared, BEFORE, layout=layout, overwrite=True)
            ps = ctpatch.open(prepared.out, in_memory=in_memory)
            assert len(ps) == len(wanted["image"])
            read(ps)
            build_one(prepared, AFTER[after], layout=layout, overwrite=True)
            count = len(wanted["image"])
            came = [old_or_refused(ps, wanted, some) for some in numbers_of(count)]
            all_open = before == "all" and (in_memory or layout != "files")
            assert all(came) == all_open, before
            if not all_open and before in {"nothing", "the manifest", "a patch, and closed"}:
                assert not any(came), before


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("read", READ_BEFORE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_that_was_sent_belongs_to_the_build_it_was_opened_from(
    tmp_path: Path, layout: Any, read: str, sent: str
) -> None:
    prepared = made(tmp_path, "pairs")
    wanted = expected(prepared)
    build_one(prepared, BEFORE, layout=layout)
    ps = ctpatch.open(prepared.out)
    READ_BEFORE[read](ps)
    there = SENT[sent](ps)
    assert old_or_refused(there, wanted, [5])
    content = pickle.dumps(ps)
    build_one(prepared, AFTER["a rule more"], layout=layout, overwrite=True)
    for late in (there, SENT[sent](ps), pickle.loads(content)):
        for some in numbers_of(len(wanted["image"])):
            old_or_refused(late, wanted, some)
    assert not old_or_refused(pickle.loads(content), wanted, [0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tables_are_those_of_the_set_that_was_opened(tmp_path: Path, layout: Any) -> None:
    prepared = made(tmp_path, "alone")
    build_one(prepared, BEFORE, layout=layout)
    ps, read = ctpatch.open(prepared.out), ctpatch.open(prepared.out)
    tables = read.manifest, read.slices, read.rejected
    build_one(prepared, AFTER["a rule more"], layout=layout, overwrite=True)
    for name in ("manifest", "slices", "rejected"):
        with pytest.raises(SetChangedError, match=r"train was built again after it was opened.*open it again"):
            getattr(ps, name)
    for name, table in zip(("manifest", "slices", "rejected"), tables, strict=True):
        assert getattr(read, name) is table
    assert len(ctpatch.open(prepared.out).rejected) > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_slices_too(tmp_path: Path, layout: Any) -> None:
    prepared = made(tmp_path, "pairs")
    build_one(prepared, BEFORE, layout=layout)
    ps = ctpatch.open(prepared.out)
    ps.slice(0)
    images = prepared.images["image"]
    for path in prepared.paths["image"]:
        np.save(prepared.root / f"{path}.new.npy", np.load(prepared.root / path)[::-1])
        os.replace(prepared.root / f"{path}.new.npy", prepared.root / path)
    build_one(prepared, BEFORE, layout=layout, overwrite=True)
    for number, image in enumerate(images):
        try:
            assert ps.slice(number, arrays="image").tobytes() == image.tobytes()
        except (SetChangedError, SourceChangedError):
            assert number or layout != "slices"


class CutOffError(Exception):
    """Raised by a listener in the middle of a build."""


@pytest.mark.parametrize("read", READ_BEFORE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_while_the_build_is_under_way(tmp_path: Path, layout: Any, read: str) -> None:
    prepared = made(tmp_path, "pairs")
    wanted = expected(prepared)
    build_one(prepared, BEFORE, layout=layout)
    ps = ctpatch.open(prepared.out)
    READ_BEFORE[read](ps)
    content = pickle.dumps(ps)
    looks: list[bool] = []

    def listener(event: Event) -> None:
        if isinstance(event, WorkAdvanced):
            looks.extend(old_or_refused(ps, wanted, some) for some in numbers_of(len(wanted["image"])))
            with pytest.raises(SetChangedError, match=r"is gone\. It is being built again, or was removed"):
                reads(pickle.loads(content), [0])
            if len(looks) > 6:
                raise CutOffError

    with pytest.raises(CutOffError):
        build_one(prepared, AFTER["more"], layout=layout, overwrite=True, listener=listener)
    for some in numbers_of(len(wanted["image"])):
        old_or_refused(ps, wanted, some)
    # The run that was cut off writes over what it has begun.
    build_one(prepared, AFTER["more"], layout=layout)
    for some in numbers_of(len(wanted["image"])):
        old_or_refused(ps, wanted, some)
    assert reads(ctpatch.open(prepared.out), [0]).keys() == {"image", "target"}


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batches_before", [0, 1, 5])
def test_a_pass_under_way(tmp_path: Path, layout: Any, prefetch: int, batches_before: int) -> None:
    prepared = made(tmp_path, "pairs")
    wanted = expected(prepared)
    build_one(prepared, BEFORE, layout=layout)
    loader = ctpatch.open(prepared.out).batches(8, shuffle=True, seed=5, prefetch=prefetch)
    passing = iter(loader)

    def check(batch: Any) -> None:
        for array, patches in wanted.items():
            assert batch.arrays[array][:, 0].tobytes() == patches[batch.indices].tobytes()

    for _ in range(batches_before):
        check(next(passing))
    build_one(prepared, AFTER["a rule more"], layout=layout, overwrite=True)
    for under_way in (passing, iter(loader), iter(loader)):
        try:
            for batch in under_way:
                check(batch)
        except SetChangedError:
            continue
        # A pass may have been read ahead to its end.
        assert under_way is passing or layout != "files"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_set_again_goes_on(tmp_path: Path, layout: Any) -> None:
    """Built again with the same result, touched, or copied: its patches are the same, and that is no error."""
    prepared = made(tmp_path, "pairs")
    wanted = expected(prepared)
    build_one(prepared, BEFORE, layout=layout)
    ps = ctpatch.open(prepared.out)
    reads(ps, [0])

    def again() -> None:
        build_one(prepared, BEFORE, layout=layout, overwrite=True)

    def touched() -> None:
        os.utime(prepared.out / "patch_meta.json", ns=(1, 1))

    def copied() -> None:
        shutil.copytree(prepared.out, tmp_path / "copy")
        shutil.rmtree(prepared.out)
        os.replace(tmp_path / "copy", prepared.out)

    for change in (again, touched, copied):
        change()
        ps.close()
        for some in numbers_of(len(wanted["image"])):
            assert old_or_refused(ps, wanted, some)


def test_back_and_forth(tmp_path: Path) -> None:
    """What is built again as it was before is again the set that was opened."""
    prepared = made(tmp_path, "pairs")
    wanted = expected(prepared)
    build_one(prepared, BEFORE, layout="shards")
    ps = ctpatch.open(prepared.out)
    build_one(prepared, AFTER["fewer"], layout="files", overwrite=True)
    assert not old_or_refused(ps, wanted, [7])
    build_one(prepared, BEFORE, layout="shards", overwrite=True)
    assert old_or_refused(ps, wanted, [7])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_that_was_removed_says_so(tmp_path: Path, layout: Any) -> None:
    prepared = made(tmp_path, "alone")
    build_one(prepared, BEFORE, layout=layout)
    ps = ctpatch.open(prepared.out)
    shutil.rmtree(prepared.out)
    with pytest.raises(SetChangedError, match=r"train has changed since it was opened: its patch_meta.json is gone"):
        ps[0]


@pytest.mark.parametrize("whole", [np.float32, np.float16, np.float64, np.dtype(">f4")])
def test_sources_that_are_others_are_refused_by_index(tmp_path: Path, whole: Any) -> None:
    """The set is the same; its pixels are elsewhere. Pixels decide, and not the times of the files."""
    prepared = make_split(tmp_path, dtype=whole, arrays={"mask": "u1"})
    build_one(prepared, BEFORE, layout="index")
    opened = ctpatch.open(prepared.out)
    count = len(opened)
    first = [n for n in range(count) if opened.manifest["slice_index"][n] == 0]
    wanted = reads(opened, range(count))
    for array in ("image", "mask"):
        file, late = prepared.file(1, array), ctpatch.open(prepared.out)
        status, changed = file.stat(), np.load(file)
        changed[2, 3] = changed[2, 3] + 1 if array == "mask" else 0.125
        np.save(tmp_path / "new.npy", changed)
        os.replace(tmp_path / "new.npy", file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert all(got.tobytes() == wanted[name].tobytes() for name, got in reads(opened, range(count)).items())
        others = [name for name in ("image", "mask") if name != array]
        with pytest.raises(SourceChangedError, match=rf"{file.name} is no longer what the patches were cut from"):
            late.read(range(count), arrays=array)
        late.read(first, arrays=array)
        assert late.read(range(count), arrays=others[0]).tobytes() == wanted[others[0]].tobytes()
        np.save(file, prepared.images[array][1].astype(changed.dtype))
        assert late.read(range(count), arrays=array).tobytes() == wanted[array].tobytes()


def test_sources_that_are_prepared_anew_under_an_index(tmp_path: Path) -> None:
    """Results of a model that are written again: the index of the earlier ones gives those, or an error."""
    prepared = make_split(tmp_path, ((12, 14),) * 4)
    build_one(prepared, BEFORE, layout="slices")
    given = ctpatch.open(prepared.out)
    cfg = ctpatch.PatchConfig(patch_size=8, stride=4, pad_mode="even")
    folder = ctpatch.predict(lambda batch: batch * 0.5, given, cfg, out=tmp_path, dataset="restored", model_id="a")
    index = ctpatch.build(folder, BEFORE, layout="index")[0].folder
    opened, late = ctpatch.open(index), ctpatch.open(index)
    wanted = opened.read(range(len(opened)))
    ctpatch.predict(
        lambda batch: batch * 0.25, given, cfg, out=tmp_path, dataset="restored", model_id="b", overwrite=True
    )
    assert opened.read(range(len(opened))).tobytes() == wanted.tobytes()
    with pytest.raises(SourceChangedError):
        late[0]


def test_an_index_names_only_slices_on_record(tmp_path: Path) -> None:
    prepared = make_split(tmp_path)
    build_one(prepared, BEFORE, layout="index")
    other = prepared.root / "prepared/other.npy"
    np.save(other, prepared.images["image"][0])
    table = prepared.out / "patch_manifest.csv"
    table.write_text(table.read_text().replace(prepared.paths["image"][0], "prepared/other.npy"))
    with pytest.raises(CtPatchError, match=r"prepared/other.npy is in the manifest of patches and not in slice_manif"):
        ctpatch.open(prepared.out)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_says_that_the_set_was_built_again(tmp_path: Path, layout: Any) -> None:
    prepared = made(tmp_path, "pairs")
    build_one(prepared, BEFORE, layout=layout)
    done: list[ctpatch.BuildResult] = []

    def listener(_event: Event) -> None:
        if not done:
            done.append(build_one(prepared, AFTER["fewer"], layout=layout, overwrite=True))

    report = ctpatch.verify(prepared.out, listener=listener)
    assert not report.ok
    assert [(finding.check, finding.file) for finding in report.findings] == [("meta", "patch_meta.json")]
    assert "train was built again after it was opened" in report.findings[0].message


def test_a_set_that_is_converted_is_one_set(tmp_path: Path) -> None:
    prepared = made(tmp_path, "alone")
    build_one(prepared, BEFORE, layout="shards")
    done: list[ctpatch.BuildResult] = []

    def listener(event: Event) -> None:
        if isinstance(event, WorkAdvanced) and not done:
            done.append(build_one(prepared, AFTER["fewer"], layout="shards", overwrite=True))

    with pytest.raises(SetChangedError, match="built again"):
        ctpatch.convert(prepared.out, tmp_path / "converted", layout="files", listener=listener)
    assert not (tmp_path / "converted/patch_meta.json").exists()


@pytest.mark.parametrize(
    ("way", "layout"),
    [
        *((way, layout) for way in ("PatchLoader", "no workers") for layout in LAYOUTS),
        ("spawn", "shards"),
        ("fork", "shards"),
    ],
)
def test_torch(tmp_path: Path, layout: Any, way: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    from ctpatch.torch import PatchDataset, PatchLoader

    prepared = made(tmp_path, "pairs")
    wanted = expected(prepared)
    build_one(prepared, BEFORE, layout=layout)
    ps = ctpatch.open(prepared.out, arrays=["image", "target"])
    workers = {} if way == "no workers" else {"num_workers": 1, "multiprocessing_context": way}
    loader: Any = (
        PatchLoader(ps, 4)
        if way == "PatchLoader"
        else torch.utils.data.DataLoader(PatchDataset(ps), batch_size=4, **workers)
    )
    refused, turns = 0, 1 if workers else 3
    for turn in range(turns):
        read = 0
        try:
            for batch in loader:
                at = slice(read, read + 4)
                for array, patches in wanted.items():
                    assert batch[array][:, 0].numpy().tobytes() == patches[at].tobytes(), array
                read += 4
                if (turn, read) == (0, 8):
                    build_one(prepared, AFTER["a rule more"], layout=layout, overwrite=True)
        except SetChangedError:
            refused += 1
    assert refused == turns
