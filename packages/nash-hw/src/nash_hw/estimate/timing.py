"""When a layer fires at the earliest, and at the latest.

Every bound is of the form "this no sooner than so many cycles after that", so the earliest times are running maxima,
the latest ones running minima, and the lesser of two sets of times that obey the bounds obeys them, too.

Arrays: times in cycles, of one frame; frames follow each other by `period` cycles.
(n,) the firings of a layer, (w,) the words of a stream (actors.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .firings import NEVER, Actor

_CHUNK = 600  # firings of a sliding window that are tried together
_TRIES = 8  # of a chunk; where its firings and words wait for each other one by one, they are taken so
_ROUNDS = 100  # in which a frame finds its place behind the one before


def after(lower: np.ndarray, gaps: int | np.ndarray) -> np.ndarray:
    """Return the earliest times, none before its bound, that follow each other by gaps: those before each time."""
    spent = np.arange(len(lower)) * gaps if isinstance(gaps, int) else np.cumsum(gaps)
    times = lower - spent
    np.maximum.accumulate(times, out=times)
    times += spent
    return times


def before(upper: np.ndarray, gaps: int | np.ndarray) -> np.ndarray:
    """Return the latest times, none after its bound, that follow each other by gaps: those before each time."""
    spent = np.arange(len(upper)) * gaps if isinstance(gaps, int) else np.cumsum(gaps)
    times = upper - spent
    np.minimum.accumulate(times[::-1], out=times[::-1])
    times += spent
    return times


def at(times: np.ndarray, index: np.ndarray, lag: int | np.ndarray) -> np.ndarray:
    """Return times at an index, plus a lag; -NEVER where the index is -1."""
    result = times[index] + lag
    result[: np.searchsorted(index, 0)] = -NEVER
    return result


def earliest(
    actor: Actor, arrivals: Sequence[np.ndarray], period: int | None, lower: np.ndarray | None = None
) -> np.ndarray:
    """Return when an actor fires at the earliest (n,), given when its words are there.

    `period` None: no frame came before. `lower` (n,): bounds of the firings.
    """
    bound = np.full(actor.num_firings, -NEVER) if lower is None else lower.copy()
    if actor.is_coupled:
        return _earliest_coupled(actor, arrivals[0], period, bound)
    for given, times in zip(actor.inputs, arrivals, strict=True):
        np.maximum(bound, at(times, given.reads, given.lag), out=bound)
    fires = after(bound, actor.gaps)
    if period is not None and (again := fires[-1] + actor.first_gap - period) > fires[0]:
        bound[0] = again
        fires = after(bound, actor.gaps)
    return fires


def latest(actor: Actor, dues: Sequence[np.ndarray | None], period: int) -> np.ndarray:
    """Return when an actor fires at the latest (n,), given when the words of its outputs have to leave it."""
    upper = np.full(actor.num_firings, NEVER)
    for given, due in zip(actor.outputs, dues, strict=True):
        if due is not None:
            bound = np.append(np.minimum.accumulate((due - given.lag)[::-1])[::-1], NEVER)
            np.minimum(upper, bound[given.first_word(actor.num_firings)], out=upper)
    if actor.is_coupled:
        return _latest_coupled(actor, upper, period)
    fires = before(upper, actor.gaps)
    if (again := fires[0] + period - actor.first_gap) < fires[-1]:
        upper[-1] = again
        fires = before(upper, actor.gaps)
    return fires


def taken(actor: Actor, position: int, arrivals: np.ndarray, fires: np.ndarray, period: int | None) -> np.ndarray:
    """Return when an actor takes the words of an input (w,) at the earliest, given when it fires."""
    given = actor.inputs[position]
    bound = np.maximum(arrivals, at(fires, given.frees, given.room))
    if actor.is_coupled and period is not None:
        bound[0] = max(bound[0], fires[-1] + actor.outputs[0].lag + actor.reset - period)
    times = after(bound, 1)
    if period is not None and (again := times[-1] + (actor.reset if actor.is_coupled else 1) - period) > times[0]:
        bound[0] = again
        times = after(bound, 1)
    return times


def wanted(actor: Actor, position: int, fires: np.ndarray, period: int) -> np.ndarray:
    """Return when an actor takes the words of an input (w,) at the latest, given when it fires."""
    given = actor.inputs[position]
    upper = np.append(fires - given.lag, NEVER)[given.first_reader]
    gap = max(actor.reset, 1) if actor.is_coupled else 1
    times = before(upper, 1)
    if (again := times[0] + period - gap) < times[-1]:
        upper[-1] = again
        times = before(upper, 1)
    return times


def _earliest_coupled(actor: Actor, arrivals: np.ndarray, period: int | None, lower: np.ndarray) -> np.ndarray:
    given = actor.inputs[0]
    for _ in range(_ROUNDS):
        fires, words = alternate(given.reads, given.frees, given.lag, given.room, lower, arrivals)
        if period is None:
            return fires
        again = max(fires[-1] + actor.outputs[0].lag, words[-1]) + actor.reset - period
        if again <= words[0]:
            return fires
        arrivals = arrivals.copy()
        arrivals[0] = again
    raise ValueError(f"a layer takes more than {period} cycles for a frame")


def _latest_coupled(actor: Actor, upper: np.ndarray, period: int) -> np.ndarray:
    """The same with time reversed: words wait for those that read them, and firings for those they make room for."""
    given = actor.inputs[0]
    num_words = len(given.frees)
    reads = (actor.num_firings - 1 - given.first_reader)[::-1]
    frees = (num_words - 1 - np.searchsorted(given.frees, np.arange(actor.num_firings)))[::-1]
    lower, arrivals = np.full(num_words, -NEVER), -upper[::-1]
    for _ in range(_ROUNDS):
        words, fires = alternate(reads, frees, given.lag, given.room, lower, arrivals)
        again = words[-1] + actor.reset - period  # the frame that follows begins so late
        if again <= words[0] and again + actor.outputs[0].lag <= fires[0]:
            return -fires[::-1]
        arrivals = arrivals.copy()
        lower[0], arrivals[0] = max(lower[0], again), max(arrivals[0], again + actor.outputs[0].lag)
    raise ValueError(f"a layer takes more than {period} cycles for a frame")


def alternate(
    reads: np.ndarray, frees: np.ndarray, lag: int, room: int, lower: np.ndarray, arrivals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return firings (n,) that wait for words (w,) that wait for firings: chunk by chunk, each to a fixpoint."""
    num_firings, num_words = len(reads), len(frees)
    fires, words = np.empty(num_firings, np.int64), np.empty(num_words, np.int64)
    low = done = 0
    for high in np.linspace(0, num_firings, num_firings // _CHUNK + 2).astype(int)[1:]:
        stop = int(reads[high - 1]) + 1 if high < num_firings else num_words
        fires[low:high] = -NEVER
        for _ in range(_TRIES):
            bound = np.maximum(arrivals[done:stop], at(fires, frees[done:stop], room))
            if done and stop > done:
                bound[0] = max(bound[0], words[done - 1] + 1)
            words[done:stop] = after(bound, 1)
            bound = np.maximum(lower[low:high], at(words, reads[low:high], lag))
            if low:
                bound[0] = max(bound[0], fires[low - 1] + 1)
            times = after(bound, 1)
            if np.array_equal(times, fires[low:high]):
                break
            fires[low:high] = times
        else:
            _one_by_one(reads, frees, lag, room, lower, arrivals, (fires, words), (low, high), (done, stop))
        low, done = high, stop
    return fires, words


def _one_by_one(
    reads: np.ndarray,
    frees: np.ndarray,
    lag: int,
    room: int,
    lower: np.ndarray,
    arrivals: np.ndarray,
    times: tuple[np.ndarray, np.ndarray],
    firings: tuple[int, int],
    words: tuple[int, int],
) -> None:
    """Write the times of a range of firings and of words into (firings, words), all those before it being known."""
    (low, high), (done, stop) = firings, words
    first_firing = max(min(int(frees[done]), low - 1), 0) if stop > done else max(low - 1, 0)
    first_word = max(min(int(reads[low]), done - 1), 0)
    fired, took = times[0][first_firing:low].tolist(), times[1][first_word:done].tolist()
    waits = iter(zip(range(done, stop), frees[done:stop].tolist(), arrivals[done:stop].tolist(), strict=True))

    def take(last: int) -> None:
        for word, freed, time in waits if len(took) + first_word <= last else ():
            if freed >= 0:
                time = max(time, fired[freed - first_firing] + room)
            took.append(max(time, took[-1] + 1) if word else time)
            if word == last:
                break

    for firing, read, time in zip(range(low, high), reads[low:high].tolist(), lower[low:high].tolist(), strict=True):
        take(read)
        if read >= 0:
            time = max(time, took[read - first_word] + lag)
        fired.append(max(time, fired[-1] + 1) if firing else time)
    take(stop - 1)
    times[0][low:high], times[1][done:stop] = fired[low - first_firing :], took[done - first_word :]
