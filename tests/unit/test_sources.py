"""Finding splits and reading source manifests: what is taken, and what is refused by file, row and column."""

import os
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctpatch.errors import ConfigError, NpyError, SourceManifestError, UsageError
from ctpatch.format.slice_headers import is_labels, scan_headers
from ctpatch.format.source_manifest import (
    SourceTable,
    read_source_manifest,
    split_manifest_csv,
)
from ctpatch.format.splits import SplitSource, find_sets, find_splits
from helpers import refusal

MANIFEST = "prepared/ds/train/train_manifest.csv"


def manifest(root: Path, content: str | bytes, place: str = MANIFEST) -> Path:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def link(path: Path, target: Path | str, *, folder: bool = False) -> None:
    try:
        path.symlink_to(target, target_is_directory=folder)
    except (OSError, NotImplementedError):
        pytest.skip("this system, or this user, has no symbolic links")


def read(root: Path, content: str | bytes) -> SourceTable:
    return read_source_manifest(SplitSource("ds", "train", manifest(root, content), root))


def paths(root: Path, content: str | bytes) -> list[str]:
    return read(root, content).frame["src_path"].to_list()


def refused(root: Path, content: str | bytes) -> str:
    message = refusal(SourceManifestError, lambda: read(root, content))
    assert message.startswith(MANIFEST)
    return message


