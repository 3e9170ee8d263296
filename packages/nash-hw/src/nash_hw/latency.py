"""When each stream of an accelerator carries the first and the last word of one frame, in an idle pipeline.

A layer starts when the part of its input is there that its first output needs, and ends when it has worked through the
frame or, if that is later, when what is left to do after its last input is done. Between the two it is taken to run
evenly. The words that one input of a join brings before the other's arrive wait in a FIFO: their largest number is the
depth without which fork and join would block each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .model import Model, custom_op
from .steps import is_layer

_PIPELINE_CYCLES = 8  # from the last word in to the word out of it: registers of one layer and its ports


@dataclass(frozen=True, kw_only=True)
class Span:
    """When the first and the last word of a frame pass, in cycles after the frame's first word enters."""

    first: float
    last: float

    def at(self, part: float) -> float:
        """Return when a part (0..1) of the frame has passed."""
        return self.first + part * (self.last - self.first)

    def passed(self, time: float) -> float:
        """Return which part (0..1) of the frame has passed at a time."""
        if time >= self.last:
            return 1.0
        return max(time - self.first, 0.0) / max(self.last - self.first, 1e-9)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What one layer does with one frame."""

    part: float  # of the input that its first output needs
    before: float  # cycles from having that to the first output
    busy: float  # cycles from the first output to the last, if the input never waits
    after: float  # cycles from the last input to the last output
    ahead: float = 0.0  # cycles of output that need no input


def spans(model: Model) -> dict[str, Span]:
    """Return the span of every stream (by tensor name) for one frame that enters an idle accelerator."""
    found: dict[str, Span] = {}
    for node in model.graph.node:
        instance = custom_op(node)
        work = _work(node, instance)
        inputs = [found[name] for name in node.input if name in found]
        if not inputs:
            inputs = [Span(first=0, last=float(np.prod(instance.get_folded_input_shape()[:-1])))]
        span = _output(work, inputs)
        found.update((name, span) for name in node.output)
    return found


def _output(work: _Work, inputs: list[Span]) -> Span:
    first = max(max(span.at(work.part) for span in inputs) + work.before - work.ahead, 0.0) + _PIPELINE_CYCLES
    last = max(first + work.busy, max(span.last for span in inputs) + work.after + _PIPELINE_CYCLES)
    return Span(first=first, last=last)


def backlog(early: Span, all_inputs: Iterable[Span], words: int) -> int:
    """Return how many words of an input wait at a join of all inputs, at most, if the join takes them evenly."""
    inputs = tuple(all_inputs)
    joined = Span(first=max(span.first for span in inputs), last=max(span.last for span in inputs))
    waiting = max(early.passed(time) - joined.passed(time) for time in (joined.first, early.last))
    return int(np.ceil(waiting * words))


def _work(node: onnx.NodeProto, instance: Any) -> _Work:
    cycles = float(instance.get_exp_cycles())
    outputs = float(np.prod(instance.get_folded_output_shape()[:-1]))
    if is_layer(node, "ConvolutionInputGenerator"):
        return _window(instance, cycles)
    if is_layer(node, "FMPadding"):
        return _padding(instance, cycles)
    if is_layer(node, "GlobalAccPool"):
        return _Work(part=1.0, before=0.0, busy=outputs, after=outputs)
    if is_layer(node, "LabelSelect"):
        return _Work(part=1.0, before=0.0, busy=outputs, after=outputs)
    if is_layer(node, "MVAU", "VVAU", "Pool"):
        vectors = float(np.prod(instance.get_normal_output_shape()[:-1]))
        each = cycles / vectors
        before = each * vectors / outputs  # one fold of the rows
        return _Work(part=1 / vectors, before=before, busy=cycles - before, after=each)
    if is_layer(node, *_WORD_BY_WORD):
        return _Work(part=1 / outputs, before=0.0, busy=cycles, after=1.0)
    return _Work(part=1.0, before=0.0, busy=cycles, after=cycles)  # unknown: nothing overlaps


_WORD_BY_WORD = ("Thresholding", "Requant", "DuplicateStreams", "ElementwiseAdd", "StreamingConcat")


def _window(instance: Any, cycles: float) -> _Work:
    """A window is complete with the last pixel of its last row; whole rows of windows are written at a time."""
    get = instance.get_nodeattr
    (height, width), (kernel_h, kernel_w) = get("IFMDim"), get("ConvKernelDim")
    dilation_h, dilation_w = get("Dilation")
    rows = get("OFMDim")[0]
    fill = (kernel_h - 1) * dilation_h * width + (kernel_w - 1) * dilation_w + 1
    folds = get("IFMChannels") // get("SIMD")
    outputs = float(np.prod(instance.get_folded_output_shape()[:-1]))
    busy = max(cycles - fill * folds, outputs)
    return _Work(part=fill / (height * width), before=1.0, busy=busy, after=outputs / rows / get("OFMDim")[1])


def _padding(instance: Any, cycles: float) -> _Work:
    """The border above the picture needs no input, the one below follows it."""
    top, left, bottom, right = instance.get_nodeattr("Padding")
    _, height, width, _ = instance.get_normal_output_shape()
    pixel = cycles / (height * width)
    inputs = float(np.prod(instance.get_folded_input_shape()[:-1]))
    return _Work(
        part=1 / inputs,
        before=0.0,
        busy=cycles,
        after=pixel * (bottom * width + right),
        ahead=pixel * (top * width + left),
    )
