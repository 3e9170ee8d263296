"""Progress on stderr: a bar where it is a terminal, else a plain line an epoch; nothing on stdout."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Shows the steps of a training run and the time left."""

    def __init__(self, *, num_steps: int, done_steps: int, is_shown: bool = True) -> None:
        self._num_steps, self._first_step, self._step = num_steps, done_steps, done_steps
        self._start = time.monotonic()
        self._bar: Progress | None = None
        self._is_shown = is_shown
        if is_shown and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("training", total=num_steps, completed=done_steps)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self) -> None:
        """Count a training step."""
        self._step += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._step)

    def epoch(self, text: str) -> None:
        """Show the result of an epoch."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self._is_shown:
            print(f"{text}, {self._time_left()} left", file=sys.stderr)

    def _time_left(self) -> str:
        done = max(self._step - self._first_step, 1)
        seconds = (time.monotonic() - self._start) / done * (self._num_steps - self._step)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
