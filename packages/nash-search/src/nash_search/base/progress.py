"""Progress on stderr: a bar with the time left on a terminal, otherwise a plain line an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .board import Board


class Reporter:
    """Tells how far a search is; use as a context."""

    def __init__(
        self,
        num_steps: int,
        first_step: int,
        *,
        label: str = "search",
        board: Board | None = None,
        is_silent: bool = False,
    ) -> None:
        console = Console(stderr=True)
        self._num_steps = num_steps
        self._is_silent = is_silent
        self._board = board
        self._first_step = first_step
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn(label),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=is_silent or not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=num_steps, completed=first_step, note="")

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    def step(self, step: int, loss: float) -> None:
        """Show that a step is done."""
        self._progress.update(self._task, completed=step, note=f"loss {loss:.3f}")

    def epoch(self, record: Mapping[str, Any], num_epochs: int) -> None:
        """Show what an epoch came to."""
        if self._board is not None and not self._is_silent:
            self._board.epoch(record)
        self.line(
            f"epoch {record['epoch']}/{num_epochs}: loss {record['weight_loss']:.3f}, "
            f"accuracy {record['accuracy']:.1f} %, alpha entropy {record['alpha_entropy']:.3f}",
            record["step"],
        )

    def line(self, text: str, step: int) -> None:
        """Show what came to an end with a step."""
        if self._is_silent:
            return
        if self._progress.disable:
            print(f"{text}, {self._time_left(step)} left", file=sys.stderr, flush=True)
        else:
            self._progress.console.print(text, highlight=False)

    def _time_left(self, step: int) -> str:
        done = max(step - self._first_step, 1)
        seconds = round((time.monotonic() - self._started) / done * (self._num_steps - step))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"
