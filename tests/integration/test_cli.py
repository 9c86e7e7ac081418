"""The command line as a user meets it: what is printed where, and the exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.cli.demo import run_demo
from helpers import Prepared, make_split, tree_bytes

Run = Callable[..., tuple[int, str, str]]
SMALL_OPTIONS = ("--patch-size", "16", "--stride", "8")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: exit status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(each) for each in arguments])
        seen = capsys.readouterr()
        return status, seen.out, seen.err

    return call


def test_build_says_what_it_did(run: Run, prepared: Prepared) -> None:
    status, out, err = run("build", prepared.folder, *SMALL_OPTIONS, "--drop", "air: air_fraction > 0.5")
    ps = ctpatch.open(prepared.out)
    assert status == 0
    assert err == ""
    assert "phantoms/train built:" in out
    assert f"{len(ps)} of 16x16 kept of 60 windows" in out
    assert f"{ps.rejected.height} by air (air_fraction > 0.5)" in out
    assert "3 cut" in out
    status, out, _ = run("build", prepared.folder, *SMALL_OPTIONS, "--drop", "air: air_fraction > 0.5")
    assert (status, "nothing to do" in out) == (0, True)


def test_coverage_names_the_stride_that_loses_none(run: Run, tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(362, 362)])
    status, out, _ = run("plan", prepared.folder)
    assert status == 0
    assert "78.1 % of the pixels are in a patch at stride 64; stride 78 covers all with as many patches" in out
    assert "train_000000_000_000.npy, train_000000_000_064.npy, train_000000_000_128.npy" in out
    assert not (tmp_path / "patches").exists()


def test_a_stride_that_covers_all_may_take_more_windows(run: Run, tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(47, 47)])
    _, out, _ = run("plan", prepared.folder, "--patch-size", "16", "--stride", "16")
    # 31 pixels to span in steps: 31 is prime, so only a stride of 1 meets the border.
    assert "stride 1 covers all with 1,024 windows instead of 4" in out


def test_plan_counts_what_rules_would_drop_and_writes_nothing(run: Run, prepared: Prepared) -> None:
    rules = ("--drop", "air: air_fraction > 0.5", "--min-std", "0.001")
    before = tree_bytes(prepared.root)
    status, out, _ = run("plan", prepared.folder, *SMALL_OPTIONS, *rules, "--json")
    assert status == 0
    assert tree_bytes(prepared.root) == before
    (seen,) = json.loads(out)
    run("build", prepared.folder, *SMALL_OPTIONS, *rules)
    ps = ctpatch.open(prepared.out)
    dropped = {rule.name: rule.dropped for rule in ps.meta.drop_rules}
    assert seen["rules"]["first"] == dropped
    assert seen["rules"]["kept"] == len(ps)
    assert seen["rules"]["alone"]["low_variance"] >= dropped["low_variance"]
    assert seen["num_windows"] == 60
    assert seen["pixel_bytes"]["files"] == 60 * (128 + 16 * 16 * 4)


def test_verify_reports_findings_and_exits_1(run: Run, prepared: Prepared) -> None:
    run("build", prepared.folder, *SMALL_OPTIONS)
    status, out, _ = run("verify", prepared.out, "--deep")
    assert (status, out.splitlines()[1:]) == (0, [])
    assert out.startswith("ok: phantoms/train: 60 patches of 3 slices: every table, file and pixel, all as a build")
    victim = prepared.out / "train_000001_008_016.npy"
    content = bytearray(victim.read_bytes())
    content[200] ^= 1
    victim.write_bytes(bytes(content))
    status, out, _ = run("verify", prepared.out)
    assert status == 1
    row = ctpatch.open(prepared.out).manifest["patch_id"].to_list().index("train_000001_008_016") + 2
    assert f"patch_manifest.csv row {row}" in out
    assert "failed: phantoms/train" in out
    status, out, _ = run("verify", prepared.out, "--json")
    (report,) = json.loads(out)
    assert (status, report["ok"], report["status"]) == (1, False, "failed")
    assert {finding["row"] for finding in report["findings"]} == {row}


def test_verify_takes_a_source_manifest_from_outside_the_data_root(
    run: Run, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lists") / "phantoms" / "train"
    folder.mkdir(parents=True)
    listed = prepared.manifest.rename(folder / prepared.manifest.name)
    root = ("--data-root", prepared.root)
    assert run("build", listed, *SMALL_OPTIONS, *root)[0] == 0
    status, out, _ = run("verify", prepared.out, "--deep", *root)
    assert (status, "train_manifest.csv: it cannot be built again" in out) == (1, True)
    status, out, _ = run("verify", prepared.out, "--deep", "--source", listed, *root)
    assert (status, out.splitlines()[1:]) == (0, [])
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:-1]))
    status, out, _ = run("verify", prepared.out, "--deep", "--source", listed, *root)
    assert (status, out.splitlines()[-1].startswith("failed: phantoms/train")) == (1, True)


def test_more_than_20_findings_are_counted(run: Run, prepared: Prepared) -> None:
    run("build", prepared.folder, *SMALL_OPTIONS)
    for path in sorted(prepared.out.glob("train_*.npy"))[:30]:
        path.unlink()
    _, out, _ = run("verify", prepared.out)
    assert len(out.splitlines()) == 22
    assert "and 10 more" in out


def test_info_on_a_set_and_on_an_unfinished_one(run: Run, prepared: Prepared) -> None:
    run("build", prepared.folder, *SMALL_OPTIONS, "--layout", "shards")
    status, out, _ = run("info", prepared.out)
    assert status == 0
    for text in ("60 of 16x16 kept", "shards", "stride 8", ctpatch.open(prepared.out).meta.fingerprint):
        assert text in out
    images = [np.full((40, 50), 2.0, np.float32)]
    broken = make_split(prepared.root / "b", images=images, shapes=[(40, 50)])
    assert run("build", broken.folder, *SMALL_OPTIONS)[0] == 1
    status, out, _ = run("info", broken.out)
    assert (status, "incomplete" in out) == (0, True)
    status, out, _ = run("verify", broken.out)
    assert (status, out.startswith("incomplete")) == (1, True)


def test_a_folder_of_sets_means_all_of_them(run: Run, tmp_path: Path) -> None:
    make_split(tmp_path, split="train")
    make_split(tmp_path, split="test")
    status, out, _ = run("build", tmp_path / "prepared" / "phantoms", *SMALL_OPTIONS)
    assert (status, out.count(" built: ")) == (0, 2)
    status, out, _ = run("verify", tmp_path / "patches" / "phantoms")
    assert (status, out.count("ok: ")) == (0, 2)


def test_skipped_slices_are_listed_and_exit_1(run: Run, tmp_path: Path) -> None:
    images = [np.full((40, 50), value, np.float32) for value in (0.5, 1.5, 0.25)]
    prepared = make_split(tmp_path, images=images)
    status, _, err = run("build", prepared.folder, *SMALL_OPTIONS)
    assert status == 1
    assert prepared.paths["image"][1] in err
    assert "holds 1.5 at row 0, col 0" in err
    assert "check the normalisation step" in err
    status, out, _ = run("build", prepared.folder, *SMALL_OPTIONS, "--on-error", "skip")
    assert status == 1
    assert "2 cut, 1 left out" in out
    assert prepared.paths["image"][1] in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build"], "no source given"),
        (["build", "nowhere"], "does not exist"),
        (["build", "{src}", "--patch-size", "0"], "patch_size: must be greater than or equal to 1, got 0"),
        (["build", "{src}", "--patch-size", "12x"], "patch_size: '12x'"),
        (["build", "{src}", "--stride", "-4"], "stride"),
        (["build", "{src}", "--drop", "std < 0.1"], "has not the form"),
        (["build", "{src}", "--drop", "a: std <"], "syntax error"),
        (["build", "{src}", "--drop", "a: max(std) < 1"], "more than one row"),
        (["build", "{src}", "--drop", "a: color < 1"], "slice_index, row, col, min, max, mean, std, air_fraction"),
        (["build", "{src}", "--rules-on", "target"], "there is no array 'target'"),
        (["build", "{src}", "--value-range", "1", "0"], "value_range"),
        (["build", "{src}", "--workers", "0"], "workers"),
        (["build", "{src}", "--config", "nowhere.toml"], "cannot be read"),
        (["verify", "nowhere"], "does not exist"),
        (["verify", "{src}"], "no patch set"),
        (["convert", "{src}", "out", "--layout", "shards"], "no patch set"),
        (["convert", "{src}", "out"], "nothing to do"),
    ],
)
def test_a_wrong_call_exits_2_with_a_sentence(run: Run, prepared: Prepared, arguments: list[str], words: str) -> None:
    status, out, err = run(*(each.format(src=prepared.folder) for each in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert "Traceback" not in err
    assert not (prepared.root / "patches").exists()


@pytest.mark.parametrize("arguments", [["build", "--layout", "zip"], ["nonsense"], ["build", "--bogus", "3"]])
def test_what_the_parser_refuses_exits_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_errors_as_json(run: Run) -> None:
    status, out, _ = run("build", "nowhere", "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == "usage"


def test_options_from_a_file_are_overridden_by_the_command_line(run: Run, prepared: Prepared, tmp_path: Path) -> None:
    toml = tmp_path / "options.toml"
    toml.write_text('[build]\npatch-size = 16\nstride = [8, 4]\nlayout = "shards"\ndrop = ["a: mean < 0.1"]\n')
    status, _, _ = run("build", prepared.folder, "--config", toml, "--layout", "slices")
    meta = ctpatch.open(prepared.out).meta
    assert status == 0
    assert (meta.patch_size, meta.stride, meta.layout) == (16, (8, 4), "slices")
    assert [(rule.name, rule.condition) for rule in meta.drop_rules] == [("a", "mean < 0.1")]
    toml.write_text("patchsize = 16\n")
    status, _, err = run("build", prepared.folder, "--config", toml)
    assert (status, "there is no option 'patchsize'" in err) == (2, True)
    toml.write_text("patch_size = [\n")
    status, _, err = run("build", prepared.folder, "--config", toml)
    assert (status, "not valid TOML" in err) == (2, True)
    toml.write_text("value_range = 3\n")
    status, _, err = run("build", prepared.folder, "--config", toml)
    assert (status, "value_range" in err and "got 3" in err) == (2, True)


def test_pairs_of_pixels_are_rows_by_cols(run: Run, prepared: Prepared) -> None:
    run("build", prepared.folder, "--patch-size", "16x8", "--stride", "24x21")
    ps = ctpatch.open(prepared.out)
    assert ps.patch_size == (16, 8)
    assert ps.manifest.filter(ps.manifest["slice_index"] == 0).select("row", "col").rows() == [
        (row, col) for row in (0, 24) for col in (0, 21, 42)
    ]


def test_json_of_a_build_holds_the_meta(run: Run, prepared: Prepared) -> None:
    _, out, _ = run("build", prepared.folder, *SMALL_OPTIONS, "--json")
    (result,) = json.loads(out)
    assert result["outcome"] == "built"
    assert result["meta"]["num_patches"] == 60


def test_many_files_are_said_once(run: Run, tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(362, 362)])
    status, out, _ = run("plan", prepared.folder, "--patch-size", "4", "--stride", "1")
    assert status == 0
    assert "the layout files makes 128,881 files" in out
    assert "hint" not in run("plan", prepared.folder, "--patch-size", "4", "--stride", "1", "--layout", "shards")[1]


def test_text_from_data_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    prepared = make_split(tmp_path)
    prepared.manifest.write_text("path\nprepared/phantoms/train/\x1b[31mred.npy\n")
    status, _, err = run("build", prepared.folder)
    assert status == 1
    assert "\x1b" not in err
    assert "row 2" in err


def test_prepare_patches_is_build(prepared: Prepared) -> None:
    script = Path(__file__).resolve().parents[2] / "prepare_patches.py"
    command = [sys.executable, str(script), str(prepared.folder), *SMALL_OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "phantoms/train built:" in done.stdout) == (0, True)
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_the_module_runs_and_help_names_every_command() -> None:
    command = [sys.executable, "-m", "ctpatch", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0
    for name in ("build", "plan", "verify", "info", "convert", "demo"):
        assert f"│ {name} " in done.stdout


def test_the_demo_runs_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(tmp_path / "demo") == 0
    first = capsys.readouterr().out
    sets = sorted(path.parent for path in (tmp_path / "demo").rglob("patch_meta.json"))
    assert [path.name for path in sets] == ["test", "train", "validation"]
    assert first.count("ok: phantom/") == 3
    assert sum(rule.dropped for path in sets for rule in ctpatch.open(path).meta.drop_rules) > 0
    patients = [set(ctpatch.open(path).slices["patient_id"]) for path in sets]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    assert run_demo(tmp_path / "demo") == 0
    assert capsys.readouterr().out.count("nothing to do") == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--patch-size", "64"], "the set is empty: no slice is as large as a patch"),
        (["--patch-size", "16", "--drop", "all: std >= 0"], "the set is empty: the rules drop all windows"),
    ],
)
def test_an_empty_set_is_no_success(
    prepared: Prepared, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["build", str(prepared.folder), *options]) == 1
    assert said in capsys.readouterr().out
