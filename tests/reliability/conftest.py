"""What every reliability test stands on: a fixed `created`, and counts that are summed and printed at the end."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import EPOCH, Prepared
from reliability.common import Count, need_program, need_root, open_folder, small_split
from reliability.disks import Disk
from reliability.driver import shut_down

_COUNTED = "reliability"


@pytest.fixture(autouse=True)
def _fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)


@pytest.fixture
def small(tmp_path: Path) -> Prepared:
    """Six slices of 40x50 with a target and a mask."""
    return small_split(tmp_path)


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A folder that every user of the machine may enter; pytest's own is for its user alone."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """An empty file system that can be cut off; the test is skipped where there is none."""
    need_root()
    need_program("mkfs.ext4", "mount")
    made = Disk(tmp_path / "disk.img", tmp_path / "disk")
    made.format()
    with made.mounted():
        try:
            shut_down(str(made.folder))
        except OSError as error:
            pytest.skip(f"FS_IOC_SHUTDOWN: {error}")
    made.format()
    return made


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Count:
    """Add to a number that is printed at the end of the run: `count("points killed", 12)`."""

    def add(name: str, number: int = 1) -> None:
        request.node.user_properties.append((_COUNTED, [name, number]))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts; they come with the reports, so that they arrive from xdist's processes as well."""
    numbers: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    if name == _COUNTED:
                        numbers[value[0]] += value[1]
    if numbers:
        terminalreporter.section("reliability: counted")
        for name in sorted(numbers):
            terminalreporter.write_line(f"{name:<60} {numbers[name]:>10,}")
