"""Stopping between two steps when a signal asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from .errors import Interrupted


class Stop:
    """A context in which SIGINT and SIGTERM only ask to stop; a second one stops at once."""

    def __init__(self) -> None:
        self.received = 0  # the number of the signal
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> str | None:
        """Return the name of the signal that asks to stop, if there was one."""
        return signal.Signals(self.received).name if self.received else None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise Interrupted("stopped at once; go on from the last checkpoint with --resume")
        self.received = number
