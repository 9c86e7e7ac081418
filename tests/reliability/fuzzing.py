"""Seeded mutations of valid files, and the one rule: what goes wrong is said by an error of ctpatch."""

import csv
import io
import json
import random
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from ctpatch.errors import CtPatchError

NUMBERS: list[Any] = [0, 1, -1, 2, 3, 255, 2**15, 16384, 16385, 10**6, 2**31 - 1, 2**31, 2**53, 2**62, 10**40]
NUMBERS += [0.5, -0.5, 1e-300, 1e300, -1e300, 5e-324, 1.7976931348623157e308, 1e308, True, False]
TEXTS = ["", " ", ".", "..", "../x", "/etc/hostname", "a/b", "a\\b", "C:x", "a\0b", "\n", "\x1b[2J", "\ud800", "ä" * 60]
TEXTS += ["x" * 5000, "NaN", "inf", "-0", "1e999", "0x1", "std < 1.e", "floor( -- [", "NOT " * 200 + "std<1", "object"]
TEXTS += ["image", "mask", "train", "files", "zero", "reflect", "float32", "uint8", "std < 0.5", "SELECT 1", "\ufeff"]
CELLS = ["", "0", "1", "-1", "7", "1.5", "NaN", "inf", "-inf", "1e308", "-1e308", "1e999", "9223372036854775807"]
CELLS += ["9223372036854775808", "2147483647", "-2147483648", "65535", "16384", "16385", '"', "a,b", "'", "=1+1", "ok"]
CELLS += ["skipped", "true", "none", "\x00", "\x1b[2J", "\udcff", "x" * 5000, "../x.npy", "/etc/hostname", "."]


class Outcome:
    """What a front door made of a mutated file: a value, or an error of ctpatch."""

    def __init__(self, value: Any = None, error: CtPatchError | None = None) -> None:
        self.value, self.error = value, error

    def __bool__(self) -> bool:
        return self.error is None


def attempt(what: str, call: Callable[[], Any], *, also: tuple[type[Exception], ...] = ()) -> Outcome:
    """Call a front door; an error that is neither ours nor one of `also` fails the test and says of what it came."""
    try:
        return Outcome(call())
    except CtPatchError as error:
        check_message(what, error.message)
        return Outcome(error=error)
    except also as error:
        return Outcome(error=CtPatchError(str(error)))
    except (AssertionError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a library in Rust panics by a kind of its own
        where = "".join(traceback.format_tb(error.__traceback__)[-4:])
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}\n{where}") from error


def check_message(what: str, message: str) -> None:
    """It can be printed anywhere, and read."""
    assert all(line.isprintable() for line in message.split("\n")), (what, message)
    assert message.strip(), what
    assert len(message) < 8000, (what, len(message))


def mutate_bytes(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> tuple[bytes, str]:
    """A file with one to four changes: bits, numbers, pieces that are cut, doubled, moved or from another file."""
    changed, said = bytearray(content), []
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(changed) + 1) if rng.random() < 0.5 else min(rng.randrange(400), len(changed))
        size = rng.choice([1, 1, 2, 4, 8, 64])
        kind = rng.choice(["bit", "bytes", "cut", "remove", "double", "other", "ff", "zero"])
        said.append(f"{kind} at {at} of {len(changed)} by {size}")
        if kind == "bit" and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == "bytes":
            changed[at : at + size] = rng.randbytes(size)
        elif kind == "cut":
            del changed[at:]
        elif kind == "remove":
            del changed[at : at + size]
        elif kind == "double":
            changed[at:at] = changed[at : at + size]
        elif kind == "other":
            source = rng.choice([content, *others])
            start = rng.randrange(len(source) + 1)
            changed[at : at + size] = source[start : start + size]
        else:
            changed[at : at + size] = (b"\xff" if kind == "ff" else b"\x00") * size
    return bytes(changed), "; ".join(said)