class TestCells:
    def test_the_plain_manifest(self, tmp_path: Path) -> None:
        table = read(tmp_path, "path\nprepared/ds/train/a.npy\nb.npy\n")
        assert table.arrays == ("image",)
        assert table.frame.to_dicts() == [
            {"slice_index": 0, "src_path": "prepared/ds/train/a.npy", "patient_id": None, "stated_min": None,
             "stated_max": None},
            {"slice_index": 1, "src_path": "b.npy", "patient_id": None, "stated_min": None, "stated_max": None},
        ]  # fmt: skip

    def test_all_columns(self, tmp_path: Path) -> None:
        table = read(
            tmp_path,
            "index,path,note,min,max,patient_id,target_path,lung_mask_path\n"
            "7,a.npy,x,0,1.0,P 1,ta.npy,ma.npy\n 3 ,b.npy,,-1e-3,,,tb.npy,mb.npy\n",
        )
        assert table.arrays == ("image", "target", "lung_mask")
        assert table.frame.to_dicts() == [
            {"slice_index": 7, "src_path": "a.npy", "target_path": "ta.npy", "lung_mask_path": "ma.npy",
             "patient_id": "P 1", "stated_min": 0.0, "stated_max": 1.0},
            {"slice_index": 3, "src_path": "b.npy", "target_path": "tb.npy", "lung_mask_path": "mb.npy",
             "patient_id": None, "stated_min": -0.001, "stated_max": None},
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "content",
        [
            b"\xef\xbb\xbfpath\na.npy\nb.npy\n",
            b"path\r\na.npy\r\nb.npy\r\n",
            b"\xef\xbb\xbfpath,max\r\na.npy,1\r\nb.npy,\r\n",
            b"path\na.npy\nb.npy",
            b"path\na.npy\nb.npy\n\n\n",
            b" path , x\n a.npy ,1\nb.npy\t,2\n",
            b'"path"\n"a.npy"\n"b.npy"\n',
            b"path,x\na.npy,1\nb.npy,2\n,\n,\n",
        ],
        ids=["bom", "crlf", "bom-crlf", "no-end", "blank-end", "spaces", "quoted", "spreadsheet-end"],
    )
    def test_how_editors_and_spreadsheets_write_it(self, tmp_path: Path, content: bytes) -> None:
        assert paths(tmp_path, content) == ["a.npy", "b.npy"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", ["is empty; wanted a header with 'path' and a row for each slice"]),
            (" \n\n", ["is empty"]),
            ("path\n", ["lists no slices: it has a header and no rows", "prepare the split first"]),
            ("path,index", ["lists no slices"]),
            ("path,index\n,\n,\n", ["lists no slices"]),
            ("file,index\na.npy,0\n", ["has no column 'path' (it has file, index)", "relative to the data root"]),
            (
                "slice\na.npy\n",
                ["has no column 'path' (it has slice)", "if the slices are in 'slice', name this column"],
            ),
            ("path;index\na.npy;0;1\n", ["as many cells in each row, separated by ';'"]),
            ("path,index\na.npy,0,1\n", ["as many cells in each row"]),
            (b"path\n\xff\xfe\n", ["is not a CSV in UTF-8"]),
            ('path\n"a.npy\n', ["is not a CSV"]),
            ("path, path\na.npy,b.npy\n", ["is not a CSV", "path"]),
            ("path\na.npy\n\nb.npy\n", ["row 3, column path: the path is empty"]),
            ("path,index\na.npy,0\n,1\n", ["row 3, column path: the path is empty", "relative to the data root"]),
        ],
    )
    def test_a_manifest_that_is_none(self, tmp_path: Path, content: str | bytes, said: list[str]) -> None:
        message = refused(tmp_path, content)
        for each in said:
            assert each in message

    def test_a_semicolon_is_only_named_where_it_is(self, tmp_path: Path) -> None:
        assert ";'" not in refused(tmp_path, "file,index\na.npy,0\n")

    @pytest.mark.parametrize(
        ("cell", "wanted"),
        [
            (r"prepared\ds\train\a.npy", "prepared/ds/train/a.npy"),
            (r"prepared/ds\a.npy", "prepared/ds/a.npy"),
            ("./a.npy", "a.npy"),
            ("x/../a.npy", "a.npy"),
            (r"x\..\.\y\a.npy", "y/a.npy"),
            ("x//a.npy", "x/a.npy"),
            ("Bücher/ä b.npy", "Bücher/ä b.npy"),
            ("..a/b..npy", "..a/b..npy"),
            ("10:30.npy", "10:30.npy"),
            ('"a,b.npy"', "a,b.npy"),
        ],
    )
    def test_paths_are_made_plain(self, tmp_path: Path, cell: str, wanted: str) -> None:
        assert paths(tmp_path, f"path\n{cell}\nz.npy\n") == [wanted, "z.npy"]

    @pytest.mark.parametrize(
        ("cell", "said"),
        [
            ("/etc/passwd", "is an absolute path; wanted one relative to the data root"),
            (r"\data\a.npy", "is an absolute path"),
            (r"C:\data\a.npy", "is an absolute path"),
            ("c:a.npy", "is an absolute path"),
            ("C:/a.npy", "is an absolute path"),
            (r"\\server\share\a.npy", "is an absolute path"),
            ("//server/share/a.npy", "is an absolute path"),
            (r"\\?\C:\a.npy", "is an absolute path"),
            ("..", "leaves the data root; wanted a path below it"),
            ("../a.npy", "leaves the data root"),
            (r"..\a.npy", "leaves the data root"),
            ("x/../../a.npy", "leaves the data root"),
            (r"x\..\..\a.npy", "leaves the data root"),
            (".", "is the data root itself"),
            ("x/..", "is the data root itself"),
            ("a\x00b.npy", "holds a control character; rename the file"),
            ("a\x1bb.npy", "holds a control character"),
            ("a\x7fb.npy", "holds a control character"),
            ('"a\nb.npy"', "holds a control character"),
            ('"a\tb.npy"', "holds a control character"),
            ("x" * 4097, "the path is too long"),
        ],
    )
    @pytest.mark.parametrize("column", ["path", "target_path"])
    def test_paths_that_are_not_below_the_root(self, tmp_path: Path, cell: str, said: str, column: str) -> None:
        other = "target_path" if column == "path" else "path"
        message = refused(tmp_path, f"{column},{other}\nfirst.npy,t.npy\n{cell},u.npy\n")
        assert message.startswith(f"{MANIFEST} row 3, column {column}: ")
        assert said in message
        if len(cell) < 200:
            assert repr(cell.strip('"')) in message

    @pytest.mark.parametrize("second", ["a.npy", "./a.npy", r"x\..\a.npy"])
    def test_the_same_path_twice(self, tmp_path: Path, second: str) -> None:
        message = refused(tmp_path, f"path\na.npy\nb.npy\n{second}\n")
        assert message == f"{MANIFEST} rows 2 and 4, column path: both have 'a.npy'; each slice is listed once"

    def test_a_further_array_may_be_shared(self, tmp_path: Path) -> None:
        table = read(tmp_path, "path,mask_path\na.npy,m.npy\nb.npy,m.npy\n")
        assert table.frame["mask_path"].to_list() == ["m.npy", "m.npy"]

    @pytest.mark.parametrize("cell", ["-1", "1.5", "1e2", "one", "", "9" * 30, str(10**12 + 1), "0x1", "nan"])
    def test_an_index_that_is_none(self, tmp_path: Path, cell: str) -> None:
        message = refused(tmp_path, f"path,index\na.npy,0\nb.npy,{cell}\n")
        shown = repr(cell) if cell else "None"
        assert message == f"{MANIFEST} row 3, column index: {shown}, wanted a whole number from 0 to {10**12}"

    def test_the_same_index_twice(self, tmp_path: Path) -> None:
        message = refused(tmp_path, "path,index\na.npy,5\nb.npy,1\nc.npy, 05\n")
        assert message == f"{MANIFEST} rows 2 and 4, column index: both have '5'; each slice is listed once"

    def test_the_largest_index(self, tmp_path: Path) -> None:
        table = read(tmp_path, f"path,index\na.npy,{10**12}\nb.npy,0\n")
        assert table.frame["slice_index"].to_list() == [10**12, 0]

    @pytest.mark.parametrize("column", ["min", "max"])
    @pytest.mark.parametrize("cell", ["low", "1,5", "0.1.2", "--"])
    def test_a_stated_bound_that_is_no_number(self, tmp_path: Path, column: str, cell: str) -> None:
        message = refused(tmp_path, f'path,{column}\na.npy,0.5\nb.npy,"{cell}"\n')
        hint = "; write it with a point" if cell == "1,5" else ""
        assert message == f"{MANIFEST} row 3, column {column}: {cell!r} is not a number{hint}"

    @pytest.mark.parametrize("name", ["src_path", "patch_path", "image_path"])
    def test_columns_that_are_no_arrays(self, tmp_path: Path, name: str) -> None:
        table = read(tmp_path, f"path,{name}\na.npy,/anything/..\n")
        assert table.arrays == ("image",)
        assert name == "src_path" or name not in table.frame.columns

    @pytest.mark.parametrize("array", ["", "..", "a b", "a/b", "shards"])
    def test_arrays_whose_name_cannot_be_a_folder(self, tmp_path: Path, array: str) -> None:
        message = refused(tmp_path, f"path,{array}_path\na.npy,b.npy\n")
        assert repr(array) in message
        assert "cannot be" in message

    def test_a_manifest_that_cannot_be_read(self, tmp_path: Path) -> None:
        source = SplitSource("ds", "train", tmp_path / "gone.csv", tmp_path)
        message = refusal(SourceManifestError, lambda: read_source_manifest(source))
        assert message.startswith("gone.csv cannot be read: ")


