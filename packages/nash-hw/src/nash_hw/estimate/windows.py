"""What FINN's RTL sliding windows do with one frame, and how long they take for it (finn-rtllib/swg)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np

from .firings import FIFO_CYCLES, NEVER, Actor, Input, Output
from .streams import LEAST_DEPTH
from .timing import alternate

_Pair = tuple[int, int]  # rows, columns
_ROWS = 3  # of windows, after which each further row takes as long as the one before
_CONVERTED_ROUNDS = 8  # in which a window and the converter behind it find their pace


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The words of a frame that come, and those of its windows."""

    size: _Pair
    windows: _Pair
    kernel: _Pair
    stride: _Pair
    dilation: _Pair
    folds: int  # words of a pixel
    is_parallel: bool  # all pixels of a window in one word
    is_by_channel: bool  # windows of one word's channels after another
    held: int  # words the buffer holds

    @property
    def num_words(self) -> int:
        """The words that come."""
        return prod(self.size) * self.folds

    @property
    def span(self) -> _Pair:
        """The rows and columns that a window reaches over."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def geometry_of(instance: Any) -> Geometry:
    """Return the geometry of a folded ConvolutionInputGenerator_rtl."""
    get = instance.get_nodeattr
    return Geometry(
        size=tuple(get("IFMDim")),
        windows=tuple(get("OFMDim")),
        kernel=tuple(get("ConvKernelDim")),
        stride=tuple(get("Stride")),
        dilation=tuple(get("Dilation")),
        folds=get("IFMChannels") // get("SIMD"),
        is_parallel=instance.select_impl_style() == "parallel",
        is_by_channel=bool(get("depthwise")),
        held=int(instance.get_buffer_depth()),
    )


@lru_cache(maxsize=64)
def window(geometry: Geometry) -> Actor:
    """Return what a sliding window does."""
    return _whole_windows(geometry) if geometry.is_parallel else _word_by_word(geometry)


@cache
def window_cycles(geometry: Geometry) -> int:
    """Return the cycles from one frame to the next in which a sliding window never waits.

    FINN's own figure (get_exp_cycles) is up to some percent more, or less for windows by channel.
    """
    if geometry.is_parallel:
        return geometry.num_words + 1
    each = prod(geometry.kernel) * geometry.folds
    is_dense = geometry.stride == (1, 1) and each * geometry.windows[1] >= geometry.size[1] * geometry.folds
    if is_dense and not geometry.is_by_channel:
        # the first window waits for its last word, and no word for anything after
        rows, columns = geometry.span
        first = ((rows - 1) * geometry.size[1] + columns) * geometry.folds
        return first + (prod(geometry.windows) - 1) * each + 2
    rows = geometry.windows[0]
    if rows <= _ROWS + 1:
        return _alone(geometry)
    few, more = (_alone(_with_rows(geometry, number)) for number in (_ROWS, _ROWS + 1))
    return few + (rows - _ROWS) * (more - few)


def _with_rows(geometry: Geometry, rows: int) -> Geometry:
    height = geometry.size[0] - (geometry.windows[0] - rows) * geometry.stride[0]
    return replace(geometry, size=(height, geometry.size[1]), windows=(rows, geometry.windows[1]))


def _alone(geometry: Geometry) -> int:
    """Return the cycles of a frame whose words are all there."""
    actor = window(geometry)
    return _cycles(actor, *_at_once(actor, np.full(actor.num_firings, -NEVER)))


def converted_window_cycles(geometry: Geometry, converter: Actor) -> int:
    """Return the cycles of a frame whose words are all there, the window waiting for a converter behind it."""
    actor, given = window(geometry), converter.inputs[0]
    lag = actor.outputs[0].lag
    lower = np.full(actor.num_firings, -NEVER)
    for _ in range(_CONVERTED_ROUNDS):
        fires, words = _at_once(actor, lower)
        arrivals = fires + lag + FIFO_CYCLES
        none = np.full(converter.num_firings, -NEVER)
        _, taken = alternate(given.reads, given.frees, given.lag, given.room, none, arrivals)
        lower = np.full(actor.num_firings, -NEVER)
        lower[LEAST_DEPTH:] = taken[:-LEAST_DEPTH] + 1 - lag
        if (lower <= fires).all():
            break
    return _cycles(actor, fires, words)


def _at_once(actor: Actor, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the firings of a window, none before its bound, and when it takes its words, which are all there."""
    given = actor.inputs[0]
    there = np.full(len(given.frees), -NEVER)
    there[0] = 0
    return alternate(given.reads, given.frees, given.lag, given.room, lower, there)


def _cycles(actor: Actor, fires: np.ndarray, words: np.ndarray) -> int:
    return int(max(fires[-1] + actor.outputs[0].lag, words[-1]) + actor.reset - words[0])


def _word_by_word(geometry: Geometry) -> Actor:
    """The words of each window out of a cyclic buffer (swg_template_default.sv).

    A word may be overwritten when the first word of a later window than its own was read.
    """
    rows, columns = (
        np.arange(windows)[:, None] * stride + np.arange(kernel) * dilation
        for windows, stride, kernel, dilation in zip(
            geometry.windows, geometry.stride, geometry.kernel, geometry.dilation, strict=True
        )
    )
    pixels = rows[:, None, :, None] * geometry.size[1] + columns[None, :, None, :]  # (windows, kernel)
    folds = np.arange(geometry.folds)
    if geometry.is_by_channel:
        words = pixels[:, :, None] * geometry.folds + folds[:, None, None]
        each = prod(geometry.kernel)
    else:
        words = pixels[..., None] * geometry.folds + folds
        each = prod(geometry.kernel) * geometry.folds
    words = words.reshape(-1)
    next_window = np.repeat(np.append(words[each::each], geometry.num_words), each)
    next_word = np.append(np.minimum.accumulate(words[:0:-1])[::-1], geometry.num_words)
    oldest = np.maximum.accumulate(np.minimum(next_window, next_word))  # that must stay, after each firing
    frees = np.searchsorted(oldest, np.arange(geometry.num_words) - geometry.held, side="right")
    frees[: geometry.held] = -1
    return Actor(
        gaps=1,
        num_firings=len(words),
        inputs=(Input(reads=np.maximum.accumulate(words), frees=np.minimum(frees, len(words) - 1)),),
        outputs=(Output(fires=np.arange(len(words))),),
        is_coupled=True,
    )


def _whole_windows(geometry: Geometry) -> Actor:
    """A whole window when its last pixel is in; one word may come ahead (swg_template_parallel.sv)."""
    rows, columns = (
        np.arange(windows) * stride + span - 1
        for windows, stride, span in zip(geometry.windows, geometry.stride, geometry.span, strict=True)
    )
    last = (rows[:, None] * geometry.size[1] + columns)[..., None] * geometry.folds + np.arange(geometry.folds)
    last = last.reshape(-1)
    return Actor(
        gaps=1,
        num_firings=len(last),
        inputs=(Input(reads=last, frees=np.searchsorted(last, np.arange(geometry.num_words) - 1) - 1),),
        outputs=(Output(fires=np.arange(len(last)), lag=0),),
        is_coupled=True,
    )
