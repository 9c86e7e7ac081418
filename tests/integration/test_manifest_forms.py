"""Manifests as people write them: the same set, to the byte, or a message that names the cause."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.checking.audit import audit
from ctpatch.cli.app import main
from ctpatch.cutting.shares import build_share, merge
from ctpatch.errors import ConfigError, CtPatchError, NpyError, OutputConflictError, SourceManifestError
from ctpatch.format import source_manifest
from helpers import (
    SMALL,
    Heard,
    Prepared,
    assert_same_tree,
    build_one,
    csv_rows,
    make_split,
    tree_bytes,
    write_manifest,
)

Table = Mapping[str, Sequence[str]]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    return make_split(tmp_path, columns={"index": [0, 1, 3], "patient_id": ["P1", "Ü 2", "P1"]})


def lines(separator: str, end: str) -> Callable[[Table], str]:
    """The text of a table, without quotes."""

    def text(table: Table) -> str:
        rows = [list(table), *zip(*table.values(), strict=True)]
        return "".join(separator.join(row) + end for row in rows)

    return text


COMMAS, TABS, SEMICOLONS = lines(",", "\n"), lines("\t", "\n"), lines(";", "\r\n")
FORMS: dict[str, Callable[[Table], bytes]] = {
    "utf-8 with a byte order mark": lambda table: b"\xef\xbb\xbf" + COMMAS(table).encode(),
    "utf-16, little end first": lambda table: b"\xff\xfe" + COMMAS(table).encode("utf-16-le"),
    "utf-16, big end first": lambda table: b"\xfe\xff" + COMMAS(table).encode("utf-16-be"),
    "utf-16-le without a mark": lambda table: COMMAS(table).encode("utf-16-le"),
    "utf-16-be without a mark": lambda table: COMMAS(table).encode("utf-16-be"),
    "utf-32": lambda table: COMMAS(table).encode("utf-32"),
    "unicode text of a spreadsheet": lambda table: b"\xff\xfe" + lines("\t", "\r\n")(table).encode("utf-16-le"),
    "tabs": lambda table: TABS(table).encode(),
    "tabs and a byte order mark": lambda table: b"\xef\xbb\xbf" + TABS(table).encode(),
    "semicolons": lambda table: SEMICOLONS(table).encode(),
    "bars": lambda table: lines("|", "\n")(table).encode(),
    "lines of an old Mac": lambda table: lines(",", "\r")(table).encode(),
    "lines of an old Mac, ended by a line feed": lambda table: lines(",", "\r")(table).encode() + b"\n",
    "lines of an old Mac, tabs, a mark": lambda table: b"\xef\xbb\xbf" + lines("\t", "\r")(table).encode(),
    "quoted lines of an old Mac": lambda table: b"".join(
        ",".join(f'"{cell}"' for cell in row).encode() + b"\r"
        for row in [list(table), *zip(*table.values(), strict=True)]
    ),
    "quoted tabs": lambda table: TABS({f'"{name}"': cells for name, cells in table.items()}).encode(),
    "path in capitals": lambda table: COMMAS({("Path" if k == "path" else k): v for k, v in table.items()}).encode(),
    "all names in capitals": lambda table: COMMAS({name.upper(): cells for name, cells in table.items()}).encode(),
    "image_path": lambda table: COMMAS({("image_path" if k == "path" else k): v for k, v in table.items()}).encode(),
    "3.0": lambda table: COMMAS({**table, "index": [f"{cell}.0" for cell in table["index"]]}).encode(),
    "3.00 and spaces": lambda table: COMMAS({**table, "index": [f" {cell}.00 " for cell in table["index"]]}).encode(),
    "3,0 beside semicolons": lambda table: SEMICOLONS({**table, "index": [f"{c},0" for c in table["index"]]}).encode(),
}


def table_of(prepared: Prepared) -> dict[str, list[str]]:
    rows = csv_rows(prepared.manifest)
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows_at_a_time", [2, 50_000])
def test_a_form_of_a_manifest_gives_the_set_of_the_plain_one(
    prepared: Prepared, form: str, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_one(prepared)
    wanted = tree_bytes(prepared.out)
    table = table_of(prepared)
    shutil.rmtree(prepared.out)
    prepared.manifest.write_bytes(FORMS[form](table))
    monkeypatch.setattr(source_manifest, "PIECE_ROWS", rows_at_a_time)
    heard = Heard()
    build_one(prepared, listener=heard)
    assert_same_tree(tree_bytes(prepared.out), wanted)
    assert heard.notices("manifest") == []
    assert ctpatch.verify(prepared.out, deep=True).findings == []


@pytest.mark.parametrize("form", FORMS)
def test_an_audit_reads_the_same_forms(prepared: Prepared, form: str) -> None:
    table = table_of(prepared)
    prepared.manifest.write_bytes(FORMS[form](table))
    other = make_split(prepared.root, split="test", columns={"patient_id": ["Ü 2", "x", "y"]}, seed=9)
    report = audit([prepared.folder, other.folder])
    assert [(each.check, each.first.row, each.second.row) for each in report.findings] == [("patient", 3, 2)]
    assert report.faults == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(30), "is no CSV, it is a zip archive, such as an Excel workbook; save it as a CSV"),
        (b"\xd0\xcf\x11\xe0" + bytes(30), "is no CSV, it is an Excel workbook"),
        (b"\x1f\x8b\x08" + bytes(30), "it is packed with gzip"),
        (
            b"sep=;\npath;index\na.npy;0\n",
            "begins with 'sep=;', which only a spreadsheet understands; remove this line",
        ),
        (b"\xff\xfep\0a\0t\0h\0\n\0\x00\xd8", "begins as UTF-16 and is not at byte"),
        (b"p\0\0\0a\0\0\0\1\0\0\0\2\0\0\0", "it holds bytes that are zero"),
        (b"slices;index\na.npy;0\n", "has no column 'path' (it has slices, index); if the slices are in 'slices'"),
        (b"Path,PATH\na.npy,b.npy\n", "has the columns Path, PATH; name the one of the slices 'path'"),
        (b"path\tindex\na.npy\t0\t1\n", "as many cells in each row, separated by tabs"),
    ],
)
def test_a_form_that_cannot_be_read_is_named(prepared: Prepared, content: bytes, said: str) -> None:
    prepared.manifest.write_bytes(content)
    with pytest.raises(SourceManifestError) as caught:
        build_one(prepared)
    assert said in str(caught.value)
    assert prepared.out.exists() is False


class TestPathsBesideTheManifest:
    @pytest.fixture
    def beside(self, prepared: Prepared) -> Prepared:
        """The wanted set stands in `wanted`; then the manifest names files relative to its own folder."""
        build_one(prepared, out=prepared.root / "patches/phantoms/wanted")
        shutil.move(prepared.root / "patches/phantoms/wanted", prepared.root / "wanted")
        table = table_of(prepared)
        table["path"] = [Path(path).name for path in table["path"]]
        write_manifest(prepared.manifest, table)
        return prepared

    def test_they_are_found_and_on_record_as_paths_below_the_data_root(self, beside: Prepared) -> None:
        heard = Heard()
        result = build_one(beside, listener=heard)
        (note,) = heard.notices("manifest")
        assert note.endswith("its paths are relative to its own folder prepared/phantoms/train, not to the data root")
        assert result.meta.source_paths == "manifest_dir"
        for name in ("slice_manifest.csv", "rejected_patches.csv"):
            assert (beside.out / name).read_bytes() == (beside.root / "wanted" / name).read_bytes()
        assert [row["src_path"] for row in csv_rows(beside.out / "slice_manifest.csv")] == beside.paths["image"]
        assert ctpatch.verify(beside.out, deep=True).findings == []
        assert build_one(beside).outcome == "complete"
        (plan,) = ctpatch.plan(beside.folder, SMALL)
        assert (plan.beside, list(plan.notes)) == (True, [note])

    def test_what_is_on_record_holds_though_files_of_these_names_turn_up(self, beside: Prepared) -> None:
        build_one(beside)
        for number in range(3):
            shutil.copy(beside.file(0), beside.root / f"train_{number:06d}.npy")
        assert ctpatch.verify(beside.out, deep=True).findings == []
        # A new build would read these others, and says that it is another one.
        with pytest.raises(OutputConflictError):
            build_one(beside)

    def test_a_verification_without_sources_names_them_in_their_place(self, beside: Prepared) -> None:
        build_one(beside)
        for number in range(3):
            beside.file(number).unlink()
        report = ctpatch.verify(beside.out, deep=True)
        assert [each.file for each in report.findings] == beside.paths["image"]

    def test_shares_and_their_merge(self, beside: Prepared) -> None:
        build_one(beside, out=beside.root / "patches/phantoms/whole")
        for share in ("1/2", "2/2"):
            build_share(beside.folder, share, SMALL)
        merged = merge(beside.out)
        assert merged.meta.source_paths == "manifest_dir"
        whole = tree_bytes(beside.root / "patches/phantoms/whole")
        assert tree_bytes(beside.out)["slice_manifest.csv"] == whole["slice_manifest.csv"]
        assert ctpatch.verify(beside.out, deep=True).findings == []

    def test_a_conversion_keeps_the_record(self, beside: Prepared) -> None:
        build_one(beside)
        made = ctpatch.convert(beside.out, beside.root / "patches/phantoms/other", layout="slices")
        assert made.meta.source_paths == "manifest_dir"
        assert ctpatch.verify(made.folder, deep=True).findings == []

    def test_paths_that_lead_up_from_the_manifest(self, beside: Prepared) -> None:
        table = table_of(beside)
        table["path"] = [f"../train/{path}" for path in table["path"]]
        write_manifest(beside.manifest, table)
        build_one(beside)
        assert [row["src_path"] for row in csv_rows(beside.out / "slice_manifest.csv")] == beside.paths["image"]

    def test_the_data_root_comes_first(self, beside: Prepared) -> None:
        """As ever: a file below the data root is meant, though one of its name is beside the manifest."""
        for number in range(3):
            np.save(beside.root / f"train_{number:06d}.npy", beside.images["image"][number] * np.float32(0.5))
        result = build_one(beside)
        assert result.meta.source_paths is None
        assert csv_rows(beside.out / "slice_manifest.csv")[0]["src_path"] == "train_000000.npy"

    def test_a_file_that_is_in_neither_place(self, prepared: Prepared) -> None:
        write_manifest(prepared.manifest, {"path": ["gone.npy"]})
        with pytest.raises(NpyError) as caught:
            build_one(prepared)
        assert "gone.npy does not exist" in str(caught.value)
        assert f"relative to the data root {prepared.root}, or else to the manifest's own folder" in str(caught.value)

    def test_files_beside_a_manifest_that_is_outside_the_data_root(self, beside: Prepared, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        with pytest.raises(SourceManifestError) as caught:
            build_one(beside, data_root=tmp_path / "other", out=tmp_path / "out")
        assert f"its slices lie beside it in {beside.folder}, which is outside the data root" in str(caught.value)
        result = build_one(beside, data_root=beside.folder, out=tmp_path / "out")
        assert (result.meta.num_slices, result.meta.source_paths) == (3, None)

    def test_an_absolute_path_is_none_of_the_manifests_folder(self, beside: Prepared) -> None:
        table = table_of(beside)
        table["path"][2] = "/train_000002.npy"
        write_manifest(beside.manifest, table)
        with pytest.raises(SourceManifestError, match=r"row 4, column path: '/train_000002.npy' is an absolute path"):
            build_one(beside)

    def test_an_audit_finds_them(self, beside: Prepared) -> None:
        other = make_split(beside.root, split="test", seed=9)
        np.save(other.file(1), beside.images["image"][2])
        report = audit([beside.folder, other.folder])
        assert report.faults == []
        assert [(each.check, each.first.row, each.second.row) for each in report.findings] == [
            ("identical-slice", 4, 3)
        ]


def add_column(prepared: Prepared, name: str, cells: Sequence[str]) -> None:
    write_manifest(prepared.manifest, {**table_of(prepared), name: cells})


class TestColumnsThatOnlyLookLikeArrays:
    @pytest.mark.parametrize(
        ("column", "cell"),
        [
            ("dicom_path", "/mnt/raw/{}.dcm"),
            ("dicom_path", "/mnt/raw/IM{}"),
            ("dicom_path", "raw/IM{}"),
            ("raw_file_path", r"D:\scans\{}"),
            ("source_path", "https://example.org/{}"),
            ("scanner_path", "scans/{}.dcm"),
            ("volume_path", "/data/volume_{}.nii.gz"),
            ("picture_path", "thumbnails/{}.png"),
            ("original_path", "/mnt/raw/{}.npy"),
        ],
    )
    def test_one_is_ignored_and_said(self, prepared: Prepared, column: str, cell: str) -> None:
        build_one(prepared)
        wanted = tree_bytes(prepared.out)
        shutil.rmtree(prepared.out)
        add_column(prepared, column, [cell.format(number) for number in range(3)])
        heard = Heard()
        build_one(prepared, listener=heard)
        (note,) = heard.notices("manifest")
        assert f"the column {column} is no array: it names no .npy below the data root, but" in note
        assert_same_tree(tree_bytes(prepared.out), wanted)

    def test_the_images_once_more(self, prepared: Prepared) -> None:
        add_column(prepared, "file_path", prepared.paths["image"])
        heard = Heard()
        assert list(build_one(prepared, listener=heard).meta.arrays) == ["image"]
        assert "the column file_path is no array: it names the same files as the images" in heard.notices("manifest")[0]

    def test_the_images_once_more_as_target_or_mask_are_meant(self, prepared: Prepared) -> None:
        write_manifest(
            prepared.manifest,
            dict.fromkeys(("path", "target_path", "mask_path", "noisy_path"), prepared.paths["image"]),
        )
        heard = Heard()
        assert list(build_one(prepared, listener=heard).meta.arrays) == ["image", "target", "mask", "noisy"]
        assert heard.notices("manifest") == [
            f"prepared/phantoms/train/train_manifest.csv: the column {name}_path names the same files as the images"
            for name in ("target", "mask", "noisy")
        ]

    def test_one_that_holds_slices_is_an_array_as_before_and_said(self, tmp_path: Path) -> None:
        prepared = make_split(tmp_path, arrays={"file": np.float32})
        heard = Heard()
        assert list(build_one(prepared, listener=heard).meta.arrays) == ["image", "file"]
        assert "the column file_path is taken for an array 'file'; --arrays" in heard.notices("manifest")[0]

    @pytest.mark.parametrize(
        ("column", "cell", "said"),
        [
            ("target_path", "/mnt/t{}.npy", "is an absolute path"),
            ("target_path", "t{}.dcm", "t0.dcm does not exist"),
            ("mask_path", "/mnt/m{}.nii.gz", "is an absolute path"),
            ("lung_mask_path", "m{}.png", "m0.png does not exist"),
            ("mask_path", "", "the path is empty"),
            ("noisy_path", "/mnt/{}.npy", "is an absolute path"),
            ("file_path", "gone{}.npy", "gone0.npy does not exist"),
        ],
    )
    def test_one_that_may_be_meant_is_not_left_out_quietly(
        self, prepared: Prepared, column: str, cell: str, said: str
    ) -> None:
        add_column(prepared, column, [cell.format(number) for number in range(3)])
        with pytest.raises(CtPatchError) as caught:
            build_one(prepared)
        assert said in str(caught.value)
        if isinstance(caught.value, SourceManifestError):
            assert f"if {column} is no array, --arrays image leaves it out" in str(caught.value)
        assert list(build_one(prepared, arrays="image").meta.arrays) == ["image"]

    def test_arrays_in_a_manifest_of_capitals(self, tmp_path: Path) -> None:
        prepared = make_split(tmp_path, arrays={"mask": np.uint8})
        table = table_of(prepared)
        write_manifest(prepared.manifest, {"Path": table["path"], "Mask_Path": table["mask_path"]})
        assert list(build_one(prepared).meta.arrays) == ["image", "mask"]
        assert ctpatch.verify(prepared.out, deep=True).findings == []

    def test_a_column_in_capitals_beside_path_is_pointed_out(self, tmp_path: Path) -> None:
        prepared = make_split(tmp_path, arrays={"mask": np.uint8})
        table = table_of(prepared)
        write_manifest(prepared.manifest, {"path": table["path"], "Mask_Path": table["mask_path"]})
        heard = Heard()
        assert list(build_one(prepared, listener=heard).meta.arrays) == ["image"]
        assert heard.notices("manifest")[0].endswith(
            "the column Mask_Path is not used; if it is meant, name it 'mask_path'"
        )

    @pytest.mark.parametrize("column", ["PatientID", "Patient_ID", "patient id"])
    def test_a_column_that_is_nearly_patient_id(self, prepared: Prepared, column: str) -> None:
        write_manifest(prepared.manifest, {"path": prepared.paths["image"], column: ["a", "b", "c"]})
        heard = Heard()
        build_one(prepared, listener=heard)
        assert heard.notices("manifest") == [
            (
                f"prepared/phantoms/train/train_manifest.csv: the column {column} is not used; if it is meant, name it "
                "'patient_id'"
            )
        ]

    def test_an_image_path_that_is_another_one(self, prepared: Prepared) -> None:
        add_column(prepared, "image_path", ["x.npy", "y.npy", "z.npy"])
        heard = Heard()
        build_one(prepared, listener=heard)
        assert "the slices are in the column path; the column image_path is ignored" in heard.notices("manifest")[0]


class TestArraysThatAreAskedFor:
    @pytest.fixture
    def several(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        return make_split(tmp_path, arrays={"target": np.float32, "mask": np.uint8, "file": np.float32})

    @pytest.mark.parametrize("asked", ["image,target", "target, image", ["image", "target"], ("target",)])
    def test_others_are_ignored_and_listed(self, several: Prepared, asked: Any) -> None:
        table = table_of(several)
        write_manifest(several.manifest, {name: table[name] for name in ("path", "target_path")})
        build_one(several)
        wanted = tree_bytes(several.out)
        shutil.rmtree(several.out)
        write_manifest(several.manifest, table)
        heard = Heard()
        build_one(several, arrays=asked, listener=heard)
        assert heard.notices("manifest") == [
            (
                "prepared/phantoms/train/train_manifest.csv: columns that were not asked for as arrays are ignored: "
                "mask_path, file_path"
            )
        ]
        assert_same_tree(tree_bytes(several.out), wanted)
        assert ctpatch.verify(several.out, deep=True).findings == []

    def test_all_of_them_are_the_arrays_of_the_manifest_in_its_order(self, several: Prepared) -> None:
        build_one(several)
        wanted = tree_bytes(several.out)
        assert build_one(several, arrays="file,mask,target,image").outcome == "complete"
        assert_same_tree(tree_bytes(several.out), wanted)

    def test_columns_named_as_the_arrays_are(self, several: Prepared) -> None:
        build_one(several, arrays="image,mask")
        wanted = tree_bytes(several.out)
        shutil.rmtree(several.out)
        table = table_of(several)
        write_manifest(several.manifest, {"image": table["path"], "mask": table["mask_path"], "note": ["", "", ""]})
        build_one(several, arrays="image,mask")
        assert_same_tree(tree_bytes(several.out), wanted)
        assert ctpatch.verify(several.out, deep=True).findings == []

    def test_without_being_asked_for_they_are_pointed_out(self, several: Prepared) -> None:
        write_manifest(several.manifest, {"image": ["a.npy"]})
        with pytest.raises(SourceManifestError, match="if the slices are in 'image', name this column 'path'"):
            build_one(several)

    def test_another_build_of_other_arrays_is_another_one(self, several: Prepared) -> None:
        build_one(several, arrays="image")
        with pytest.raises(OutputConflictError, match="arrays was"):
            build_one(several)
        assert build_one(several, arrays="image").outcome == "complete"

    def test_shares(self, several: Prepared) -> None:
        for share in ("1/2", "2/2"):
            build_share(several.folder, share, SMALL, arrays="image,mask")
        merged = merge(several.out)
        assert list(merged.meta.arrays) == ["image", "mask"]
        assert ctpatch.verify(several.out, deep=True).findings == []
        with pytest.raises(OutputConflictError):
            build_share(several.folder, "1/2", SMALL)

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ("image,dose", "has no column 'dose_path' for the array 'dose'; it has path, target_path"),
            ("", "''"),
            ([], "wanted names of arrays as image,target"),
            ("image,a b", "'a b' cannot be used as a name"),
            ([1], "wanted names of arrays"),
        ],
    )
    def test_arrays_that_are_not_there(self, several: Prepared, asked: Any, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            build_one(several, arrays=asked)
        assert said in str(caught.value)

    def test_the_command_line_and_a_file_of_options(
        self, several: Prepared, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        options = [str(several.folder), "--patch-size", "16", "--stride", "8"]
        assert main(["plan", *options, "--arrays", "image,target"]) == 0
        assert "not asked for as arrays are ignored: mask_path, file_path" in capsys.readouterr().err
        assert main(["build", *options, "--arrays", "image,target"]) == 0
        assert list(ctpatch.open(several.out).meta.arrays) == ["image", "target"]
        (tmp_path / "options.toml").write_text('arrays = ["image", "target"]\n')
        capsys.readouterr()
        assert main(["build", *options, "--config", str(tmp_path / "options.toml")]) == 0
        assert "complete" in capsys.readouterr().out
        assert main(["build", *options, "--arrays", "image,dose"]) == 2
