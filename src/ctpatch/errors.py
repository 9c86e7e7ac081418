"""The errors a user can meet, each with a stable code and the exit status it ends a command with.

A message says what was wrong, where, the value seen, the value wanted and what to do next.
"""

from typing import Any, ClassVar

EXIT_DONE = 0
EXIT_DATA = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_LONGEST_WORD, _LONGEST_LINE = 400, 2000
"""Characters: a path of a deep tree has fewer than the first, and what a user reads of a message than the second."""


def printable(text: str) -> str:
    """Text without characters that would steer a terminal."""
    return text if text.isprintable() else "".join(_escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def one_line(text: str) -> str:
    """One line of a message, whatever the cell, name or header holds that it quotes: printable, and not too long."""
    if len(text) > 3 * _LONGEST_LINE:
        text = f"{text[:_LONGEST_LINE]}[...]{text[-2 * _LONGEST_LINE :]}"
    words = (_shortened(word, _LONGEST_WORD) for word in printable(text).split(" "))
    return _shortened(" ".join(words), _LONGEST_LINE)


def _shortened(text: str, longest: int) -> str:
    """Text without its middle where it is too long: its end says what to do, or has the name of a file."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 3]}[...]{text[-(longest - longest // 3) :]}"


class CtPatchError(Exception):
    """Base of every error that ctpatch raises on purpose.

    Each line of the message is given on its own. What it quotes may come from anywhere, so control characters are
    escaped and long words shortened here.

    Attributes:
        code: stable name of the kind of error, for programs.
        exit_status: what the command line ends with.
        message: the lines as one text.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = EXIT_DATA

    def __init__(self, *lines: str) -> None:
        self.message = "\n".join(map(one_line, lines))
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.message.split("\n"))


class ConfigError(CtPatchError):
    """An option has a value that makes no sense."""

    code = "config"
    exit_status = EXIT_USAGE


class RuleError(ConfigError):
    """A rule cannot be understood, or is no condition on one row."""

    code = "rule"


class UsageError(CtPatchError):
    """The call does not fit what is there: no such source, no data root, not a patch set."""

    code = "usage"
    exit_status = EXIT_USAGE


class OutputConflictError(UsageError):
    """The output holds something else: other options, other sources, or files that are not ours."""

    code = "output-conflict"


class OutputLockedError(CtPatchError):
    """Another process is writing this output."""

    code = "output-locked"


class SourceManifestError(CtPatchError):
    """A source manifest breaks the rules of its format."""

    code = "source-manifest"


class SliceError(CtPatchError):
    """One source slice cannot be used; `--on-error skip` leaves it out."""

    code = "slice"


class RangeError(SliceError):
    """A slice holds values outside the value range, NaN or infinity."""

    code = "value-range"


class NpyError(SliceError):
    """A file is not the plain .npy array it should be."""

    code = "npy"


class DoubtfulValuesError(CtPatchError):
    """The values of a series are hardly HU, and `strict` asks for an error."""

    code = "doubtful-values"


class FormatError(CtPatchError):
    """A patch set's own files are damaged, incomplete or of a format this version does not know."""

    code = "format"


class IncompleteError(FormatError):
    """A patch set was begun and never finished."""

    code = "incomplete"


class SetChangedError(FormatError):
    """A patch set is no longer the one that was opened: it was built again, or removed."""

    code = "set-changed"


class SourceChangedError(CtPatchError):
    """A source slice is no longer what the patches were cut from."""

    code = "source-changed"


class SystemFailureError(CtPatchError):
    """The system refused a read or a write: disk full, no permission, read-only."""

    code = "system"


class WorkerLostError(CtPatchError):
    """A slice or a part kills the process that works on it."""

    code = "worker-lost"


class ReassemblyError(CtPatchError, ValueError):
    """Patches do not fit together: missing, given twice, of another shape, or not a number."""

    code = "reassembly"
