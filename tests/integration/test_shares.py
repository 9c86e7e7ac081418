"""A build in shares, by commands that know nothing of each other, and their merge."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import (
    ConfigError,
    IncompleteError,
    OutputConflictError,
    OutputLockedError,
    SourceChangedError,
    UsageError,
)
from ctpatch.events import Event, WorkAdvanced, WorkStarted
from ctpatch.testing.executors import DEADLINE
from ctpatch.work.share import Share
from helpers import LAYOUTS, SMALL, Heard, Prepared, assert_same_tree, build_one, make_split, small_parts, tree_bytes

SHAPES = [(40, 50)] * 11 + [(33, 47)] * 4
COMMAND = ["--patch-size", "16", "--stride", "8"]
# The command, with parts so small that there are many.
RUN = """
import importlib, sys
plan = importlib.import_module("ctpatch.cutting.plan")
plan.LIMITS = plan.PartLimits(slices=2, packed_windows=40)
from ctpatch.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=2, packed_windows=40)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return make_split(tmp_path / "root", SHAPES)


def share_one(prepared: Prepared, share: str, config: ctpatch.PatchConfig = SMALL, **options: Any) -> Any:
    (result,) = ctpatch.build_share(prepared.folder, share, config, **options)
    return result


def test_a_share_is_written_as_it_is_said() -> None:
    assert Share.parse("3/16") == Share(3, 16)
    assert str(Share.parse(" 3 / 16 ")) == "3/16"
    assert [number for number in range(40) if Share(3, 16).takes(number)] == [2, 18, 34]
    for parts in (1, 5, 16, 100):
        taken = [number for k in range(1, 17) for number in range(parts) if Share(k, 16).takes(number)]
        assert sorted(taken) == list(range(parts))


@pytest.mark.parametrize(
    "text", ["", "3", "0/16", "17/16", "-1/4", "1/0", "a/b", "1/2/3", "1.5/2", "٣/16", "1/1000000"]
)
def test_what_is_no_share_is_refused(prepared: Prepared, text: str) -> None:
    with pytest.raises(ConfigError, match="wanted the number of a share and how many there are, as 3/16"):
        share_one(prepared, text)
    assert not prepared.out.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sixteen_shares_at_the_same_time_give_the_same_bytes(tmp_path: Path, prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout, out=tmp_path / "whole")
    numbers = list(range(1, 17))
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda number: share_one(prepared, f"{number}/16", layout=layout), numbers))
    parts = len(list(ctpatch.plan(prepared.folder, SMALL)[0].parts(layout)))
    assert [result.parts for result in results] == [1] * parts + [0] * (16 - parts)
    assert sum(result.num_slices for result in results) == len(SHAPES)
    merged = ctpatch.merge(prepared.out)
    assert (merged.outcome, merged.complete) == ("merged", True)
    build_one(prepared, layout=layout, overwrite=True)  # where paths are those of the default folder
    again = tree_bytes(prepared.out)
    shutil.rmtree(prepared.out)
    for number in reversed(numbers):
        share_one(prepared, f"{number}/16", layout=layout)
    ctpatch.merge(prepared.out)
    assert_same_tree(tree_bytes(prepared.out), again)
    assert ctpatch.verify(prepared.out, deep=True).ok


