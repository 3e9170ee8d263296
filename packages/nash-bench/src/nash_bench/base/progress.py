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
_SECONDS_WITHOUT_NEWS = 600.0  # after which the same is said again


@contextmanager
def reporting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total): a bar if stderr is a terminal, else a plain line now and then.

    The time left is told from the pace since the first call: what was done before then took no time.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, pace = bar.add_task(what, total=None, left=""), _Pace()
        yield lambda done, total: bar.update(task, completed=done, total=total, left=pace.text(done, total))


def _plain_lines(what: str) -> Callable[[int, int], None]:
    last, said, pace = time.monotonic(), None, _Pace()

    def say(done: int, total: int) -> None:
        nonlocal last, said
        text = pace.text(done, total)
        wait = _SECONDS_WITHOUT_NEWS if done == said else _SECONDS_BETWEEN_LINES
        if time.monotonic() - last >= wait:
            last, said = time.monotonic(), done
            print(f"{what}: {text}", file=sys.stderr)

    return say


class _Pace:
    """Tells how much is done and how long the rest will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: tuple[float, int] | None = None

    def text(self, done: int, total: int) -> str:
        """Return it to read.

        >>> seconds = iter([0.0, 60.0, 60.0])
        >>> pace = _Pace(lambda: next(seconds))
        >>> [pace.text(2, 10), pace.text(4, 10), pace.text(10, 10)]
        ['2 of 10', '4 of 10, about 3 min left', '10 of 10']
        """
        now = self._clock()
        self._begun = self._begun or (now, done)
        seconds, new = now - self._begun[0], done - self._begun[1]
        left = f", about {_minutes(seconds / new * (total - done))} left" if new and done < total else ""
        return f"{done} of {total}{left}"


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def render(table: Any) -> str:
    """Return a rich table as text: coloured for a terminal, plain and unwrapped for a pipe."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    width = max(shutil.get_terminal_size().columns, 80) if is_terminal else 200
    text = io.StringIO()
    Console(file=text, force_terminal=is_terminal, width=width).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
