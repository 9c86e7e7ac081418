"""What a message quotes comes from anywhere: it is printable, of a bounded length, and the same in another process."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import ctpatch
from ctpatch.checking.findings import Finding
from ctpatch.config import PatchConfig
from ctpatch.errors import CtPatchError, FormatError, NpyError
from ctpatch.events import Notice
from helpers import make_split, write_manifest

ODD = {
    "\x1b[2J": "\\x1b[2J",
    "a\nerror: b": "a\\nerror: b",
    "a\r\tb": "a\\r\\tb",
    "\x00": "\\x00",
    "\x9b31m": "\\x9b31m",
    "\u202eevil": "\\u202eevil",
    "\udcff": "\\udcff",
    "Köln, 患者": "Köln, 患者",
}

MAKERS: list[Callable[[str], str]] = [
    lambda text: FormatError(text).message,
    lambda text: str(NpyError(text)),
    lambda text: Notice("code", text).message,
    lambda text: Finding("check", "file", None, text).message,
]


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("odd", ODD)
def test_control_characters_are_escaped(made: Callable[[str], str], odd: str) -> None:
    assert made(f"the cell is {odd}; remove it") == f"the cell is {ODD[odd]}; remove it"


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("cell", ["x" * 10**6, "x y " * 10**6, "\x1b" * 10**6, " " * 10**6])
def test_long_cells_are_shortened_and_the_ends_stay(made: Callable[[str], str], cell: str) -> None:
    message = made(f"column patient_id: {cell} is too long; remove the row")
    assert message.startswith("column patient_id: ")
    assert message.endswith("; remove the row")
    assert "[...]" in message
    assert len(message) < 2100


def test_a_long_path_stays_whole() -> None:
    path = "/".join(["1.2.840.10008.5.1.4.1.1.2"] * 15)
    assert NpyError(f"{path} is missing").message == f"{path} is missing"


def test_the_name_at_the_end_of_a_longer_path_stays_whole() -> None:
    path = "folder/" * 100 + "n" * 251 + ".npy"
    assert NpyError(f"{path} is missing").message.endswith("/" + "n" * 251 + ".npy is missing")


def test_lines_stay_lines_and_survive_the_way_to_another_process() -> None:
    with pytest.raises(CtPatchError) as caught:
        PatchConfig(patch_size=0, stride=-1)
    error = caught.value
    assert [line.partition(":")[0] for line in error.message.splitlines()] == ["patch_size", "stride"]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.message, str(again)) == (error.message, error.message)


def test_a_cell_of_a_manifest_in_the_message_of_the_build(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, [(20, 20)] * 2)
    write_manifest(prepared.manifest, {"path": prepared.paths["image"], "min": ["0", "\x1b[31m" + "9" * 100_000 + "x"]})
    with pytest.raises(CtPatchError) as caught:
        ctpatch.build(prepared.folder)
    message = caught.value.message
    assert "train_manifest.csv row 3, column min: " in message
    assert message.endswith("is not a number")
    assert "\x1b" not in message
    assert len(message) < 1000
