"""A finished set where nothing can be written: the same command again is nothing to do, another one is refused."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import OutputConflictError, SystemFailureError, UsageError
from helpers import LAYOUTS, SMALL, build_one, make_split, refusal, tree_bytes

OTHER = ctpatch.PatchConfig(patch_size=20, stride=20)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@contextmanager
def read_only(patch: pytest.MonkeyPatch, root: Path, error: int) -> Iterator[None]:
    """Below a folder, whatever writes fails, as on a file system that is mounted read-only."""
    inside = os.fspath(root)

    def refusing(call: Callable[..., Any], places: int = 1) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            writes = call is not os_open or (args[1] if len(args) > 1 else kwargs["flags"]) & _WRITES
            for path in args[:places] if writes else ():
                if os.fspath(path).startswith(inside):
                    raise OSError(error, os.strerror(error), path)
            return call(*args, **kwargs)

        return called

    os_open = os.open
    with patch.context() as patched:
        for name in ("mkdir", "rmdir", "unlink", "open"):
            patched.setattr(os, name, refusing(getattr(os, name)))
        for name in ("replace", "link"):
            patched.setattr(os, name, refusing(getattr(os, name), 2))
        yield


@pytest.mark.skipif(sys.platform == "win32", reason="its errors are others")
@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_build_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any, error: int) -> None:
    prepared = make_split(tmp_path)
    build_one(prepared, layout=layout)
    before = tree_bytes(prepared.out)
    with read_only(monkeypatch, prepared.out, error):
        assert build_one(prepared, layout=layout).outcome == "complete"
        share = ctpatch.build_share(prepared.folder, "1/2", SMALL, layout=layout)[0]
        assert (share.set_complete, share.parts) == (True, 0)
        assert ctpatch.merge(prepared.out).outcome == "complete"
        with pytest.raises(OutputConflictError, match=r"patch_size was \[16, 16\], now \[20, 20\]"):
            build_one(prepared, OTHER, layout=layout)
        with pytest.raises(SystemFailureError, match=rf"locking train failed: {os.strerror(error)}"):
            build_one(prepared, layout=layout, overwrite=True)
    assert tree_bytes(prepared.out) == before


def test_a_damaged_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make_split(tmp_path)
    build_one(prepared, layout="shards")
    next((prepared.out / "shards").iterdir()).unlink()
    with (
        read_only(monkeypatch, prepared.out, errno.EROFS),
        pytest.raises(OutputConflictError, match=r"is damaged: .*is gone"),
    ):
        build_one(prepared, layout="shards")


def test_what_is_not_finished_cannot_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make_split(tmp_path)
    with (
        read_only(monkeypatch, tmp_path, errno.EROFS),
        pytest.raises(SystemFailureError, match="Read-only"),
    ):
        build_one(prepared)
    build_one(prepared)
    (prepared.out / ".ctpatch").mkdir()
    (prepared.out / ".ctpatch/clearing.json").write_bytes(b"{}")  # an --overwrite that was cut off at its beginning
    with (
        read_only(monkeypatch, tmp_path, errno.EROFS),
        pytest.raises(SystemFailureError, match="Read-only"),
    ):
        build_one(prepared)


def test_convert_and_predict_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make_split(tmp_path / "here")
    build_one(prepared, layout="slices")
    ps, there = ctpatch.open(prepared.out), tmp_path / "there"

    def convert(**options: Any) -> ctpatch.BuildResult:
        return ctpatch.convert(prepared.out, there / "converted", layout="shards", **options)

    def predict(model_id: str, **options: Any) -> Path:
        return ctpatch.predict(np.negative, ps, out=there, dataset="negative", clip=False, model_id=model_id, **options)

    assert convert().outcome == "built"
    folder = predict("a")
    before = tree_bytes(there)
    with read_only(monkeypatch, there, errno.EROFS):
        assert convert().outcome == "complete"
        assert predict("a") == folder
        with pytest.raises(OutputConflictError):
            convert(keep="std > 0.1")
        with pytest.raises(OutputConflictError, match="model was"):
            predict("b")
        for again in (lambda: convert(overwrite=True), lambda: predict("a", overwrite=True)):
            with pytest.raises(SystemFailureError, match="Read-only"):
                again()
    assert tree_bytes(there) == before


def test_verify_of_a_folder_above_names_the_sets(tmp_path: Path) -> None:
    for split in ("train", "test"):
        build_one(make_split(tmp_path / "root", split=split))
    build_one(make_split(tmp_path / "root", dataset="other"))
    sets = ["other/train", "phantoms/test", "phantoms/train"]
    for folder, above in {"root/patches": "", "root": "patches/", ".": "root/patches/"}.items():
        message = refusal(UsageError, lambda: ctpatch.verify(tmp_path / folder))  # noqa: B023
        assert message.endswith(
            "is no patch set: it has no patch_meta.json; give a set that is below it: "
            + ", ".join(above + each for each in sets)
        )
    assert "; give a set" not in refusal(UsageError, lambda: ctpatch.verify(tmp_path / "root/prepared"))
    for number in range(5):
        build_one(make_split(tmp_path / "root", dataset=f"more{number}"))
    assert refusal(UsageError, lambda: ctpatch.verify(tmp_path / "root/patches")).endswith(
        "more0/train, more1/train, more2/train, more3/train, more4/train and 3 more"
    )
