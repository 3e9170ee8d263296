"""Find FIFO depths that cost no throughput, and few bits.

Frames are sent at the pace of the slowest layer. If FIFOs without bound keep it, the most words that wait in each
are depths that do too, and so, mostly, are the depths that the build wrote. The search begins with the fewest bits
that do: the lesser of both in each stream, or else the cheaper of the two. From there every depth is searched for at
once, each between the smallest there is and the one known to do: all go to the middle of their bounds; where the pace
is lost, halves of them do, and halves of those, until those are found that must not. The pace is kept if the steady
state repeats in it exactly (see `run`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..base.errors import VerificationError
from .deadlock import told
from .design import MIN_DEPTH, Design
from .run import Pace, Result, Simulation

HOLDS_ANYWAY = 5  # words that a FIFO of the smallest depth holds
_TOLERANCE = 16  # a depth is found when it is known to a part of so many
_FRAMES, _MAX_FRAMES = 3, 12  # of a trial
_MAX_PACES = 6


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The depths that were found, one a stream."""

    depths: tuple[int, ...]
    fills: tuple[int, ...]  # the most words that wait where there is no bound
    every: int  # cycles a frame that they keep
    num_trials: int


def bits(design: Design, depths: Sequence[int]) -> int:
    """Return the bits of the FIFOs that are larger than FINN's smallest, which every stream has anyway."""
    pairs = zip(depths, design.streams, strict=True)
    return sum(depth * stream.bits for depth, stream in pairs if depth > HOLDS_ANYWAY)


def as_depth(words: int) -> int:
    """Return the depth to ask FINN for that so many words may wait."""
    return MIN_DEPTH if words <= HOLDS_ANYWAY else words


class Sizer:
    """Searches depths with at most `max_trials` simulations after the first few."""

    def __init__(
        self, simulation: Simulation, *, max_trials: int, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._simulation = simulation
        self._design = simulation.design
        self._max_trials = max_trials
        self._tell = tell
        self._num_trials = 0
        self._every = 0
        self._high: list[int] = []
        self._low: list[int] = []

    def size(self, every: int) -> Sizes:
        """Search depths that keep a frame every so many cycles, or the pace FIFOs without bound have.

        Raises:
            VerificationError: the accelerator stands still, or gives wrong integers, whatever the FIFOs.
        """
        deep = self._deep(every)
        fills = tuple(deep.raw["streams"][stream.hop]["peak"] for stream in self._design.streams)
        self._high = self._start([as_depth(fill) for fill in fills])
        self._low = [MIN_DEPTH] * len(fills)
        order = sorted(range(len(fills)), key=lambda i: -self._high[i] * self._design.streams[i].bits)
        while self._num_trials < self._max_trials and (open_ones := [i for i in order if self._is_open(i)]):
            self._narrow(open_ones)
        return Sizes(depths=tuple(self._high), fills=fills, every=self._every, num_trials=self._num_trials)

    def _start(self, peaks: list[int]) -> list[int]:
        """Return depths that keep the pace: the lesser of the peaks and the written ones, or the cheaper of both."""
        written = [as_depth(stream.depth) for stream in self._design.streams]
        candidates = [[min(pair) for pair in zip(peaks, written, strict=True)], peaks, written]
        for depths in sorted(candidates, key=lambda depths: bits(self._design, depths)):
            if self._holds(depths):
                return depths
        raise VerificationError(
            "simulation: the fill of FIFOs without bound does not do as depth; report this as a bug"
        )

    def _deep(self, every: int) -> Result:
        """Return a run with FIFOs without bound in its steady state at the best pace."""
        none = [None] * len(self._design.streams)
        self._every = every
        for _ in range(_MAX_PACES):
            result = self._run(none, Pace(frames=_FRAMES, max_frames=_MAX_FRAMES, every=self._every))
            if result.period and result.interval == self._every:
                return result
            self._every = max(math.ceil(result.interval), self._every + 1)
        raise VerificationError(f"simulation: no steady state at {self._every} cycles a frame; report this as a bug")

    def _run(self, depths: Sequence[int | None], pace: Pace) -> Result:
        result = self._simulation.run(depths, pace)
        if result.is_stuck:
            raise VerificationError(f"simulation: {told(self._design, result, depths)}")
        if not result.is_exact:
            raise VerificationError("simulation: its integers are not those of dataflow.onnx; report this as a bug")
        return result

    def _holds(self, depths: Sequence[int]) -> bool:
        result = self._simulation.run(depths, Pace(frames=_FRAMES, max_frames=_MAX_FRAMES, every=self._every))
        return not result.is_stuck and bool(result.period) and result.interval == self._every and result.is_exact

    def _is_open(self, i: int) -> bool:
        return self._high[i] > self._low[i] and (self._high[i] - self._low[i]) * _TOLERANCE > self._high[i]

    def _narrow(self, group: list[int]) -> None:
        """Try the middle of all bounds of a group; where that loses the pace, the middle of each half's."""
        if self._num_trials >= self._max_trials:
            return
        trial = list(self._high)
        for i in group:
            trial[i] = as_depth((self._low[i] + self._high[i]) // 2)
        self._num_trials += 1
        self._tell(f"FIFO depths: trial {self._num_trials}, {bits(self._design, self._high):,} bits")
        if self._holds(trial):
            self._high = trial
        elif len(group) == 1:
            self._low[group[0]] = max(trial[group[0]], HOLDS_ANYWAY) + 1
        else:
            self._narrow(group[: len(group) // 2])
            self._narrow(group[len(group) // 2 :])
