"""JSON from files that anybody may have written: bounded, unambiguous, and refused in one short sentence.

Whoever reads a file with `read` gets plain values and need not fear what JSON leaves open: its size, its depth, keys
that stand twice, numbers that no 64 bits hold, NaN. Every file that a user, another package or a stopped run hands
over goes through here; what a package ships itself does not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .quoting import brief

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 64
MAX_VALUES = 2_000_000
_MAX_INTEGER = 2**63 - 1
_MAX_DIGITS = 1000


class Unreadable(ValueError):
    """Why a file is no JSON that can be taken; reads on from "PATH: "."""


def read(path: Path) -> Any:
    """Return the value of a JSON file; UTF-8, with or without a byte order mark.

    Raises:
        Unreadable: missing, too large, not UTF-8, not JSON, too deep, a key twice, a number out of range.
    """
    return parse(text(path))


def text(path: Path) -> str:
    """Return a text file of at most 16 MiB.

    Raises:
        Unreadable: missing, too large, not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL byte in the path
        raise Unreadable("cannot be read (no path has a NUL byte)") from error
    if len(content) > MAX_BYTES:
        raise Unreadable(f"more than {MAX_BYTES // 2**20} MiB of text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 at byte {error.start}") from error


def parse(content: str) -> Any:
    """Return the value that JSON text stands for.

    Raises:
        Unreadable: as of `read`.
    """
    try:
        value = json.loads(
            content,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Unreadable(f"not valid JSON at {where} ({error.msg})") from error
    except RecursionError as error:
        raise Unreadable(f"nested more than {MAX_DEPTH} deep") from error
    check(value)
    return value


def check(value: Any) -> None:
    """Refuse a value of lists and objects, from another notation than JSON, that JSON would not have.

    Raises:
        Unreadable: it nests too deep, or has a number out of range or none.
    """
    level, depth, total = [value], 0, 1
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth, total = depth + 1, total + sum(map(len, level))
        if depth > MAX_DEPTH:
            raise Unreadable(f"nested more than {MAX_DEPTH} deep")
        if total > MAX_VALUES:
            raise Unreadable(f"more than {MAX_VALUES:,} values")
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        for item in level:
            if isinstance(item, float) and not math.isfinite(item):
                raise Unreadable(f"{item} is not a number that can be taken")
            if isinstance(item, int) and abs(item) > _MAX_INTEGER:
                raise Unreadable(f"a number of {item.bit_length():,} bits, expected at most 64")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise Unreadable(f"the key {brief(twice)} stands twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or abs(int(digits)) > _MAX_INTEGER:
        raise Unreadable(f"the number {brief(digits, is_text=True)} does not fit into 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Unreadable(f"the number {brief(digits, is_text=True)} does not fit into 64 bits")
    return value


def _refuse_constant(name: str) -> None:
    raise Unreadable(f"{name} is not a JSON number")
