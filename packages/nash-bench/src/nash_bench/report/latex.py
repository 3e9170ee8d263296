"""Tables for a paper: LaTeX with booktabs, everything in them escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{DAGGER}": r"$^\dagger$",
    "\N{DOUBLE DAGGER}": r"$^\ddagger$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{EN DASH}": "--",
}
_SPECIAL = re.compile("[" + re.escape("".join(_WORDS)) + "]")


def escape(text: str) -> str:
    r"""Return text that LaTeX typesets as it stands, on one line.

    >>> print(escape("w4_a4 & 50 % of $x^2"))
    w4\_a4 \& 50 \% of \$x\textasciicircum{}2
    """
    return _SPECIAL.sub(lambda found: _WORDS[found[0]], " ".join(text.split()))


def tabular(heads: Sequence[str], rows: Sequence[Sequence[str]], *, is_right: Sequence[bool]) -> str:
    """Return a booktabs table; a cell that begins with a bracket is kept from being read as an option."""
    lines = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in (heads, *rows)]
    columns = "".join("r" if right else "l" for right in is_right)
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", end])


def _cell(text: str) -> str:
    return "{}" + escape(text) if text.lstrip().startswith(("[", "*")) else escape(text)