def mutate_json(rng: random.Random, content: Any) -> tuple[Any, str]:
    """Another value somewhere in a JSON value: of the same type as a rule, so that it passes what looks at types."""
    content = json.loads(json.dumps(content))
    said = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(content))
        holder, key = rng.choice(places)
        before = holder[key]
        kind = rng.random()
        if kind < 0.1 and isinstance(holder, dict):
            del holder[key]
            said.append(f"no {key!r}")
            continue
        if kind < 0.15 and isinstance(holder, list):
            holder.insert(key, before)
            said.append(f"{key} twice")
            continue
        if kind < 0.2:
            other_holder, other = rng.choice(places)
            value = json.loads(json.dumps(other_holder[other])) if other_holder is not holder else None
        else:
            value = _another(rng, before)
        holder[key] = value
        said.append(f"{key!r}: {str(before)[:40]!r} -> {str(value)[:60]!r}")
    return content, "; ".join(said)


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _another(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float) and rng.random() < 0.9:
        return rng.choice([*NUMBERS, value + 1, value - 1, -value, value * 2, float(value)])
    if isinstance(value, str) and rng.random() < 0.9:
        return rng.choice([*TEXTS, value + "x", value[:-1], value.upper(), value + "\ud800", f" {value}"])
    if isinstance(value, dict) and rng.random() < 0.9:
        return rng.choice([{}, {**value, "x": 1}, {f"{key}x": each for key, each in value.items()}])
    if isinstance(value, list) and rng.random() < 0.9:
        return rng.choice([[], value * 2, value[::-1], value[:-1], [value], [*value, None]])
    return rng.choice([None, [], {}, rng.choice(NUMBERS), rng.choice(TEXTS)])


def mutate_table(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """A CSV with other cells, or rows and columns that are gone, doubled or in another order."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    said = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind = rng.random()
        at, column = rng.randrange(len(rows)), rng.randrange(max(len(rows[0]), 1))
        if kind < 0.7 and len(rows) > 1:
            at = rng.randrange(1, len(rows))
            column = rng.randrange(max(len(rows[at]), 1))
            if column < len(rows[at]):
                other = rng.choice(rows[1:])
                values = [*CELLS, rows[at][column] + "1", "-" + rows[at][column]]
                rows[at][column] = rng.choice(values) if rng.random() < 0.8 or column >= len(other) else other[column]
                said.append(f"row {at} column {column}: {rows[at][column][:40]!r}")
        elif kind < 0.75:
            rows.insert(at, list(rows[at]))
            said.append(f"row {at} twice")
        elif kind < 0.8 and len(rows) > 1:
            del rows[at]
            said.append(f"no row {at}")
        elif kind < 0.85:
            rng.shuffle(rows)
            said.append("rows shuffled")
        elif kind < 0.9:
            for row in rows:
                del row[column : column + 1]
            said.append(f"no column {column}")
        elif kind < 0.95:
            for row in rows[:1]:
                row[column : column + 1] = [rng.choice(TEXTS)]
            said.append(f"column {column} has another name")
        else:
            for row in rows:
                row.insert(column, rng.choice(CELLS))
            said.append(f"a column more at {column}")
        if not rows:
            break
    stream = io.StringIO()
    csv.writer(stream, lineterminator=rng.choice(["\n", "\n", "\n", "\r\n", "\r"])).writerows(rows)
    return stream.getvalue().encode(errors="surrogatepass"), "; ".join(said)


def digest_of(content: bytes) -> str:
    return xxhash.xxh3_128(content).hexdigest()


def sealed(content: dict[str, Any], *, without: str = "created", digest: str = "meta_digest") -> bytes:
    """A record as a forger would leave it: with the digest that belongs to its content."""
    covered = {name: value for name, value in content.items() if name not in {without, digest}}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    said = {name: value for name, value in content.items() if name != digest}
    return (json.dumps({**said, digest: digest_of(text.encode())}, indent=2) + "\n").encode()
