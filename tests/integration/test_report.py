"""`ctpatch report` as a user meets it: which sets it takes, what it writes, and what it refuses."""

import base64
import gzip
import html
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import ConfigError, FormatError, IncompleteError, OutputConflictError, UsageError
from ctpatch.events import Notice, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.reporting.html import MOST_BYTES
from helpers import LAYOUTS, SMALL, Heard, Prepared, build_one, make_split, rewrite_table, tree_bytes

FORMATS: tuple[Any, ...] = ("html", "png")
RULES = ("air: air_fraction > 0.5", "flat: std < 0.001")
CONFIG = SMALL.with_rules(*(ctpatch.Rule.parse(rule) for rule in RULES))


def content_of(page: Path) -> dict[str, Any]:
    """The JSON on a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def numbers_of(page: Path, place: dict[str, Any]) -> Any:
    """An array of a page's block of numbers, read by hand."""
    found = re.search(r'<script type="text/plain" id="numbers">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    data = gzip.decompress(base64.b64decode(found[1]))
    kind = np.dtype(place["type"])
    planes = np.frombuffer(data, np.uint8, place["count"] * kind.itemsize, place["offset"])
    return np.ascontiguousarray(planes.reshape(kind.itemsize, -1).T).reshape(-1).view(kind.newbyteorder("<"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_shown(layout: Any, prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG, layout=layout).folder
    before = tree_bytes(folder)
    page = ctpatch.report(folder, tmp_path / "r.html")
    assert tree_bytes(folder) == before
    ps = ctpatch.open(folder)
    content = content_of(page)
    assert content["rows"] == len(ps) + ps.rejected.height
    assert content["sets"][0]["kept"] == len(ps)
    assert sum(each["picture"] is not None for each in content["gallery"]["slices"]) == 3
    assert all(patch["picture"] for group in content["gallery"]["groups"] for patch in group["patches"])
    assert page.stat().st_size < 500_000
    text = page.read_text()
    assert "Not shown" not in text
    assert ps.meta.fingerprint in text


def test_pictures_and_tables_are_those_of_the_set(prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG).folder
    page = ctpatch.report(folder, tmp_path / "r.html")
    content, ps = content_of(page), ctpatch.open(folder)
    gallery = content["gallery"]
    levels = np.array(gallery["tones"])
    for each in gallery["slices"]:
        picture = Image.open(io.BytesIO(base64.b64decode(each["picture"].partition(",")[2])))
        shown = levels[np.asarray(picture)]
        wanted = prepared.images["image"][each["index"]]
        assert shown.shape == wanted.shape
        assert np.abs(shown - wanted).mean() < 0.05
        rows = pl.concat([ps.manifest, ps.rejected.drop("rule")]).filter(pl.col("slice_index") == each["index"])
        rows = rows.sort("row", "col")
        assert numbers_of(page, each["rows"]).tolist() == rows["row"].to_list()
        statistics = numbers_of(page, each["statistics"]).reshape(-1, 5)
        wanted_numbers = rows.select("std", "air_fraction", "mean", "min", "max").to_numpy().astype(np.float32)
        assert np.array_equal(statistics, wanted_numbers)
    titles = [group["title"] for group in gallery["groups"]]
    assert titles[:3] == ["Kept", "Dropped by air", "Dropped by flat"] or titles[:2] == ["Kept", "Dropped by air"]
    flattest = next(group for group in gallery["groups"] if group["title"] == "Flattest of the kept")
    assert [patch["statistics"]["std"] for patch in flattest["patches"]] == ps.manifest["std"].sort()[:6].to_list()


def test_the_same_sets_give_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG).folder
    pages = [ctpatch.report(folder, tmp_path / name, seed=3).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]
    assert ctpatch.report(folder, tmp_path / "c.html", seed=4).read_bytes() != pages[0]
    pictures = [ctpatch.report(folder, tmp_path / name, format="png").read_bytes() for name in ("a.png", "b.png")]
    assert pictures[0] == pictures[1]
    assert Image.open(io.BytesIO(pictures[0])).size == (1755, 1410)


def test_nothing_of_this_machine_is_on_the_page(prepared: Prepared, tmp_path: Path) -> None:
    page = ctpatch.report(build_one(prepared, CONFIG).folder, tmp_path / "r.html").read_text()
    assert str(tmp_path) not in page
    assert not re.search(r"(src|href)=[\"']?(https?:|//|/)", page)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sets_whose_sources_are_gone_are_still_shown(layout: Any, prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG, layout=layout).folder
    shutil.rmtree(prepared.folder)
    page = ctpatch.report(folder, tmp_path / "r.html")
    content, text = content_of(page), page.read_text()
    slices = content["gallery"]["slices"]
    if layout == "index":
        assert all(each["picture"] is None for each in slices)
        assert "Not shown" in text
    elif layout == "slices":
        assert all(each["picture"] and each["whole"] for each in slices)
    else:
        assert all(each["picture"] and not each["whole"] for each in slices)
        assert "put together from their kept patches" in text
    groups = {group["title"]: group["patches"] for group in content["gallery"]["groups"]}
    assert all(bool(patch["picture"]) == (layout != "index") for patch in groups["Kept"])
    picture = ctpatch.report(folder, tmp_path / "r.png", format="png").read_bytes()
    assert Image.open(io.BytesIO(picture)).size == (1755, 1410)


def test_a_changed_source_is_not_shown_as_if_it_were_the_one_cut(prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG).folder
    np.save(prepared.file(0), np.full((40, 50), 0.5, np.float32))
    content = content_of(ctpatch.report(folder, tmp_path / "r.html"))
    assert [each["whole"] for each in content["gallery"]["slices"]] == [False, True, True]


def test_pairs_are_shown_with_their_difference(tmp_path: Path) -> None:
    paired = make_split(tmp_path / "a", arrays={"target": np.float32})
    page = ctpatch.report(build_one(paired, CONFIG).folder, tmp_path / "r.html")
    pairs = content_of(page)["gallery"]["pairs"]
    assert (pairs["partner"], pairs["labels"]) == ("target", False)
    assert all(each["picture"] and each["other"] and each["difference"] for each in pairs["patches"])
    masked = make_split(tmp_path / "b", arrays={"mask": np.uint8})
    pairs = content_of(ctpatch.report(build_one(masked, CONFIG).folder, tmp_path / "m.html"))["gallery"]["pairs"]
    assert (pairs["partner"], pairs["labels"]) == ("mask", True)
    assert all(each["other"] and each["difference"] is None for each in pairs["patches"])


def test_the_page_is_sensible_before_its_programs_run(prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG).folder
    page = ctpatch.report(folder, tmp_path / "r.html")
    ps, content = ctpatch.open(folder), content_of(page)
    text = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    kept, total = len(ps), len(ps) + ps.rejected.height
    assert f'<strong id="kept-count">{kept}</strong> <span>of <span id="window-count">{total}</span> kept' in text
    for rule in ps.meta.drop_rules:
        assert f"<strong>{rule.name}</strong> <code>{html.escape(rule.condition)}</code> drops {rule.dropped}" in text
    slices = content["gallery"]["slices"]
    dropped = {each["index"]: ps.rejected.filter(pl.col("slice_index") == each["index"]).height for each in slices}
    first = max(slices, key=lambda each: dropped[each["index"]] % each["count"])
    assert (
        f"slice {first['index']}: {first['path']}; 40 x 50 pixels, {dropped[first['index']]} of {first['count']}"
        in text
    )
    assert len(re.findall(r'<rect class="tile drop-', text.partition("</figure>")[0])) == dropped[first["index"]]
    uri = re.search(r'<img id="still" src="(data:image/jpeg;base64,[^"]*)" width="50" height="40"', text)
    assert uri
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri[1].partition(",")[2]))), np.float64)
    window = content["gallery"]["displayWindows"][0]
    grey = 255 * (prepared.images["image"][first["index"]] - window["low"]) / (window["high"] - window["low"])
    assert np.abs(seen - grey.clip(0, 255)).mean() < 12


