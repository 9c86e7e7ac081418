"""Text for outputs of any encoding."""

import codecs
import io
import json
import sys


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an output cannot write: as JSON escapes them, so that JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join("..." if each == "…" else json.dumps(each)[1:-1] for each in unknown), error.end


def write_any_text() -> None:
    """Let stdout take any text, whatever its encoding; Python ends in a traceback else."""
    codecs.register_error("ctpatch", _spelled_out)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="ctpatch")
