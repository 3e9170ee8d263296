"""How an error lists the names that would have been right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def one_of(got: str, known: Iterable[str]) -> str:
    """Return the accepted names, and the likely one if `got` resembles it.

    >>> one_of("resnet81", ["resnet8", "vgg"])
    'one of resnet8, vgg (did you mean resnet8?)'
    """
    known = list(known)
    close = get_close_matches(got, known, n=1)
    return f"one of {', '.join(known)}" + (f" (did you mean {close[0]}?)" if close else "")
