"""Where the command line's output goes: to readers that are gone, to streams that are closed, to a terminal."""

import os
import re
import subprocess
import sys

import pytest

from ctpatch.cli.screen import ConsoleListener
from ctpatch.events import Notice, WorkAdvanced, WorkFinished, WorkStarted
from helpers import Prepared, build_one

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and closed streams are those of POSIX")


def run_unread(*arguments: str, buffered: bool) -> tuple[int, str]:
    """Run the command line with a stdout that nobody reads; the exit status and what is on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ctpatch", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr


def test_a_reader_that_is_gone_is_no_traceback(prepared: Prepared) -> None:
    build_one(prepared)
    assert run_unread("info", str(prepared.out), buffered=True) == (1, "")
    assert run_unread("info", str(prepared.out), buffered=False) == (1, "")
    assert run_unread("--help", buffered=True) == (1, "")


@pytest.mark.parametrize("buffered", [True, False])
def test_an_error_keeps_its_status_and_its_words_where_its_json_is_not_read(buffered: bool) -> None:
    status, said = run_unread("info", "--json", "no/such/folder", buffered=buffered)
    assert status == 2
    assert said == (
        "error: 'no/such/folder' does not exist; give the folder of a patch set (it holds patch_meta.json)\n"
    )


@pytest.mark.parametrize(
    ("streams", "folder", "status", "words"),
    [(">&-", "set", 0, ""), (">&-", "none", 2, "error: 'none' does not exist"), (">&- 2>&-", "none", 2, "")],
)
def test_closed_streams_change_no_status(
    prepared: Prepared, streams: str, folder: str, status: int, words: str
) -> None:
    build_one(prepared, out=prepared.root / "set")
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "ctpatch", "info", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=prepared.root)
    assert (done.returncode, done.stderr.partition(";")[0]) == (status, words)


def test_a_terminal_shows_how_far_the_work_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with ConsoleListener() as listener:
        listener(WorkStarted("phantoms/train", 1234, "slices"))
        listener(WorkAdvanced("phantoms/train", 7, patches=5))
        listener(WorkStarted("phantoms/test", 50, "files"))
        listener(WorkAdvanced("phantoms/test", 30))
        listener(WorkAdvanced("phantoms/test", 10, reused=True))
        listener(WorkStarted("phantoms/done", 99, "slices"))
        listener(WorkFinished("phantoms/done"))
    shown = capsys.readouterr()
    assert shown.out == ""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.err).replace("━", "").replace("╸", "").replace("╺", "")
    lines = [" ".join(line.split()) for line in re.split(r"[\r\n]+", plain)]
    train, test = (
        [line for line in lines if line.startswith(name)][-1] for name in ("phantoms/train", "phantoms/test")
    )
    assert re.fullmatch(r"phantoms/train 7/1234 slices [\d,]+ patches/s [-\d:]+ left", train)
    assert re.fullmatch(r"phantoms/test 40/50 files [\d,]+ files/s [-\d:]+ left", test)


def test_without_a_terminal_only_notices_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for quiet, wanted in ((False, "note: look at this \\x1b[31m\n"), (True, "")):
        with ConsoleListener(quiet=quiet) as listener:
            listener(WorkStarted("phantoms/train", 12, "slices"))
            listener(WorkAdvanced("phantoms/train", 7, patches=5))
            listener(Notice("code", "look at this \x1b[31m"))
        assert capsys.readouterr() == ("", wanted)
