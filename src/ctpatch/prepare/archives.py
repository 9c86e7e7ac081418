"""Files that hold other files: ctpatch does not look into them, and says so."""

from pathlib import Path

_STARTS = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}
_TAR_AT = 257
ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".rar", ".7z")


def archive_kind(file: Path) -> str | None:
    """What a file is by its first bytes, if it is an archive or compressed; None for others."""
    try:
        with file.open("rb") as stream:
            start = stream.read(_TAR_AT + 5)
    except OSError:
        return None
    if start[_TAR_AT:] == b"ustar":
        return "a tar archive"
    return next((kind for magic, kind in _STARTS.items() if start.startswith(magic)), None)