def test_one_patient_is_one(tmp_path: Path) -> None:
    alone = make_split(tmp_path, [(40, 50)], columns={"patient_id": ["a"]})
    text = ctpatch.report(build_one(alone, CONFIG).folder, tmp_path / "r.html").read_text()
    assert "<strong>1</strong><span>patient</span>" in text
    assert "<strong>1</strong><span>slice</span>" in text


@pytest.mark.parametrize("layout", ["files", "shards", "slices"])
@pytest.mark.parametrize("damage", ["cut", "lengthened", "removed"])
def test_damaged_pixel_files_are_told_of(layout: Any, damage: str, prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG, layout=layout).folder
    heard = Heard()
    ctpatch.report(folder, tmp_path / "r.html", listener=heard)
    assert not any(isinstance(event, Notice) for event in heard.events)
    files = sorted(folder.rglob("*.npy"))
    victim = files[0]
    content = victim.read_bytes()
    victim.unlink()
    if damage != "removed":
        victim.write_bytes(content[:-1] if damage == "cut" else content + b"x")
    manifest = ctpatch.open(folder).manifest
    concerned = manifest.filter(pl.col("patch_path").str.ends_with(victim.name)).height
    ctpatch.report(folder, tmp_path / "r.html", listener=heard)
    (notice,) = (event for event in heard.events if isinstance(event, Notice))
    said = f"phantoms/train: 1 of {len(files)} pixel files is missing or damaged, with {concerned} patch"
    assert notice.message.startswith(said)
    assert victim.name in notice.message
    assert said in (tmp_path / "r.html").read_text()


