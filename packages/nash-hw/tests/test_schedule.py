"""The schedule of every word against simulations of the RTL, and by hand.

simulated.json has what a cycle-accurate simulation of whole accelerators found (its "how" says how), simulated/ their
folded graphs without weights.
"""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import self_timed
from networks import Network, residual_network
from test_steps import specialized

FACTS = Path(__file__).parent / "simulated.json"
SIMULATED = json.loads(FACTS.read_text("utf-8"))["networks"]
NAMES = sorted(SIMULATED)

pytestmark = pytest.mark.usefixtures("finn")


def schedule_of(name):
    from nash_hw.estimate.schedule import Schedule
    from nash_hw.graph.model import Model

    graph = onnx.load_from_string(gzip.decompress((FACTS.parent / "simulated" / f"{name}.onnx.gz").read_bytes()))
    return Model(graph), Schedule(Model(graph))


def slowest(model):
    from nash_hw.estimate.actors import cycles_of
    from nash_hw.graph.model import custom_op

    return max(cycles_of(node, custom_op(node)) for node in model.graph.node)


@pytest.mark.parametrize("name", NAMES)
def test_interval_and_latency_are_those_of_the_simulation(name):
    model, schedule = schedule_of(name)
    measured = SIMULATED[name]["measured"]
    assert slowest(model) == pytest.approx(measured["ii_cycles"], rel=0.01)
    assert schedule.latency() == pytest.approx(measured["latency_cycles"], rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_fifos_are_as_deep_as_those_that_were_simulated(name):
    """With those a frame left every ii_cycles and nothing locked; deeper ones do the same."""
    model, schedule = schedule_of(name)
    depths = schedule.depths(slowest(model))
    simulated = SIMULATED[name]["measured"]["depths"]
    assert set(depths) == set(simulated)
    assert {tensor for tensor in depths if depths[tensor] < simulated[tensor]} == set()


@pytest.mark.parametrize("name", [name for name in NAMES if SIMULATED[name]["too_shallow"]])
def test_fifos_are_deeper_than_those_that_locked_or_slowed_the_simulation(name):
    """Depths of joins alone, by an older rule, and no FIFO elsewhere."""
    shallow, measured = SIMULATED[name]["too_shallow"], SIMULATED[name]["measured"]
    assert shallow["ii_cycles"] is None or shallow["ii_cycles"] > measured["ii_cycles"]
    model, schedule = schedule_of(name)
    depths = schedule.depths(slowest(model))
    assert any(depths[tensor] > max(shallow["depths"].get(tensor, 0), 5) for tensor in depths)


def random_network(seed):
    """A stem, then layers that read any earlier state of the same size: strides, pools, sums, windows of 1 to 5."""
    random = np.random.default_rng(seed)
    net = Network((1, int(random.choice([1, 3])), 8, 8), seed)
    channels = int(random.choice([2, 4]))
    states = [net.relu(net.norm(net.conv(net.image, (channels, net.shape[1], 3, 3), 8), channels))]
    for _ in range(random.integers(2, 4)):
        stride = int(random.choice([1, 1, 2]))
        width = channels * stride
        paths = []
        for source in {len(states) - 1, int(random.integers(len(states)))}:
            kernel = int(random.choice([1, 3, 3, 5]))
            if random.random() < 0.25 and stride == 1:
                y = net.norm(net.pool(states[source]), channels, positive=True)
            else:
                y = net.norm(net.conv(states[source], (width, channels, kernel, kernel), stride=stride), width)
            paths.append(net.quantize(y, 0.05, 8))
        total = paths[0] if len(paths) == 1 else net.node("Add", paths)
        if stride == 1 and random.random() < 0.5:
            total = net.node("Add", [total, net.quantize(states[-1], 0.05, 8)])
        if stride == 2:
            states.clear()
        states.append(net.relu(total))
        channels = width
    return net.finish(net.head(states[-1], channels), (1, 3))


def folded_anyhow(source, seed):
    """Return a model folded at random: layers of very different speed."""
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.finn_config import fold
    from nash_hw.fold.options import price_groups

    random = np.random.default_rng(seed)
    model = specialized(source)
    settings = {}
    for group in price_groups(model, find_board("U250")):
        option = group.options[random.integers(len(group.options))]
        settings |= {name: dict(values) for name, values in zip(group.names, option.settings, strict=True)}
    return fold(model, settings)[0]


@pytest.mark.parametrize("seed", range(6))
def test_no_network_locks_or_slows_down(seed):
    """Frames back to back, with FIFOs of exactly these depths; of the least depth in every stream most are slower."""
    from nash_hw.estimate.schedule import Schedule

    model = folded_anyhow(random_network(seed), seed)
    period = slowest(model)
    depths = Schedule(model).depths(period)
    assert self_timed.intervals(model, depths, 20 * period)[-1] == period


def test_shallow_fifos_lock_or_slow_down():
    from nash_hw.estimate.schedule import Schedule

    model = folded_anyhow(residual_network(size=16), 0)
    period = slowest(model)
    depths = Schedule(model).depths(period)
    assert max(depths.values()) > 20
    assert self_timed.intervals(model, depths, 20 * period)[-1] == period
    try:
        found = self_timed.intervals(model, dict.fromkeys(depths, 5), 20 * period)
    except self_timed.Locked:
        return
    assert found[-1] > period


def later_reader(size=12):
    """A convolution whose windows another one reads, too, and whose sum waits for two more convolutions."""
    net = Network((1, 3, size, size))

    def term(x, channels=4):
        return net.quantize(net.norm(net.conv(x, (4, channels, 3, 3)), 4), 0.05, 8)

    first = net.relu(term(net.image, 3))
    last = term(net.relu(term(net.relu(term(first)))))
    return net.finish(net.head(net.relu(net.node("Add", [last, term(first)])), 4), (1, 3))


@pytest.mark.parametrize("seed", range(3))
def test_shared_windows_lock_nothing(seed):
    from nash_hw.estimate.schedule import Schedule

    model = folded_anyhow(later_reader(), seed)
    period = slowest(model)
    depths = Schedule(model).depths(period)
    assert self_timed.intervals(model, depths, 20 * period)[-1] == period


def test_results_wait_in_the_stead_of_shared_windows(monkeypatch):
    """They are fewer."""
    from nash_hw.boards.boards import find_board
    from nash_hw.estimate import schedule
    from nash_hw.fold.folding import FoldingSpace, fold

    model = specialized(later_reader())
    model, _ = fold(model, FoldingSpace(model, find_board("U250")).for_fps(20_000, 200.0).settings)
    windows = [node for node in model.graph.node if node.op_type == "ConvolutionInputGenerator_rtl"]
    (copies,) = (node for node in (model.find_consumer(node.output[0]) for node in windows) if "Dup" in node.op_type)
    prompt = schedule.Schedule(model).depths(slowest(model))
    monkeypatch.setattr(schedule, "_follows_shared_windows", lambda *_: False)
    late = schedule.Schedule(model).depths(slowest(model))
    waiting = [max(depths[name] for name in copies.output) for depths in (prompt, late)]
    assert 4 * waiting[0] < waiting[1]


@pytest.mark.parametrize(("kernel", "stride"), [((1, 3), (1, 1)), ((1, 3), (1, 2)), ((3, 1), (1, 1)), ((3, 1), (2, 1))])
def test_cycles_of_the_windows_of_rows_and_columns(kernel, stride):
    from nash_hw.estimate import windows

    for size, folds in itertools.product((12, 17), (1, 4)):
        counts = tuple((size - k) // s + 1 for k, s in zip(kernel, stride, strict=True))
        held = ((kernel[0] - 1) * size + kernel[1]) * folds + (stride[0] - 1) * size * folds
        geometry = windows.Geometry(
            size=(size, size), windows=counts, kernel=kernel, stride=stride, dilation=(1, 1), folds=folds,
            is_parallel=False, is_by_channel=True, held=held,
        )  # fmt: skip
        assert windows.window_cycles(geometry) == windows._alone(geometry), geometry


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("by_channel", [False, True], ids=["", "by channel"])
def test_cycles_of_a_window_are_those_of_its_words(stride, by_channel):
    """Rows after the third take as long as the one before: against all rows, word by word."""
    from nash_hw.estimate import windows

    for size, kernel, folds in itertools.product((12, 17), (2, 3, 5), (1, 4)):
        rows = (size - kernel) // stride + 1
        least = ((kernel - 1) * size + kernel) * folds
        more = [max(0, (part - kernel**2) * folds) for part in (stride - 1, (stride - 1) * size)]
        geometry = windows.Geometry(
            size=(size, size),
            windows=(rows, rows),
            kernel=(kernel, kernel),
            stride=(stride, stride),
            dilation=(1, 1),
            folds=folds,
            is_parallel=False,
            is_by_channel=by_channel,
            held=least + sum(more),
        )
        assert windows.window_cycles(geometry) == windows._alone(geometry), geometry


def test_words_that_wait_are_counted_over_frames():
    """Ten words at once, one left each second cycle: by the time the tenth comes, five have; and the frame before's."""
    from nash_hw.estimate.schedule import most

    enters = np.arange(10)
    assert most(enters, enters + 2, 100) == 3  # two under way and the one that comes
    assert most(enters, 2 * enters + 2, 100) == 6
    assert most(enters, enters + 22, 20) == 13  # two frames overlap


def test_earliest_and_latest_are_each_others_mirror():
    """A matrix-vector unit of three rows' turns: what it can give at the earliest it need not do any earlier."""
    from nash_hw.estimate.firings import Actor, Input, Output
    from nash_hw.estimate.timing import earliest, latest

    words = np.arange(6)
    actor = Actor(
        gaps=np.array([7, 1, 1, 7, 1, 1]),
        num_firings=6,
        inputs=(Input(reads=words, frees=np.maximum(words - 4, -1)),),
        outputs=(Output(fires=np.repeat([2, 5], 3), lag=np.tile([2, 5, 8], 2)),),
    )
    fires = earliest(actor, [np.array([0, 5, 6, 7, 8, 9])], 100)
    assert fires.tolist() == [1, 6, 7, 14, 15, 16]
    dues = fires[actor.outputs[0].fires] + actor.outputs[0].lag
    assert latest(actor, [dues], 100).tolist() == [5, 6, 7, 14, 15, 16]


@pytest.mark.parametrize("seed", range(4))
def test_firings_that_wait_one_by_one_are_those_of_the_fixpoint(seed, monkeypatch):
    """Uneven converters, whose firings and words wait for each other, in both ways and with bounds of either kind."""
    from nash_hw.estimate import timing
    from nash_hw.estimate.actors import converter

    random = np.random.default_rng(seed)
    for in_width, out_width in ((8, 12), (32, 20), (7, 3), (3, 7)):
        actor = converter(in_width, out_width, 30 * out_width)
        given = actor.inputs[0]
        arrivals = np.sort(random.integers(0, 2000, len(given.frees)))
        lower = np.sort(random.integers(0, 2000, actor.num_firings))
        results = []
        for tries in (10**6, 2, 0):
            monkeypatch.setattr(timing, "_TRIES", tries)
            results.append(timing.alternate(given.reads, given.frees, given.lag, given.room, lower, arrivals))
        for fires, words in results[1:]:
            np.testing.assert_array_equal(fires, results[0][0])
            np.testing.assert_array_equal(words, results[0][1])