class TestLinks:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "root"
        (root / "real").mkdir(parents=True)
        (root / "real/a.npy").write_bytes(b"")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/a.npy").write_bytes(b"")
        (tmp_path / "root2").mkdir()  # its name begins like the root's
        (tmp_path / "root2/a.npy").write_bytes(b"")
        return root

    def test_links_that_stay_inside_are_followed(self, root: Path) -> None:
        link(root / "file.npy", "real/a.npy")
        link(root / "folder", "real", folder=True)
        assert paths(root, "path\nfile.npy\nfolder/a.npy\n") == ["file.npy", "folder/a.npy"]

    @pytest.mark.parametrize("target", ["outside", "root2"])
    def test_a_file_that_links_out(self, root: Path, target: str) -> None:
        link(root / "real/out.npy", f"../../{target}/a.npy")
        message = refused(root, "path\nreal/a.npy\nreal/out.npy\n")
        assert message.startswith(f"{MANIFEST} row 3, column path: 'real/out.npy' leaves the data root through a link;")
        assert "copy the file, or give a --data-root above both" in message

    @pytest.mark.parametrize("target", ["outside", "root2", ""])
    def test_a_folder_that_links_out(self, root: Path, target: str) -> None:
        link(root / "out", root.parent / target, folder=True)
        assert "row 2, column path: 'out/a.npy' leaves the data root" in refused(root, "path\nout/a.npy\n")
        assert "column mask_path: 'out/a.npy' leaves" in refused(root, "path,mask_path\nreal/a.npy,out/a.npy\n")

    def test_a_chain_of_links_that_ends_outside(self, root: Path) -> None:
        link(root / "second.npy", root.parent / "outside/a.npy")
        link(root / "first.npy", "second.npy")
        assert "'first.npy' leaves the data root" in refused(root, "path\nfirst.npy\n")

    def test_a_link_to_nothing_outside(self, root: Path) -> None:
        link(root / "dangling.npy", root.parent / "outside/none.npy")
        assert "'dangling.npy' leaves the data root" in refused(root, "path\ndangling.npy\n")

    def test_the_data_root_may_itself_be_a_link(self, root: Path) -> None:
        link(root.parent / "alias", root, folder=True)
        manifest(root, "path\nreal/a.npy\n")
        (found,) = find_splits([root.parent / "alias/prepared/ds/train"], None)
        assert found.data_root == root.resolve()
        assert read_source_manifest(found).frame["src_path"].to_list() == ["real/a.npy"]


