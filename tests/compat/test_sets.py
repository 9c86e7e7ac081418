"""Finished sets that 0.1.0 wrote: read, verified, built again, converted, audited, shown."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from compat.common import (
    FIXTURES,
    LAYOUTS,
    MASKS,
    PAIRS,
    Image,
    copy_group,
    cut_by_hand,
    differences,
    digests_below,
    files_below,
    origins_by_hand,
    run_command,
    table,
    write_pairs,
)

CONFIGS = {"pairs": PAIRS, "masks": MASKS}
SECOND = {"pairs": "target", "masks": "mask"}
NUM_PATCHES = {"pairs": 8, "masks": 11}
SETS = list(product(CONFIGS, LAYOUTS))
BOTH = pytest.mark.parametrize(("group", "layout"), SETS)


def set_folder(root: Path, group: str, layout: str) -> Path:
    return root / f"patches/{group}-{layout}/train"


def source_slices(root: Path, group: str) -> dict[int, dict[str, Image]]:
    """The slices by number, as their manifest lists them; one that was cut short is left out."""
    slices = {}
    for number, row in enumerate(table(root / f"prepared/{group}/train/train_manifest.csv")):
        paths = {"image": row["path"], SECOND[group]: row[f"{SECOND[group]}_path"]}
        if group == "pairs" or number < 5:
            slices[int(row.get("index", number))] = {name: np.load(root / path) for name, path in paths.items()}
    return slices


def test_fixtures_are_small_and_name_nobody() -> None:
    files = files_below(FIXTURES)
    assert sum(path.stat().st_size for path in files.values()) < 300_000
    assert not [name for name in files if name.endswith(("/lock", "/owner.json"))]
    for name, path in files.items():
        if name.endswith((".csv", ".json")):
            assert not re.search(r'(^|[",])(/|[A-Za-z]:)', path.read_text(), re.MULTILINE), name


@BOTH
def test_every_patch_has_the_pixels_of_its_window(tmp_path: Path, group: str, layout: str) -> None:
    root, config = copy_group(group, tmp_path), CONFIGS[group]
    slices = source_slices(root, group)
    ps = ctpatch.open(set_folder(root, group, layout))
    assert (ps.meta.ctpatch_version, ps.meta.layout, ps.meta.format_version) == ("0.1.0", layout, 1)
    assert (ps.config, ps.arrays) == (config, ("image", SECOND[group]))
    dtypes = {name: np.dtype(info.dtype) for name, info in ps.meta.arrays.items()}
    assert dtypes[SECOND[group]] == (np.uint8 if group == "masks" else np.float32)
    together = ps.read(np.arange(len(ps)))
    assert len(ps) == ps.manifest.height == NUM_PATCHES[group]
    for number, row in enumerate(ps.manifest.iter_rows(named=True)):
        alone = ps[number]
        for name, source in slices[row["slice_index"]].items():
            wanted = cut_by_hand(source, row["row"], row["col"], config.patch_size, dtypes[name])
            for found in (alone[name], together[name][number]):
                assert found.dtype == wanted.dtype
                assert found.tobytes() == wanted.tobytes(), (row["patch_id"], name)


@BOTH
def test_every_window_is_on_record(tmp_path: Path, group: str, layout: str) -> None:
    root, config = copy_group(group, tmp_path), CONFIGS[group]
    ps = ctpatch.open(set_folder(root, group, layout))
    windows = {
        (index, row, col)
        for index, arrays in source_slices(root, group).items()
        for row in origins_by_hand(arrays["image"].shape[0], config, 0)
        for col in origins_by_hand(arrays["image"].shape[1], config, 1)
        if arrays["image"].max() <= 1
    }
    where = ["slice_index", "row", "col"]
    kept, dropped = (set(frame.select(where).iter_rows()) for frame in (ps.manifest, ps.rejected))
    assert kept | dropped == windows
    assert not kept & dropped
    assert set(ps.rejected["rule"]) == {rule.name for rule in config.drop}
    statuses = dict(ps.slices.select("slice_index", "status").iter_rows())
    assert [index for index, status in statuses.items() if status == "skipped"] == (
        [20, 1000000] if group == "masks" else []
    )


@BOTH
@pytest.mark.parametrize("deep", [False, True])
def test_verify_finds_nothing(tmp_path: Path, group: str, layout: str, deep: bool) -> None:
    report = ctpatch.verify(set_folder(copy_group(group, tmp_path), group, layout), deep=deep)
    assert report.ok, report.findings
    assert report.num_patches == NUM_PATCHES[group]


@BOTH
def test_verify_finds_a_pixel_that_is_not_the_source_s(tmp_path: Path, group: str, layout: str) -> None:
    root = copy_group(group, tmp_path)
    path = root / f"prepared/{group}/train/train_000001.npy"
    image = np.load(path)
    image[-1, -1] = 1 - image[-1, -1]
    np.save(path, image)
    assert not ctpatch.verify(set_folder(root, group, layout), deep=True).ok


@BOTH
@pytest.mark.parametrize("strict", [False, True])
def test_the_same_build_finds_nothing_to_do(tmp_path: Path, group: str, layout: Any, strict: bool) -> None:
    root = copy_group(group, tmp_path)
    folder = set_folder(root, group, layout)
    before = {name: path.read_bytes() for name, path in files_below(folder).items()}
    options: dict[str, Any] = {"layout": layout, "out": folder, "on_error": "skip", "strict": strict}
    assert ctpatch.build(root / f"prepared/{group}/train", CONFIGS[group], **options)[0].outcome == "complete"
    assert {name: path.read_bytes() for name, path in files_below(folder).items()} == before


@pytest.mark.parametrize("group", CONFIGS)
@pytest.mark.parametrize(("before", "after"), [pair for pair in product(LAYOUTS, LAYOUTS) if pair[0] != pair[1]])
def test_a_converted_set_is_the_set_of_that_layout(tmp_path: Path, group: str, before: str, after: Any) -> None:
    root = copy_group(group, tmp_path)
    wanted = digests_below(set_folder(root, group, after))
    for path in files_below(set_folder(root, group, after)).values():
        path.unlink()
    out = set_folder(root, group, after)
    ctpatch.convert(set_folder(root, group, before), out, layout=after)
    assert differences(digests_below(out), wanted) == {}


def test_predictions_can_be_built(tmp_path: Path) -> None:
    root = copy_group("pairs", tmp_path)
    folder = root / "prepared/pairs_predicted/train"
    result = ctpatch.build(folder, ctpatch.PatchConfig(patch_size=(20, 12), stride=1))[0]
    ps = ctpatch.open(result.folder)
    assert ps.slices["patient_id"].to_list() == ["P0", "P0", "P1"]
    for number, arrays in source_slices(root, "pairs").items():
        np.testing.assert_array_equal(np.asarray(ps[number]), 1 - arrays["image"])


def test_slices_of_a_set_are_predicted_as_then(tmp_path: Path) -> None:
    root = copy_group("pairs", tmp_path)
    wanted = digests_below(root / "prepared/pairs_predicted/train")
    ps = ctpatch.open(set_folder(root, "pairs", "slices"))
    made = ctpatch.predict(lambda batch: 1 - batch, ps, window="uniform", out=tmp_path, dataset="pairs_predicted")
    found = digests_below(Path(made))
    assert differences({name: digest for name, digest in found.items() if name in wanted}, wanted) == {}


@pytest.mark.parametrize("kind", ["patches/pairs-index", "prepared/pairs"])
def test_audit_finds_the_patient_in_two_splits(tmp_path: Path, kind: str) -> None:
    root = copy_group("pairs", tmp_path)
    report = ctpatch.audit(root / kind)
    assert not report.ok
    assert "P1" in json.dumps(report.as_dict())


def test_a_page_shows_every_layout(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("PIL")
    root = copy_group("masks", tmp_path)
    page = ctpatch.report([set_folder(root, "masks", layout) for layout in LAYOUTS], tmp_path / "page.html")
    assert "masks/train" in page.read_text()


def test_the_command_line_reads_and_converts(tmp_path: Path) -> None:
    root = copy_group("pairs", tmp_path)
    sets = [set_folder(root, "pairs", layout) for layout in LAYOUTS]
    found = json.loads(run_command("verify", *sets, "--deep", "--json"))
    assert [each["num_patches"] for each in found] == [NUM_PATCHES["pairs"]] * 4
    assert [each["layout"] for each in json.loads(run_command("info", *sets, "--json"))] == list(LAYOUTS)
    wanted = digests_below(sets[1])
    for path in files_below(sets[1]).values():
        path.unlink()
    run_command("convert", sets[0], sets[1], "--layout", "shards")
    assert differences(digests_below(sets[1]), wanted) == {}


def test_the_slices_are_still_those_that_were_written(tmp_path: Path) -> None:
    """Else `recorded.json` and the fixtures would speak of different slices."""
    write_pairs(tmp_path)
    fresh, kept = source_slices(tmp_path, "pairs"), source_slices(FIXTURES / "pairs", "pairs")
    assert all(np.array_equal(fresh[index][name], kept[index][name]) for index in kept for name in kept[index])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_masks_hold_stands_behind_what_was_written(tmp_path: Path, layout: str) -> None:
    """Without the columns and fields of later versions a new set is the old one, byte for byte."""
    root = copy_group("masks", tmp_path)
    old = set_folder(root, "masks", layout)
    new = ctpatch.build(root / "prepared/masks", MASKS, layout=layout, on_error="skip", out=tmp_path / "new")[0].folder
    lines = (new / "slice_manifest.csv").read_text().splitlines()
    assert lines[0].endswith(",mask_pixels,mask_labels")
    without = [line.rsplit(",", 2)[0] for line in lines]
    assert without == (old / "slice_manifest.csv").read_text().splitlines()
    fields = [json.loads((folder / "patch_meta.json").read_bytes()) for folder in (old, new)]
    assert "label_counts" in set(fields[1]) - set(fields[0])
    placed = {"ctpatch_version", "created", "tables", "meta_digest", "patch_dir", "paths_relative_to"}
    assert {name for name in fields[0] if fields[1][name] != fields[0][name]} <= placed
