"""A layer as a sequence of firings, at most one a cycle.

A firing needs the words that it reads; a word can enter the layer once a firing has made room for it, and leaves some
cycles after the firing that makes it.

Arrays: a firing is one of n of a frame, a word one of w of its stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

NEVER = 1 << 40  # cycles
FIFO_CYCLES = 2  # from a word's entering an empty FIFO to its leaving it (fifo.sv)
Index = np.ndarray  # of whole numbers, never falling


@dataclass(frozen=True, kw_only=True)
class Input:
    """How a layer takes the words of one of its inputs."""

    reads: Index  # (n,) the last word that each firing needs, -1: none yet
    frees: Index  # (w,) the firing that makes room for each word, -1: there is room from the start
    lag: int = 1  # cycles from taking a word to the first firing that can read it
    room: int = 1  # cycles from the firing to taking the word it makes room for

    @cached_property
    def first_reader(self) -> Index:
        """The first firing that needs each word (w,); n where none does."""
        return np.searchsorted(self.reads, np.arange(len(self.frees)))


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a layer gives the words of one of its outputs."""

    fires: Index  # (w,) the firing that makes each word
    lag: int | np.ndarray = 1  # cycles from it to the word; (w,) where one firing makes several

    def first_word(self, num_firings: int) -> Index:
        """Return the first word that each firing, or one after it, makes (n,); w where none does."""
        return np.searchsorted(self.fires, np.arange(num_firings))


@dataclass(frozen=True, kw_only=True)
class Actor:
    """What a layer does with one frame."""

    gaps: int | np.ndarray  # cycles from one firing to the next; (n,), the first one from the frame before
    num_firings: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    is_coupled: bool = False  # taking words waits for firings that waited for words: lines of a sliding window
    reset: int = 1  # cycles from the last word in or out of a frame to the first word in of the next, if coupled

    @property
    def first_gap(self) -> int:
        """Cycles from the last firing of a frame to the first one of the next."""
        return self.gaps if isinstance(self.gaps, int) else int(self.gaps[0])
