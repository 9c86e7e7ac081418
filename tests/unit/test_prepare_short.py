"""What a run found in few lines: counts, the first three names on a terminal, no names elsewhere."""

from ctpatch.prepare.readers.base import LeftOut, SeriesNote
from ctpatch.prepare.short import first_three, left_out_lines, series_lines

FILES = [LeftOut(f"{number:02d}/.gitignore", "not-dicom", "it is no DICOM file") for number in range(20)]


def test_many_of_a_kind_are_one_line_with_three_names_or_a_count() -> None:
    found = [LeftOut("scout", "localizer", "it is a scout view"), *FILES]
    assert left_out_lines(found, names_shown=True) == [
        "20 not-dicom: it is no DICOM file (00/.gitignore, 01/.gitignore, 02/.gitignore and 17 more)",
        "1 localizer: it is a scout view (scout)",
    ]
    assert left_out_lines(found, names_shown=False) == [
        "20 not-dicom: it is no DICOM file",
        "1 localizer: it is a scout view",
    ]
    assert left_out_lines([], names_shown=True) == []


def test_a_kind_with_several_reasons_gives_each_with_its_file_or_its_count() -> None:
    reasons = ["is shifted", "is smaller", "is shifted", "is tilted", "is shifted", "is turned"]
    found = [LeftOut(name, "pair-differs", reason) for name, reason in zip("abcdef", reasons, strict=True)]
    assert left_out_lines(found, names_shown=True) == [
        "6 pair-differs: a: is shifted; b: is smaller; c: is shifted and 3 more"
    ]
    assert left_out_lines(found, names_shown=False) == [
        "6 pair-differs: is shifted (3); is smaller (1); is tilted (1) and 1 more"
    ]


def test_thousands_are_told_as_such() -> None:
    (line,) = left_out_lines([FILES[0]] * 1234, names_shown=False)
    assert line.startswith("1,234 not-dicom: ")


def test_three_are_named_and_no_more() -> None:
    assert [first_three(list("abcd")[:count]) for count in range(1, 5)] == [
        "a",
        "a, b",
        "a, b, c",
        "a, b, c and 1 more",
    ]


def test_series_have_their_description_on_a_terminal_and_a_count_elsewhere() -> None:
    notes = [SeriesNote("gap", f"s{number}", f"{number} gaps") for number in range(5)]
    notes += [
        SeriesNote("tilt", "s1", "it is tilted"),
        SeriesNote("turned", "s2", "t"),
        SeriesNote("turned", "s3", "t"),
    ]
    called = {"s0": "'Chest B70f' in a/b", "s1": "'Lung'", "s2": "'Thorax'", "s3": "'Head'", "s4": "'Neck'"}
    assert series_lines(notes, called, names_shown=True) == {
        "gap": "5 series: 'Chest B70f' in a/b: 0 gaps; 'Lung': 1 gaps; 'Thorax': 2 gaps and 2 more; "
        "prepare_meta.json has all",
        "tilt": "it is tilted ('Lung')",
        "turned": "t ('Thorax', 'Head')",
    }
    assert series_lines(notes, called, names_shown=False) == {
        "gap": "5 series, the first: 0 gaps; prepare_meta.json has all",
        "tilt": "it is tilted (1 series)",
        "turned": "t (2 series; prepare_meta.json has all)",
    }
