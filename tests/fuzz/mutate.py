"""Random changes of bytes and of nested plain values; all randomness comes from the given generator."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

# Values that programs tend not to expect, whatever the key.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 65536, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 0.5, 1e-320, 1e308,
    float("inf"), float("-inf"), float("nan"), "", " ", ".", "..", "../../../../escape", "/etc/escape", "~/escape",
    "~nobody-here/x", "a/../../b", "nul\0byte", "\ud800", "\u202e", "x" * 300, "a" * 5000, "{}", "{0.__class__}", "%s",
    "$(touch escape)", "auto", "none", "true", "1e400", [], {}, [[]], [None], [0, 0], [1, -1], [float("nan")],
    {"": None}, {"type": None}, {"type": "../x"}, [{}], {"a": {"b": {"c": {}}}},
)  # fmt: skip


def _is_refused(value: Any) -> bool:
    return value == "\ud800" or (isinstance(value, int) and abs(value) >= 1 << 63)


READABLE = tuple(value for value in HOSTILE if not _is_refused(value))
"""`HOSTILE` without the numbers and texts that the reader of option files refuses by itself."""


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """Make one to four small changes: flips, edge values, insertions, deletions, copies, truncations."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change_bytes(changed, rng)
    return bytes(changed)


def _change_bytes(data: bytearray, rng: Random) -> None:
    kind, place = rng.randrange(7), rng.randrange(len(data) + 1)
    if kind == 0 and place < len(data):
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1 and place < len(data):
        data[place] = rng.randrange(256)
    elif kind == 2:
        width, order = rng.choice("BHIQ"), rng.choice("<>")
        size = struct.calcsize(width)
        data[place : place + size] = struct.pack(order + width, rng.choice(_EDGES) & ((1 << 8 * size) - 1))
    elif kind == 3:
        data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
    elif kind == 4:
        del data[place : place + rng.randint(1, 16)]
    elif kind == 5:
        other = rng.randrange(len(data) + 1)
        data[place:place] = data[other : other + rng.randint(1, 32)]
    else:
        del data[place:]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key or position) of everything inside nested dicts and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def mutate_tree(value: Any, rng: Random, words: Sequence[str] = (), hostile: Sequence[Any] = HOSTILE) -> Any:
    """Make one to three changes of nested plain values, in a copy.

    Args:
        words: keys and texts that the reader knows; they are put where they do not belong.
        hostile: values to put anywhere.
    """
    top = [deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(top))
        _change_tree(places, rng, words, hostile)
    return top[0]


def _change_tree(places: list[tuple[Any, Any]], rng: Random, words: Sequence[str], hostile: Sequence[Any]) -> None:
    holder, key = rng.choice(places)
    kind = rng.randrange(7)
    if kind <= 1:
        holder[key] = deepcopy(rng.choice(hostile))
    elif kind == 2 and isinstance(holder, dict):
        del holder[key]
    elif kind == 3 and words:
        holder[key] = rng.choice(words)
    elif kind == 4 and isinstance(holder, dict):
        name = rng.choice((*words, str(key)[:-1], f"{key}_2", "", "\0")) if words else f"{key}_2"
        holder[name] = holder[key] if rng.random() < 0.5 else holder.pop(key)
    elif kind == 5:
        other, there = rng.choice(places)
        holder[key] = deepcopy(other[there])
    else:
        holder[key] = _near(holder[key], rng)


def _near(value: Any, rng: Random) -> Any:
    """Return a value that is a little off: of another type, in a list, a little larger, reversed."""
    if isinstance(value, bool) or value is None:
        return rng.choice((0, 1, "true", [value]))
    if isinstance(value, int | float):
        halves = (value * 1e9, value / 2) if abs(value) < 1e300 else ()
        return rng.choice((-value, value + 1, *halves, str(value), [value], 0))
    if isinstance(value, str):
        return rng.choice((value[::-1], value[:-1], [value], {value: value}, f"{value}/../..", value.title()))
    if isinstance(value, list):
        return rng.choice((value * 2, value[:1], value[::-1], [value], dict.fromkeys(map(str, value)), value * 40))
    if isinstance(value, dict):
        return rng.choice((list(value), str(value), [value], list(value.values())))
    return rng.choice(([value], str(value), None))


def json_mutator(
    words: Callable[[], Sequence[str]] = tuple, hostile: Sequence[Any] = HOSTILE
) -> Callable[[bytes, Random], bytes]:
    """Return a mutator of JSON inputs: it changes the values inside and leaves them JSON."""

    def mutate(data: bytes, rng: Random) -> bytes:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return mutate_bytes(data, rng)
        return json.dumps(mutate_tree(value, rng, words(), hostile)).encode()

    return mutate


def splice(data: bytes, pieces: Sequence[bytes], rng: Random) -> bytes:
    """Insert one of `pieces` into `data`, over something or in between."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(pieces) + data[place + rng.choice((0, 0, 1, 4)) :]
