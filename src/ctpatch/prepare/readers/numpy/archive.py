"""An array in a `.npz`, which is a zip archive: found and unpacked without trusting what the archive says of itself."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from ctpatch.errors import SliceError
from ctpatch.files.npy import NpyHeader, header_prefix, parse_header
from ctpatch.prepare.readers.volume.stream import DEFLATE_RATIO

MAX_LIST_BYTES = 2**20
"""Most bytes of the list of arrays in an archive: some thousand of them."""

_END, _END_BYTES, _END_64 = b"PK\x05\x06", 22, b"PK\x06\x06"
_END_64_BYTES = 56 + 20  # the record of large archives, and what points at it
_LONGEST_COMMENT = 2**16
_READ = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


def in_archive(raw: io.BufferedReader, name: str, array: str | None) -> NpyHeader:
    """Read the header of an array in an archive; see `open_member`."""
    with _members(raw, name) as archive:
        member = _member(archive, name, array)
        with archive.open(member) as stream:
            header = parse_header(header_prefix(stream.read), name)
    promised = header.offset + header.data_bytes
    if member.file_size != promised:
        raise SliceError(
            f"{name} holds an array of {member.file_size} bytes, whose header promises {promised}; copy it again"
        )
    if promised > max(member.compress_size, 1) * DEFLATE_RATIO:
        raise SliceError(f"{name} holds an array of {promised} bytes, which cannot be in its {member.compress_size}")
    return header


@contextmanager
def open_member(raw: io.BufferedReader, name: str, array: str | None) -> Iterator[zipfile.ZipExtFile]:
    """Open the array of a name in an archive, or the one array that it holds.

    Raises:
        SliceError: there is no such array, there are several, or the archive is damaged.
    """
    with _members(raw, name) as archive, archive.open(_member(archive, name, array)) as stream:
        assert isinstance(stream, zipfile.ZipExtFile)
        yield stream


@contextmanager
def _members(raw: io.BufferedReader, name: str) -> Iterator[zipfile.ZipFile]:
    if _list_bytes(raw) > MAX_LIST_BYTES:
        raise SliceError(
            f"{name} lists more arrays than ctpatch looks at; save what is needed in an archive of its own"
        )
    try:
        with zipfile.ZipFile(raw) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError):
        raise SliceError(f"{name} is damaged: it is no sound .npz archive; copy it again") from None


def _list_bytes(raw: io.BufferedReader) -> int:
    """The size of the list of members, as the end of an archive says it; zipfile would read it whole.

    The end is looked for where zipfile looks for it.
    """
    size = raw.seek(0, io.SEEK_END)
    raw.seek(max(0, size - _LONGEST_COMMENT - _END_BYTES - _END_64_BYTES))
    tail = raw.read()
    raw.seek(0)
    at = len(tail) - _END_BYTES
    if not (tail[at : at + 4] == _END and tail[-2:] == bytes(2)):
        at = tail.rfind(_END)
    if at < 0:
        return 0
    found = int.from_bytes(tail[at + 12 : at + 16], "little")
    large_at = at - _END_64_BYTES
    if large_at >= 0 and tail[large_at : large_at + 4] == _END_64:
        return int.from_bytes(tail[large_at + 40 : large_at + 48], "little")
    return found


def _member(archive: zipfile.ZipFile, name: str, array: str | None) -> zipfile.ZipInfo:
    arrays = {each.filename.removesuffix(".npy"): each for each in archive.infolist() if each.filename.endswith(".npy")}
    if array is None and len(arrays) != 1:
        raise SliceError(f"{name} holds {len(arrays)} arrays, wanted one; say which is meant with --array NAME")
    if array is not None and array not in arrays:
        raise SliceError(f"{name} holds {len(arrays)} arrays, and none of the name that --array gives")
    member = next(iter(arrays.values())) if array is None else arrays[array]
    if member.compress_type not in _READ or member.flag_bits & 1:
        raise SliceError(f"{name} holds an array that is encrypted or compressed in an unusual way; save it again")
    return member
