"""LoDoPaB-CT's lists of patients: one whole number a line, no header, in the order of the samples."""

import re
from pathlib import Path

from ctpatch.errors import SourceManifestError
from ctpatch.files.atomic import system_errors

_MAX_BYTES = 4 * 2**20
_NUMBER = re.compile(rb"\d{1,9}")


def read_patients(path: Path, name: str) -> list[str]:
    """Read a list.

    Args:
        path: the file.
        name: what messages call it.

    Returns:
        The number of each sample's patient, without leading zeros.

    Raises:
        SourceManifestError: a line is no whole number, or the file is too large to be such a list.
        SystemFailureError: the file cannot be read.
    """
    with system_errors("reading", name), path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise SourceManifestError(f"{name} has more than {_MAX_BYTES} bytes, wanted one number a line; copy it again")
    patients = []
    for row, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not _NUMBER.fullmatch(line.strip()):
            seen = ascii(line[:40].decode("latin1"))
            raise SourceManifestError(f"{name} row {row}: {seen}, wanted a patient's number alone; copy it again")
        patients.append(str(int(line)))
    return patients
