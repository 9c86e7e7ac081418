"""A first look at a file: the header of each slice in it, or why it is not prepared."""

from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.dicom.file import FileProblemError, has_frames, open_ct, refuse_large_slice, tags_of
from ctpatch.prepare.readers.dicom.frames import FRAME_TAGS, FrameFile
from ctpatch.prepare.readers.dicom.header import CtHeader, Permission, header_of, permitted


def look_at(
    root: str,
    file: str,
    *,
    allow_deflated: bool,
    follow_links: bool = False,
    permissions: frozenset[Permission] = frozenset(),
) -> list[CtHeader | LeftOut]:
    """Read the header of a file, or of each of its frames, or say why it is not prepared."""
    try:
        with open_ct(root, file, allow_deflated=allow_deflated, follow_links=follow_links) as ct:
            dataset = tags_of(ct, FRAME_TAGS)
            if has_frames(dataset):
                return list(FrameFile(ct, file, dataset).headers(permissions))
            refuse_large_slice(ct)
            return [permitted(header_of(file, dataset), permissions)]
    except FileProblemError as problem:
        return [problem.left_out(file)]