def test_several_splits_stand_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, level, patients in (("test", 0.3, ["a", "b", "c"]), ("train", 1.0, ["c", "d", "e"])):
        rng = np.random.default_rng(1)
        images = [(rng.random((40, 50)) * level).astype(np.float32) for _ in range(3)]
        prepared = make_split(tmp_path, split=split, images=images, columns={"patient_id": patients})
        build_one(prepared, SMALL)
    assert main(["report", str(tmp_path / "patches" / "phantoms"), "-o", str(tmp_path / "r.html")]) == 0
    assert "report: " in capsys.readouterr().out
    content, text = content_of(tmp_path / "r.html"), (tmp_path / "r.html").read_text()
    assert [each["name"] for each in content["sets"]] == ["phantoms/train", "phantoms/test"]
    assert "Leak: patients in more than one of phantoms/train, phantoms/test: 1 (c)" in text
    assert "▲ 1.00" in text
    assert {each["set"] for each in content["gallery"]["slices"]} == {"phantoms/train", "phantoms/test"}


def test_sets_of_other_rules_are_shown_together_and_it_is_said(tmp_path: Path) -> None:
    build_one(make_split(tmp_path, split="train"), CONFIG)
    build_one(make_split(tmp_path, split="test", seed=1), SMALL)
    text = ctpatch.report(
        [tmp_path / "patches/phantoms/train", tmp_path / "patches/phantoms/test"], tmp_path / "r.html"
    ).read_text()
    assert "phantoms/test: other rules than phantoms/train." in text
    assert "The sliders begin at the rules of phantoms/train" in text


def test_a_report_replaces_a_report_and_nothing_else(prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG).folder
    for kind in FORMATS:
        name = f"r.{kind}"
        first = ctpatch.report(folder, tmp_path / name, format=kind).read_bytes()
        assert ctpatch.report(folder, tmp_path / name, format=kind).read_bytes() == first
    other = tmp_path / "thesis.html"
    other.write_text("mine")
    with pytest.raises(OutputConflictError, match="is there and is no report of ctpatch"):
        ctpatch.report(folder, other)
    assert other.read_text() == "mine"
    with pytest.raises(UsageError, match="is a folder"):
        ctpatch.report(folder, tmp_path)
    with pytest.raises(UsageError, match="does not exist; make it first"):
        ctpatch.report(folder, tmp_path / "none" / "r.html")


