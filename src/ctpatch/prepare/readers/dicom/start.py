"""How a DICOM dataset begins that has no preamble."""


def begins_bare(head: bytes) -> bool:
    """Whether a file can be such a dataset, by its first 6 bytes: an element of group 2 or 8, the first of all."""
    low_first = head[:2] in {b"\x02\x00", b"\x08\x00"} and int.from_bytes(head[2:4], "little") <= 0x0018  # noqa: PLR2004
    high_first = head[:2] == b"\x00\x08" and head[4:6].isalpha()
    return low_first or high_first