def found(*sources: Path | str, root: Path | None = None) -> list[tuple[str, str, str, str]]:
    return [
        (split.dataset, split.split, split.manifest_path, split.data_root.name) for split in find_splits(sources, root)
    ]


class TestFinding:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        data = tmp_path / "data"
        manifest(data, "path\na.npy\n", "prepared/ds/train/train_manifest.csv")
        manifest(data, "path\na.npy\n", "prepared/ds/test/test_manifest.csv")
        manifest(data, "path\na.npy\n", "prepared/ds/val/manifest.csv")
        (data / "prepared/ds/empty").mkdir()
        return data

    TRAIN = ("ds", "train", "prepared/ds/train/train_manifest.csv", "data")
    TEST = ("ds", "test", "prepared/ds/test/test_manifest.csv", "data")
    VAL = ("ds", "val", "prepared/ds/val/manifest.csv", "data")

    def test_a_splits_folder(self, data: Path) -> None:
        assert found(data / "prepared/ds/train") == [self.TRAIN]
        assert found(str(data / "prepared/ds/val")) == [self.VAL]

    def test_a_datasets_folder_is_all_its_splits(self, data: Path) -> None:
        assert found(data / "prepared/ds") == [self.TEST, self.TRAIN, self.VAL]

    def test_a_manifest(self, data: Path) -> None:
        assert found(data / "prepared/ds/test/test_manifest.csv") == [self.TEST]
        assert found(data / "prepared/ds/val/manifest.csv") == [self.VAL]

    def test_several_in_the_order_given(self, data: Path) -> None:
        assert found(data / "prepared/ds/val", data / "prepared/ds/test/test_manifest.csv") == [self.VAL, self.TEST]

    def test_relative_paths(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(data / "prepared/ds/train")
        assert found(".") == [self.TRAIN]
        assert found("train_manifest.csv") == [self.TRAIN]
        assert found("../../ds/val") == [self.VAL]

    def test_two_splits_in_one_folder(self, tmp_path: Path) -> None:
        for split in ("val", "train"):
            manifest(tmp_path, "path\na.npy\n", f"data/prepared/ds/{split}_manifest.csv")
        assert found(tmp_path / "data/prepared/ds") == [
            ("ds", "train", "prepared/ds/train_manifest.csv", "data"),
            ("ds", "val", "prepared/ds/val_manifest.csv", "data"),
        ]

    def test_the_folders_own_manifest_goes_before_others(self, data: Path) -> None:
        manifest(data, "path\n", "prepared/ds/train/old_manifest.csv")
        manifest(data, "path\n", "prepared/ds/train/manifest.csv")
        assert found(data / "prepared/ds/train") == [self.TRAIN]

    def test_tables_of_patch_sets_are_no_sources(self, data: Path) -> None:
        for name in ("patch_manifest.csv", "slice_manifest.csv"):
            manifest(data, "path\n", f"prepared/ds/val/{name}")
        assert found(data / "prepared/ds/val") == [self.VAL]

    def test_the_nearest_prepared_is_the_one(self, tmp_path: Path) -> None:
        manifest(tmp_path, "path\n", "prepared/x/inner/prepared/ds/train/manifest.csv")
        assert found(tmp_path / "prepared/x/inner/prepared/ds/train") == [
            ("ds", "train", "prepared/ds/train/manifest.csv", "inner")
        ]

    def test_deeper_folders_belong_to_their_dataset(self, tmp_path: Path) -> None:
        manifest(tmp_path, "path\n", "data/prepared/ds/fold 1/train/train_manifest.csv")
        assert found(tmp_path / "data/prepared/ds/fold 1/train") == [
            ("ds", "train", "prepared/ds/fold 1/train/train_manifest.csv", "data")
        ]

    def test_a_given_data_root(self, tmp_path: Path, data: Path) -> None:
        manifest(tmp_path, "path\n", "lists/mine/train_manifest.csv")
        assert found(tmp_path / "lists/mine", root=tmp_path) == [
            ("mine", "train", "lists/mine/train_manifest.csv", tmp_path.name)
        ]
        # outside the data root no path leads to it, and none that climbs or is absolute is written
        assert found(tmp_path / "lists/mine", root=data) == [("mine", "train", "train_manifest.csv", "data")]
        assert found(data / "prepared/ds/train", root=tmp_path) == [
            ("ds", "train", "data/prepared/ds/train/train_manifest.csv", tmp_path.name)
        ]

    def test_without_prepared_the_data_root_cannot_be_told(self, tmp_path: Path) -> None:
        manifest(tmp_path, "path\n", "lists/train_manifest.csv")
        message = refusal(UsageError, lambda: find_splits([tmp_path / "lists"], None))
        assert "no folder named 'prepared' above train_manifest.csv" in message
        assert "give it with --data-root" in message

    def test_a_split_is_named_once(self, data: Path) -> None:
        sources = [data / "prepared/ds", data / "prepared/ds/train"]
        message = refusal(UsageError, lambda: find_splits(sources, None))
        assert "the split ds/train comes twice" in message
        assert "name each split once" in message

    def test_what_is_not_there(self, data: Path) -> None:
        cases: list[tuple[list[Path], Path | None, list[str]]] = [
            ([], None, ["no source given"]),
            ([data / "none"], None, [repr(str(data / "none")), "does not exist"]),
            ([data / "prepared/ds/empty"], None, ["no manifest in", "<split>_manifest.csv or manifest.csv"]),
            ([data], None, ["no manifest in"]),
            ([data / "prepared/ds/train"], data / "none", ["the data root", "is not a folder", "above 'prepared'"]),
        ]
        for sources, root, said in cases:
            message = refusal(UsageError, partial(find_splits, sources, root))
            for each in said:
                assert each in message

    def test_a_file_that_is_no_csv(self, data: Path) -> None:
        (data / "slice.npy").write_bytes(b"")
        message = refusal(UsageError, lambda: find_splits([data / "slice.npy"], None))
        assert "is no manifest: wanted a .csv with a column 'path'" in message

    @pytest.mark.parametrize("place", ["prepared/my data/train/manifest.csv", "prepared/ds/a b/manifest.csv"])
    def test_names_that_cannot_stand_in_a_path(self, tmp_path: Path, place: str) -> None:
        path = manifest(tmp_path, "path\n", place)
        message = refusal(ConfigError, lambda: find_splits([path], None))
        assert "cannot be used as a name" in message
        assert "'my data'" in message or "'a b'" in message

    def test_no_path_ever_has_a_backslash(self, data: Path) -> None:
        for split in find_splits([data / "prepared/ds"], None):
            assert not PurePosixPath(split.manifest_path).is_absolute()
            assert "\\" not in split.manifest_path
            assert split.name == f"ds/{split.split}"
            assert split.manifest.is_absolute()


class TestFindingSets:
    @pytest.fixture
    def sets(self, tmp_path: Path) -> Path:
        """A finished set, one that was begun, and what is neither."""
        for name in ("patches/ds/train/patch_meta.json", "patches/ds/val/.ctpatch/lock", "patches/ds/notes/readme.txt"):
            manifest(tmp_path, "", name)
        manifest(tmp_path, "", "patches/ds/patch_manifest.csv")
        return tmp_path / "patches"

    def test_a_folder_above_sets_is_all_of_them(self, sets: Path) -> None:
        assert find_sets([sets / "ds"]) == [sets / "ds/train", sets / "ds/val"]

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_a_set_is_itself_whatever_is_in_it(self, sets: Path, split: str) -> None:
        manifest(sets, "", f"ds/{split}/inner/patch_meta.json")
        assert find_sets([sets / "ds" / split]) == [sets / "ds" / split]

    @pytest.mark.parametrize("place", ["", "ds/notes", "ds/train/patch_meta.json", "none"])
    def test_what_holds_none_is_left_to_who_opens_it(self, sets: Path, place: str) -> None:
        assert find_sets([sets / place, sets / "ds/val"]) == [sets / place, sets / "ds/val"]

    def test_no_set_at_all(self) -> None:
        assert refusal(UsageError, lambda: find_sets([])) == "no patch set given: name its folder"


def save(root: Path, name: str, shape: tuple[int, ...] = (4, 5), dtype: Any = np.float32) -> None:
    np.save(root / name, np.zeros(shape, dtype))


class TestHeaders:
    def test_what_the_headers_say(self, tmp_path: Path) -> None:
        save(tmp_path, "a.npy", (4, 5))
        save(tmp_path, "b.npy", (6, 3), ">f8")
        save(tmp_path, "ma.npy", (4, 5), np.uint8)
        save(tmp_path, "mb.npy", (6, 3), bool)
        table = read(tmp_path, "path,mask_path\na.npy,ma.npy\nb.npy,mb.npy\n")
        frame = scan_headers(table, tmp_path, skip_faulty=False)
        assert frame.select("height", "width", "src_dtype", "problem", "mask_dtype").rows() == [
            (4, 5, "float32", None, "uint8"),
            (6, 3, ">f8", None, "bool"),  # that it will be converted shows
        ]
        assert frame["src_path"].to_list() == ["a.npy", "b.npy"]

    def test_the_first_fault_is_raised_or_noted(self, tmp_path: Path) -> None:
        save(tmp_path, "a.npy")
        save(tmp_path, "c.npy", (3, 4, 5))
        table = read(tmp_path, "path\na.npy\nb.npy\nc.npy\n")
        message = refusal(NpyError, lambda: scan_headers(table, tmp_path, skip_faulty=False))
        assert message.startswith("b.npy does not exist; the manifest lists it")
        frame = scan_headers(table, tmp_path, skip_faulty=True)
        assert frame.select("height", "width", "src_dtype").rows() == [(4, 5, "float32"), (0, 0, ""), (0, 0, "")]
        problems = frame["problem"].to_list()
        assert problems[0] is None
        assert message.startswith(f"{problems[1]} (paths are relative to the data root {tmp_path}")
        assert problems[2].startswith("c.npy has 3 dimensions (3, 4, 5)")

    def test_arrays_of_another_shape_name_the_slice(self, tmp_path: Path) -> None:
        save(tmp_path, "a.npy", (4, 5))
        save(tmp_path, "t.npy", (5, 4))
        table = read(tmp_path, "path,target_path\na.npy,t.npy\n")
        message = refusal(NpyError, lambda: scan_headers(table, tmp_path, skip_faulty=False))
        assert message.startswith("t.npy has shape 5x4, its image a.npy has 4x5")

    def test_an_image_of_whole_numbers_is_refused_but_no_other_array(self, tmp_path: Path) -> None:
        save(tmp_path, "a.npy", dtype=np.int16)
        save(tmp_path, "b.npy")
        table = read(tmp_path, "path,other_path\nb.npy,a.npy\n")
        assert scan_headers(table, tmp_path, skip_faulty=False)["other_dtype"].to_list() == ["int16"]
        table = read(tmp_path, "path\na.npy\n")
        assert "a.npy has dtype int16" in refusal(NpyError, lambda: scan_headers(table, tmp_path, skip_faulty=False))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_does_not_hang_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.npy")
        table = read(tmp_path, "path\na.npy\n")
        assert "a.npy is not a regular file" in scan_headers(table, tmp_path, skip_faulty=True)["problem"][0]


@pytest.mark.parametrize(
    ("array", "kind", "wanted"),
    [
        ("image", "i", False), ("image", "f", False), ("target", "f", False), ("target", "u", True),
        ("mask", "f", True), ("lung_mask", "f", True), ("Mask", "f", True), ("unmasked", "f", False),
        ("weights", "b", True),
    ],
)  # fmt: skip
def test_labels_are_told_by_name_or_by_whole_numbers(array: str, kind: str, *, wanted: bool) -> None:
    assert is_labels(array, kind) is wanted


class TestPieces:
    """The manifest is read a piece at a time: what a message says must not depend on where pieces end."""

    @pytest.fixture(autouse=True, params=[1, 2, 3])
    def _small_pieces(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ctpatch.format.source_manifest.PIECE_ROWS", request.param)

    def test_all_rows_come_in_order(self, tmp_path: Path) -> None:
        table = read(tmp_path, "path,min,patient_id\n" + "".join(f"{n}.npy,{n}.5,p{n}\n" for n in range(11)))
        assert table.frame["src_path"].to_list() == [f"{n}.npy" for n in range(11)]
        assert table.frame["slice_index"].to_list() == list(range(11))
        assert table.frame["stated_min"].to_list() == [n + 0.5 for n in range(11)]
        assert table.frame["patient_id"].to_list() == [f"p{n}" for n in range(11)]

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (["a,0", "b,1", "c,2", "/d,3", "e,4"], "row 5, column path: '/d' is an absolute path"),
            (["a,0", "b,1", "c,2", "d,x", "e,4"], "row 5, column index: 'x'"),
            (["a,0", "b,1", "c,2", "d,3", "b,4"], "rows 3 and 6, column path: both have 'b'"),
            (["a,0", "b,1", "c,2", "d,3", "e,1"], "rows 3 and 6, column index: both have '1'"),
            (["a,0", "b,1", "c,2", f"{'x' * 5000},3"], "row 5, column path: the path is too long"),
            (["a,0", "b,1", ",", ",", "e,4"], "row 4"),
            (["a,0", "b,1", "c,2", "d,3,4"], "as many cells in each row"),
        ],
    )
    def test_faults_are_named_by_their_row(self, tmp_path: Path, rows: list[str], said: str) -> None:
        assert said in refused(tmp_path, "path,index\n" + "\n".join(rows) + "\n")

    def test_what_is_not_needed_any_more_is_not_read(self, tmp_path: Path) -> None:
        seen = []

        def look(table: SourceTable) -> pl.DataFrame:
            seen.append(table.frame.height)
            if len(seen) == 2:
                raise NpyError("enough")
            return table.frame

        path = manifest(tmp_path, "path\n" + "".join(f"{n}.npy\n" for n in range(20)))
        with pytest.raises(NpyError, match="enough"):
            read_source_manifest(SplitSource("ds", "train", path, tmp_path), look)
        assert len(seen) == 2
        assert sum(seen) <= 6


