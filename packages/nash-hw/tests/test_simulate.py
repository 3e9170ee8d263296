"""Whole accelerators, simulated cycle by cycle: exact, under back-pressure too, with FIFOs that are enough."""

from __future__ import annotations

import pytest
from accelerators import CLOCK_MHZ, FPS, NETWORKS, make_accelerator, make_simulation

from nash_hw.base.errors import Interrupted, UnsupportedError, VerificationError


@pytest.fixture(scope="module")
def simulations(tmp_path_factory, compiled_layers):
    """Simulations by the name of their network, made when they are asked for."""
    from nash_hw.finn.finn_env import contained_finn

    made = {}

    def simulation(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            design = make_accelerator(NETWORKS[name](), folder, FPS[name])
            made[name] = make_simulation(design, folder / "work", compiled_layers)
        return made[name]

    with contained_finn():
        yield simulation


def unbounded(simulation):
    return [None] * len(simulation.design.streams)


def ii_cycles(simulation) -> int:
    return simulation.design.manifest["estimated"]["ii_cycles"]


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_those_of_python(simulations, name):
    from nash_hw.simulate.run import Pace

    simulation = simulations(name)
    result = simulation.run(unbounded(simulation), Pace(frames=3, every=ii_cycles(simulation)))
    assert result.is_exact
    assert result.num_frames >= 3
    assert result.interval == pytest.approx(ii_cycles(simulation), rel=0.01)
    latency = simulation.design.manifest["estimated"]["latency_us"] * CLOCK_MHZ
    assert latency == pytest.approx(result.latency, rel=0.05)


def test_pools_that_were_too_slow_are_simulated_in_two(simulations):
    design = simulations("pooled").design
    kernels = [
        [value for attribute in node.attribute if attribute.name == "KernelSize" for value in attribute.ints]
        for node in design.model.get_nodes_by_op_type("Pool_hls")
    ]
    assert kernels[:2] == [[1, 3], [3, 1]]


@pytest.mark.parametrize("name", NETWORKS)
def test_back_pressure_and_gaps_change_no_integer(simulations, name):
    from nash_hw.simulate.run import Pace

    simulation = simulations(name)
    pace = Pace(frames=3, max_frames=3, stall=70, bubble=60)
    slow = simulation.run(unbounded(simulation), pace)
    assert (slow.is_exact, slow.num_frames) == (True, 3)
    assert slow.latency > simulation.run(unbounded(simulation), Pace(frames=3, every=ii_cycles(simulation))).latency


def test_short_cuts_of_the_kernel_change_nothing(simulations):
    from nash_hw.simulate.run import Pace

    simulation = simulations("residual")
    paces = [Pace(frames=2, max_frames=2, stall=20, bubble=20, is_careful=careful) for careful in (False, True)]
    fast, careful = (simulation.run(unbounded(simulation), pace) for pace in paces)
    assert (fast.begins, fast.ends, fast.is_exact) == (careful.begins, careful.ends, careful.is_exact)
    for key in ("pushed", "popped", "peak", "held", "blocked", "first", "last"):
        assert [state[key] for state in fast.raw["streams"]] == [state[key] for state in careful.raw["streams"]]


def test_small_fifos_lock_the_join_and_it_is_named(simulations):
    from nash_hw.simulate.deadlock import circle, told
    from nash_hw.simulate.design import MIN_DEPTH
    from nash_hw.simulate.run import Pace

    simulation = simulations("residual")
    design = simulation.design
    depths = [MIN_DEPTH] * len(design.streams)
    result = simulation.run(depths, Pace(frames=2))
    assert result.is_stuck
    assert result.interval is None
    found = circle(design, result)
    assert [wait.other for wait in found] == [wait.layer for wait in (*found[1:], found[0])]
    text = told(design, result, depths)
    assert "dead-lock after 0 frames" in text
    assert "waits for room in the full FIFO of depth 2 to ElementwiseAdd_hls" in text
    assert "waits for words of" in text


def test_sized_fifos_keep_the_pace_and_smaller_ones_do_not(simulations):
    from nash_hw.simulate.run import Pace
    from nash_hw.simulate.sizing import Sizer, as_depth, bits

    simulation = simulations("residual")
    design = simulation.design
    sizes = Sizer(simulation, max_trials=60).size(ii_cycles(simulation))
    assert sizes.every == pytest.approx(ii_cycles(simulation), rel=0.01)
    assert bits(design, sizes.depths) < bits(design, [as_depth(fill) for fill in sizes.fills])
    sized = simulation.run(sizes.depths, Pace(frames=6))
    assert sized.is_exact
    assert sized.period
    assert sized.interval <= sizes.every
    largest = max(range(len(sizes.depths)), key=lambda i: sizes.depths[i] * design.streams[i].bits)
    fewer = [depth // 2 if i == largest else depth for i, depth in enumerate(sizes.depths)]
    result = simulation.run(fewer, Pace(frames=6))
    assert result.is_stuck or result.interval > sizes.every


@pytest.mark.parametrize("name", NETWORKS)
def test_sizing_begins_with_no_more_than_what_is_written(simulations, name):
    from nash_hw.simulate.sizing import Sizer, bits

    simulation = simulations(name)
    sizes = Sizer(simulation, max_trials=0).size(ii_cycles(simulation))
    written = [stream.depth for stream in simulation.design.streams]
    assert bits(simulation.design, sizes.depths) <= bits(simulation.design, written)
    assert bits(simulation.design, sizes.depths) <= bits(simulation.design, sizes.fills)


def test_stopped_sizing_goes_on_to_the_same_depths(tmp_path, simulations, compiled_layers):
    from nash_hw.simulate.sizing import Sizer

    whole = simulations("residual")
    expected = Sizer(whole, max_trials=12).size(ii_cycles(whole))
    work = tmp_path / "work"
    stopped = make_simulation(whole.design, work, compiled_layers)
    told = []

    def stop(text):
        told.append(text)
        if len(told) == 5:
            raise Interrupted("stopped by SIGINT")

    with pytest.raises(Interrupted):
        Sizer(stopped, max_trials=12, tell=stop).size(ii_cycles(whole))
    assert stopped.num_runs >= 5
    resumed = make_simulation(whole.design, work, compiled_layers)
    assert Sizer(resumed, max_trials=12).size(ii_cycles(whole)) == expected
    kept = list((work / "runs").iterdir())
    assert len(kept) == stopped.num_runs + resumed.num_runs
    assert {path.suffix for path in kept} == {".json"}


def test_waveforms_are_an_fst_file_of_whole_blocks(simulations, tmp_path, compiled_layers):
    from nash_hw.simulate.compiler import Compiler
    from nash_hw.simulate.design import MIN_DEPTH
    from nash_hw.simulate.run import Pace
    from nash_hw.simulate.tools import find_tools

    simulation = simulations("vgg")
    with Compiler(find_tools(), compiled_layers) as compiler:
        kernel = compiler.kernel(trace=True)
    depths = [MIN_DEPTH] * len(simulation.design.streams)
    simulation.trace(depths, Pace(frames=1, max_frames=1), kernel, tmp_path / "trace.fst")
    content = (tmp_path / "trace.fst").read_bytes()
    blocks, at = [], 0
    while at < len(content):  # a type, and the length of what follows it
        blocks.append(content[at])
        at += 1 + int.from_bytes(content[at + 1 : at + 9], "big")
    assert at == len(content)
    assert (blocks[0], blocks.count(0)) == (0, 1)  # the header
    assert len(blocks) >= 4  # values, geometry, hierarchy
    assert b"nash-hw" in content[:400]
    assert b"MVAU_rtl_0" in content


def test_wrong_integers_are_refused(simulations, tmp_path, compiled_layers):
    from nash_hw.simulate.sizing import Sizer

    right = simulations("bottleneck")
    wrong = make_simulation(right.design, tmp_path / "work", compiled_layers)
    wrong._expected = wrong._expected + 1
    with pytest.raises(VerificationError, match="its integers are not those"):
        Sizer(wrong, max_trials=0).size(ii_cycles(right))


def test_compiled_layers_are_used_again(simulations, compiled_layers, monkeypatch):
    from nash_hw.simulate.compiler import Compiler
    from nash_hw.simulate.tools import find_tools

    design = simulations("bottleneck").design
    monkeypatch.setattr(Compiler, "_run", lambda *_: pytest.fail("compiles anew"))
    with Compiler(find_tools(), compiled_layers) as compiler:
        libraries = compiler.libraries(design.modules, lambda *_: None)
    assert set(libraries) == {module.key for module in design.modules}


def test_equal_layers_are_one_module(simulations):
    keys = [layer.module.key for layer in simulations("residual").design.layers if layer.module is not None]
    assert len(set(keys)) < len(keys)


def test_layer_without_a_model_is_named():
    from types import SimpleNamespace

    from nash_hw.simulate.modules import hls_module

    with pytest.raises(UnsupportedError, match="Lookup_hls_3: there is no model of Lookup_hls to simulate"):
        hls_module(SimpleNamespace(name="Lookup_hls_3", op_type="Lookup_hls", output=["y"]), None, 1)