def test_what_cannot_be_reported_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    folder = build_one(prepared, CONFIG).folder
    with pytest.raises(ConfigError, match="slices: 0, wanted 1 to 200"):
        ctpatch.report(folder, tmp_path / "r.html", slices=0)
    with pytest.raises(ConfigError, match="seed: -1"):
        ctpatch.report(folder, tmp_path / "r.html", seed=-1)
    with pytest.raises(ConfigError, match="format: 'pdf', wanted html or png"):
        ctpatch.report(folder, tmp_path / "r.html", format="pdf")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no patch set given"):
        ctpatch.report([], tmp_path / "r.html")
    with pytest.raises(UsageError, match="does not exist"):
        ctpatch.report(tmp_path / "nowhere", tmp_path / "r.html")
    rewrite_table(folder, "patch_manifest.csv", 0, "air_fraction", "0.75")
    with pytest.raises(FormatError, match="1 windows are on record otherwise than their rules decide"):
        ctpatch.report(folder, tmp_path / "r.html")
    for value in ("1e300", ""):
        rewrite_table(folder, "patch_manifest.csv", 0, "air_fraction", value)
        with pytest.raises(FormatError, match="whose numbers or rule no build writes"):
            ctpatch.report(folder, tmp_path / "r.html")
    rewrite_table(folder, "patch_manifest.csv", 0, "air_fraction", "0.0")
    rewrite_table(folder, "patch_manifest.csv", 0, "row", "-8")
    with pytest.raises(FormatError, match=r"1 windows begin outside every slice that was cut, .* at \(-8, "):
        ctpatch.report(folder, tmp_path / "r.html")
    (folder / "patch_meta.json").unlink()
    (folder / ".ctpatch").mkdir()
    with pytest.raises(IncompleteError):
        ctpatch.report(folder, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_sets_without_a_single_window_or_patch(tmp_path: Path) -> None:
    nothing = build_one(make_split(tmp_path / "a", [(4, 4)]), SMALL).folder
    with pytest.raises(UsageError, match="there are no windows"):
        ctpatch.report(nothing, tmp_path / "r.html")
    none_kept = build_one(make_split(tmp_path / "b"), SMALL.with_rules(ctpatch.Rule.parse("all: TRUE"))).folder
    for kind in FORMATS:
        assert ctpatch.report(none_kept, tmp_path / f"r.{kind}", format=kind).stat().st_size > 1000
    assert content_of(tmp_path / "r.html")["sets"][0]["kept"] == 0


@pytest.mark.parametrize("mode", ["shift", "even", "reflect"])
def test_borders_of_every_kind(mode: Any, tmp_path: Path) -> None:
    config = ctpatch.PatchConfig(patch_size=(16, 12), stride=(9, 7), pad_mode=mode, drop=RULES[0])
    folder = build_one(make_split(tmp_path, [(40, 50), (17, 33)]), config).folder
    content = content_of(ctpatch.report(folder, tmp_path / "r.html"))
    for each in content["gallery"]["slices"]:
        assert each["picture"]
    assert content["options"] == ["--patch-size 16x12", "--stride 9x7", f"--pad-mode {mode}"]


def test_numbers_that_are_too_many_take_fewer_stops(prepared: Prepared) -> None:
    from ctpatch.reporting.gallery import make_gallery
    from ctpatch.reporting.payload import make_payload
    from ctpatch.reporting.windows import gather

    windows = gather([ctpatch.open(build_one(prepared, CONFIG).folder)])
    gallery = make_gallery(windows, 1, 0, Heard())
    plenty = make_payload(windows, gallery, MOST_BYTES)
    assert {each["name"] for each in plenty.content["columns"]} == {"std", "air_fraction", "mean", "min", "max"}
    fewer = make_payload(windows, gallery, len(plenty.data) + len(plenty.numbers) - 1)
    assert len(fewer.numbers) < len(plenty.numbers)
    assert fewer.content["columns"][0]["count"] < plenty.content["columns"][0]["count"]
    none = make_payload(windows, gallery, 10)
    assert (none.content["tunable"], none.content["rules"]) == (False, [])


def test_build_writes_it_along(prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["build", str(prepared.folder), "--patch-size", "16", "--stride", "8", "--report"]
    assert main(call) == 0
    page = prepared.out / "report.html"
    assert f"report: {page}" in capsys.readouterr().out
    assert main(["verify", str(prepared.out), "--deep"]) == 0
    assert main(call) == 0
    make_split(prepared.root, split="test", seed=2)
    assert main(["build", str(prepared.folder.parent), "--patch-size", "16", "--stride", "8", "--report"]) == 0
    assert len(content_of(prepared.out.parent / "report.html")["sets"]) == 2


def test_without_its_libraries_it_says_what_to_install(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build_one(prepared, CONFIG).folder
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(folder), "-o", str(tmp_path / "r.html")]) == 2
    assert "a report needs jinja2: pip install 'ctpatch[report]'" in capsys.readouterr().err
    assert main(["build", str(prepared.folder), "--out", str(tmp_path / "set"), "--report"]) == 2
    assert not (tmp_path / "set").exists()


def test_progress_is_told(prepared: Prepared, tmp_path: Path) -> None:
    heard = Heard()
    ctpatch.report(build_one(prepared, CONFIG).folder, tmp_path / "r.html", listener=heard)
    started, *advanced, finished = heard.events
    assert isinstance(started, WorkStarted)
    assert isinstance(finished, WorkFinished)
    assert started.total == sum(each.steps for each in advanced if isinstance(each, WorkAdvanced))


def test_the_demo_ends_well_without_the_libraries_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctpatch.cli.demo import _report

    monkeypatch.setitem(sys.modules, "PIL", None)
    assert _report(tmp_path, []) == "a report needs PIL: pip install 'ctpatch[report]'"
