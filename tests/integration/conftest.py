"""What every integration test stands on."""

from pathlib import Path

import pytest

from helpers import EPOCH, Prepared, make_split


@pytest.fixture(autouse=True)
def _fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Three slices of 40x50: 16-pixel patches at a stride of 8 give 4 x 5 windows each."""
    return make_split(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A file with a key for pseudonyms."""
    path = tmp_path / "my.key"
    path.write_bytes(b"0123456789abcdef" * 4)
    return path
