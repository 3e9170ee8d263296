"""Tell on stderr how far a build is, and keep how long each step took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Steps:
    """The steps of a build: a bar on a terminal, a line each elsewhere, nothing if quiet."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self._stream: TextIO = sys.stderr  # FINN's own output is redirected while steps run
        self._quiet = quiet
        self._bar: Any = None
        self._total = total
        self.seconds: list[dict[str, Any]] = []

    def __enter__(self) -> Steps:
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(file=self._stream), transient=True, redirect_stdout=False)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step under its name."""
        if self._bar is not None:
            self._bar.update(self._task, description=name)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._finish({"name": name, "seconds": round(seconds, 3)}, f"{seconds:.1f} s")

    def keep(self, done: list[dict[str, Any]]) -> None:
        """Count the steps that an earlier build has done."""
        for step in done:
            self._finish(step, "kept")

    def tell(self, text: str) -> None:
        """Say what a long step is at."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        elif not self._quiet:
            print(text, file=self._stream, flush=True)

    def _finish(self, step: dict[str, Any], how: str) -> None:
        self.seconds.append(step)
        if self._bar is not None:
            self._bar.advance(self._task)
        elif not self._quiet:
            print(f"[{len(self.seconds)}/{self._total}] {step['name']}: {how}", file=self._stream, flush=True)
