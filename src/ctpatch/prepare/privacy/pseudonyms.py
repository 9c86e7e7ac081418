"""Names that stand for patients, series and files: the same for the same key, and no way back without it."""

import hashlib
import hmac
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from ctpatch.errors import SystemFailureError, UsageError
from ctpatch.files.atomic import given_path, read_regular

KEY_BYTES = 32
_MAX_KEY_BYTES = 4096
_DIGITS = 16
_NAME_ONE = "name a file for it with --key FILE --new-key, where it can be kept"


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Keyed pseudonyms: HMAC-SHA256 of kind and name, its first 64 bits in hex.

    The key is the secret; its holder alone can tell which pseudonym is whose.
    """

    key: bytes

    def __repr__(self) -> str:
        return f"Pseudonyms({self.key_id})"

    def _of(self, kind: str, name: str) -> str:
        message = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:_DIGITS]

    def patient(self, group: str) -> str:
        """What stands for a patient, or for what is kept together in place of one."""
        return "P" + self._of("patient", group)

    def series(self, series: str) -> str:
        """What stands for a series."""
        return "S" + self._of("series", series)

    def file(self, where: str) -> str:
        """What stands for a file of the source."""
        return "F" + self._of("file", where)

    @property
    def key_id(self) -> str:
        """Tells two keys apart; says nothing of either."""
        return "K" + self._of("key", "id")


def lies_in(file: Path, folder: Path) -> bool:
    """Whether a file is below a folder once links are followed: what is written there may be given away."""
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def default_key_file() -> Path:
    """Where the user's key lies unless another is named; UsageError where the user has no home directory."""
    variable, below = ("APPDATA", "AppData/Roaming") if sys.platform == "win32" else ("XDG_CONFIG_HOME", ".config")
    try:
        base = Path(os.environ.get(variable) or Path.home() / below)
    except RuntimeError:
        raise UsageError(
            f"this user has no home directory, in which the key of the pseudonyms would lie; {_NAME_ONE}"
        ) from None
    return base / "ctpatch" / "pseudonym.key"


def load_key(
    path: str | os.PathLike[str] | None, outside: tuple[Path, ...], *, new_key: bool = False
) -> tuple[Pseudonyms, Path, bool]:
    """The user's key, its file, and whether it is new: `save_key` is then still to write it.

    None takes the key in the user's settings, where it may always be new; in a file that the user has named, only with
    `new_key`. It must not lie in the folders `outside`.

    Raises:
        UsageError: it lies in the output, is not there, is no key, or cannot be made where it is to lie.
        SystemFailureError: it cannot be read.
    """
    file = given_path(path) if path is not None else default_key_file()
    if any(lies_in(file, folder) for folder in outside):
        raise UsageError(
            f"the key {file.name} lies in the folder that is written; whoever has it can tell who is behind a "
            "pseudonym: choose a --key elsewhere"
        )
    if not os.path.lexists(file):
        if path is not None and not new_key:
            raise UsageError(
                f"the key {file.name} does not exist, and another key gives other pseudonyms; check --key, or add "
                "--new-key to have it made"
            )
        _refuse_unwritable(file)
        return Pseudonyms(secrets.token_hex(KEY_BYTES).encode()), file, True
    try:
        content = read_regular(Path(os.path.realpath(file)), _MAX_KEY_BYTES).strip()
    except OSError as error:
        raise SystemFailureError(
            f"the key {file} cannot be read: {_reason(error)}; check its permissions, or name another with --key"
        ) from None
    if len(content) < KEY_BYTES:
        raise UsageError(
            f"the key {file.name} has {len(content)} bytes, wanted {KEY_BYTES} or more; name another --key, or a file "
            "that does not exist with --new-key: a key is made there"
        )
    return Pseudonyms(content), file, False


def _refuse_unwritable(file: Path) -> None:
    """Refuse a place for a new key before any work is done, where no file can be made: it would be found out late."""
    above = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    if not os.path.isdir(above):
        raise UsageError(f"the key {file} cannot be made: {above} is no folder; {_NAME_ONE}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"the key {file} cannot be made: {above} cannot be written; {_NAME_ONE}")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def save_key(pseudonyms: Pseudonyms, file: Path) -> None:
    """Write a new key, readable by the user alone.

    Raises:
        UsageError: another run has made one there since.
        SystemFailureError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, pseudonyms.key + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileExistsError:
        raise UsageError(f"the key {file.name} was made by another run meanwhile; run the command again") from None
    except OSError as error:
        raise SystemFailureError(f"the key {file} cannot be made: {_reason(error)}; {_NAME_ONE}") from None
