"""When each word of a frame passes each stream of the accelerator, and how many wait there.

An accelerator in which every layer works as soon as it can, its FIFOs being of finite depth, does nothing later than
any schedule in which no FIFO holds more. So FIFOs as deep as the fill of one schedule that repeats every `period`
cycles cannot lock each other, and a frame leaves every `period` cycles.

That one schedule is found in two sweeps. From the input to the output every layer works at the earliest, FIFOs being
without bound. Back again, every layer keeps back what its readers have no use for yet: it works later, as long as its
own readers do not wait for it. What several convolutions make of the same windows does not: their windows leave at one
time for all of them, and are nine times what they are made of, where results that wait are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ..graph.model import Model, custom_op
from ..graph.steps import is_layer
from .actors import actor_of, converter
from .firings import FIFO_CYCLES, NEVER, Actor
from .streams import LEAST_DEPTH
from .timing import earliest, latest, taken, wanted

_SPARE, _SPARE_PART = 2, 16  # words, and one of so many, that a FIFO is deeper than the model says
_ROUNDS = 8  # in which a layer and an uneven converter behind it find their pace


@dataclass(kw_only=True)
class _Link:
    """A stream between two layers: where their widths differ a small FIFO and a converter, then a FIFO.

    Times of its words, (w,).
    """

    converter: Actor | None
    consumer: int  # a step
    position: int  # of its inputs
    enters: np.ndarray | None = None
    leaves: np.ndarray | None = None
    due: np.ndarray | None = None  # when they have to enter
    full: np.ndarray | None = None  # before when they need not

    def converted(self, times: np.ndarray, period: int | None) -> np.ndarray:
        """Return when words enter the FIFO, given when the layer before it sends its own."""
        return times if self.converter is None else earliest(self.converter, [times + FIFO_CYCLES], period)


@dataclass(kw_only=True)
class _Step:
    """A layer, in the order of the graph, and when it fires."""

    actor: Actor
    inputs: tuple[str, ...]  # the streams it reads; none: the accelerator's own
    outputs: tuple[str, ...]
    arrivals: list[np.ndarray] | None = None  # when the words of its inputs are there at the earliest
    fires: np.ndarray | None = None
    lower: np.ndarray | None = None  # before when it must not, for the converters behind it
    is_prompt: bool = False  # it keeps nothing back


class Schedule:
    """The schedule of a folded model."""

    def __init__(self, model: Model) -> None:
        instances = {node.name: custom_op(node) for node in model.graph.node}
        self._links: dict[str, _Link] = {}
        self._steps: list[_Step] = []
        ends: dict[str, tuple[int, int]] = {}
        for number, node in enumerate(model.graph.node):
            for name in node.input:
                if (producer := model.find_producer(name)) is not None:
                    step, output = ends[name]
                    position = sum(other in self._links for other in node.input)
                    widths = (
                        instances[producer.name].get_outstream_width(output),
                        instances[node.name].get_instream_width(position),
                    )
                    words = len(self._steps[step].actor.outputs[output].fires)
                    between = converter(*widths, words) if widths[0] != widths[1] else None
                    self._links[name] = _Link(converter=between, consumer=number, position=position)
            self._steps.append(
                _Step(
                    actor=actor_of(node, instances[node.name]),
                    inputs=tuple(name for name in node.input if name in self._links),
                    outputs=tuple(node.output),
                    is_prompt=_follows_shared_windows(model, node),
                )
            )
            ends |= {name: (number, output) for output, name in enumerate(node.output)}

    def latency(self) -> int:
        """Return the cycles in which the first frame after a reset passes, from its first word in to its last out."""
        return 1 + FIFO_CYCLES + max(int(times[-1]) for times in self._run(None))

    def depths(self, period: int) -> dict[str, int]:
        """Return how many words the FIFO of each stream has to hold for a frame to leave every `period` cycles.

        `period` has to be at least the cycles of the slowest layer.
        """
        self._run(period)
        found: dict[str, int] = {}
        for step in reversed(self._steps):
            self._delay(step, period)
            self._ask(step, period)
            for name in step.outputs:
                if name in self._links:
                    link = self._links[name]
                    found[name] = _depth(most(link.enters, link.leaves, period))
                    link.enters = link.leaves = link.due = link.full = None  # a large network has much of these
        return {name: found[name] for name in self._links}

    def _run(self, period: int | None) -> list[np.ndarray]:
        """Let all layers work at the earliest; return when the words of the accelerator's outputs are there."""
        for step in self._steps:
            step.arrivals = [self._links[name].enters + FIFO_CYCLES for name in step.inputs]
            if not step.inputs:
                step.arrivals = [np.arange(len(step.actor.inputs[0].frees)) + FIFO_CYCLES]
            step.fires = earliest(step.actor, step.arrivals, period, _begin(step.actor, period))
            step.lower = None
            if between := [self._links[name].converter for name in step.outputs if name in self._links]:
                self._wait(step, period, _ROUNDS if any(one and one.is_coupled for one in between) else 1)
            self._send(step, period)
        return [
            step.fires[given.fires] + given.lag
            for step in self._steps
            for name, given in zip(step.outputs, step.actor.outputs, strict=True)
            if name not in self._links
        ]

    def _wait(self, step: _Step, period: int | None, rounds: int) -> None:
        """Let a layer wait for the converters behind it."""
        for _ in range(rounds):
            step.lower = self._room(step, period)
            if (step.lower <= step.fires).all():
                break
            step.fires = earliest(step.actor, step.arrivals, period, step.lower)

    def _send(self, step: _Step, period: int | None) -> None:
        for name, given in zip(step.outputs, step.actor.outputs, strict=True):
            if name in self._links:
                link = self._links[name]
                link.enters = link.converted(step.fires[given.fires] + given.lag, period)

    def _room(self, step: _Step, period: int | None) -> np.ndarray:
        """Return before when a layer must not fire, as the converters behind it, and FIFOs before them, are full."""
        lower = _begin(step.actor, period)
        for name, given in zip(step.outputs, step.actor.outputs, strict=True):
            if name in self._links and (between := self._links[name].converter) is not None:
                times = step.fires[given.fires] + given.lag + FIFO_CYCLES
                leaves = taken(between, 0, times, earliest(between, [times], period), period)
                np.maximum.at(lower, given.fires, _room_after(leaves, period) - given.lag)
        return lower

    def _delay(self, step: _Step, period: int) -> None:
        """Let a layer work later, where its readers, which are done with, have no use for its words yet."""
        if not any(name in self._links for name in step.outputs):
            return
        lower = np.full(step.actor.num_firings, -NEVER) if step.lower is None else step.lower.copy()
        dues: list[np.ndarray | None] = []
        for name, given in zip(step.outputs, step.actor.outputs, strict=True):
            link = self._links.get(name)
            if link is None:
                dues.append(None)
                continue
            due, full = link.due, link.full
            if (between := link.converter) is not None:
                due = wanted(between, 0, latest(between, [due], period), period) - FIFO_CYCLES
                full = full[between.inputs[0].first_reader] - between.inputs[0].lag - FIFO_CYCLES
            dues.append(due)
            np.maximum.at(lower, given.fires, full - given.lag)
        if not step.is_prompt:
            delayed = latest(step.actor, dues, period)
            step.fires = np.minimum(delayed, earliest(step.actor, step.arrivals, period, lower))
        self._send(step, period)
        for name in step.outputs:
            if name in self._links:
                link = self._links[name]
                reader = self._steps[link.consumer]
                link.leaves = taken(reader.actor, link.position, link.enters + FIFO_CYCLES, reader.fires, period)

    def _ask(self, step: _Step, period: int) -> None:
        """Tell the layers before one, which is done with, when it wants their words."""
        for position, name in enumerate(step.inputs):
            link = self._links[name]
            link.due = wanted(step.actor, position, step.fires, period) - FIFO_CYCLES
            leaves = taken(step.actor, position, step.arrivals[position], step.fires, period)
            link.full = _room_after(leaves, period)


