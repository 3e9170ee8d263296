"""An option that takes several values, `--bits 2 3 4`, which click reads as `--bits 2 --bits 3 --bits 4` only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

_OPTIONS = ("--bits",)


class SeveralBits(TyperCommand):
    """A command whose `--bits` takes numbers up to the next argument that is none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command's arguments."""
        return super().parse_args(ctx, list(_repeated(args)))


def _repeated(args: list[str]) -> Iterator[str]:
    """Yield the arguments with the option before each of its values.

    >>> list(_repeated(["run", "--bits", "2", "4", "--out", "s.json"]))
    ['run', '--bits', '2', '--bits', '4', '--out', 's.json']
    """
    option, is_first = None, False
    for each in args:
        if option is not None and each.isdecimal():
            if not is_first:
                yield option
            is_first = False
        else:
            option = each if each in _OPTIONS else None
            is_first = option is not None
        yield each
