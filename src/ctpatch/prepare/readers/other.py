"""Files of kinds that no reader here reads, told by their first bytes, with what to do about them."""

from ctpatch.prepare.readers.base import LeftOut

START_BYTES = 512
"""As many as the kinds below need."""
_METAIMAGE = ("metaimage", "it is MetaImage; use ctpatch prepare metaimage")
_PICTURE = "a picture to look at holds no HU; ctpatch prepare images reads {} whose mapping to HU you can state"
_TIFF = ("tiff", f"it is TIFF; {_PICTURE.format('TIFF')}")
_STARTS: dict[bytes, tuple[str, str]] = {
    b"NRRD000": ("nrrd", "it is NRRD; use ctpatch prepare nrrd"),
    b"ObjectType": _METAIMAGE,
    b"NDims": _METAIMAGE,
    b"version https://git-lfs": ("git-lfs", "it is a pointer of Git LFS, not the file itself; run git lfs pull"),
    b"/annex/objects/": ("git-annex", "it is a pointer of git-annex, not the file itself; run git annex get"),
    b"\x89PNG\r\n": ("png", f"it is PNG; {_PICTURE.format('PNG of 16 bits')}"),
    b"\xff\xd8\xff": ("jpeg", "it is JPEG; a picture holds no HU; give the files that it was made from"),
    b"II*\0": _TIFF,
    b"MM\0*": _TIFF,
    b"II+\0": _TIFF,
    b"MM\0+": _TIFF,
    b"\x93NUMPY": (
        "npy",
        "it is a NumPy array; ctpatch prepare numpy reads volumes in HU; normalised slices are listed in a manifest",
    ),
    b"\x89HDF\r\n\x1a\n": ("hdf5", "it is HDF5; ctpatch prepare lodopab reads LoDoPaB-CT"),
    b"\x5c\x01\0\0": ("nifti", "it is NIfTI; use ctpatch prepare nifti"),
    b"\x1c\x02\0\0": ("nifti", "it is NIfTI; use ctpatch prepare nifti"),
}
_DICM_AT = 128
_ZIP = b"PK\x03\x04"


def other_kind(name: str, start: bytes) -> LeftOut | None:
    """What a file is that is of another kind than those its reader takes; None for one that is not known."""
    if start[_DICM_AT : _DICM_AT + 4] == b"DICM":
        return LeftOut(name, "dicom", "it is DICOM; use ctpatch prepare dicom")
    if start.startswith(_ZIP) and name.lower().endswith(".npz"):
        return LeftOut(name, "npz", "it is an archive of NumPy arrays; ctpatch prepare numpy reads volumes in HU")
    words = next((words for magic, words in _STARTS.items() if start.startswith(magic)), None)
    return None if words is None else LeftOut(name, *words)
