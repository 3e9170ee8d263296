"""How names and values of files come to the terminal: short, on one line, and without characters that steer it."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_LINE = 480
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LAYOUT = "\n\t"  # of text that we lay out ourselves


def brief(value: Any, limit: int = 60, *, is_text: bool = False) -> str:
    """Return a value as JSON shows it, shortened to `limit` characters and its length.

    is_text: the value is a string that is shown as it is, without quotes.

    >>> brief(["a", 1.5])
    '["a", 1.5]'
    >>> brief("x" * 10_000_000, 10)
    '"xxxxxxxxx... 10,000,002 characters'
    """
    shown = value if is_text else json.dumps(value, ensure_ascii=False, default=repr)
    return visible(shown if len(shown) <= limit else f"{shown[:limit]}... {len(shown):,} characters")


def visible(text: str, *, keep: str = "") -> str:
    r"""Return a text in which control characters, and those that turn the direction of writing, are escapes.

    >>> visible("a\x1b]0;owned\x07")
    'a\\u001b]0;owned\\u0007'
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def laid_out(text: str) -> str:
    """Return text of several lines as a terminal may have it, each of at most 480 characters."""
    return "\n".join(_short(line) for line in visible(text, keep=_LAYOUT).split("\n"))


def one_line(text: str) -> str:
    """Return a message as one line of at most 480 characters; of a longer one the middle is left out.

    The end stays, because it says what to do next.
    """
    return _short(visible(" ".join(text.split())))


def _short(line: str) -> str:
    if len(line) <= MAX_LINE:
        return line
    half = MAX_LINE // 2 - 20
    return f"{line[:half]} ... ({len(line):,} characters) ... {line[-half:]}"
