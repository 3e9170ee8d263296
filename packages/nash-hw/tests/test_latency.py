"""The model of a frame's way through the accelerator against a simulation, word by word, of each layer's rule."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Network, residual_network
from test_steps import specialized

pytestmark = pytest.mark.usefixtures("finn")
DEPTH = 6  # cycles of a layer's pipeline


def one_a_cycle(ready):
    """Return when words pass, one a cycle, each as soon as it is ready."""
    steps = np.arange(len(ready))
    return np.maximum.accumulate(np.asarray(ready, float) - steps) + steps


def regroup(times, words):
    """Return when the words of another width are there: a word when its last element is."""
    last = (np.arange(1, words + 1) * len(times) + words - 1) // words - 1
    return one_a_cycle(times[last])


def words_of(shape):
    return int(np.prod(shape[:-1]))


def window(instance, times):
    get = instance.get_nodeattr
    (kernel_h, kernel_w), (out_h, out_w), (stride_h, stride_w) = (get(k) for k in ("ConvKernelDim", "OFMDim", "Stride"))
    folds = get("IFMChannels") // get("SIMD")
    pixels = times.reshape(*get("IFMDim"), folds)
    rows = [
        pixels[y * stride_h : y * stride_h + kernel_h, x * stride_w : x * stride_w + kernel_w].reshape(-1)
        for y in range(out_h)
        for x in range(out_w)
    ]
    return one_a_cycle(np.concatenate(rows))


def padding(instance, times):
    get = instance.get_nodeattr
    top, left, bottom, right = get("Padding")
    pixels = times.reshape(*get("ImgDim"), -1)
    return one_a_cycle(np.pad(pixels, ((top, bottom), (left, right), (0, 0)), constant_values=0).reshape(-1))


def matrix(instance, times):
    get = instance.get_nodeattr
    synapses, neurons = get("MW") // get("SIMD"), get("MH") // get("PE")
    found, now = [], -1.0
    for vector in times.reshape(-1, synapses):
        for word in vector:
            now = max(now + 1, word)
        found += [now + fold * synapses for fold in range(neurons)]
        now += (neurons - 1) * synapses
    return np.array(found)


def last_of_each(instance, times):
    """A pool or a sum over pixels: its words come with the last words of what it reads."""
    pixels = words_of(instance.get_folded_output_shape()) // instance.get_folded_output_shape()[-2]
    out = instance.get_folded_output_shape()[-2]
    return one_a_cycle(one_a_cycle(times).reshape(pixels, -1)[:, -out:].reshape(-1))


RULES = {
    "ConvolutionInputGenerator": window,
    "FMPadding": padding,
    "MVAU": matrix,
    "Pool": last_of_each,
    "GlobalAccPool": last_of_each,
}


def simulate(model):
    """Return when each word of each stream passes, and the largest backlog at each join's input."""
    from nash_hw.model import custom_op

    streams, backlogs = {}, {}
    for node in model.graph.node:
        instance = custom_op(node)
        inputs = [position for position, name in enumerate(node.input) if name in streams or position == 0]
        arriving = []
        for position in inputs:
            words = words_of(instance.get_folded_input_shape(position))
            known = streams.get(node.input[position])
            arriving.append(np.arange(words, dtype=float) if known is None else regroup(known, words))
        if len(arriving) > 1:
            joined = one_a_cycle(np.max(arriving, axis=0))
            for position, times in zip(inputs, arriving, strict=True):
                waiting = np.searchsorted(times, joined, side="right") - np.arange(len(joined))
                backlogs[node.name, position] = int(waiting.max())
        else:
            joined = arriving[0]
        rule = RULES.get(node.op_type.rsplit("_", 1)[0])
        leaving = (one_a_cycle(joined) if rule is None else rule(instance, joined)) + DEPTH
        streams.update((name, leaving) for name in node.output)
    return streams, backlogs


def chain():
    net = Network((1, 3, 12, 12))
    x = net.relu(net.norm(net.conv(net.image, (8, 3, 3, 3), 8), 8))
    x = net.relu(net.norm(net.conv(x, (8, 8, 3, 3), 4), 8))
    x = net.relu(net.norm(net.conv(x, (16, 8, 3, 3), 4, stride=2), 16))
    return net.finish(net.head(x, 16), (1, 3))


def folded(source, fps):
    from nash_hw.boards import find_board
    from nash_hw.folding import FoldingSpace, fold

    model = specialized(source)
    board = find_board("U250")
    return fold(model, FoldingSpace(model, board).for_fps(fps, 200.0).settings)[0], board


@pytest.mark.parametrize("fps", [2_000, 20_000, 100_000])
@pytest.mark.parametrize("source", [chain, residual_network], ids=["chain", "residual"])
def test_latency_is_that_of_a_simulation(source, fps):
    from nash_hw.estimate import estimate

    model, board = folded(source(), fps)
    simulated = max(simulate(model)[0][output.name][-1] for output in model.graph.output)
    result = estimate(model, board)
    assert result.latency_cycles == pytest.approx(simulated, rel=0.25)
    assert result.latency_cycles < result.latency_bound_cycles


@pytest.mark.parametrize("fps", [2_000, 20_000])
def test_fifos_at_joins_hold_what_waits_in_a_simulation(fps):
    from nash_hw.estimate import estimate

    model, board = folded(residual_network(size=16), fps)
    depths = {}
    for stream in estimate(model, board).streams:
        if stream.kind == "fifo":
            depths[stream.consumer, stream.producer] = stream.depth
    _, backlogs = simulate(model)
    assert max(backlogs.values()) > 8
    nodes = {node.name: node for node in model.graph.node}
    for (name, position), waiting in backlogs.items():
        producer = model.find_producer(nodes[name].input[position])
        assert depths.get((name, producer.name), 2) >= 0.8 * waiting - 4
