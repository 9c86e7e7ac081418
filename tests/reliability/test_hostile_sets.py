"""Sets and manifests made to hurt: each is refused in a sentence, in bounded memory, and nothing outside is touched."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import ctpatch
from ctpatch.errors import CtPatchError, SourceManifestError
from ctpatch.files.npy import PAGE_BYTES, header_bytes
from helpers import (
    LAYOUTS,
    Prepared,
    build_one,
    change_meta,
    csv_rows,
    make_split,
    rewrite_table,
    tree_bytes,
    write_manifest,
)
from reliability.common import FULL, TIMEOUT, Count, Ran, environment
from reliability.common import run as run_ctpatch

needs_links = pytest.mark.skipif(not hasattr(os, "symlink") or sys.platform == "win32", reason="needs links")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs /proc to measure the peak of memory"
)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return make_split(tmp_path / "root", [(40, 50)] * 2, arrays={"mask": np.uint8})


def refused(ran: Any, *said: str) -> None:
    """A command ended with 1 or 2 and a sentence."""
    assert ran.status in {1, 2}, (ran.status, ran.err[-2000:])
    assert "Traceback" not in ran.out + ran.err, ran.err[-2000:]
    assert ran.err.startswith("error: ") or "failed" in ran.out or "FAILED" in ran.out, (ran.out, ran.err)
    for words in said:
        assert words in ran.out + ran.err, (words, ran.out, ran.err)


# Source manifests.

FORMULAS = ["=1+1", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x","y")']


def test_cells_that_a_spreadsheet_would_run_stay_what_they_are(tmp_path: Path) -> None:
    """A patient's id is data: it comes out as it went in, in its own column and nowhere else."""
    prepared = make_split(tmp_path, [(20, 20)] * len(FORMULAS), columns={"patient_id": FORMULAS})
    build_one(prepared)
    assert [row["patient_id"] for row in csv_rows(prepared.out / "slice_manifest.csv")] == [
        text.strip() for text in FORMULAS
    ]
    assert ctpatch.verify(prepared.out, deep=True).ok
    for table in ("patch_manifest.csv", "rejected_patches.csv"):
        for row in csv_rows(prepared.out / table):
            # What ctpatch itself says begins with a letter or digit, or is a number.
            assert all(value[:1] not in set("=+@") for value in row.values()), row


@pytest.mark.parametrize("name", ["=1+1.npy", "+x.npy", "-x.npy", "@x.npy"])
def test_files_named_like_formulas(tmp_path: Path, name: str) -> None:
    prepared = make_split(tmp_path, [(20, 20)] * 2)
    prepared.file(0).rename(prepared.folder / name)
    prepared.file(0).parent.joinpath(name).rename(prepared.root / name)
    write_manifest(prepared.manifest, {"path": [name, prepared.paths["image"][1]]})
    build_one(prepared)
    assert csv_rows(prepared.out / "slice_manifest.csv")[0]["src_path"] == name
    assert ctpatch.verify(prepared.out, deep=True).ok