def _begin(actor: Actor, period: int | None) -> np.ndarray:
    """Return before when no firing is (n,): cycle 0 for a first frame, else none such."""
    return np.full(actor.num_firings, 0 if period is None else -NEVER)


def _room_after(leaves: np.ndarray, period: int | None) -> np.ndarray:
    """Return when there is room for each word in a FIFO of the least depth (w,), given when words leave it."""
    before = np.full(min(LEAST_DEPTH, len(leaves)), -NEVER) if period is None else leaves[-LEAST_DEPTH:] - period
    return np.concatenate([before, leaves[:-LEAST_DEPTH]]) + 1


def _follows_shared_windows(model: Model, node: onnx.NodeProto) -> bool:
    """Tell whether a layer is a matrix-vector unit that shares its windows with others, or the quantizer behind it."""
    if is_layer(node, "Thresholding", "Requant"):
        node = model.find_producer(node.input[0])
    if node is None or not is_layer(node, "MVAU"):
        return False
    source = model.find_producer(node.input[0])
    if source is None or not is_layer(source, "DuplicateStreams"):
        return False
    window = model.find_producer(source.input[0])
    return window is not None and is_layer(window, "ConvolutionInputGenerator")


def _depth(words: int) -> int:
    """Return the depth of a FIFO in which so many words wait, with some room for what Vitis may add to a layer."""
    return LEAST_DEPTH if words <= LEAST_DEPTH else words + _SPARE + words // _SPARE_PART


def most(enters: np.ndarray, leaves: np.ndarray, period: int) -> int:
    """Return how many words wait at most, given when those of one frame enter and leave (w,), (w,).

    A word that leaves makes room in the cycle after.
    """
    words = len(enters)
    frames = max(int(leaves[-1] - enters[0]) // period, 0) + 1
    left = np.zeros(words, np.int64)
    for frame in range(-frames, frames + 1):
        left += np.searchsorted(leaves, enters - frame * period)
    return int((np.arange(1, words + 1) - left).max()) + frames * words
