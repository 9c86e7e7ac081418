"""Keys that others can read or guess are doubted; keys that ctpatch or a random generator makes are not."""

import base64
import os
import random
import string
import sys
from pathlib import Path

import pytest

from ctpatch.prepare.privacy.key_check import LEAST_BITS, entropy_bits, key_doubts
from ctpatch.prepare.privacy.pseudonyms import load_key, save_key

GOOD = b"9c1f4be07d22a8365fe3b10c7746d9ae58120bf3c6e94d7fa1350e8b62c7d940"


def bytes_at_random(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        (b"a" * 40, 0, 0),
        (bytes(64), 0, 0),
        (b"0123456789abcdef" * 4, 0, 5),
        (b"abcdefghijklmnopqrstuvwxyz0123456789", 0, 5),
        (b"password" * 4, 0, 30),
        (b"hospital-key-2024-" + b"0" * 30, 0, 60),
        (b"correct horse battery staple with some words", 30, 60),
        (b"ThisIsTheKeyOfOurHospital2024!!!!!!!", 30, 60),
        (b"MY SECRET KEY FOR THE LUNG PROJECT OF 2023", 30, 60),
        (GOOD, 180, 256),
    ],
)
def test_the_bits_of_a_key(key: bytes, least: float, most: float) -> None:
    assert least <= entropy_bits(key) <= most


def test_keys_from_random_generators_are_never_doubted() -> None:
    for seed in range(1000):
        drawn = bytes_at_random(32, seed)
        letters = "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=32)).encode()
        for key in (drawn, drawn.hex().encode(), drawn[:16].hex().encode(), base64.b64encode(drawn), letters):
            assert entropy_bits(key) > LEAST_BITS


def test_a_key_of_ctpatch_is_not_doubted(tmp_path: Path) -> None:
    file = tmp_path / "new.key"
    pseudonyms, where, new = load_key(file, (), new_key=True)
    assert (where, new) == (file, True)
    save_key(pseudonyms, file)
    assert list(key_doubts(file, pseudonyms.key)) == []


@pytest.mark.skipif(os.name != "posix", reason="other systems have other permissions")
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o600, ""),
        (0o400, ""),
        (0o640, "can be read by its group, and"),
        (0o604, "can be read by everyone, and"),
        (0o644, "can be read by its group and everyone, and"),
        (0o602, "can be written by everyone, and"),
        (0o620, "can be written by its group, and"),
        (0o666, "can be read by its group and everyone and written by its group and everyone, and"),
    ],
)
def test_a_key_that_others_can_read_or_write_is_doubted(tmp_path: Path, mode: int, said: str) -> None:
    file = tmp_path / "my.key"
    file.write_bytes(GOOD)
    file.chmod(mode)
    notices = list(key_doubts(file, GOOD))
    assert [notice.code for notice in notices] == ["key-open"] * bool(said)
    for notice in notices:
        assert notice.message.startswith(f"the key my.key {said}")
        assert notice.message.endswith("chmod 600 my.key")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_the_file_that_a_link_leads_to_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(GOOD)
    (tmp_path / "real").chmod(0o644)
    (tmp_path / "my.key").symlink_to(tmp_path / "real")
    assert [notice.code for notice in key_doubts(tmp_path / "my.key", GOOD)] == (
        ["key-open"] if os.name == "posix" else []
    )


def test_a_weak_key_is_doubted_and_its_bits_are_told(tmp_path: Path) -> None:
    file = tmp_path / "my.key"
    file.write_bytes(b"a" * 40)
    file.chmod(0o600)
    (notice,) = key_doubts(file, b"a" * 40)
    assert notice.code == "key-weak"
    assert "about 0 bits of entropy, wanted 64 or more" in notice.message
    assert b"a" * 40 not in notice.message.encode()
