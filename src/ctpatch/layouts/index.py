"""Layout `index`: no pixels at all; an address is a window in the source slice."""

from ctpatch.layouts.base import Addresses, SliceToWrite, WriterOptions


class IndexWriter:
    """Writes nothing but addresses."""

    bytes_written = 0

    def __init__(self, options: WriterOptions) -> None:
        self._options = options

    def write(self, piece: SliceToWrite) -> Addresses:
        """The addresses of a slice's kept patches: the slice itself."""
        return Addresses([[path] * len(piece.rows) for path in piece.src_paths], None)

    def finish(self) -> list[str]:
        """No file was written."""
        return []

    def abandon(self) -> None:
        """Nothing is open."""