ROW = {"index": 7, "path": "a,b.npy", "min": 0.1, "max": 1e-7, "patient_id": None}


@pytest.mark.parametrize(
    ("rows", "options", "wanted"),
    [
        ([], {}, "index,path,min,max,patient_id\n"),
        ([ROW], {}, 'index,path,min,max,patient_id\n7,"a,b.npy",0.1,1e-7,\n'),
        (
            [{**ROW, "target_path": "t.npy"}],
            {"arrays": ["target"]},
            'index,path,min,max,patient_id,target_path\n7,"a,b.npy",0.1,1e-7,,t.npy\n',
        ),
        (
            [
                {
                    **ROW,
                    "series": "s",
                    "spacing_row_mm": 0.5,
                    "source_digest": "d",
                    "m_path": "m",
                    "m_source_digest": "e",
                }
            ],
            {"arrays": ["m"], "origins": True},
            (
                "index,path,min,max,patient_id,series,position_mm,spacing_row_mm,spacing_col_mm,source_digest,m_path,"
                'm_source_digest\n7,"a,b.npy",0.1,1e-7,,s,,0.5,,d,m,e\n'
            ),
        ),
    ],
)
def test_the_manifest_that_is_written(rows: list[dict[str, object]], options: dict[str, Any], wanted: str) -> None:
    assert split_manifest_csv(rows, **options).decode() == wanted