IDS = {
    "slash": "a/b",
    "climbs": "../../etc/passwd",
    "line break": "a\nb",
    "carriage return": "a\rb",
    "bell": "a\x07b",
    "escape": "\x1b[31mred",
    "NUL": "a\x00b",
    "quote": 'say "a", b',
    "long": "x" * 10_000,
    "wide": "患者" * 2_000,
    "right to left": "\u202egpj.exe",
    "comma": ",,,",
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_patients(tmp_path: Path, kind: str) -> None:
    """A patient's id names no file: it is carried through as it is, or refused with its row."""
    prepared = make_split(tmp_path, [(20, 20)] * 2, columns={"patient_id": ["P1", IDS[kind]]})
    before = set(tree_bytes(tmp_path))
    try:
        build_one(prepared)
    except SourceManifestError as error:
        assert "row 3" in error.message  # noqa: PT017
        assert len(error.message) < 1000  # noqa: PT017
        assert not prepared.out.exists()
        return
    assert ctpatch.open(prepared.out).slices["patient_id"].to_list() == ["P1", IDS[kind]]
    assert csv_rows(prepared.out / "slice_manifest.csv")[1]["patient_id"].replace("\r\n", "\n") == IDS[kind]
    assert ctpatch.verify(prepared.out, deep=True).ok
    assert all(name.startswith("patches/") for name in set(tree_bytes(tmp_path)) - before)


@pytest.mark.parametrize("column", ["path", "mask_path"])
def test_a_path_with_a_nul(prepared: Prepared, column: str) -> None:
    table: dict[str, list[str]] = {"path": list(prepared.paths["image"]), "mask_path": list(prepared.paths["mask"])}
    table[column][1] = "prepared/a\x00b.npy"
    lines = [",".join(table), *(",".join(row) for row in zip(*table.values(), strict=True))]
    prepared.manifest.write_bytes("\n".join(lines).encode())
    with pytest.raises(SourceManifestError, match="row 3") as error:
        build_one(prepared)
    assert "\x00" not in error.value.message
    refused(run_ctpatch(["build", prepared.folder]), "row 3")


@pytest.mark.parametrize("name", ["a\x00b", "x" * 5000, "\ud800"])
def test_arguments_that_are_no_path(prepared: Prepared, name: str) -> None:
    for call in (ctpatch.open, ctpatch.verify, ctpatch.build, ctpatch.plan):
        with pytest.raises(CtPatchError):
            call(prepared.root / name)
    with pytest.raises(CtPatchError):
        build_one(prepared, out=prepared.root / name)


@needs_links
def test_links_in_a_circle(tmp_path: Path, prepared: Prepared) -> None:
    victim = prepared.file(1)
    victim.unlink()
    victim.symlink_to(victim.name)
    refused(run_ctpatch(["build", prepared.folder]), prepared.paths["image"][1])
    victim.unlink()
    loop = prepared.root / "loop"
    loop.symlink_to("loop")
    write_manifest(prepared.manifest, {"path": ["loop/a.npy"]})
    refused(run_ctpatch(["build", prepared.folder]), "loop/a.npy")
    loops: list[list[str | Path]] = [
        ["build", loop],
        ["verify", loop],
        ["build", prepared.folder, "--out", loop],
        ["info", loop],
    ]
    for words in loops:
        refused(run_ctpatch(words))
    (prepared.root / "up").symlink_to(".")
    shutil.copy(prepared.file(0), tmp_path / "root/one.npy")
    write_manifest(prepared.manifest, {"path": ["up/" * 20 + "one.npy"]})
    assert build_one(prepared).complete  # a long way round, but never out


# What a process of ctpatch opened and changed, as Python's own audit of it says.
AUDITED = """
import os, sys
root = os.path.realpath(sys.argv[1])
home = tuple(os.path.realpath(p) for p in {sys.prefix, sys.base_prefix, *filter(None, sys.path)})
fine = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib", "/run/")
seen = []
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}

def hook(event, args):
    if event == "open":
        path, mode, flags = args
        if isinstance(path, int) or path is None:
            return
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    elif event in WRITES:
        path, writes = args[0], True
    else:
        return
    path = os.path.join(os.getcwd(), os.fsdecode(path))
    if event == "open" and (flags or 0) & os.O_NOFOLLOW:  # at a link this fails: the link itself is what is asked for
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    else:
        path = os.path.realpath(path)
    inside = path == root or path.startswith(root + os.sep)
    if not inside and (writes or not path.startswith(home + fine)):
        if not path.endswith((".pyc", ".nbc", ".nbi")) and "__pycache__" not in path:
            seen.append(f"{event} {path} {writes}")

sys.addaudithook(hook)
from ctpatch.cli.app import main
status = main(sys.argv[2:])
sys.stderr.write("".join(f"OUTSIDE {line}\\n" for line in seen))
sys.exit(status)
"""


def audited(root: Path, *words: str | Path) -> Any:
    """Run ctpatch and see to it that it touched nothing outside of a folder."""
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, str(root), *(str(word) for word in words)],
        env=environment(PYTHONPATH=str(Path(ctpatch.__file__).parent.parent)),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    outside = [line for line in done.stderr.splitlines() if line.startswith("OUTSIDE ")]
    assert outside == [], outside
    ran = done.returncode, done.stdout, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return ran


