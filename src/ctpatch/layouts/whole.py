"""Whether the pixel files of a set are whole: what the tables say of a file, and what was found wrong with it."""

import os
from typing import NamedTuple

from ctpatch.errors import CtPatchError
from ctpatch.layouts.mapped import begins_with


class PixelFile(NamedTuple):
    """A file of pixels of an array as the tables of its set say it is; None where they do not say.

    `patches` is how many rows name it, `header` what it begins with, `size` its bytes, and `fault` what is wrong with
    those rows.
    """

    path: str | None
    array: str
    patches: int
    shape: tuple[int, ...] | None
    header: bytes
    size: int
    fault: str | None = None

    def damage(self, full: str) -> str | None:
        """What shows that the file, which lies at `full`, is not whole, or None: it is gone, or of another length.

        Files with more than one item are few, so their headers are compared as well. Pixels are left to `verify`.
        """
        if self.path is None or self.shape is None:
            return f"the tables do not say what {self.path or 'a row'} holds"
        if self.path.startswith("/") or ".." in self.path.split("/"):
            return f"{self.path} is no path below the set"
        try:
            found = os.lstat(full).st_size
            if found != self.size:
                return f"{self.path} has {found:,} bytes, wanted {self.size:,}"
            many = len(self.shape) > 2  # noqa: PLR2004
            if many and not begins_with(full, self.path, self.header):
                return f"{self.path} has another .npy header than the one it was written with"
        except FileNotFoundError:
            return f"{self.path} is gone"
        except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
            return f"{self.path} cannot be read: {getattr(error, 'strerror', None) or error}"
        except CtPatchError as error:
            return error.message
        return None


class WrongPixels(NamedTuple):
    """Something that is not what its digest says: the row of the manifest, the array, and the fault."""

    row: int
    array: str
    fault: str
