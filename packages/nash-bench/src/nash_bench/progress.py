"""Progress on stderr, tables as text."""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def reporting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total): a bar if stderr is a terminal, else a plain line now and then."""
    if not sys.stderr.isatty():
        yield _plain_lines(what)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_lines(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr)

    return say


def render(table: Any) -> str:
    """Return a rich table as text: coloured for a terminal, plain and unwrapped for a pipe."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    width = max(shutil.get_terminal_size().columns, 80) if is_terminal else 200
    text = io.StringIO()
    Console(file=text, force_terminal=is_terminal, width=width).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
