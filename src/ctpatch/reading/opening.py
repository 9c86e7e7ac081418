"""Where a patch set is and whether it is finished; what is there instead is named."""

from pathlib import Path

from ctpatch.errors import IncompleteError, UsageError
from ctpatch.format.meta import PATCH_META, STATE_FOLDER, PatchMeta, read_meta


def set_folder(path: Path) -> Path:
    """The folder of a set, absolute, from its path or from that of a file in it.

    Raises:
        UsageError: there is no such folder.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise UsageError(f"{str(path)!r} does not exist; give the folder of a patch set (it holds {PATCH_META})")
    return folder.resolve()


def finished_meta(folder: Path) -> PatchMeta:
    """The meta of a finished set.

    Raises:
        IncompleteError: the build has not finished.
        UsageError: the folder is no patch set.
        FormatError: the meta is damaged or of another format version.
    """
    try:
        return read_meta(folder / PATCH_META)
    except FileNotFoundError:
        pass
    if (folder / STATE_FOLDER).is_dir():
        raise IncompleteError(
            f"{folder.name} is incomplete: its build was begun and has not finished; run the same build again to go on"
        )
    below = sorted(each.name for each in folder.iterdir() if (each / PATCH_META).is_file())
    hint = f"; there are sets below it: {', '.join(below[:5])}" if below else ""
    raise UsageError(f"{folder.name} is no patch set: it has no {PATCH_META}{hint}")
