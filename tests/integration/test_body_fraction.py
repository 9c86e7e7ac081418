"""The statistic of the patient: named by a rule or by an option, in every layout, through all that reads a set."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.core.statistics.api import use_compiled
from ctpatch.core.statistics.body import body_map
from ctpatch.core.statistics.columns import Levels
from ctpatch.errors import EXIT_USAGE, ConfigError, RuleError, UsageError
from helpers import (
    LAYOUTS,
    PAD_MODES,
    Image,
    Prepared,
    assert_same_tree,
    build_one,
    change_meta,
    csv_columns,
    csv_rows,
    make_split,
    reference_patch,
    refusal,
    rewrite_table,
    tree_bytes,
)
from patients import Scene, unit

pytest.importorskip("scipy.ndimage", reason="scipy is not installed")

RULE = "outside: body_fraction < 0.3"
LEVEL = 0.128
CONFIG = ctpatch.PatchConfig(patch_size=24, stride=16, drop=RULE, body_level=LEVEL)


def pictures() -> list[Image]:
    chest = Scene(100).torso().arms().table().noise()
    legs = Scene(100).torso(wide=0.2).table().noise()
    return [unit(chest.hu), unit(legs.hu)[:90], np.zeros((100, 100), np.float32)]


@pytest.fixture
def source(tmp_path: Path) -> Prepared:
    return make_split(tmp_path, images=pictures(), arrays={"target": "f4"})


def shares(images: list[Image], frame: pl.DataFrame, pad_mode: str = "none") -> list[float]:
    """The share of each window, pixel by pixel of the patient's map."""
    maps = [body_map(image, Levels(0.02, LEVEL)) for image in images]
    return [
        float(reference_patch(maps[index].astype(np.float32), (row, col), (24, 24), pad_mode).mean(dtype=np.float64))
        for index, row, col in frame.select("slice_index", "row", "col").iter_rows()
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rule_that_names_it_records_it(source: Prepared, tmp_path: Path, layout: str) -> None:
    out = build_one(source, CONFIG, layout=layout).folder
    ps = ctpatch.open(out)
    assert len(ps) > 10
    assert len(ps.rejected) > 10
    assert min(ps.manifest["body_fraction"]) >= 0.3
    assert max(ps.rejected["body_fraction"]) < 0.3
    assert max(ps.manifest["body_fraction"]) == 1.0
    for frame in (ps.manifest, ps.rejected):
        assert frame["body_fraction"].to_list() == pytest.approx(shares(source.images["image"], frame), abs=1e-12)
    assert set(ps.rejected.filter(slice_index=2)["body_fraction"]) == {0.0}
    assert ps.meta.body_level == LEVEL
    assert ps.meta.statistics == ()
    for deep in (False, True):
        report = ctpatch.verify(out, deep=deep)
        assert (report.status, report.findings) == ("ok", [])
    assert build_one(source, CONFIG, layout=layout).outcome == "complete"

    other = tmp_path / "patches" / "other" / "train"
    ctpatch.convert(out, other, layout=LAYOUTS[LAYOUTS.index(layout) - 1], keep="body_fraction > 0.6")
    kept = ctpatch.open(other).manifest
    wanted = ps.manifest.filter(pl.col("body_fraction") > 0.6)
    assert kept.select("patch_id", "body_fraction").equals(wanted.select("patch_id", "body_fraction"))
    assert ctpatch.verify(other, deep=True).ok


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_added_pixels_count_as_those_that_they_repeat(tmp_path: Path, pad_mode: Any) -> None:
    cut = [image[10:80, :70] for image in pictures()[:1]]
    config = ctpatch.PatchConfig(
        patch_size=24, stride=20, pad_mode=pad_mode, statistics="body_fraction", body_level=LEVEL
    )
    out = build_one(make_split(tmp_path, images=cut), config).folder
    frame = ctpatch.open(out).manifest
    assert frame["body_fraction"].to_list() == pytest.approx(shares(cut, frame, pad_mode), abs=1e-12)
    assert ctpatch.verify(out, deep=True).ok


def test_the_option_records_it_and_nothing_else_changes(source: Prepared, tmp_path: Path) -> None:
    plain = ctpatch.PatchConfig(patch_size=24, stride=16, drop="dark: mean < 0.01")
    named = ctpatch.PatchConfig(**{**plain.options(), "statistics": "body_fraction", "body_level": LEVEL})
    without = build_one(source, plain, out=tmp_path / "patches/without").folder
    out = build_one(source, named, out=tmp_path / "patches/with").folder
    for table in ("patch_manifest.csv", "rejected_patches.csv"):
        columns = csv_columns(without / table)
        assert csv_columns(out / table) == [*columns[: columns.index("digest") + 1], "body_fraction",
                                            *columns[columns.index("digest") + 1 :]]  # fmt: skip
        rows = [
            {name: value.replace("/with/", "/without/") for name, value in row.items() if name != "body_fraction"}
            for row in csv_rows(out / table)
        ]
        assert rows == csv_rows(without / table)
    metas = [json.loads((folder / "patch_meta.json").read_text()) for folder in (without, out)]
    assert not {"statistics", "body_level"} & set(metas[0])
    assert (metas[1]["statistics"], metas[1]["body_level"]) == (["body_fraction"], LEVEL)
    assert metas[0]["fingerprint"] != metas[1]["fingerprint"]
    message = refusal_of_other_options(source, out, plain)
    assert 'statistics was ["body_fraction"], now null' in message

    ps = ctpatch.open(out)
    (batch, *_) = ps.batches(4, subset="body_fraction > 0.5", columns=["body_fraction"])
    assert min(batch.columns["body_fraction"]) > 0.5
    for batch in ps.batches(4, weight="body_fraction", columns=["body_fraction"]):
        assert min(batch.columns["body_fraction"]) > 0
    lacking = ctpatch.open(without)
    for options in ({"subset": "body_fraction > 0.5"}, {"weight": "body_fraction"}):
        with pytest.raises(RuleError, match=r"is not there.*--statistics body_fraction"):
            lacking.batches(4, **options)  # type: ignore[arg-type]


def refusal_of_other_options(source: Prepared, out: Path, config: ctpatch.PatchConfig) -> str:
    with pytest.raises(ctpatch.CtPatchError) as caught:
        build_one(source, config, out=out)
    return str(caught.value)


def test_both_engines_and_all_workers_write_the_same(source: Prepared) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    trees = []
    try:
        for compiled, workers in ((True, 1), (False, 1), (None, 2)):
            use_compiled(compiled)
            trees.append(tree_bytes(build_one(source, CONFIG, workers=workers, overwrite=True).folder))
    finally:
        use_compiled(None)
    assert_same_tree(trees[1], trees[0])
    assert_same_tree(trees[2], trees[0])


def test_shares_are_merged_to_the_same(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    whole = tree_bytes(build_one(source, CONFIG).folder)
    for path in sorted(source.out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for share in ("1/2", "2/2"):
        ctpatch.build_share(source.folder, share, CONFIG)
    ctpatch.merge(source.out)
    assert_same_tree(tree_bytes(source.out), whole)


@pytest.mark.parametrize("table", ["patch_manifest.csv", "rejected_patches.csv"])
def test_forged_values_and_columns_are_found(source: Prepared, table: str) -> None:
    out = build_one(source, CONFIG).folder
    value = "0.9" if table == "patch_manifest.csv" else "0.1"
    rewrite_table(out, table, 3, "body_fraction", value)
    assert ctpatch.verify(out).ok  # a patch alone does not tell where the patient is
    found = ctpatch.verify(out, deep=True).findings
    assert any(f"body_fraction is {value}, " in each.message and each.row == 5 for each in found)
    rewrite_table(out, table, 3, "body_fraction", "1.5")
    assert any("wanted a share from 0 to 1" in each.message for each in ctpatch.verify(out).findings)
    rewrite_table(out, table, 3, "body_fraction", "")
    assert any("its column is missing or has empty cells" in each.message for each in ctpatch.verify(out).findings)


def test_a_forged_level_is_found(source: Prepared) -> None:
    out = build_one(source, CONFIG).folder
    change_meta(out, lambda meta: meta.update(body_level=0.4))
    assert not ctpatch.verify(out).ok


def test_the_report_shows_it(source: Prepared, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the extra report is not installed")
    out = build_one(source, CONFIG).folder
    page = ctpatch.report(out, tmp_path / "r.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    content = json.loads(found[1])
    assert content["statistics"] == ["std", "air_fraction", "mean", "min", "max", "body_fraction"]
    assert content["sliders"][0]["column"] == "body_fraction"
    titles = {column["name"]: column["title"] for column in content["columns"]}
    assert titles["body_fraction"] == "Share of body"


def test_the_command_line_plans_and_builds_with_it(source: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(source.folder), "--patch-size", "24", "--stride", "16", "--drop", RULE]
    assert main(["plan", *command]) == EXIT_USAGE
    assert "give the value of -500 HU (--body-level): 0.123" in " ".join(capsys.readouterr().err.split())
    assert main(["plan", *command, "--body-level", "0.128", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)[0]["rules"]
    assert main(["build", *command, "--body-level", "0.128", "--statistics", "body_fraction"]) == 0
    ps = ctpatch.open(source.out)
    assert str(len(ps.rejected)) in json.dumps(planned)
    assert ps.meta.statistics == ("body_fraction",)


def refused(source: Prepared, error: Any = ConfigError, **options: Any) -> str:
    config = ctpatch.PatchConfig(patch_size=24, **options)
    return refusal(error, lambda: ctpatch.plan(source.folder, config))


def test_what_makes_no_sense_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_split(tmp_path, arrays={"mask": "u1"})
    named = {"statistics": "body_fraction"}
    assert "nothing on record says which HU the values of prepared/phantoms/train" in refused(source, **named)
    assert "nothing uses it" in refused(source, body_level=0.1)
    assert "lies outside the value range 0 to 1" in refused(source, **named, body_level=-500)
    assert "lies outside the value range 0 to 1" in refused(source, **named, body_level=1)
    assert "'mask', which holds labels" in refused(source, **named, body_level=0.1, rules_on="mask")
    assert "'std' is recorded always" in refused(source, statistics=["std"])
    assert "'organs' is no statistic" in refused(source, statistics=["organs"])
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    message = refused(source, UsageError, **named, body_level=0.1)
    assert message == "body_fraction needs scipy; pip install 'ctpatch[prepare]'"


@pytest.mark.parametrize(
    ("how", "level"),
    [
        ({}, 0.1279),  # (-500 + 1024) / 4096
        ({"preset": "lodopab"}, 0.123),  # (-500 * 0.01998 + 20) / 81.35858
        ({"window": (-350, 450)}, 0.0),  # it begins above -500 HU
        ({"preset": "abdomen"}, "0 stands for -160 HU"),
        ({"preset": "lung"}, "air is 0.2333 in prepared/ct/train/train_manifest.csv, above the air level 0.02"),
        ({"preset": "brain"}, "0 stands for 0 HU"),
    ],
)
def test_the_level_is_known_of_what_prepare_made(tmp_path: Path, how: dict[str, Any], level: float | str) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from dicom_files import write_ct

    hu = Scene(100).torso().arms().table().noise().hu
    write_ct(tmp_path / "raw" / "1.dcm", np.rint(hu + 1024).astype(np.int16), PixelSpacing=[4, 4])
    root = tmp_path / "data"
    ctpatch.prepare_dicom(tmp_path / "raw", root, "ct", split=["train=1"], key=tmp_path / "key", new_key=True, **how)
    folder = root / "prepared/ct/train"
    config = ctpatch.PatchConfig(patch_size=24, stride=16, drop=RULE)
    if isinstance(level, str):
        assert level in refusal(ConfigError, lambda: ctpatch.build(folder, config=config))
        return
    (result,) = ctpatch.build(folder, config=config)
    ps = ctpatch.open(result.folder)
    assert ps.meta.body_level == level
    assert ctpatch.verify(result.folder, deep=True).ok
    assert ctpatch.build(folder, config=config)[0].outcome == "complete"
    image = np.load(root / ps.slices["src_path"][0])
    truth = body_map(image, Levels(0.02, level))
    assert 0.15 < truth.mean() < 0.3
    assert not truth[-22:].any()
    found = [truth[row : row + 24, col : col + 24].mean() for row, col in ps.manifest.select("row", "col").iter_rows()]
    assert ps.manifest["body_fraction"].to_list() == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("layout", ["slices", "index"])
def test_windows_that_are_drawn_follow_the_rule_of_the_set(source: Prepared, layout: str) -> None:
    ps = ctpatch.open(build_one(source, CONFIG, layout=layout).folder)
    maps = [body_map(image, Levels(0.02, LEVEL)) for image in source.images["image"]]
    windows = ctpatch.RandomWindows((20, 28), 40, rules="set", redraws=100)
    loader = ps.batches(
        16, windows=windows, columns=["slice_index", "row", "col"], arrays="image", subset="slice_index < 2"
    )
    shares = [
        maps[index][row : row + 20, col : col + 28].mean()
        for batch in loader
        for index, row, col in zip(*(batch.columns[name] for name in ("slice_index", "row", "col")), strict=True)
    ]
    assert len(shares) == 80
    assert min(shares) >= 0.3
    assert loader.drawn.redrawn > 10


def test_windows_cannot_be_judged_where_the_level_is_not_known(source: Prepared) -> None:
    build_one(source, ctpatch.PatchConfig(patch_size=24), layout="slices")
    ps = ctpatch.open(source.out)
    windows = ctpatch.RandomWindows(24, rules=RULE)
    message = refusal(ConfigError, lambda: ps.batches(4, windows=windows, arrays="image"))
    assert "build the set with statistics='body_fraction'" in message
