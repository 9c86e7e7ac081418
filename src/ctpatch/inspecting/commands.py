"""The line that prepares what was found, quoted for the shell."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ctpatch.inspecting.partners import Partners

_OUT, _DATASET = "data", "ct"


def quoted(words: Sequence[str]) -> str:
    """Words as a line for the shell of this system."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def prepare_line(reader: str, source: str, options: Sequence[str], partners: Partners | None = None) -> str:
    """The line for a format, with partners where there are any.

    Args:
        reader: the name of the format.
        source: the raw CT, as the user gave it.
        options: words that this format needs.
        partners: masks or targets.
    """
    words = [_option_like(source)]
    if partners is not None and partners.patterns is not None:
        image, other = partners.patterns
        words += ["--series", image, f"--{partners.role}-series", other, "--match", "position"]
    elif partners is not None and partners.other_source is not None:
        words = [_below(source, partners.source), f"--{partners.role}", _below(source, partners.other_source)]
    # A set that lies in its own source would be refused.
    inside = (Path.cwd() / _OUT / "prepared" / _DATASET).is_relative_to(Path(source).expanduser().resolve())
    out = str(Path(source).expanduser().resolve().parent / "prepared-ct") if inside else _OUT
    return quoted(["ctpatch", "prepare", reader, *words, *options, "--out", out, "--dataset", _DATASET])


def set_line(kind: str, folder: str) -> str:
    """The line that looks at a set which ctpatch wrote."""
    return quoted(["ctpatch", "plan" if kind in {"prepared", "predicted"} else "info", _option_like(folder)])


def _below(source: str, folder: str) -> str:
    return _option_like(os.path.join(source, *folder.split("/")))


def _option_like(path: str) -> str:
    """A path that a command does not take for an option."""
    return os.path.join(".", path) if path.startswith("-") else path
