"""Digests against xxh3-128 of bytes put together by hand."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.files.digest import array_digest, file_digest, json_digest, text_digest


def by_hand(preamble: str, pixels: bytes) -> str:
    return str(xxhash.xxh3_128(preamble.encode() + pixels).hexdigest())


def test_a_patch_is_hashed_as_the_format_says() -> None:
    values = [float(number) / 7 for number in range(128 * 128)]
    patch = np.array(values, np.float32).reshape(128, 128)
    digest = array_digest(patch)
    assert digest == by_hand("128,128;<f4;", struct.pack("<16384f", *values))
    assert len(digest) == 32
    assert digest == digest.lower()


def test_xxh3_128_is_the_known_one() -> None:
    assert text_digest("") == "99aa06d3014798d86001c324468d497f"  # the published vector for no bytes
    assert text_digest("é") == by_hand("", b"\xc3\xa9")


@pytest.mark.parametrize(
    ("array", "preamble", "pixels"),
    [
        (np.array([[1, 2, 3]], np.uint8), "1,3;|u1;", b"\x01\x02\x03"),
        (np.array([[True], [False]]), "2,1;|b1;", b"\x01\x00"),
        (np.array([[-2]], ">i2"), "1,1;<i2;", b"\xfe\xff"),
        (np.array([1.5], "<f8"), "1;<f8;", struct.pack("<d", 1.5)),
        (np.zeros((0, 128, 128), np.float32), "0,128,128;<f4;", b""),
        (np.array(1.0, np.float32), ";<f4;", struct.pack("<f", 1.0)),
    ],
)
def test_other_shapes_and_dtypes(array: NDArray[Any], preamble: str, pixels: bytes) -> None:
    assert array_digest(array) == by_hand(preamble, pixels)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(["f2", "f4", "f8", "i2", "u4", "u1"]))
def test_memory_does_not_matter_and_the_array_is_left_alone(height: int, width: int, kind: str) -> None:
    little = (np.arange(height * width) % 100).reshape(height, width).astype("<" + kind)
    wanted = array_digest(little)
    assert wanted == by_hand(f"{height},{width};{np.dtype('<' + kind).str};", little.tobytes())
    wide = np.zeros((height, width * 2), little.dtype)
    wide[:, ::2] = little
    others: list[NDArray[Any]] = [
        little.astype(">" + kind),
        np.asfortranarray(little),
        wide[:, ::2],
        little.astype("=" + kind),
    ]
    for same in others:
        before = same.copy()
        assert array_digest(same) == wanted
        np.testing.assert_array_equal(same, before)


def test_shape_dtype_and_each_bit_count() -> None:
    zeros = np.zeros((2, 8), np.float32)
    negative = zeros.copy()
    negative[1, 7] = -0.0
    others: list[NDArray[Any]] = [
        zeros.reshape(8, 2),
        zeros.reshape(16),
        zeros.view(np.int32),
        zeros.view(np.uint8),
        negative,
    ]
    digests = {array_digest(array) for array in [zeros, *others]}
    assert len(digests) == 6


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_is_hashed_whole_across_pieces(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(1000)) * (size // 1000 + 1)
    path = tmp_path / "file"
    path.write_bytes(content[:size])
    assert file_digest(path) == by_hand("", content[:size])


def test_json_is_hashed_whatever_the_order_of_keys() -> None:
    assert json_digest({"b": [1, 0.5, None], "a": "é"}) == by_hand("", b'{"a":"\\u00e9","b":[1,0.5,null]}')
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    assert json_digest([1, 2]) != json_digest([2, 1])
    with pytest.raises(ValueError, match="JSON compliant"):
        json_digest(float("nan"))
