"""Partners: of the same patient and place, one for each, pixel on pixel; everyone else is named."""

from dataclasses import replace
from typing import Any

from ctpatch.prepare.pairs import match
from ctpatch.prepare.patterns import of_series
from ctpatch.prepare.readers.base import RawSlice

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def raw(file: str, position: float | None, group: str = "ann", **more: Any) -> RawSlice:
    values: dict[str, Any] = {
        "spacing_mm": (0.8, 0.8),
        "origin_mm": (-20.0, -16.0, position or 0.0),
        "axes": AXES,
        "order": 0,
        "series": "s",
    }
    return RawSlice(file, 0, (40, 50), group, "patient", position_mm=position, **(values | more))


def test_by_position_whatever_the_order_and_names() -> None:
    images = [raw("a", 0.0), raw("b", 2.0), raw("c", 4.0), raw("d", 2.0, "bob")]
    others = [raw("z", 4.05), raw("y", 0.0), raw("x", 2.0), raw("w", 2.0, "bob")]
    found = match(images, others, "position")
    assert {image.file: other.file for image, other in found.partners.items()} == {
        "a": "y", "b": "x", "c": "z", "d": "w"
    }  # fmt: skip
    assert (found.images_left, found.others_left) == ([], [])


def test_everyone_without_a_partner_is_listed_on_both_sides() -> None:
    found = match([raw("a", 0.0), raw("b", 2.0), raw("n", None)], [raw("y", 2.2), raw("x", 0.0)], "position")
    assert [image.file for image in found.partners] == ["a"]
    assert [(each.where, each.kind) for each in found.images_left] == [("b", "unmatched"), ("n", "unmatched")]
    assert [(each.where, each.kind) for each in found.others_left] == [("y", "unmatched")]


def test_partners_that_do_not_lie_pixel_on_pixel_are_refused() -> None:
    image = raw("a", 0.0)
    cases = {
        "40x51 pixels": replace(image, file="o", shape=(40, 51)),
        "a spacing of 0.9": replace(image, file="o", spacing_mm=(0.9, 0.9)),
        "another orientation": replace(image, file="o", axes=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)),
        "shifted by 3.00 mm": replace(image, file="o", origin_mm=(-17.0, -16.0, 0.0)),
    }
    for said, other in cases.items():
        found = match([image], [other], "position")
        assert found.partners == {}
        assert found.images_left[0].kind == "pair-differs"
        assert said in found.images_left[0].reason


def test_two_that_could_be_meant_are_not_guessed() -> None:
    twice = match([raw("a", 0.0)], [raw("x", 0.0), raw("y", 0.0)], "position")
    assert [(each.where, each.kind) for each in twice.images_left] == [("a", "pair-ambiguous")]
    claimed = match([raw("a", 0.0), raw("b", 0.0)], [raw("x", 0.0)], "position")
    assert claimed.partners == {}
    assert [each.where for each in claimed.images_left] == ["a", "b"]


def test_by_path_and_by_order() -> None:
    images = [raw("p/1", None), raw("p/2", None)]
    assert match(images, [raw("p/2", None, "bob")], "path").partners.keys() == {images[1]}
    others = [raw("o.h5", None, series="s", order=1)]
    assert match([raw("i.h5", None, series="s", order=1)], others, "order").partners
    assert not match([raw("i.h5", None, series="s", order=2)], others, "order").partners


def test_patterns_look_at_paths_and_labels_in_any_case() -> None:
    slices = [raw("L067/Full Dose/1", 0.0), raw("L067/quarter/1", 0.0, label="Thorax  8.0  B40f B40f")]
    assert of_series(slices, "*full dose*") == slices[:1]
    assert of_series(slices, "*b40F*") == slices[1:]
    assert of_series(slices, None) == slices
