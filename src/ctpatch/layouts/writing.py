"""The writer for a layout's name."""

from collections.abc import Callable

from ctpatch.layouts.base import PartWriter, WriterOptions
from ctpatch.layouts.files import FilesWriter
from ctpatch.layouts.index import IndexWriter
from ctpatch.layouts.shards import ShardsWriter
from ctpatch.layouts.slices import SlicesWriter
from ctpatch.words import LayoutName


def make_writer(layout: LayoutName, options: WriterOptions) -> PartWriter:
    """A new writer for one part."""
    writers: dict[LayoutName, Callable[[WriterOptions], PartWriter]] = {
        "files": FilesWriter,
        "shards": ShardsWriter,
        "slices": SlicesWriter,
        "index": IndexWriter,
    }
    return writers[layout](options)
