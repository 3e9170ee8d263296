"""What a resource costs, as a user says it."""

from __future__ import annotations

import difflib
import math

from ..base.errors import UsageError
from .board import DEFAULT_PRICE, RESOURCES

BALANCE = "balance"
_EXAMPLE = "write LUT=2,DSP=0.1 or balance"


def parse_price(text: str) -> dict[str, float] | None:
    """Return the price of each resource of `LUT=2,DSP=0.1`, the default's where none is given; None for "balance".

    Raises:
        UsageError: a resource that there is not or that is there twice, a price that is no number above 0.

    >>> parse_price("DSP=0.1")
    {'LUT': 2.0, 'FF': 1.0, 'BRAM_18K': 1.0, 'URAM': 1.0, 'DSP': 0.1}
    """
    if text == BALANCE:
        return None
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, price = (piece.strip() for piece in part.partition("="))
        if name not in RESOURCES:
            near = difflib.get_close_matches(name.upper(), RESOURCES, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else _EXAMPLE
            raise UsageError(f"--price: got '{name}', expected {', '.join(RESOURCES)} or {BALANCE}; {hint}")
        if name in given:
            raise UsageError(f"--price: got {name} twice, expected each resource once; {_EXAMPLE}")
        given[name] = _number(name, price)
    return DEFAULT_PRICE | given


def _number(name: str, text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 < price < math.inf:
        raise UsageError(f"--price: {name}: got '{text}', expected a number above 0; {_EXAMPLE}")
    return price