def test_shares_of_many_processes_begun_at_the_same_moment(prepared: Prepared) -> None:
    wanted = tree_bytes(build_one(prepared).folder)
    shutil.rmtree(prepared.out)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, "build", str(prepared.folder), *COMMAND, "--share", f"{number}/4"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(1, 5)
    ]
    try:
        said = [process.communicate(timeout=DEADLINE) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * 4, said
    assert all(f"share {number}/4 is done" in out for number, (out, _err) in enumerate(said, start=1))
    assert main(["merge", str(prepared.out)]) == 0
    assert_same_tree(tree_bytes(prepared.out), wanted)


def test_progress_is_of_the_share(prepared: Prepared) -> None:
    heard = Heard()
    share_one(prepared, "2/3", listener=heard)
    (begun,) = [event for event in heard.events if isinstance(event, WorkStarted)]
    assert begun.total == sum(event.steps for event in heard.events if isinstance(event, WorkAdvanced)) == 5


def test_missing_shares_are_named(prepared: Prepared) -> None:
    for number in (1, 4):
        share_one(prepared, f"{number}/4")
    with pytest.raises(IncompleteError) as error:
        ctpatch.merge(prepared.out)
    assert "4 part(s) are not done: share 2/4 (2 parts, not begun), share 3/4 (2 parts, not begun)" in str(error.value)
    assert not (prepared.out / "patch_meta.json").exists()
    assert ctpatch.verify(prepared.out).status == "incomplete"
    for number in (2, 3):
        share_one(prepared, f"{number}/4")
    next((prepared.out / ".ctpatch").glob("000005.receipt.json")).write_bytes(b"{}")
    with pytest.raises(IncompleteError, match=r"1 part\(s\) are not done: share 2/4 \(1 parts\); build these"):
        ctpatch.merge(prepared.out)
    assert share_one(prepared, "2/4").reused == 1
    assert ctpatch.merge(prepared.out).outcome == "merged"
    assert ctpatch.merge(prepared.out).outcome == "complete"


def test_where_shares_were_counted_in_two_ways_parts_are_named(prepared: Prepared) -> None:
    share_one(prepared, "1/4")
    share_one(prepared, "1/3")
    with pytest.raises(IncompleteError, match=r"part 1, part 2, part 5, part 7; build"):
        ctpatch.merge(prepared.out)


def test_a_share_again_does_nothing_anew(prepared: Prepared) -> None:
    first = share_one(prepared, "1/2")
    stamps = {path: path.stat().st_mtime_ns for path in prepared.out.rglob("*.npy")}
    again = share_one(prepared, "1/2")
    assert (first.reused, again.reused, again.parts) == (0, 4, 4)
    assert {path: path.stat().st_mtime_ns for path in prepared.out.rglob("*.npy")} == stamps
    share_one(prepared, "2/2")
    ctpatch.merge(prepared.out)
    done = share_one(prepared, "1/2")
    assert (done.set_complete, done.parts) == (True, 0)
    assert not (prepared.out / ".ctpatch").exists()


def test_a_whole_build_goes_on_with_shares_and_shares_with_a_whole_build(prepared: Prepared) -> None:
    wanted = tree_bytes(build_one(prepared).folder)
    shutil.rmtree(prepared.out)
    share_one(prepared, "1/3")
    assert build_one(prepared).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), wanted)
    shutil.rmtree(prepared.out)

    def stop(event: Event) -> None:
        if isinstance(event, WorkAdvanced):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_one(prepared, listener=stop)
    assert [share_one(prepared, f"{number}/2").reused for number in (1, 2)] == [1, 0]
    ctpatch.merge(prepared.out)
    assert_same_tree(tree_bytes(prepared.out), wanted)


def test_other_options_in_one_share_are_refused(prepared: Prepared) -> None:
    share_one(prepared, "1/2")
    before = tree_bytes(prepared.out)
    with pytest.raises(OutputConflictError, match=r"stride was \[8, 8\], now \[16, 16\]"):
        share_one(prepared, "2/2", ctpatch.PatchConfig(patch_size=16, stride=16))
    with pytest.raises(OutputConflictError, match='layout was "files", now "shards"'):
        share_one(prepared, "2/2", layout="shards")
    assert_same_tree(tree_bytes(prepared.out), before)


def test_files_that_are_not_ours_are_not_written_over(prepared: Prepared) -> None:
    prepared.out.mkdir(parents=True)
    (prepared.out / "train_000000_000_000.npy").write_bytes(b"mine")
    with pytest.raises(OutputConflictError, match="ctpatch did not put there"):
        share_one(prepared, "1/2")
    assert tree_bytes(prepared.out) == {"train_000000_000_000.npy": b"mine"}


def test_a_finished_set_of_other_options_is_refused(prepared: Prepared) -> None:
    build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=16))
    with pytest.raises(OutputConflictError, match="holds a finished set made otherwise"):
        share_one(prepared, "1/2")


def test_a_slice_left_out_shows_in_its_share_and_in_the_merge(prepared: Prepared) -> None:
    image = np.load(prepared.file(3))
    image[0, 0] = 7
    np.save(prepared.file(3), image)
    results = [share_one(prepared, f"{number}/2", on_error="skip") for number in (1, 2)]
    assert [result.num_skipped for result in results] == [0, 1]
    assert "holds 7.0 at row 0, col 0" in results[1].skipped[0]
    merged = ctpatch.merge(prepared.out)
    assert not merged.complete
    assert merged.meta.num_slices == len(SHAPES) - 1


# Who holds what.


def test_a_share_and_the_whole_keep_out_of_each_others_way(prepared: Prepared) -> None:
    said: list[str] = []

    def try_others(event: Event) -> None:
        if isinstance(event, WorkAdvanced) and not said:
            for attempt in (
                lambda: build_one(prepared),
                lambda: build_one(prepared, overwrite=True),
                lambda: share_one(prepared, "1/2"),
            ):
                with pytest.raises(OutputLockedError) as error:
                    attempt()
                said.append(error.value.message)
            said.append(str(share_one(prepared, "2/2").parts))

    assert share_one(prepared, "1/2", listener=try_others).parts == 4
    me = f"process {os.getpid()} on {socket.gethostname()!r}"
    assert f"share 1/2 of it is being written by {me}" in said[0]
    assert f"share 1/2 of it is being written by {me}" in said[1]
    assert f"share 1/2 of train is being written by {me}" in said[2]
    assert said[3] == "4"
    assert ctpatch.merge(prepared.out).complete
    shutil.rmtree(prepared.out)
    said.clear()

    def try_share(event: Event) -> None:
        if isinstance(event, WorkAdvanced) and not said:
            with pytest.raises(OutputLockedError) as error:
                share_one(prepared, "1/2")
            said.append(error.value.message)

    build_one(prepared, listener=try_share)
    assert f"it is being written by {me}" in said[0]


