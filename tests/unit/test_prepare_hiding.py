"""Names in messages: found as whole words, and never where a message has the same word or number of its own."""

import pytest

from ctpatch.prepare.part import without_names
from ctpatch.prepare.privacy.hiding import is_usual, replace_names
from ctpatch.prepare.readers.base import RawSlice

HEADER = "it promises one slice of 4096 bytes in 4 planes of 14 pixels, it holds 4000; wanted (4, 4)"


@pytest.mark.parametrize("number", ["4", "0", "14", "4096", "40"])
def test_an_id_that_is_a_number_garbles_no_message(number: str) -> None:
    raw = RawSlice(f"{number}/{number}.dcm", 0, (4, 4), number, "patient", number, 0)
    assert without_names(f"{number}/{number}.dcm: {HEADER}", [raw]) == f"the file: {HEADER}"
    flat = RawSlice(number, 4, (4, 4), number, "patient", number, 0)
    assert without_names(f"{number}[4]: {HEADER}", [flat]) == f"the file[4]: {HEADER}"


@pytest.mark.parametrize("word", ["a", "ct", "it", "slices", "pixels", "DICOM", "image"])
def test_a_folder_with_the_name_of_a_word_garbles_no_message(word: str) -> None:
    said = "it is a link of ct slices, whose DICOM image has no pixels"
    raw = RawSlice(f"{word}/x7", 0, (4, 4), f"folder {word}", "folder", word, 0)
    assert without_names(f"{word}/x7 holds it; {said}", [raw]) == f"the file holds it; {said}"


def test_names_within_words_stay() -> None:
    raw = RawSlice("Ann/head", 0, (4, 4), "Ann", "patient", "header", 0)
    assert without_names("Ann/head: its overhead in Annex A is Ann's", [raw]) == (
        "the file: its overhead in Annex A is the file's"
    )


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("4: it holds 4 slices", "F: it holds 4 slices"),
        ("4[3] holds NaN or infinity", "F[3] holds NaN or infinity"),
        ("2 are not there; 4: cut short (4: damaged)", "2 are not there; F: cut short (F: damaged)"),
        ("the source puts '4' into train", "the source puts 'F' into train"),
        ("patient 4 of study 4 in file 4 has 4", "patient F of study F in file F has 4"),
        ("patients.csv row 4: it is empty", "patients.csv row 4: it is empty"),
        ("4.5 mm, 4 x 4, 1/4, -4", "4.5 mm, 4 x 4, 1/4, -4"),
    ],
)
def test_a_number_is_a_name_where_a_name_stands(message: str, wanted: str) -> None:
    assert replace_names(message, {"4": "F"}) == wanted


def test_longer_names_go_first_and_nothing_is_replaced_twice() -> None:
    stands_for = {"Doe^Jane/IM1": "Doe^Jane", "Doe^Jane": "X"}
    assert replace_names("Doe^Jane/IM1: see Doe^Jane", stands_for) == "Doe^Jane: see X"
    assert replace_names("nothing", stands_for) == "nothing"
    assert replace_names("an empty name", {"": "X"}) == "an empty name"


def test_what_can_name_a_person_is_no_usual_word() -> None:
    for name in ("Meyer", "meyer", "HOSP-8842-7719", "123456", "7.0", "Li7", "19420317", "1.2.840.1", "ID-4", "dr_no"):
        assert not is_usual(name)
        assert replace_names(f"patient's {name} is", {name: "X"}) == "patient's X is"
