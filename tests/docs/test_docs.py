"""The documentation is true: its code runs, its links lead somewhere, its tables are those of the program."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctpatch import errors
from ctpatch.cli.app import main
from ctpatch.config import MAX_PIXELS_PER_AXIS
from ctpatch.core.grid import PADDING_MODES
from ctpatch.core.statistics.columns import opt_in_statistics, rule_columns
from ctpatch.format.carried import DTYPES, carried_columns
from ctpatch.format.columns import label_columns
from ctpatch.format.hu_scale import HuScale
from ctpatch.format.meta import ArrayInfo, DropRule, LabelTotal, LabelTotals, PatchMeta, TableInfo
from ctpatch.format.tables import TABLES, columns_of
from ctpatch.format.value_record import Spread, ValueRecord
from ctpatch.words import LAYOUTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
NOTES = sorted((DOCS / "design").glob("[0-9][0-9][0-9]-*.md"))
TYPE_NAMES = {pl.String: "text", pl.Int64: "int64", pl.Int32: "int32", pl.Float64: "float64"}

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LIBRARY = re.compile(r"^(?:from|import) (albumentations|kornia|lightning|monai|torchio)\b", re.MULTILINE)
_LINK = re.compile(r"\]\(([^()\s]+)\)|src=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the line its text begins on."""

    language: str
    text: str
    line: int


@lru_cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path) -> list[Block]:
    text = text_of(page)
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in _BLOCK.finditer(text)]


def prose_of(page: Path) -> str:
    return _BLOCK.sub("", text_of(page))


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no heading {heading!r}"
    return found[1]