def test_a_share_whose_machine_is_gone_is_done_on_another(prepared: Prepared) -> None:
    wanted = tree_bytes(build_one(prepared).folder)
    shutil.rmtree(prepared.out)
    share_one(prepared, "1/2")
    place = prepared.out / ".ctpatch" / "share-2-of-2"
    place.mkdir()
    owner = {"pid": 1, "host": "node7", "since": "2024-01-01T00:00:00Z"}
    (place / "owner.json").write_text(json.dumps(owner))
    (place / "begun").touch()
    with pytest.raises(IncompleteError, match=r"share 2/2 \(4 parts, held by process 1 on 'node7' since 2024"):
        ctpatch.merge(prepared.out)
    with pytest.raises(OutputLockedError, match=re.escape("remove .ctpatch/share-2-of-2/owner.json")):
        build_one(prepared)
    heard = Heard()
    share_one(prepared, "2/2", listener=heard)
    assert "took over from process 1 on 'node7'" in heard.notices("stale-lock")[0]
    ctpatch.merge(prepared.out)
    assert_same_tree(tree_bytes(prepared.out), wanted)


# Merging.


def test_nothing_to_merge(tmp_path: Path, prepared: Prepared) -> None:
    for folder in (prepared.root, tmp_path / "none"):
        with pytest.raises(UsageError, match="nothing was begun there"):
            ctpatch.merge(folder)
    assert sorted(os.listdir(prepared.root)) == ["prepared"]
    assert not (tmp_path / "none").exists()


def test_sources_that_changed_since_are_refused(prepared: Prepared) -> None:
    for number in (1, 2):
        share_one(prepared, f"{number}/2")
    image = np.load(prepared.file(3))
    np.save(prepared.file(3), image / 2)
    with pytest.raises(SourceChangedError, match=r"train_000003\.npy has changed since it was cut"):
        ctpatch.merge(prepared.out)
    np.save(prepared.file(3), image)
    text = prepared.manifest.read_text()
    prepared.manifest.write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(SourceChangedError, match="is not what the shares were cut from"):
        ctpatch.merge(prepared.out)
    prepared.manifest.write_text(text)
    assert ctpatch.merge(prepared.out).complete


def test_an_output_elsewhere_needs_the_data_root(tmp_path: Path, prepared: Prepared) -> None:
    for number in (1, 2):
        share_one(prepared, f"{number}/2", out=tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="give the data root the shares were built with"):
        ctpatch.merge(tmp_path / "elsewhere")
    assert ctpatch.merge(tmp_path / "elsewhere", source=prepared.manifest).complete
    build_one(prepared, out=tmp_path / "whole")
    assert_same_tree(tree_bytes(tmp_path / "elsewhere"), tree_bytes(tmp_path / "whole"))


def test_a_damaged_record_is_refused(prepared: Prepared) -> None:
    share_one(prepared, "1/1")
    record = prepared.out / ".ctpatch" / "build.json"
    begun = json.loads(record.read_text())
    del begun["options"]["stride"]
    record.write_text(json.dumps(begun))
    with pytest.raises(OutputConflictError, match="the record of the build is damaged"):
        ctpatch.merge(prepared.out)


def test_commands(prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(prepared.folder)
    assert main(["build", source, *COMMAND, "--share", "1/2", "--json"]) == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert (first["parts"], first["share"]) == (4, {"number": 1, "of": 2})
    assert main(["merge", str(prepared.out)]) == 1
    assert "share 2/2" in capsys.readouterr().err
    assert main(["build", source, *COMMAND, "--share", "2/2", "--overwrite"]) == 2
    assert "share, overwrite" in capsys.readouterr().err
    assert main(["build", source, *COMMAND, "--share", "2/2"]) == 0
    assert "when all 2 shares are done: ctpatch merge" in capsys.readouterr().out
    assert main(["merge", str(prepared.out.parent), "--json"]) == 0
    (merged,) = json.loads(capsys.readouterr().out)
    assert (merged["outcome"], merged["complete"]) == ("merged", True)
    assert main(["merge"]) == 2
