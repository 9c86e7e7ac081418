"""Print the lowest version that pyproject.toml allows of each direct requirement: `lowest_versions.py prepare report`.

One `name==version` a line, for the core and for the extras that are named, as pip reads it with `-r`. pip itself only
ever takes the highest versions, so a floor that is too low would go unnoticed.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*(.*)")
_FLOOR = re.compile(r">=\s*([0-9][0-9A-Za-z.]*)")


def lowest_versions(project: dict[str, Any], extras: list[str]) -> dict[str, str]:
    """The floor of each direct requirement, by name.

    Args:
        project: the table `project` of a pyproject.toml.
        extras: names of optional dependencies; those they refer to by `project[extra]` come along.

    Raises:
        ValueError: an extra is not known, or a requirement has no floor or two of them.
    """
    floors: dict[str, str] = {}
    for requirement in _requirements(project, extras):
        match = _NAME.fullmatch(requirement)
        floor = None if match is None else _FLOOR.search(match[3])
        if match is None or floor is None:
            raise ValueError(f"{requirement!r} has no floor; write it as name>=version")
        if floors.setdefault(match[1], floor[1]) != floor[1]:
            raise ValueError(f"{match[1]} has two floors, {floors[match[1]]} and {floor[1]}; give it one")
    return floors


def _requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    yield from project["dependencies"]
    known, left, seen = project["optional-dependencies"], list(extras), set[str]()
    while left:
        extra = left.pop(0)
        if extra not in known:
            raise ValueError(f"{extra!r} is no extra; there are {', '.join(known)}")
        seen.add(extra)
        for requirement in known[extra]:
            match = _NAME.fullmatch(requirement)
            if match is not None and match[1] == project["name"]:
                left += [each.strip() for each in (match[2] or "").split(",") if each.strip() not in seen]
            else:
                yield requirement


def main() -> None:
    """Print the floors of the core and of the extras on the command line."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for name, version in lowest_versions(tomllib.loads(text)["project"], sys.argv[1:]).items():
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
