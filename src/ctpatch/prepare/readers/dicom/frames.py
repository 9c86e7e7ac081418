"""A file with frames as slices: each frame's header, and its pixels as those of a file of its own."""

from collections.abc import Iterator
from typing import Any

from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.dicom.file import CtFile, FileProblemError, damaged, import_pydicom, tags_of
from ctpatch.prepare.readers.dicom.groups import GROUP_TAGS, Groups, missing_groups
from ctpatch.prepare.readers.dicom.header import (
    HEADER_TAGS,
    CtHeader,
    Permission,
    header_faults,
    header_of,
    named_frame,
    permitted,
)
from ctpatch.prepare.readers.dicom.kinds import refuse_no_slice
from ctpatch.prepare.readers.dicom.places import places_of
from ctpatch.prepare.readers.dicom.tags import Tags

FRAME_TAGS = HEADER_TAGS + GROUP_TAGS


class FrameFile:
    """A file with frames, its header read once; the pixels of a frame are read when it is asked for."""

    def __init__(self, ct: CtFile, file: str, dataset: Any = None) -> None:
        """Read the header, unless it was just read with `FRAME_TAGS`, and find the frames.

        Raises:
            FileProblemError: the header or the pixels do not fit the number of frames.
        """
        self._ct, self._file = ct, file
        dataset = tags_of(ct, FRAME_TAGS) if dataset is None else dataset
        try:
            Tags(dataset).settle("Rows", "Columns", "BitsAllocated")
            self._groups = Groups(dataset)
            self._places = places_of(ct, dataset, self._groups.count)
        except FileProblemError:
            raise
        except Exception as error:  # noqa: BLE001 - values are converted where they are asked for
            raise damaged(error) from None

    def headers(self, permissions: frozenset[Permission]) -> Iterator[CtHeader | LeftOut]:
        """The header of each frame, or why it is not prepared."""
        for number in range(1, self._groups.count + 1):
            try:
                _, header = self._frame(number)
            except FileProblemError as problem:
                yield problem.left_out(named_frame(self._file, number))
            else:
                yield permitted(header, permissions)

    def dataset(self, number: int) -> tuple[Any, CtHeader]:
        """A frame as a dataset with pixels, and its header.

        Raises:
            FileProblemError: the frame cannot be used, or there is none of that number.
        """
        flat, header = self._frame(number)
        pixels = self._places.read(self._ct.source, number)
        vr = self._places.vr
        if self._places.compressed:
            pixels = import_pydicom().encaps.encapsulate([pixels])
        flat.add_new("PixelData", vr, pixels)
        return flat, header

    def _frame(self, number: int) -> tuple[Any, CtHeader]:
        with header_faults():
            flat, stack, missing = self._groups.frame(number)
            if missing:
                refuse_no_slice(Tags(flat), None)
                raise missing_groups(missing)
        return flat, header_of(self._file, flat).of_frame(number, stack)