def test_the_audit_sees_what_is_outside(tmp_path: Path, prepared: Prepared) -> None:
    with pytest.raises(AssertionError, match=r"OUTSIDE os\.mkdir"):
        audited(prepared.root, "build", prepared.folder, "--out", tmp_path / "elsewhere", "--patch-size", "16")


@needs_links
@pytest.mark.parametrize("which", ["patches", "dataset", "split", "shards", ".ctpatch", "tables", "owner"])
def test_outputs_that_are_links(tmp_path: Path, prepared: Prepared, which: str) -> None:
    """A link planted where the output goes: what it leads to is neither written nor emptied nor read."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    out = prepared.out
    link = {
        "patches": prepared.root / "patches",
        "dataset": out.parent,
        "split": out,
        "shards": out / "shards",
        ".ctpatch": out / ".ctpatch",
        "tables": out / "patch_manifest.csv",
        "owner": out / ".ctpatch/owner.json",
    }[which]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "precious" if which in {"tables", "owner"} else outside)
    before = tree_bytes(outside)
    for more in ([], ["--overwrite"]):
        words: list[str | Path] = ["build", prepared.folder, "--layout", "shards", "--patch-size", "16", *more]
        status, _, err = audited(prepared.root, *words) if which != "owner" else audited(tmp_path, *words)
        if which != "owner":
            assert status in {1, 2}
            assert err.startswith("error: ")
        assert tree_bytes(outside) == before
    if which == "owner":
        assert ctpatch.verify(out, deep=True).ok


@needs_links
@pytest.mark.parametrize(
    "which", ["patch_manifest.csv", "patch_meta.json", "slice_manifest.csv", "rejected_patches.csv"]
)
def test_a_table_or_meta_that_is_a_link_out(tmp_path: Path, prepared: Prepared, which: str) -> None:
    build_one(prepared, layout="shards")
    shutil.move(prepared.out / which, tmp_path / which)
    (prepared.out / which).symlink_to(tmp_path / which)
    calls: list[list[str | Path]] = [
        ["verify", prepared.out],
        ["convert", prepared.out, prepared.root / "other", "--layout", "files"],
    ]
    for words in calls:
        status, out, err = audited(prepared.root, *words)
        assert status in {1, 2}, (out, err)


# The meta.


def test_metas_of_another_time(prepared: Prepared) -> None:
    build_one(prepared)
    path = prepared.out / "patch_meta.json"
    good = path.read_bytes()
    for version in (0, 2, 10**30, -1, "1", 1.5, [1], None, True):
        change_meta(prepared.out, lambda meta, version=version: meta.update(format_version=version))  # type: ignore[misc]
        report = ctpatch.verify(prepared.out)
        assert report.status == "failed", version
        with pytest.raises(CtPatchError, match="format_version"):
            ctpatch.open(prepared.out)
        path.write_bytes(good)
    change_meta(prepared.out, lambda meta: meta.update(of_the_future={"a": [1, 2, {"b": None}]}, zz="x" * 1000))
    assert len(ctpatch.open(prepared.out)) == 40
    assert ctpatch.verify(prepared.out, deep=True).ok


DEEP = 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"format_version": 1, "x": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"format_version": 1, "x": ' + b"9" * 100_000 + b"}",
        b'{"format_version": 1, "x": 1e999999}',
        b'{"format_version": 1, "x": NaN, "num_patches": Infinity}',
        b'{"format_version": 1, "format_version": 2}',
        b'{"format_version": 1, "x": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"\0" * 1000,
    ],
    ids=[
        "lists",
        "objects",
        "deep",
        "long number",
        "large number",
        "nan",
        "twice",
        "surrogate",
        "bom",
        "utf-16",
        "nul",
    ],
)
def test_metas_that_are_hard_to_read(prepared: Prepared, content: bytes) -> None:
    build_one(prepared)
    (prepared.out / "patch_meta.json").write_bytes(content)
    with pytest.raises(CtPatchError, match=r"patch_meta\.json") as error:
        ctpatch.open(prepared.out)
    assert len(error.value.message) < 1000
    assert ctpatch.verify(prepared.out).status == "failed"
    for overwrite in (False, True):
        with pytest.raises(CtPatchError):
            build_one(prepared, overwrite=overwrite)
    refused(run_ctpatch(["info", prepared.out]), "patch_meta.json")


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**18])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", ".", "..", "../..", "/etc", "a\0b", "\ud800", "object", "O", "V8", "float32,float32", "M8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("layout", LAYOUTS if FULL else ["index"])
def test_metas_with_wrong_values(tmp_path_factory: pytest.TempPathFactory, layout: Any, count: Count) -> None:
    """Any field of the meta may hold anything, with the right digest: refused or found, never another error."""
    prepared = make_split(tmp_path_factory.mktemp("meta"), [(40, 50)] * 2, arrays={"mask": np.uint8})
    build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=8, drop=("flat: std < 0.001",)), layout=layout)
    path = prepared.out / "patch_meta.json"
    good = path.read_bytes()
    fields = sorted(json.loads(good))
    inner = [("tables", "patch_manifest.csv"), ("arrays", "mask"), ("arrays", "image"), ("drop_rules", 0)]
    places = [(name,) for name in fields] + [
        (*where, key) for where in inner for key in json.loads(good)[where[0]][where[1]]
    ]

    @settings(
        max_examples=600 if FULL else 40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(places), JSON)
    def check(place: tuple[Any, ...], value: Any) -> None:
        def change(meta: dict[str, Any]) -> None:
            for key in place[:-1]:
                meta = meta[key]
            meta[place[-1]] = value

        path.write_bytes(good)
        count("metas with a wrong value")
        if json.loads(good).get(place[0]) == value:
            return
        change_meta(prepared.out, change)
        try:
            ps = ctpatch.open(prepared.out)
            ps.read(range(min(len(ps), 40)))
            ps.slice(0)
        except (CtPatchError, KeyError):
            pass
        with contextlib.suppress(CtPatchError):
            ctpatch.verify(prepared.out)

    check()


@needs_proc
def test_a_meta_of_a_gigabyte(prepared: Prepared) -> None:
    build_one(prepared)
    path = prepared.out / "patch_meta.json"
    os.truncate(path, 1 << 30)
    calls: list[list[str | Path]] = [["verify", prepared.out], ["info", prepared.out], ["build", prepared.folder]]
    for words in calls:
        ran, peak = measured(words)
        refused(ran, "it has 1073741824 bytes")
        assert peak < 500  # it is not read


# Shards.


def shard_of(shape: Any, data: int, descr: str = "'<f4'", fortran: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".ljust(PAGE_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(data)


def lying_shards(good: bytes) -> dict[str, bytes]:
    data = len(good) - PAGE_BYTES
    items = data // (16 * 16 * 4)
    return {
        "more items than there are": shard_of((items + 1, 16, 16), data),
        "fewer items": shard_of((items - 1, 16, 16), data),
        "fewer items, cut to fit": shard_of((items - 1, 16, 16), data - 1024),
        "no items": shard_of((0, 16, 16), 0),
        "no items, with data": shard_of((0, 16, 16), data),
        "beyond memory": shard_of((2**40, 16, 16), data),
        "beyond numbers": shard_of((2**62, 2**62, 16), data),
        "negative": shard_of((-items, -16, 16), data),
        "two axes": shard_of((items * 16, 16), data),
        "four axes": shard_of((items, 16, 16, 1), data),
        "no axes": shard_of("()", 4),
        "float text": shard_of("(1.5, 16, 16)", data),
        "other dtype of the same size": shard_of((items, 16, 16), data, "'<i4'"),
        "big-endian": shard_of((items, 16, 16), data, "'>f4'"),
        "half the pixels as float64": shard_of((items, 16, 8), data, "'<f8'"),
        "objects": shard_of((items, 16, 16), data, "'|O'"),
        "fields": shard_of((items, 16, 16), data, "[('a', '<f4')]"),
        "fortran": shard_of((items, 16, 16), data, fortran="True"),
        "code": shard_of("__import__('os').system('touch hacked')", data),
        "long header": b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + bytes(data),
    }


@pytest.mark.parametrize("layout", ["shards", "slices"])
def test_shards_whose_header_lies(tmp_path: Path, layout: Any, count: Count) -> None:
    size = 16
    prepared = make_split(tmp_path, [(size, size)] * 3 if layout == "slices" else [(40, 50)] * 2)
    build_one(prepared, layout=layout)
    path = prepared.out / "shards/train_00000.npy"
    good = path.read_bytes()
    patches = len(ctpatch.open(prepared.out))
    wanted = ctpatch.open(prepared.out).read(range(patches))
    assert good[:PAGE_BYTES] == header_bytes((patches, size, size), np.dtype("<f4"), PAGE_BYTES)
    for kind, content in lying_shards(good).items():
        path.write_bytes(content)
        report = ctpatch.verify(prepared.out)
        assert report.status == "failed", kind
        assert any("train_00000.npy" in str(finding) for finding in report.findings), kind
        ps = ctpatch.open(prepared.out)
        try:
            read = ps.read(range(patches))
        except CtPatchError:
            count("shards whose header lies: refused on reading")
        else:
            assert read.shape == wanted.shape, kind
            count("shards whose header lies: found by verify alone")
        ps.close()
    assert not Path("hacked").exists()


# Tables of a set, forged so that digests agree.

CELLS = {
    "patch_path": [
        "/etc/hostname",
        "../../../../outside/secret.npy",
        "..",
        "a\x00b",
        "",
        "x" * 300,
        "shards",
        "\\\\h\\s",
    ],
    "src_path": ["/etc/hostname", "../../outside/secret.npy", "", "x" * 5000],
    "patch_index": ["-1", "40", "9223372036854775807", "", "1.5", "NaN", "9223372036854775808"],
    "row": ["-1", "2147483647", "-2147483648", "41", "NaN", "", "1e3"],
    "col": ["-16", "50", "2147483647", "x"],
    "min": ["NaN", "inf", "", "-inf"],
    "std": ["NaN", "-1"],
    "slice_index": ["-1", "2", "9223372036854775807", ""],
    "digest": ["", "0" * 32, "x" * 100_000],
    "patch_id": ["", "=1+1", "../x", "train_000000_000_008"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_point_elsewhere(tmp_path: Path, prepared: Prepared, layout: Any, count: Count) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    np.save(outside / "secret.npy", np.zeros((16, 16), np.float32))
    build_one(prepared, layout=layout)
    tables = {name: (prepared.out / name).read_bytes() for name in ("patch_manifest.csv", "patch_meta.json")}
    for column, values in CELLS.items():
        if (column == "patch_index" and layout in {"files", "index"}) or (
            column == "digest" and layout in {"slices", "index"}
        ):
            continue  # empty there
        for value in values:
            rewrite_table(prepared.out, "patch_manifest.csv", 0, column, value)
            assert ctpatch.verify(prepared.out).status == "failed", (column, value)
            try:
                ctpatch.open(prepared.out).read([0, 39])
            except CtPatchError as error:
                assert len(error.message) < 1500  # noqa: PT017
            count("forged rows")
            for name, content in tables.items():
                (prepared.out / name).write_bytes(content)
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.mark.parametrize("layout", LAYOUTS if FULL else ["slices"])
def test_no_file_outside_is_touched(tmp_path: Path, prepared: Prepared, layout: Any, count: Count) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    np.save(outside / "secret.npy", np.zeros((16, 16), np.float32))
    build_one(prepared, layout=layout)
    tables = {path.name: path.read_bytes() for path in prepared.out.iterdir() if path.suffix in {".csv", ".json"}}
    cases: list[tuple[str, Callable[[], None]]] = []
    for path in ["../outside/secret.npy", "../../../../outside/secret.npy", str(outside / "secret.npy")]:
        for table, column in [("patch_manifest.csv", "patch_path"), ("slice_manifest.csv", "src_path")]:
            cases.append((path, lambda t=table, c=column, p=path: rewrite_table(prepared.out, t, 0, c, p)))  # type: ignore[misc]
    for name, value in [("patch_dir", "../../outside"), ("patch_dir", "/"), ("source_manifest", "../outside/x.csv")]:
        cases.append((value, lambda n=name, v=value: change_meta(prepared.out, lambda meta: meta.update({n: v}))))  # type: ignore[misc]
    for path, forge in cases if FULL else cases[1::3]:
        forge()
        for words in (
            ["verify", prepared.out, "--deep"],
            ["convert", prepared.out, prepared.root / "patches/other", "--layout", "shards"],
            ["build", prepared.folder, "--layout", layout, "--patch-size", "16", "--stride", "8", "--overwrite"],
        ):
            audited(prepared.root, *words)
            count("hostile sets under audit: nothing outside touched")
        assert (outside / "secret.npy").exists(), path
        shutil.rmtree(prepared.root / "patches/other", ignore_errors=True)
        shutil.rmtree(prepared.out)
        build_one(prepared, layout=layout)
        assert set(tables) == {path.name for path in prepared.out.iterdir() if path.suffix in {".csv", ".json"}}


# Ten million rows.

ROWS = 10_000_000 if FULL else 1_000_000
RUBBISH: dict[str, tuple[str, Callable[[int], str], str]] = {
    "every row bad": ("path", lambda _number: "/etc/passwd", "row 2, column path"),
    "every row climbs": ("path", lambda number: f"../../x{number:08d}.npy", "row 2, column path"),
    "nothing there": ("path", lambda number: f"prepared/{number:08d}.npy", "prepared/00000000.npy"),
    "one path": ("path", lambda _number: "prepared/x.npy", "rows 2 and 3"),
    "bad at the end": (
        "path",
        lambda number: f"prepared/{number:08d}.npy" if number < ROWS - 1 else "/etc/passwd",
        "prepared/00000000.npy",
    ),
    "bad index": ("path,index", lambda number: f"prepared/{number:08d}.npy,x", "row 2, column index"),
    "folders": ("path", lambda number: f"p/{number:08d}/x.npy", "p/00000000/x.npy"),
}
KINDS = list(RUBBISH) if FULL else ["every row climbs", "bad at the end"]

MEASURED = """
import sys
from ctpatch.cli.app import main
status = main(sys.argv[1:])
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.stderr.write(f"\\nMEASURED {peak // 1024}\\n")
sys.exit(status)
"""


def measured(words: Sequence[str | Path]) -> tuple[Ran, int]:
    """Run ctpatch; returns what came of it, and the most memory in MB that it had."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,  # of the ten million rows of a full run
    )
    err, _, peak = done.stderr.rpartition("\nMEASURED ")
    return Ran(done.returncode, done.stdout, err), int(peak)


@needs_proc
@pytest.mark.parametrize("kind", KINDS)
def test_ten_million_rows_of_rubbish(tmp_path: Path, kind: str, count: Count) -> None:
    header, row, said = RUBBISH[kind]
    folder = tmp_path / "root/prepared/many/train"
    folder.mkdir(parents=True)
    with (folder / "train_manifest.csv").open("w") as file:
        file.write(header + "\n")
        for start in range(0, ROWS, 100_000):
            file.write("".join(f"{row(number)}\n" for number in range(start, min(start + 100_000, ROWS))))
    ran, peak = measured(["build", folder])
    shutil.rmtree(folder)
    assert ran.status in {1, 2}, ran.err[-2000:]
    assert "Traceback" not in ran.err
    assert said in ran.err, ran.err[-2000:]
    count(f"rubbish of {ROWS:,} rows, {kind}: peak MB", peak)
    assert peak < 500
    assert not (tmp_path / "root/patches").exists()
