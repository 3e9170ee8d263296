"""An accelerator whose layers work as soon as they can, its FIFOs full or not: frames back to back, to a fixpoint.

It shares the rules of single layers (actors.py) with the schedule, and nothing of how that is found.
"""

from __future__ import annotations

import numpy as np

from nash_hw.estimate.actors import actor_of, converter
from nash_hw.estimate.firings import FIFO_CYCLES
from nash_hw.estimate.streams import LEAST_DEPTH
from nash_hw.graph.model import custom_op

_FRAMES = 5
_LONG = 1 << 40


class Locked(Exception):
    """Nothing moves any more."""


class _Unit:
    """A layer or a converter over all frames."""

    def __init__(self, actor):
        self.actor = actor
        self.fires = np.zeros(_FRAMES * actor.num_firings, np.int64)
        self.taken = [np.zeros(_FRAMES * len(given.frees), np.int64) for given in actor.inputs]
        self.gaps = np.tile(np.ones(actor.num_firings, np.int64) * actor.gaps, _FRAMES)
        self.reads = [_unrolled(given.reads, len(given.frees)) for given in actor.inputs]
        self.frees = [_unrolled(given.frees, actor.num_firings) for given in actor.inputs]
        self.makes = [_unrolled(given.fires, actor.num_firings) for given in actor.outputs]
        self.lags = [np.tile(np.ones(len(given.fires), np.int64) * given.lag, _FRAMES) for given in actor.outputs]
        self.sent = [np.zeros(len(makes), np.int64) for makes in self.makes]
        self.others = [
            np.flatnonzero(np.diff(makes)) + 1 for makes in self.makes
        ]  # words of another firing than before

    def send(self, output, room):
        """Send the words that are made, where there is room; a firing waits for the words of the one before."""
        makes, lags, sent, other = self.makes[output], self.lags[output], self.sent[output], self.others[output]
        lower = np.maximum(self.fires[makes] + lags, room)
        moved = _raise(sent, _spaced(np.maximum(lower, sent), np.ones(len(sent), np.int64)))
        waiting = np.full(len(self.fires), -_LONG)
        waiting[makes[other]] = sent[other - 1] + 1 - lags[other]
        return _raise(self.fires, waiting) or moved


def _unrolled(index, size):
    """Return an index over all frames; what needs nothing of its own frame needs nothing of the one before, either."""
    return np.concatenate([np.where(index < 0, -1, index + frame * size) for frame in range(_FRAMES)])


def _raise(times, lower):
    changed = bool((lower > times).any())
    np.maximum(times, lower, out=times)
    return changed


def _spaced(times, gaps):
    spent = np.cumsum(gaps)
    return np.maximum.accumulate(times - spent) + spent


def _at(times, index, lag):
    return np.where(index >= 0, times[np.maximum(index, 0)] + lag, -_LONG)


def intervals(model, depths, limit):
    """Return the cycles between the last words of frames.

    Raises:
        Locked: a word passes later than `limit`.
    """
    units, links = _connect(model)
    moved = True
    while moved:
        moved = False
        for unit, inputs in units:
            moved |= _step(unit, inputs, links, depths)
            if unit.fires[-1] > limit:
                raise Locked
    last = units[-1][0]
    ends = last.sent[0].reshape(_FRAMES, -1)[:, -1]
    return np.diff(ends).tolist()


def _connect(model):
    """Return the units, each with the tensors it reads, and of each tensor its writer, output, reader and input."""
    instances = {node.name: custom_op(node) for node in model.graph.node}
    units, links, writers = [], {}, {}
    for node in model.graph.node:
        inputs = [name for name in node.input if name in writers]
        for position, name in enumerate(inputs):
            writer, output, width = writers[name]
            read = instances[node.name].get_instream_width(position)
            if read != width:
                between = _Unit(converter(width, read, len(writer.actor.outputs[output].fires)))
                units.append((between, [f"{name} unconverted"]))
                links[f"{name} unconverted"] = (writer, output, between, 0)
                writer, output = between, 0
            links[name] = [writer, output, None, position]
        unit = _Unit(actor_of(node, instances[node.name]))
        for name in inputs:
            links[name][2] = unit
        units.append((unit, inputs))
        for output, name in enumerate(node.output):
            writers[name] = (unit, output, instances[node.name].get_outstream_width(output))
    return units, links


def _step(unit, inputs, links, depths):
    moved, actor = False, unit.actor
    for position, given in enumerate(actor.inputs):
        taken = unit.taken[position]
        lower = _at(unit.fires, unit.frees[position], given.room)
        if inputs:
            writer, output, *_ = links[inputs[position]]
            lower = np.maximum(lower, writer.sent[output] + FIFO_CYCLES)
        if actor.is_coupled:
            ends = np.maximum(unit.sent[0].reshape(_FRAMES, -1)[:, -1], taken.reshape(_FRAMES, -1)[:, -1])
            starts = lower.reshape(_FRAMES, -1)[1:, 0]
            np.maximum(starts, ends[:-1] + actor.reset, out=starts)
        moved |= _raise(taken, _spaced(np.maximum(lower, taken), np.ones(len(taken), np.int64)))
        moved |= _raise(unit.fires, _at(taken, unit.reads[position], given.lag))
        if inputs:
            depth = depths.get(inputs[position], LEAST_DEPTH)  # of one before a converter
            room = np.full(len(taken), -_LONG)
            room[depth:] = taken[: len(taken) - depth] + 1
            moved |= writer.send(output, room)
    moved |= _raise(unit.fires, _spaced(unit.fires, unit.gaps))
    for output in range(len(actor.outputs)):
        moved |= unit.send(output, np.full(len(unit.sent[output]), -_LONG))
    return moved
