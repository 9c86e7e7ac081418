"""A statistic is one function and one entry of the list: all that reads, writes, checks and shows follows."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.cli.app import main
from ctpatch.core.statistics.columns import STATISTICS, Levels, Statistic
from ctpatch.errors import EXIT_USAGE, RuleError
from helpers import LAYOUTS, SMALL, Prepared, build_one, csv_columns, csv_rows, make_split, rewrite_table

RULE = "smooth: edge_energy < 0.1"


def energy(patch: NDArray[Any]) -> float:
    """Mean square of the differences between neighbours in a row."""
    return float(np.mean(np.diff(patch.astype(np.float64), axis=1) ** 2))


def edge_energy(
    image: NDArray[Any], rows: tuple[int, ...], cols: tuple[int, ...], size: tuple[int, int], _air_level: float
) -> NDArray[np.float64]:
    squares = np.diff(image.astype(np.float64), axis=1) ** 2
    return np.array([squares[r : r + size[0], c : c + size[1] - 1].mean() for r in rows for c in cols])


EDGE_ENERGY = Statistic(
    "edge_energy",
    "Edge energy",
    "mean square of the differences between neighbours in a row",
    within=lambda values, _: values["edge_energy"] >= 0,
    wanted="0 or more",
    compute=edge_energy,
    since="0.2.0",
)


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATISTICS, EDGE_ENERGY.name, EDGE_ENERGY)


@pytest.fixture
def source(tmp_path: Path) -> Prepared:
    """Slices of which the right half is nearly flat, with an array beside the image."""
    rng = np.random.default_rng(1)
    images = [rng.random((40, 50), dtype=np.float32) for _ in range(3)]
    for image in images:
        image[:, 25:] = 0.5 + image[:, 25:] / 1000
    return make_split(tmp_path, images=images, arrays={"target": "f4"})


def content_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_entry_is_all_it_takes(source: Prepared, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "patches" / "made" / "train"
    command = ["build", str(source.folder), "--patch-size", "16", "--stride", "8", "--layout", layout]
    assert main([*command, "--out", str(out), "--drop", RULE]) == 0
    wanted = "patch_index,digest,edge_energy,target_patch_path,target_digest"
    assert ",".join(csv_columns(out / "patch_manifest.csv")).endswith(f",{wanted}")
    assert ",".join(csv_columns(out / "rejected_patches.csv")).endswith(f",{wanted},rule")
    ps = ctpatch.open(out)
    found = [energy(patch["image"]) for patch in ps]
    np.testing.assert_allclose(ps.manifest["edge_energy"].to_numpy(), found, rtol=1e-12)
    assert len(found) > 10
    assert min(found) >= 0.1
    images = source.images["image"]
    dropped = ps.rejected.select("slice_index", "row", "col", "edge_energy").rows()
    cut = [energy(images[index][row : row + 16, col : col + 16]) for index, row, col, _ in dropped]
    np.testing.assert_allclose([row[-1] for row in dropped], cut, rtol=1e-12)
    assert len(cut) > 10
    assert max(cut) < 0.1
    assert ctpatch.verify(out, deep=True).ok
    subset = next(iter(ps.batches(4, subset="edge_energy > 0.15", columns=["edge_energy"])))
    assert min(subset.columns["edge_energy"]) > 0.15

    other = tmp_path / "patches" / "other" / "train"
    ctpatch.convert(out, other, layout=LAYOUTS[LAYOUTS.index(layout) - 1], keep="edge_energy > 0.15")
    kept = ctpatch.open(other).manifest
    assert kept["patch_id"].to_list() == ps.manifest.filter(pl.col("edge_energy") > 0.15)["patch_id"].to_list()
    assert kept["edge_energy"].to_list() == ps.manifest.filter(pl.col("edge_energy") > 0.15)["edge_energy"].to_list()
    assert ctpatch.verify(other, deep=True).ok

    content = content_of(ctpatch.report(out, tmp_path / "r.html"))
    assert content["statistics"] == ["std", "air_fraction", "mean", "min", "max", "edge_energy"]
    titles = {column["name"]: column["title"] for column in content["columns"]}
    assert titles["edge_energy"] == "Edge energy"
    assert content["rules"][0]["root"]["kind"] == "test"
    assert content["sliders"][0]["column"] == "edge_energy"


def brighter(image: NDArray[Any], _levels: Levels) -> NDArray[np.bool_]:
    return np.asarray(image > image.mean())


BRIGHT = Statistic(
    "bright_fraction",
    "Share of bright pixels",
    "share of pixels above the mean of the slice",
    unit="share",
    within=lambda values, _: values["bright_fraction"] <= 1,
    wanted="1 or less",
    exact=True,
    slice_map=brighter,
    opt_in=True,
    since="0.2.0",
)


@pytest.mark.parametrize("named", [{"drop": "dark: bright_fraction < 0.45"}, {"statistics": "bright_fraction"}])
def test_so_is_one_that_needs_the_whole_slice(
    source: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, Any]
) -> None:
    monkeypatch.setitem(STATISTICS, BRIGHT.name, BRIGHT)
    out = build_one(source, ctpatch.PatchConfig(patch_size=16, stride=8, **named), layout="slices").folder
    ps = ctpatch.open(out)
    assert "bright_fraction" not in ctpatch.open(build_one(source, out=tmp_path / "plain").folder).manifest.columns
    for frame in (ps.manifest, ps.rejected):
        places = frame.select("slice_index", "row", "col", "bright_fraction").rows()
        for index, row, col, share in places:
            image = source.images["image"][index]
            assert share == (image[row : row + 16, col : col + 16] > image.mean()).mean()
    assert len(ps.manifest) > 10
    assert bool(len(ps.rejected)) == ("drop" in named)
    assert ctpatch.verify(out, deep=True).ok
    windows = ctpatch.RandomWindows(16, 8, rules="dark: bright_fraction < 0.45", redraws=100)
    for batch in ps.batches(4, windows=windows, columns=["slice_index", "row", "col"], arrays="image"):
        for index, row, col in zip(*(batch.columns[name] for name in ("slice_index", "row", "col")), strict=True):
            image = source.images["image"][index]
            assert (image[row : row + 16, col : col + 16] > image.mean()).mean() >= 0.45


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(("value", "said"), [("0.3", "edge_energy is 0.3, "), ("-1.0", "wanted 0 or more")])
@pytest.mark.parametrize("table", ["patch_manifest.csv", "rejected_patches.csv"])
def test_a_forged_value_is_found(source: Prepared, table: str, value: str, said: str) -> None:
    out = build_one(source, SMALL.with_rules(ctpatch.Rule.parse(RULE))).folder
    rewrite_table(out, table, 3, "edge_energy", value)
    report = ctpatch.verify(out, deep=True)
    assert any(said in finding.message and finding.row == 5 for finding in report.findings)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_from_before_lacks_it_and_says_so(
    source: Prepared, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = build_one(source, SMALL.with_rules(ctpatch.Rule.parse("flat: std < 0.01")), layout=layout).folder
    before = ctpatch.open(old).manifest
    monkeypatch.setitem(STATISTICS, EDGE_ENERGY.name, EDGE_ENERGY)
    ps = ctpatch.open(old)
    assert ps.manifest.equals(before)
    assert ctpatch.verify(old, deep=True).ok
    for refused in (
        lambda: ps.batches(4, subset="edge_energy > 0.1"),
        lambda: ps.batches(4, weight="edge_energy"),
        lambda: ctpatch.convert(old, tmp_path / "no", keep="edge_energy > 0.1", data_root=source.root),
    ):
        with pytest.raises(RuleError, match="the column 'edge_energy', which is not there"):
            refused()
    assert not (tmp_path / "no").exists()
    assert main(["convert", str(old), str(tmp_path / "no"), "--keep", "edge_energy > 0.1"]) == EXIT_USAGE
    assert "edge_energy" in capsys.readouterr().err

    new = tmp_path / "patches" / "new" / "train"
    ctpatch.convert(old, new, layout=LAYOUTS[LAYOUTS.index(layout) - 1], keep="std > 0.1")
    assert {row["edge_energy"] for row in csv_rows(new / "patch_manifest.csv")} == {""}
    assert ctpatch.verify(new, deep=True).ok
    with pytest.raises(RuleError, match="edge_energy"):
        ctpatch.open(new).batches(4, subset="edge_energy > 0.1")
    content = content_of(ctpatch.report([old, new], tmp_path / "r.html"))
    assert content["statistics"] == ["std", "air_fraction", "mean", "min", "max"]


def test_a_build_begun_before_is_made_anew_where_rows_lack_it(
    source: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts' rows have no header; taken as they are, they would shift every column after."""
    from ctpatch.cutting import work as make

    def interrupted(*_arguments: Any, **_options: Any) -> Any:
        raise KeyboardInterrupt

    merge = vars(make)["merge_parts"]
    monkeypatch.setattr(make, "merge_parts", interrupted)
    config = SMALL.with_rules(ctpatch.Rule.parse("flat: std < 0.01"))
    with pytest.raises(KeyboardInterrupt):
        build_one(source, config)
    monkeypatch.setattr(make, "merge_parts", merge)
    monkeypatch.setitem(STATISTICS, EDGE_ENERGY.name, EDGE_ENERGY)
    out = build_one(source, config).folder
    assert not ctpatch.open(out).manifest["edge_energy"].has_nulls()
    assert ctpatch.verify(out, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_of_a_later_version_is_read_by_what_is_known(source: Prepared, tmp_path: Path, layout: str) -> None:
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as later:
        later.setitem(STATISTICS, EDGE_ENERGY.name, EDGE_ENERGY)
        out = build_one(source, SMALL.with_rules(ctpatch.Rule.parse("flat: std < 0.01")), layout=layout).folder
    assert "edge_energy" in csv_columns(out / "patch_manifest.csv")
    ps = ctpatch.open(out)
    assert "edge_energy" not in ps.manifest.columns
    assert ctpatch.verify(out, deep=True).ok
    again = tmp_path / "patches" / "again" / "train"
    ctpatch.convert(out, again)
    assert "edge_energy" not in csv_columns(again / "patch_manifest.csv")
    assert ctpatch.open(again).read(range(len(ps)))["image"].tobytes() == ps.read(range(len(ps)))["image"].tobytes()
    assert ctpatch.verify(again, deep=True).ok
