"""Paths that stay below their root are taken and all others refused, against the path rules of both systems."""

import ntpath
import os
import posixpath
import string
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctpatch.files.paths import MAX_PATH_BYTES, PathError, Root, not_plain, plain_path
from helpers import refusal

PARTS = st.sampled_from(
    [
        "a",
        "b.npy",
        "..a",
        "b..",
        ".hidden",
        "...",
        "ä b",
        "10:30",
        "x:y",
        "C:",
        "c:d",
        "",
        ".",
        "..",
        "..",
        "~",
        "-",
        "%2e",
    ]
)
TEXTS = st.one_of(
    st.lists(PARTS, min_size=1, max_size=7).map("/".join),
    st.lists(PARTS, min_size=1, max_size=7).map("\\".join),
    st.lists(st.one_of(PARTS, st.sampled_from(["/", "\\"])), min_size=1, max_size=9).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)


def depth_first(text: str) -> list[str] | None:
    """The parts that are left when a path is walked, one at a time; None where the walk leaves its root."""
    left: list[str] = []
    for part in text.replace("\\", "/").split("/"):
        if part == ".." and not left:
            return None
        if part == "..":
            left.pop()
        elif part not in {"", "."}:
            left.append(part)
    return left


def lands_below(text: str) -> bool:
    """Whether a text leads to something below its root on POSIX and on Windows, by their own path rules."""
    slashed = text.replace("\\", "/")
    parts = depth_first(text)
    if not parts or any(ord(character) < 32 or ord(character) == 127 for character in text):
        return False
    if slashed.startswith("/") or names_a_drive(slashed) or names_a_drive(parts[0]):
        return False
    return len(text.encode()) <= MAX_PATH_BYTES


def names_a_drive(text: str) -> bool:
    return text[:1] in set(string.ascii_letters) and text[1:2] == ":"


def taken(text: str | None) -> str | None:
    try:
        return plain_path(text)
    except PathError:
        return None


@given(TEXTS)
@example("x/../C:/a.npy")
@example("./C:/a.npy")
@example("a/../..")
@example("x" * (MAX_PATH_BYTES + 1))
def test_what_lands_below_is_taken_and_all_else_refused(text: str) -> None:
    plain = taken(text)
    assert (plain is not None) == lands_below(text), (text, plain)
    if plain is None:
        return
    assert plain == "/".join(depth_first(text) or [])
    for rules, root in ((posixpath, "/data/root"), (ntpath, "C:\\data\\root")):
        joined = rules.normpath(root + rules.sep + plain)
        assert rules.commonpath([root, joined]) == root
        assert joined != root
    assert plain_path(plain) == plain


@given(st.lists(st.one_of(TEXTS, st.none()), max_size=20))
def test_a_column_is_judged_as_each_of_its_texts(texts: list[str | None]) -> None:
    wanted = [None if text is None else taken(text) != text for text in texts]
    assert not_plain(pl.Series(texts, dtype=pl.String)).to_list() == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "the path is empty; wanted a path relative to the data root"),
        ("", "the path is empty; wanted a path relative to the data root"),
        ("/etc/passwd", "'/etc/passwd' is an absolute path; wanted one relative to the data root"),
        ("C:\\a.npy", "'C:\\\\a.npy' is an absolute path; wanted one relative to the data root"),
        ("c:a.npy", "'c:a.npy' is an absolute path; wanted one relative to the data root"),
        (
            "\\\\server\\share\\a.npy",
            "'\\\\\\\\server\\\\share\\\\a.npy' is an absolute path; wanted one relative to the",
        ),
        ("\\\\?\\C:\\a.npy", "is an absolute path"),
        ("x/../C:/a.npy", "'x/../C:/a.npy' is an absolute path"),
        ("x\\..\\..\\a.npy", "'x\\\\..\\\\..\\\\a.npy' leaves the data root; wanted a path below it"),
        ("a/..", "'a/..' is the data root itself; wanted the path of a slice"),
        ("a\x00b", "'a\\x00b' holds a control character; rename the file"),
        ("a\x7f", "'a\\x7f' holds a control character; rename the file"),
        ("ä" * 2049, f"the path is too long: 4098 bytes, wanted at most 4096; it begins with {'ä' * 60!r}"),
    ],
)
def test_a_refusal_says_what_was_seen_and_wanted(text: str | None, said: str) -> None:
    assert said in refusal(PathError, lambda: plain_path(text))


