"""Random genotypes with the FIFO depths that `build` writes: none locks, and a frame leaves every ii_cycles.

All fifty run word by word with bounded FIFOs (self_timed.py), which is held against the RTL here; some of them, and the
demo's network, run in the RTL as well. `benchmarks/simulation.py --genotypes 50` runs all of them there.
"""

from __future__ import annotations

import pytest
import self_timed
from accelerators import CLOCK_MHZ, case_model, make_design, make_simulation
from genotypes import DEMO, OPERATIONS, draw_case

pytestmark = pytest.mark.usefixtures("finn")

SEEDS = range(50)
IN_RTL = (7, 20)  # FIFOs of the least depth slow the second one down


def simulate(case, folder, cache):
    return make_simulation(make_design(*case_model(case), folder), folder / "work", cache)


def written(simulation):
    return [stream.depth for stream in simulation.design.streams]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_genotype_locks_or_slows_down(seed):
    from nash_hw.estimate.actors import pace_of
    from nash_hw.estimate.streams import fifo_depths

    model, _ = case_model(draw_case(seed))
    pace, _ = pace_of(model)
    found = self_timed.intervals(model, fifo_depths(model), 30 * pace)
    assert pace - max(2, 0.01 * pace) <= found[-1] <= pace  # a cycle or two where a frame takes a hundred


def test_genotypes_have_everything():
    layers = [layer for seed in SEEDS for cell in draw_case(seed).genotype["cells"] for layer in cell["layers"]]
    operations = {(layer["nas_op"]["op"], layer["stride"]) for layer in layers if layer["nas_op"]}
    assert operations == {(operation, stride) for operation in OPERATIONS for stride in (1, 2)}
    assert {(layer["residual_from"] is not None, layer["projection"]) for layer in layers} == {
        (False, False),
        (True, False),
        (True, True),
    }


@pytest.mark.parametrize("seed", IN_RTL)
def test_self_timed_words_pass_as_in_the_rtl(seed, tmp_path, compiled_layers):
    from nash_hw.estimate.streams import fifo_depths
    from nash_hw.simulate.run import Pace

    simulation = simulate(draw_case(seed), tmp_path, compiled_layers)
    model, estimated = simulation.design.model, simulation.design.manifest["estimated"]
    depths, limit = fifo_depths(model), 30 * estimated["ii_cycles"]
    result = simulation.run(written(simulation), Pace(frames=4))
    assert (result.is_exact, result.is_stuck) == (True, False)
    assert result.interval == self_timed.intervals(model, depths, limit)[-1]
    assert estimated["ii_cycles"] == pytest.approx(result.interval, rel=0.01)
    assert estimated["latency_us"] * CLOCK_MHZ == pytest.approx(result.latency, rel=0.05)
    shallow = simulation.run([2] * len(depths), Pace(frames=4))
    expected = self_timed.intervals(model, dict.fromkeys(depths, 5), limit)[-1]
    assert (expected > estimated["ii_cycles"]) == (seed == 20)
    assert shallow.interval == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("seed", IN_RTL)
def test_written_depths_bear_back_pressure(seed, tmp_path, compiled_layers):
    from nash_hw.simulate.run import Pace

    simulation = simulate(draw_case(seed), tmp_path, compiled_layers)
    result = simulation.run(written(simulation), Pace(frames=6, max_frames=6, stall=50, bubble=30))
    assert (result.is_exact, result.num_frames) == (True, 6)


def test_demo_does_not_lock(tmp_path, compiled_layers):
    """On KV260_SOM for 5000 fps; with the least FIFOs everywhere it stands still before a frame is out."""
    from nash_hw.simulate.run import Pace

    simulation = simulate(DEMO, tmp_path, compiled_layers)
    estimated = simulation.design.manifest["estimated"]
    locked = simulation.run([2] * len(written(simulation)), Pace(frames=2))
    assert (locked.is_stuck, locked.ends) == (True, ())
    result = simulation.run(written(simulation), Pace(frames=3))
    assert (result.is_exact, result.is_stuck) == (True, False)
    assert result.interval == estimated["ii_cycles"] <= 40_000
    assert estimated["latency_us"] * CLOCK_MHZ == pytest.approx(result.latency, rel=0.05)


def test_rtl_unit_of_whole_rows_loses_words(tmp_path, compiled_layers):
    """Why no folding has one: where its reader stops, the queue of mvu_vvu_axi.sv runs over."""
    from nash_hw.graph.model import custom_op
    from nash_hw.simulate.run import Pace

    model, board = case_model(draw_case(37))
    instances = [custom_op(node) for node in model.graph.node if node.op_type == "MVAU_rtl"]
    assert all(instance.get_nodeattr("SIMD") < instance.get_nodeattr("MW") for instance in instances)
    instances[0].set_nodeattr("SIMD", instances[0].get_nodeattr("MW"))
    simulation = make_simulation(make_design(model, board, tmp_path), tmp_path / "work", compiled_layers)
    result = simulation.run(written(simulation), Pace(frames=60, max_frames=60))
    assert (result.is_stuck, result.is_exact) == (True, False)
