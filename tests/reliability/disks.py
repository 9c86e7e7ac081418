"""A small ext4 in a file, which can be cut off as a power cut does it."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from reliability.common import mounted

_MEGABYTES = 48
_NUMBERS = itertools.count()


@dataclass
class Disk:
    """A file with an ext4 in it, another one after each mount, and the folder it is mounted on."""

    image: Path
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "train"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        with mounted(self.folder, "-o", "loop", str(self.image)):
            yield
        # Whoever looks into this mount, such as a process in a copy of the machine's table of mounts, keeps it alive
        # and cut off, and a new mount of the same file would be that one.
        fresh = self.image.with_name(f"disk-{next(_NUMBERS)}.img")
        shutil.copyfile(self.image, fresh)
        self.image.unlink()
        self.image = fresh

    def format(self) -> None:
        """Make it empty; the test is skipped where there is no ext4."""
        with self.image.open("wb") as file:
            file.truncate(_MEGABYTES << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"mkfs.ext4: {made.stderr.strip()}")
