"""Whether a key keeps what it is to keep: who else can read or write its file, and how hard it is to guess.

Whoever has the key can compute the pseudonym of any id, so a key that others can read, or try out, hides nobody.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import log2
from pathlib import Path

from ctpatch.events import Notice

LEAST_BITS = 64
"""Fewer bits of entropy are doubted: keys of 64 bits have been found by trying all (RC5-64, 2002). A key that ctpatch
makes has 256, of which the estimate sees 200 or more; of 128 bits in 32 hex digits it sees 80 or more."""

_BITS_OF_A_LETTER = 1.3
"""Of English text: C. E. Shannon, Prediction and entropy of printed English (1951), gives 0.6 to 1.3."""
_COMMON_PAIRS = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic "
    "ne ea ra ce li ch ll be ma si om ur"
)
"""The fifty most frequent pairs of letters in English, between blanks."""
_SHARE_IN_TEXT = 0.3
"""From this share of common pairs on, letters are text. English has about half, letters at random 50 of 676."""


def key_doubts(file: Path, key: bytes) -> Iterator[Notice]:
    """What a user should know of a key: who else can read or write its file, and that it is easy to guess."""
    if others := _others(file):
        yield Notice(
            "key-open",
            f"the key {file.name} can be {others}, and whoever has it can tell who is behind a pseudonym; "
            f"make it yours alone: chmod 600 {file.name}",
        )
    bits = entropy_bits(key)
    if bits < LEAST_BITS:
        yield Notice(
            "key-weak",
            f"the key {file.name} is easy to guess: about {bits:.0f} bits of entropy, wanted {LEAST_BITS} or more; "
            "whoever guesses it can tell who is behind a pseudonym. --key FILE --new-key makes a key of 256 bits, with "
            "which pseudonyms are others",
        )


def _others(file: Path) -> str:
    """What others than its owner can do with a file, as a text; blank where there is nothing, or no such modes."""
    if os.name != "posix":
        return ""
    mode = os.stat(file).st_mode
    can = {
        "read": {"its group": stat.S_IRGRP, "everyone": stat.S_IROTH},
        "written": {"its group": stat.S_IWGRP, "everyone": stat.S_IWOTH},
    }
    said = []
    for verb, classes in can.items():
        who = [name for name, bit in classes.items() if mode & bit]
        if who:
            said.append(f"{verb} by {' and '.join(who)}")
    return " and ".join(said)


def entropy_bits(key: bytes) -> float:
    """How many bits of entropy a key has at most, as far as its bytes show.

    Entropy is that of its bytes, or of the steps between them where that is less, over the part that does not repeat
    and without bytes that only go on as before (`aaa`, `123`); text counts as text. A random key gets a little less
    than it has. Any other can have far less than it gets: nothing here knows passwords.

    >>> round(entropy_bits(b"0123456789abcdef" * 2)), round(entropy_bits(b"a" * 40))
    (1, 0)
    """
    own = key[: _period(key)]
    steps = [(after - before) % 256 for before, after in pairwise(own)]
    new = len(own) - sum(step == before for before, step in pairwise(steps))
    bits = new * min(_shannon(own), _shannon(steps)) + 0.0 if steps else 0.0
    return min(bits, _BITS_OF_A_LETTER * len(own)) if _is_text(own) else bits


def _period(key: bytes) -> int:
    """Length of the shortest beginning that, repeated, gives the key."""
    return next(size for size in range(1, len(key) + 1) if (key[:size] * (len(key) // size + 1))[: len(key)] == key)


def _shannon(values: Sequence[int]) -> float:
    """Bits for each value, by how often each is there (C. E. Shannon, 1948)."""
    count = len(values)
    return -sum(seen / count * log2(seen / count) for seen in Counter(values).values())


def _is_text(key: bytes) -> bool:
    """Whether letters follow each other as in words, where only the first is a capital unless all are."""
    text = key.decode("latin1")
    text = text.lower() if text.isupper() else text
    pairs = [one.lower() + other for one, other in pairwise(text) if one.isalpha() and other.isalpha()]
    common = sum(pair in _COMMON_PAIRS for pair in pairs)
    return len(pairs) > len(key) / 2 and common >= _SHARE_IN_TEXT * len(pairs)
