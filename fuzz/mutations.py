"""Broken files out of whole ones: values, keys and bytes that no careful writer would send. Standard library only."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

STEERING = "\u001b]0;owned\u0007\u001b[31m\u202e"
_LONG = "x" * 1_000_000
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, 3.0, -0.0, 1e308, -1e308, 5e-324,
    2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 10**30,
    "", "0", "nan", "\u0000", "a\u0000b", STEERING, "../../etc/passwd", "/etc/passwd", "/dev/zero",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0", "\\input{/etc/passwd}", "${jndi:x}", "{{7*7}}", "%s%n", "\ud800", "\u0661", _LONG,
    [], {}, [[]], [None], {"": None}, [0] * 10_000, {"a": {"b": {"c": 1}}}, [1, "a", None, 2.5],
)  # fmt: skip
_KEYS = ("", "schema", "__class__", STEERING, "y" * 100_000, "a\u0000b", "\ud800", "name", "artifacts")


def mutated_json(text: str, dice: random.Random) -> bytes:
    """Return JSON with one to three changes of its values, or a change of its text."""
    if dice.random() < 0.25:
        return dice.choice(_TEXTS)(text, dice)
    value = json.loads(text)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        value = _changed(value, dice)
    return json.dumps(value).encode()


def _changed(value: Any, dice: random.Random) -> Any:
    root = {"": copy.deepcopy(value)}
    holder, key = dice.choice([*_places(root)])
    what = dice.random()
    if what < 0.5:
        holder[key] = copy.deepcopy(dice.choice(_VALUES))
    elif what < 0.65:
        holder[key] = _nearby(holder[key], dice)
    elif what < 0.75 and holder is not root:
        del holder[key]
    elif what < 0.85 and isinstance(holder[key], dict):
        holder[key][dice.choice(_KEYS)] = copy.deepcopy(dice.choice(_VALUES))
    elif isinstance(holder[key], list) and holder[key]:
        found = holder[key]
        dice.choice((found.pop, found.reverse, lambda: found.append(copy.deepcopy(dice.choice(found)))))()
    elif isinstance(holder[key], dict) and holder[key]:
        found = holder[key]
        found[dice.choice(_KEYS)] = found.pop(dice.choice([*found]))
    else:
        holder[key] = dice.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    return root[""]


def _nearby(value: Any, dice: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return dice.choice((value + 1, value - 1, -value, value * 2, value * 1000, float(value), value / 3, str(value)))
    if isinstance(value, str) and value:
        spot = dice.randrange(len(value))
        return dice.choice((value[:spot], value[:spot] + "é" + value[spot:], value.upper(), value + "/1", value * 2))
    return dice.choice((value, [value]))


def _places(value: Any) -> Any:
    """Yield every (container, key) of a tree."""
    pairs = [*value.items()] if isinstance(value, dict) else [*enumerate(value)]
    for key, inner in pairs:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _digit(text: str, dice: random.Random, by: str) -> bytes:
    spots = [index for index, character in enumerate(text) if character.isdigit()]
    spot = dice.choice(spots) if spots else 0
    return (text[:spot] + by + text[spot + 1 :]).encode()


_TEXTS: tuple[Callable[[str, random.Random], bytes], ...] = (
    lambda text, dice: text.encode()[: dice.randrange(len(text.encode()))],
    lambda text, dice: b"[" * 100_000,
    lambda text, dice: b'{"a":' * 900 + text.encode() + b"}" * 900,
    lambda text, dice: _digit(text, dice, "9" * 5_000),
    lambda text, dice: _digit(
        text, dice, dice.choice(("NaN", "Infinity", "-Infinity", "1e400", "1e-400", "01", "0x1"))
    ),
    lambda text, dice: text.replace("{", '{"schema": 1, "schema": 2, ', 1).encode(),
    lambda text, dice: b"\xef\xbb\xbf" + text.encode(),
    lambda text, dice: text.encode("utf-16"),
    lambda text, dice: text.encode("latin-1", "replace").replace(b"a", b"\xff", 1),
    lambda text, dice: b"",
    lambda text, dice: b"null",
    lambda text, dice: b" " * (17 * 2**20),
    lambda text, dice: text.replace("\n", "\r\n").encode(),
    lambda text, dice: mutated_bytes(text.encode(), dice),
)


def mutated_bytes(content: bytes, dice: random.Random) -> bytes:
    """Return bytes that were flipped, cut, doubled or swapped."""
    found = bytearray(content)
    what = dice.randrange(7)
    size = max(len(found), 1)
    at, length = dice.randrange(size), dice.choice((1, 8, 64, 4096))
    if what == 0:
        for _ in range(dice.choice((1, 4, 64))):
            found[dice.randrange(size)] ^= 1 << dice.randrange(8)
    elif what == 1:
        del found[at:]
    elif what == 2:
        del found[at : at + length]
    elif what == 3:
        found[at:at] = found[at : at + length]
    elif what == 4:
        found[at : at + length] = bytes(length)
    elif what == 5:
        found[at : at + 8] = b"\xff" * 8
    else:
        early = min(at, 200)  # headers lie at the beginning
        found[early : early + 8] = dice.randbytes(8)
    return bytes(found)


def mutated_lines(text: str, dice: random.Random) -> bytes:
    """Return a YAML, TOML or plain text file with a line or value changed."""
    if dice.random() < 0.3:
        return mutated_bytes(text.encode(), dice)
    lines = text.splitlines()
    at = dice.randrange(len(lines))
    key = lines[at].partition(":" if ":" in lines[at] else "=")
    value = dice.choice(_VALUES)
    if isinstance(value, str) and len(value) > 1000:
        value = value[:1000]
    aliases = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + index)}: &{chr(98 + index)} [{', '.join(['*' + chr(97 + index)] * 10)}]\n" for index in range(12)
    )
    what = dice.randrange(6)
    if what == 0:
        return (aliases + text).encode()
    if what == 1:
        return ("? " * 2000 + text).encode()
    if what == 2:
        lines.insert(at, lines[at])
    elif what == 3:
        del lines[at]
    else:
        lines[at] = f"{key[0]}{key[1]} {json.dumps(value)}"
    return "\n".join(lines).encode()
