"""The errors a user can meet, each with a stable code and the exit status it ends a command with.

A message says what was wrong, where, the value seen, the value wanted and what to do next.
"""

from typing import ClassVar

EXIT_DONE = 0
EXIT_DATA = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class CtPatchError(Exception):
    """Base of every error that ctpatch raises on purpose.

    Attributes:
        code: stable name of the kind of error, for programs.
        exit_status: what the command line ends with.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = EXIT_DATA

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


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
