"""SIGINT and SIGTERM as a flag, so that a training step can be finished before the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """The name of the signal that asked to stop, if one did."""

    signal_name: str | None = None


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Yield a request that SIGINT or SIGTERM fill in instead of stopping the process; a second one stops it at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal_name = signal.Signals(number).name
        for each in numbers:
            signal.signal(each, before[each])

    try:
        for number in numbers:
            signal.signal(number, note)
        yield request
    finally:
        for number in numbers:
            signal.signal(number, before[number])
