"""A small ext4 in a file, which can be cut off as a power cut does it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from reliability.common import mounted

_MEGABYTES = 48


@dataclass
class Disk:
    """A file with an ext4 in it, and the folder it is mounted on."""

    image: Path
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "train"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        with mounted(self.folder, "-o", "loop", str(self.image)):
            yield

    def format(self) -> None:
        """Make it empty; the test is skipped where there is no ext4."""
        with self.image.open("wb") as file:
            file.truncate(_MEGABYTES << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"mkfs.ext4: {made.stderr.strip()}")