def test_the_longest_path_is_taken() -> None:
    longest = "a/" * (MAX_PATH_BYTES // 2 - 1) + "ab"
    assert len(longest) == MAX_PATH_BYTES
    assert plain_path(longest) == longest
    assert not_plain(pl.Series([longest, longest + "c"])).to_list() == [False, True]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with links of every kind; folders beside it hold what must not be reached."""
    root = tmp_path / "base"
    for folder in ("base/in", "base2", "outside"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.npy").write_bytes(b"")
    for name, target in {
        "file": "in/a.npy",
        "folder": "in",
        "again": "folder",
        "up": ".",
        "gone": "in/none.npy",
        "out": "../outside/a.npy",
        "chain": "out",
        "gone-out": "../outside/none.npy",
        "twin": "../base2",
        "outer": "..",
        "back": "../outside/../base/in",
        "circle": "circle",
    }.items():
        try:
            (root / name).symlink_to(target)
        except OSError:
            pytest.skip("this user may not make links")
    return root


INSIDE = ["in/a.npy", "in/none.npy", "none/none.npy", "file", "folder/a.npy", "again/a.npy", "up/up/in/a.npy", "gone"]
OUTSIDE = ["out", "chain", "gone-out", "twin/a.npy", "twin/none.npy", "outer/outside/a.npy", "outer/base2/a.npy"]


def test_links_are_followed_where_they_stay_below(root: Path) -> None:
    held = Root(root)
    assert [path for path in INSIDE if not held.holds(path)] == []
    assert [path for path in OUTSIDE if held.holds(path)] == []
    assert held.holds("back/a.npy")  # it leaves on its way, and comes back
    assert held.holds("circle")  # it leads nowhere, so not out either
    inside = ["", "in", "folder", "again", "up/in"]
    assert [folder for folder in [*inside, "twin", "outer"] if held.holds_folder(folder)] == inside


def test_links_are_not_followed_where_none_may_be(root: Path) -> None:
    held = Root(root, links=False)
    assert [path for path in INSIDE + OUTSIDE if held.holds(path)] == ["in/a.npy", "in/none.npy", "none/none.npy"]
    plain = ["", "in", "in/"]
    assert [folder for folder in [*plain, "folder", "up", "outer"] if held.holds_folder(folder)] == plain


@pytest.mark.parametrize("links", [True, False])
def test_the_root_may_itself_be_a_link(root: Path, links: bool) -> None:
    (root.parent / "alias").symlink_to(root)
    held = Root(root.parent / "alias", links=links)
    assert held.holds("in/a.npy")
    assert os.path.samefile(held.resolve("in\\.\\a.npy"), root / "in/a.npy")


def test_where_a_file_is(root: Path) -> None:
    held = Root(root)
    assert held.resolve("in/../folder/a.npy") == f"{os.path.realpath(root)}{os.sep}folder/a.npy"
    for path in OUTSIDE:
        said = refusal(PathError, partial(held.resolve, path))
        assert said == f"{path!r} leaves the data root through a link, which is not followed"
    assert refusal(PathError, lambda: held.resolve("../base/in/a.npy")).startswith("'../base/in/a.npy' leaves the data")


def test_more_folders_than_are_remembered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctpatch.files.paths._KNOWN_FOLDERS", 2)
    held = Root(root)
    assert [held.holds(path) for path in ["in/a.npy", "x/a", "twin/a.npy", "y/a", "in/a.npy", "twin/a.npy"]] == [
        True, True, False, True, True, False,
    ]  # fmt: skip