def table_rows(text: str) -> list[list[str]]:
    """Cells of the first table in a text, without its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def unquoted(cell: str) -> str:
    return cell.removeprefix("&ensp;").strip("`")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runs_code(page: Path) -> bool:
    return any(block.language == "python" or ctpatch_lines(block) for block in blocks_of(page))


def ctpatch_lines(block: Block) -> list[str]:
    if block.language != "sh":
        return []
    return [line for line in block.text.splitlines() if line.startswith("ctpatch ")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which the demo was run."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", str(folder / "ctpatch-demo")]) == 0
    return folder


def test_every_page_is_looked_at() -> None:
    assert {"README.md", "docs/conventions.md", "docs/format-1.md"} <= {page_name(each) for each in PAGES}
    assert [page_name(page) for page in PAGES if runs_code(page)]


@pytest.mark.parametrize("page", [page for page in PAGES if runs_code(page)], ids=page_name)
def test_code_runs(page: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "import torch\n" in text_of(page):
        pytest.importorskip("torch", reason=f"{page.name} is about PyTorch, which is not installed")
    for name in sorted(set(_LIBRARY.findall(text_of(page)))):
        with warnings.catch_warnings(action="ignore"):  # what they warn of when they are loaded is theirs
            pytest.importorskip(name, reason=f"{page.name} is about {name}, which is not installed")
        warnings.simplefilter("ignore")
    if re.search(r"^(ctpatch .*--engine dask|from distributed )", text_of(page), re.MULTILINE):
        pytest.importorskip("distributed", reason=f"{page.name} is about Dask, which is not installed")
    if "ctpatch.evaluate(" in text_of(page):
        pytest.importorskip("skimage", reason=f"{page.name} evaluates, and scikit-image is not installed")
    shutil.copytree(demo / "ctpatch-demo", tmp_path / "ctpatch-demo")
    if "ctpatch prepare dicom " in text_of(page) or "prepare_dicom(" in text_of(page):
        pytest.importorskip("pydicom", reason=f"{page.name} is about DICOM, and pydicom is not installed")
        pytest.importorskip("scipy", reason=f"{page.name} resamples, and scipy is not installed")
        from dicom_files import write_phantom_dicom

        write_phantom_dicom(tmp_path / "raw")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        for line in ctpatch_lines(block):
            words = shlex.split(line)[1:]
            done = subprocess.run(
                [sys.executable, "-m", "ctpatch", *words], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page.name}: {line}\n{done.stdout}{done.stderr}"
        if block.language == "python" and "dask_jobqueue" not in block.text:  # that runs in tests/slurm
            padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's line
            exec(compile(padded, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks_are_of_known_languages(page: Path) -> None:
    assert text_of(page).count("\n```") % 2 == 0
    assert {block.language for block in blocks_of(page)} <= {"python", "sh", "bat", ""}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_relative_links_lead_to_files(page: Path) -> None:
    for link, image in _LINK.findall(prose_of(page)):
        target = link or image
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name} points to {target}"
        assert file.is_relative_to(ROOT)
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(file), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name} points to {target}"


def test_readme_shows_both_commands_for_both_systems_first() -> None:
    blocks = blocks_of(ROOT / "README.md")
    assert [block.text.splitlines()[-1] for block in blocks[:4]] == [
        "make demo",
        r".venv\Scripts\ctpatch demo",
        "make test",
        r".venv\Scripts\python -m pytest",
    ]
    assert [block.language for block in blocks[:4]] == ["sh", "bat", "sh", "bat"]
    assert blocks[3].line < 45
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert section(ROOT / "README.md", "Speed").strip()


def test_readme_names_all_layouts() -> None:
    rows = table_rows(section(ROOT / "README.md", "Layouts"))
    assert [unquoted(row[0]) for row in rows] == list(LAYOUTS)


@pytest.mark.parametrize("table", TABLES)
def test_format_describes_every_column(table: str) -> None:
    columns = columns_of(table, ("image", "<array>"), named=opt_in_statistics())
    rows = table_rows(section(DOCS / "format-1.md", table))
    assert rows == [[f"`{each.name}`", TYPE_NAMES[each.dtype], each.unit, each.empty, each.meaning] for each in columns]
    assert all(each.empty for each in columns), "each column says when it is empty"


def test_format_describes_the_further_columns_of_slices() -> None:
    *labels, kept = table_rows(section(DOCS / "format-1.md", "Further columns of slice_manifest.csv"))
    columns = label_columns(["<mask>"])
    assert labels == [
        [f"`{each.name}`", TYPE_NAMES[each.dtype], each.unit, each.empty, each.meaning] for each in columns
    ]
    (column,) = carried_columns({"<column>": "text"})
    assert kept == [f"`{column.name}`", "int64, float64 or text", column.unit, column.empty, column.meaning]
    assert set(re.split(", | or ", kept[1])) == {TYPE_NAMES[dtype] for dtype in DTYPES.values()} == set(DTYPES)


def test_format_describes_every_field_of_the_meta() -> None:
    rows = {unquoted(row[0]): row[2] for row in table_rows(section(DOCS / "format-1.md", "patch_meta.json"))}
    assert list(rows) == list(PatchMeta.model_fields)
    for field, model in (
        ("arrays", ArrayInfo),
        ("drop_rules", DropRule),
        ("tables", TableInfo),
        ("label_counts", LabelTotals),
        ("label_counts", LabelTotal),
        ("values", ValueRecord),
        ("hu", HuScale),
    ):
        for name in model.model_fields:
            assert f"`{name}`" in rows[field], f"{field} does not mention {name}"
    spread = table_rows(section(DOCS / "format-1.md", "How values are spread"))
    named = {name for row in spread for name in re.findall(r"`(\w+)`", row[0])}
    assert set(Spread.model_fields) <= named


def test_format_describes_every_layout() -> None:
    rows = table_rows(section(DOCS / "format-1.md", "Pixel files and addresses"))
    assert [unquoted(row[0]) for row in rows] == list(LAYOUTS)


def test_conventions_list_every_error() -> None:
    every = [errors.CtPatchError]
    for kind in every:
        every.extend(kind.__subclasses__())
    wanted = {kind.__name__: (kind.code, str(kind.exit_status)) for kind in every if kind.__module__ == errors.__name__}
    rows = table_rows(section(DOCS / "conventions.md", "Errors"))
    assert {unquoted(row[0]): (unquoted(row[1]), row[2]) for row in rows} == wanted


def test_conventions_name_every_mode_and_column() -> None:
    modes = " ".join(row[0] for row in table_rows(section(DOCS / "conventions.md", "Border")))
    assert set(re.findall(r"`(\w+)`", modes)) == {"none", "shift", "even", *PADDING_MODES}
    grammar = section(DOCS / "conventions.md", "Rules")
    assert f"column     = {' | '.join(rule_columns())} " in grammar
    assert str(MAX_PIXELS_PER_AXIS) in text_of(DOCS / "conventions.md")


def test_design_index_lists_all_notes() -> None:
    index, *notes = NOTES
    assert index.name == "000-index.md"
    assert re.findall(r"\((\d{3}-[\w-]+\.md)\)", text_of(index)) == [note.name for note in notes]
    for number, note in enumerate(notes, start=1):
        lines = text_of(note).splitlines()
        assert note.name.startswith(f"{number:03d}-")
        assert lines[0].startswith(f"# {number:03d}: ")
        assert len(lines) <= 60
        assert re.findall(r"^## (.+)$", text_of(note), re.MULTILINE) == ["Problem", "Decision", "Consequences"]


def test_the_picture_of_the_architecture_has_the_rooms_that_imports_are_checked_by() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each["type"] == "layers"]
    wanted = [re.findall(r"ctpatch\.(\w+)", layer) for layer in layers]
    page = DOCS / "architecture.md"
    (picture,) = blocks_of(page)
    shown = re.findall(r"^ +(\d+)  (\w+(?: \| \w+)*)", picture.text, re.MULTILINE)
    assert [(int(number), rooms.split(" | ")) for number, rooms in shown] == list(enumerate(wanted, start=1))
    rows = table_rows(text_of(page).partition("## ")[0])
    assert sorted(re.findall(r"`(\w+)`", " ".join(row[0] for row in rows))) == sorted(itertools.chain(*wanted))
    modules = {each.stem for each in (ROOT / "src/ctpatch").iterdir() if not each.name.startswith("_")} - {"py"}
    assert set(itertools.chain(*wanted)) == modules


def test_the_architecture_names_files_and_contracts_that_are_there() -> None:
    text = section(DOCS / "architecture.md", "What to touch for an extension")
    rows = table_rows(text)
    package = ROOT / "src" / "ctpatch"
    paths = re.findall(r"`(\w+/[\w/.]*|words\.py)`", text.partition("| kind |")[2])
    assert len(paths) >= 2 * len(rows) - 1
    assert [path for path in paths if not (package / path).exists() and not (ROOT / path).exists()] == []
    for row in rows:
        name, path = re.findall(r"`([\w/.]+)`", row[2])[0], re.findall(r"`([\w/]+\.py)`", row[2])[-1]
        assert re.search(rf"\b{name}\b", (package / path).read_text(encoding="utf-8")), f"{name} is not in {path}"
    contracts = re.findall(r"`(\w+Contract)`", text)
    assert contracts
    init = (ROOT / "src/ctpatch/testing/__init__.py").read_text(encoding="utf-8")
    assert set(contracts) == set(re.findall(r'"(\w+Contract)"', init))


def test_picture_is_small() -> None:
    assert os.path.getsize(DOCS / "images" / "overview.png") < 200_000
