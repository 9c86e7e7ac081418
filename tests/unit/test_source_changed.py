"""When a source slice is trusted by its times, and when its pixels are read."""

from pathlib import Path

import numpy as np
import pytest

from ctpatch.cutting.changes import source_changed
from ctpatch.files.digest import array_digest

NAME = "train_000000.npy"
BEFORE = np.full((4, 5), 0.25, np.float32)
NOW = np.full((4, 5), 0.75, np.float32)


@pytest.fixture
def latest(tmp_path: Path) -> int:
    """A slice is there that is not what was recorded; the later of its two times, in nanoseconds."""
    np.save(tmp_path / NAME, NOW)
    status = (tmp_path / NAME).stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


def changed(root: Path, since_ns: int, *, strict: bool = False) -> bool:
    return source_changed(root, NAME, array_digest(BEFORE), since_ns, integers_allowed=False, strict=strict)


def test_a_file_written_at_the_very_moment_of_the_start_is_read(tmp_path: Path, latest: int) -> None:
    assert changed(tmp_path, latest)
    assert changed(tmp_path, latest - 1)


def test_a_file_written_before_the_start_is_trusted_unless_strict(
    tmp_path: Path, latest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: latest + 1)
    assert not changed(tmp_path, latest + 1)
    assert changed(tmp_path, latest + 1, strict=True)


def test_a_start_that_is_still_to_come_proves_nothing(
    tmp_path: Path, latest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: latest + 1)
    assert changed(tmp_path, latest + 2)


def test_a_file_that_was_only_touched_is_no_change(tmp_path: Path, latest: int) -> None:
    assert not source_changed(tmp_path, NAME, array_digest(NOW), latest, integers_allowed=False, strict=False)
    assert source_changed(tmp_path, "gone.npy", array_digest(NOW), latest, integers_allowed=False, strict=False)
