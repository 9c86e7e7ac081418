"""Columns of the source manifest that a set keeps: built, resumed, shared out, checked, converted, audited, shown."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import EXIT_DONE, ConfigError, OutputConflictError, SourceChangedError, SourceManifestError
from evaluations import write_meta
from helpers import (
    LAYOUTS,
    SMALL,
    Heard,
    Prepared,
    assert_same_tree,
    build_one,
    change_meta,
    csv_columns,
    csv_rows,
    make_split,
    refusal,
    rewrite_table,
    small_parts,
    tree_bytes,
    write_manifest,
)

COLUMNS: dict[str, list[Any]] = {
    "patient_id": ["p1", "p1", "p2", "p3"],
    "scanner": ["A", 'B "new", x', "", "A"],
    "dose": ["1", "0.25", "", "-3e-7"],
    "age": ["61", "61", "7", ""],
    "code": ["007", "7", "1", "2"],
}
KINDS = {"scanner": "text", "dose": "float64", "age": "int64", "code": "text"}
VALUES: dict[str, list[Any]] = {
    "scanner": ["A", 'B "new", x', None, "A"],
    "dose": [1.0, 0.25, None, -3e-7],
    "age": [61, 61, 7, None],
    "code": ["007", "7", "1", "2"],
}
KEEP = "scanner,dose,age,code"
SHAPES = [(24, 32)] * 4


@pytest.fixture
def source(tmp_path: Path) -> Prepared:
    return make_split(tmp_path, SHAPES, columns=COLUMNS)


def change_cell(source: Prepared, column: str, row: int, value: str) -> None:
    rows = csv_rows(source.manifest)
    rows[row][column] = value
    write_manifest(source.manifest, {name: [each[name] for each in rows] for name in rows[0]})


def as_prepared(source: Prepared) -> None:
    """Let the split look like one that `prepare` wrote."""
    write_meta(source.folder.parent, source.split)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_are_in_the_slice_manifest_with_their_types(source: Prepared, layout: Any) -> None:
    meta = build_one(source, layout=layout, keep_columns=KEEP).meta
    ps = ctpatch.open(source.out)
    assert dict(ps.meta.carried or {}) == dict(meta.carried or {}) == KINDS
    assert csv_columns(source.out / "slice_manifest.csv")[-4:] == list(KINDS)
    assert ps.slices.select(list(VALUES)).to_dict(as_series=False) == VALUES
    assert ctpatch.verify(source.out, deep=True).ok


def test_nothing_is_kept_by_default_and_bytes_stay(source: Prepared) -> None:
    build_one(source)
    found = tree_bytes(source.out)
    assert b"scanner" not in b"".join(found.values())
    shutil.rmtree(source.out)
    build_one(source, keep_columns="none")
    assert_same_tree(tree_bytes(source.out), found)


def test_a_type_can_be_given(source: Prepared) -> None:
    build_one(source, keep_columns=["age:text", "code:int64"])
    slices = ctpatch.open(source.out).slices
    assert slices["age"].to_list() == ["61", "61", "7", None]
    assert slices["code"].to_list() == [7, 7, 1, 2]
    assert ctpatch.verify(source.out, deep=True).ok


def test_all_that_prepare_wrote_is_kept_by_default(source: Prepared) -> None:
    as_prepared(source)
    assert dict(build_one(source).meta.carried or {}) == KINDS
    assert build_one(source).outcome == "complete"
    with pytest.raises(OutputConflictError, match="carried was"):
        build_one(source, keep_columns="none")
    assert build_one(source, keep_columns="none", overwrite=True).meta.carried is None


def test_a_set_that_keeps_none_goes_on_as_it_was_begun(source: Prepared) -> None:
    """As one of a version that knew of no kept columns."""
    before = build_one(source)
    as_prepared(source)
    again = build_one(source)
    assert (again.outcome, again.meta.fingerprint) == ("complete", before.meta.fingerprint)
    assert dict(build_one(source, overwrite=True).meta.carried or {}) == KINDS


def test_a_build_that_was_begun_without_goes_on_without(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=1)
    ctpatch.build_share(source.folder, "1/2", SMALL)
    as_prepared(source)
    ctpatch.build_share(source.folder, "2/2", SMALL)
    assert ctpatch.merge(source.out).meta.carried is None


def test_what_cannot_be_kept_of_a_prepared_split_is_told(source: Prepared) -> None:
    as_prepared(source)
    rows = csv_rows(source.manifest)
    table = {name: [each[name] for each in rows] for name in rows[0]}
    write_manifest(source.manifest, {**table, "std": [1] * 4, "file": [f"/raw/{k}.dcm" for k in range(4)]})
    heard = Heard()
    build_one(source, listener=heard)
    told = [note for note in heard.notices("manifest") if "does not keep" in note]
    assert ["'std'" in told[0], "absolute paths" in told[1]] == [True, True]
    assert "/raw" not in (source.out / "slice_manifest.csv").read_text()


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("kernel", "has no column 'kernel'; it has path, patient_id, scanner"),
        ("patient_id", "'patient_id' cannot be kept: ctpatch uses this name itself"),
        ("scanner,Scanner", "comes twice"),
        ("dose:number", "wanted int64, float64 or text"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(source: Prepared, keep: str, words: str) -> None:
    assert words in refusal(ConfigError, lambda: build_one(source, keep_columns=keep))
    assert words in refusal(ConfigError, lambda: ctpatch.plan(source.folder, SMALL, keep_columns=keep))
    assert not source.out.exists()


def test_absolute_paths_are_refused(source: Prepared) -> None:
    change_cell(source, "scanner", 1, "/home/ann/scan")
    said = refusal(SourceManifestError, lambda: build_one(source, keep_columns=KEEP))
    assert "row 3, column scanner: '/home/ann/scan' is an absolute path" in said
    assert build_one(source, keep_columns="dose").complete


def test_the_fingerprint_tells_cells_names_and_types_apart(source: Prepared) -> None:
    found = set()
    for keep in ("none", "dose", "dose:text", "age", "dose,age", "age,dose"):
        found.add(build_one(source, keep_columns=keep, overwrite=True).meta.fingerprint)
    change_cell(source, "dose", 0, "2")
    for keep in ("none", "dose"):
        found.add(build_one(source, keep_columns=keep, overwrite=True).meta.fingerprint)
    assert len(found) == 7


def test_a_changed_cell_is_a_changed_plan(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    build_one(source, keep_columns=KEEP)
    change_cell(source, "dose", 1, "0.5")
    with pytest.raises(OutputConflictError, match=r"dose of .*_000001\.npy was 0\.25, now 0\.5"):
        build_one(source, keep_columns=KEEP)
    assert not ctpatch.verify(source.out, deep=True).ok
    assert ctpatch.verify(source.out).ok
    shutil.rmtree(source.out)
    small_parts(monkeypatch, slices=1)
    ctpatch.build_share(source.folder, "1/2", SMALL, keep_columns=KEEP)
    change_cell(source, "dose", 1, "0.75")
    with pytest.raises(OutputConflictError):
        ctpatch.build_share(source.folder, "2/2", SMALL, keep_columns=KEEP)
    with pytest.raises(SourceChangedError):
        ctpatch.merge(source.out)


@pytest.mark.parametrize(("before", "now"), [("dose", "none"), ("dose", "dose:text"), ("none", "dose")])
def test_a_build_begun_with_other_columns_is_refused(
    source: Prepared, before: str, now: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, slices=1)
    ctpatch.build_share(source.folder, "1/2", SMALL, keep_columns=before)
    with pytest.raises(OutputConflictError, match=r"made otherwise: carried was .*, now "):
        build_one(source, keep_columns=now)
    ctpatch.build_share(source.folder, "2/2", SMALL, keep_columns=before)
    assert bool(ctpatch.merge(source.out).meta.carried) is (before != "none")


def test_a_change_elsewhere_in_the_manifest_is_none(source: Prepared) -> None:
    build_one(source, keep_columns="dose")
    change_cell(source, "scanner", 1, "C")
    assert build_one(source, keep_columns="dose").outcome == "complete"
    assert ctpatch.verify(source.out, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shares_and_resumed_parts_give_the_same_bytes(
    source: Prepared, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, slices=1, packed_windows=6)
    build_one(source, layout=layout, keep_columns=KEEP)
    wanted = tree_bytes(source.out)
    shutil.rmtree(source.out)
    ctpatch.build_share(source.folder, "2/2", SMALL, layout=layout, keep_columns=KEEP)
    ctpatch.build_share(source.folder, "1/2", SMALL, layout=layout, keep_columns=KEEP)
    assert dict(ctpatch.merge(source.out).meta.carried or {}) == KINDS
    assert_same_tree(tree_bytes(source.out), wanted)
    shutil.rmtree(source.out)
    ctpatch.build_share(source.folder, "2/2", SMALL, layout=layout, keep_columns=KEEP)
    assert build_one(source, layout=layout, keep_columns=KEEP).outcome == "resumed"
    assert_same_tree(tree_bytes(source.out), wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_converted_set_keeps_them(source: Prepared, layout: Any) -> None:
    build_one(source, keep_columns=KEEP, layout=LAYOUTS[LAYOUTS.index(layout) - 1])
    other = source.out.with_name("other")
    ctpatch.convert(source.out, other, layout=layout)
    found = tree_bytes(other)
    shutil.rmtree(other)
    build_one(source, keep_columns=KEEP, layout=layout, out=other)
    assert_same_tree(found, tree_bytes(other))


@pytest.mark.parametrize(("column", "value"), [("dose", "9.0"), ("scanner", "C"), ("age", "")])
def test_a_forged_cell_is_found(source: Prepared, column: str, value: str) -> None:
    build_one(source, keep_columns=KEEP)
    rewrite_table(source.out, "slice_manifest.csv", 1, column, value)
    plain = ctpatch.verify(source.out)
    assert [finding.message.partition(" is ")[0] for finding in plain.findings] == ["fingerprint"]
    deep = ctpatch.verify(source.out, deep=True)
    assert any(each.row == 3 and each.message.startswith(f"{column} is ") for each in deep.findings)


@pytest.mark.parametrize("name", ["std", "a b", "image"])
def test_names_on_record_that_no_build_gives_are_refused(source: Prepared, name: str) -> None:
    build_one(source, keep_columns="dose")
    change_meta(source.out, lambda meta: meta.update(carried={name: "int64"}))
    with pytest.raises(ctpatch.CtPatchError, match="carried"):
        ctpatch.open(source.out)


def test_a_missing_or_unfitting_column_is_found(source: Prepared) -> None:
    build_one(source, keep_columns="dose")
    change_meta(source.out, lambda meta: meta.update(carried={"dose": "float64", "age": "int64"}))
    assert "it lacks 'age'" in str(ctpatch.verify(source.out).findings)
    with pytest.raises(ctpatch.CtPatchError, match="it lacks 'age'"):
        _ = ctpatch.open(source.out).slices


def test_the_commands_take_and_show_them(source: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(source.folder), "--patch-size", "16", "--stride", "8", "--keep-columns", "scanner, dose:float64"]
    shown = "kept: scanner (text), dose (float64)"
    assert main(["plan", *command]) == EXIT_DONE
    assert shown in capsys.readouterr().out
    assert main(["plan", *command, "--json"]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)[0]["carried"] == {"scanner": "text", "dose": "float64"}
    assert main(["build", *command]) == EXIT_DONE
    assert "kept of the source manifest: scanner (text), dose (float64)" in capsys.readouterr().out
    assert main(["info", str(source.out)]) == EXIT_DONE
    assert "kept of the source manifest: scanner (text), dose (float64)" in capsys.readouterr().out
    (source.root / "options.toml").write_text('keep_columns = "age"\npatch_size = 16\nstride = 8\n')
    options = ["--config", str(source.root / "options.toml"), "--out", str(source.root / "other")]
    assert main(["build", str(source.folder), *options]) == EXIT_DONE
    assert dict(ctpatch.open(source.root / "other").meta.carried or {}) == {"age": "int64"}


def test_the_audit_takes_any_name_and_the_digest_of_the_raw_slice(tmp_path: Path) -> None:
    odd: dict[str, list[Any]] = {name: ["1", "2"] for name in ("line", "id", "constant", "known", "key")}
    digests = ["00000000000000000000000000012e45", "0" * 32]
    splits = [
        make_split(
            tmp_path,
            [(24, 32)] * 2,
            split=split,
            seed=seed,
            columns={**odd, "source_digest": digests[:: 1 - 2 * seed]},
        )
        for seed, split in enumerate(("train", "test"))
    ]
    for split in splits:
        build_one(split, keep_columns=[*odd, "source_digest"])
        split.manifest.unlink()
    report = ctpatch.audit(tmp_path / "patches" / "phantoms")
    assert {finding.check for finding in report.findings} == {"same-source"}


def test_the_report_shows_them(source: Prepared) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("PIL")
    build_one(source, keep_columns=KEEP)
    assert "scanner (text), dose (float64)" in ctpatch.report(source.out, source.root / "page.html").read_text()


def test_types_hold_over_all_pieces_of_a_manifest(source: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows may be whole numbers, and a later one not."""
    monkeypatch.setattr("ctpatch.format.source_manifest.PIECE_ROWS", 1)
    assert dict(build_one(source, keep_columns=KEEP).meta.carried or {}) == KINDS


def test_capital_letters_of_a_manifest_in_capitals(tmp_path: Path) -> None:
    source = make_split(tmp_path, [(24, 32)] * 2)
    write_manifest(source.manifest, {"Path": source.paths["image"], "Scanner": ["A", "B"]})
    build_one(source, keep_columns="scanner")
    assert ctpatch.open(source.out).slices["scanner"].to_list() == ["A", "B"]
    assert ctpatch.verify(source.out, deep=True).ok


def test_a_set_is_read_by_polars_alone(source: Prepared) -> None:
    """As a reader in another language would."""
    build_one(source, keep_columns=KEEP)
    frame = pl.read_csv(source.out / "slice_manifest.csv", schema_overrides={"code": pl.String})
    assert frame.select(list(VALUES)).to_dict(as_series=False) == VALUES
