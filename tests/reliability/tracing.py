"""System calls of ctpatch on its output: listed by strace, and made to fail or to kill, one by one."""

import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from reliability.common import TIMEOUT, Ran, need_program, run, spread

MUTATING = (
    "openat,write,writev,pwrite64,fsync,syncfs,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,ftruncate"
)
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")
_WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT")


@dataclass(frozen=True)
class Call:
    """The `when`-th call of a kind in one thread."""

    kind: str
    when: int
    line: str


@lru_cache
def _why_not() -> str:
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=none", "true"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()[:200]}"


def need_strace() -> None:
    need_program("strace")
    if why := _why_not():
        pytest.skip(why)


def calls_on(folder: Path, log: Path) -> list[Call]:
    """The calls in a log of strace that may change something below a folder."""
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        thread, kind, rest = match.groups()
        counts[thread, kind] += 1
        if str(folder) in rest and (kind != "openat" or _WRITES.search(rest)):
            found.append(Call(kind, counts[thread, kind], rest.replace(str(folder), "…")))
    return found


def trace(
    arguments: Sequence[str | Path], conditions: Mapping[str, Any] | None, folder: Path, log: Path
) -> tuple[Ran, list[Call]]:
    """Run ctpatch undisturbed; returns what it did below a folder."""
    ran = run(arguments, conditions, before=["strace", "-f", "-qq", "-y", "-o", str(log), "-e", f"trace={MUTATING}"])
    return ran, calls_on(folder, log)


def disturb(
    arguments: Sequence[str | Path],
    conditions: Mapping[str, Any] | None,
    call: Call,
    fault: str,
    log: Path,
    *,
    onwards: bool = False,
) -> Ran:
    """Run ctpatch with a fault at one call, such as `signal=SIGKILL` or `error=EIO`, or from that call on."""
    inject = f"{call.kind}:{fault}:when={call.when}{'+' if onwards else ''}"
    traced = ",".join(dict.fromkeys([call.kind, "rename", "exit_group"]))
    return run(
        arguments,
        conditions,
        before=["strace", "-f", "-qq", "-y", "-o", str(log), "-e", f"trace={traced}", "-e", f"inject={inject}"],
    )


def spread_over_kinds(calls: Iterable[Call], number: int) -> list[Call]:
    """So many of the calls, of every kind as many as can be, evenly spread in each."""
    kinds: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        kinds[call.kind].append(call)
    chosen: list[Call] = []
    # The rarest first: what a kind has too few of, the others may have more of.
    for left, kind in zip(range(len(kinds), 0, -1), sorted(kinds, key=lambda kind: len(kinds[kind])), strict=True):
        chosen += spread(kinds[kind], max(1, (number - len(chosen)) // left))
    return chosen
