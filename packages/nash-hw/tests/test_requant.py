from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from networks import Network, op_types, pictures, residual_network, run

pytestmark = pytest.mark.usefixtures("finn")
PART = "xcu250-figd2104-2L-e"


def steps_of(random, *, channels=6, input_type="INT13", output_type="INT8", scale=None):
    """Thresholds of a uniform quantizer with a scale and bias per channel, and its real scale."""
    from qonnx.core.datatype import DataType

    from nash_hw.graph.requant import Steps

    source, target = DataType[input_type], DataType[output_type]
    scale = random.uniform(0.5, 2, channels) * 2 ** (target.bitwidth() - source.bitwidth()) if scale is None else scale
    bias = random.uniform(-5, 5, channels)
    levels = np.arange(int(target.min()) + 1, int(target.max()) + 1)
    thresholds = np.ceil((levels - 0.5 - bias[:, None]) / np.reshape(scale, (-1, 1)))
    low, high = (np.full(channels, limit) for limit in (source.min(), source.max()))
    thresholds = np.clip(thresholds, low[:, None], high[:, None] + 1)
    return Steps(
        thresholds=thresholds, lowest=int(target.min()), input_type=source, output_type=target, low=low, high=high
    ), scale


def counted(steps):
    """The output for every input, by the thresholds: (C, inputs)."""
    x = np.arange(int(steps.low.min()), int(steps.high.max()) + 1)
    return x, steps.lowest + (x[None, :, None] >= steps.thresholds[:, None, :]).sum(axis=2)


@pytest.mark.parametrize("output_type", ["INT8", "UINT8", "UINT4", "INT5", "UINT1"])
@pytest.mark.parametrize("input_type", ["INT9", "INT13", "INT16"])
def test_solved_requant_equals_its_thresholds_for_every_input(input_type, output_type):
    from nash_hw.graph.requant import requantize, solve

    steps, scale = steps_of(np.random.default_rng(1), input_type=input_type, output_type=output_type)
    found = solve(steps, scale)
    if found is None:
        assert (input_type, output_type) in {("INT9", "INT8"), ("INT9", "UINT8")}  # the bias outgrows the datapath
        return
    x, expected = counted(steps)
    actual = requantize(np.broadcast_to(x[:, None], (len(x), 6)), *found, steps.output_type)
    np.testing.assert_array_equal(actual.T, expected)


def test_unequal_steps_have_no_requant():
    from dataclasses import replace

    from nash_hw.graph.requant import solve

    steps, scale = steps_of(np.random.default_rng(2))
    assert solve(steps, scale) is not None
    moved = steps.thresholds.copy()
    moved[3, 128:] += 2
    assert solve(replace(steps, thresholds=moved), scale) is None


@pytest.mark.parametrize("input_type", ["UINT13", "INT19"])
def test_inputs_the_rtl_misreads_have_no_requant(input_type):
    """The RTL takes its input for signed, and beyond 18 bits shortens the scale."""
    from nash_hw.graph.requant import solve

    steps, scale = steps_of(np.random.default_rng(3), input_type=input_type)
    assert solve(steps, scale) is None


def requant_node(fixture_scale, fixture_bias, input_type, output_type, pe=1):
    from onnx import TensorProto, helper, numpy_helper

    from nash_hw.graph.model import Model

    channels = len(fixture_scale)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels]) for name in "xy"]
    constants = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in (("s", fixture_scale), ("b", fixture_bias))
    ]
    node = helper.make_node(
        "Requant_rtl",
        ["x", "s", "b"],
        ["y"],
        domain="finn.custom_op.fpgadataflow.rtl",
        backend="fpgadataflow",
        NumChannels=channels,
        PE=pe,
        inputDataType=input_type,
        outputDataType=output_type,
        mem_mode="internal_decoupled",
        name="requant",
    )
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:], constants)
    return Model(helper.make_model(graph)), node


def test_fixed_point_parameters_equal_those_finn_writes():
    from nash_hw.graph.model import custom_op
    from nash_hw.graph.requant import fixed_point

    random = np.random.default_rng(4)
    scale = (random.uniform(0.5, 2, 64) * 2.0 ** random.integers(-7, 0, 64)).astype(np.float32)
    bias = random.normal(0, 4, 64).astype(np.float32)
    bias[:3] = 0.0, 1e-9, -1e-9
    model, node = requant_node(scale, bias, "INT13", "INT8")
    theirs = custom_op(node).decompose_params(model, 2)
    ours = fixed_point(scale, bias)
    for name in ("scale", "bias", "shift"):
        np.testing.assert_array_equal(getattr(ours, name), theirs[name][0].astype(np.int64))


TESTBENCH = """
module tb;
  localparam int K = {k}, N = {n}, C = {c}, INPUTS = {inputs}, W = {lane};
  logic clk = 0, rst = 1, ivld = 0;
  logic [K-1:0] idat = 0;
  logic [W-1:0] pdat = 0;
  wire [N-1:0] odat;
  wire ovld;
  logic [K-1:0] data[INPUTS*C];
  logic [W-1:0] params[C];
  always #5 clk = !clk;
  requant_decoupled #(.VERSION(2), .K(K), .N(N), .C(C), .PE(1), .SHIFT_MIN({low}), .SHIFT_MAX({high}),
    .SIGNED_OUT({signed})) dut(.clk, .rst, .idat, .ivld, .pdat, .odat, .ovld);
  always @(negedge clk) if (ovld) $display("%0d", odat);
  initial begin
    $readmemh("data.hex", data);
    $readmemh("params.hex", params);
    repeat (4) @(negedge clk);
    rst = 0;
    for (int i = 0; i < INPUTS*C; i++) begin
      ivld = 1; idat = data[i]; pdat = params[i % C];
      @(negedge clk);
    end
    ivld = 0;
    repeat (8) @(negedge clk);
    $finish;
  end
endmodule
"""


@pytest.mark.skipif(shutil.which("verilator") is None, reason="needs Verilator")
@pytest.mark.parametrize("output_type", ["INT8", "UINT4"])
def test_requantize_equals_the_simulated_rtl(output_type, tmp_path):
    """FINN's own SystemVerilog, given the words FINN writes for its parameter memory, for every input.

    Verilator 5.006 cannot read one line of it, the shift register of the valid flag, which is written out.
    """
    import finn
    from qonnx.core.datatype import DataType

    from nash_hw.graph.model import custom_op
    from nash_hw.graph.requant import requantize, solve

    steps, scale = steps_of(np.random.default_rng(5), channels=4, input_type="INT12", output_type=output_type)
    found = solve(steps, scale)
    model, node = requant_node(*found, "INT12", output_type)
    instance = custom_op(node)
    layout = instance._derive_decoupled_widths(model, PART)
    x, expected = counted(steps)
    data = np.repeat(x, 4)
    (tmp_path / "data.hex").write_text("".join(f"{value & 0xFFF:x}\n" for value in data))
    (tmp_path / "params.hex").write_text("".join(f"{word:x}\n" for word in instance._pack_param_words(layout)))
    target = DataType[output_type]
    bench = TESTBENCH.format(
        k=12,
        n=target.bitwidth(),
        c=4,
        inputs=len(x),
        lane=layout["params_lane_width"],
        low=layout["shift_min"],
        high=layout["shift_max"],
        signed=int(target.signed()),
    )
    (tmp_path / "tb.sv").write_text(bench)
    source = Path(next(iter(finn.__path__))) / "finn-rtllib" / "requant" / "hdl" / "requant_decoupled.sv"
    code = source.read_text().replace("{ ivld, Vld[0:2] }", "'{ ivld, Vld[0], Vld[1], Vld[2] }")
    (tmp_path / "core.sv").write_text(code)
    command = ["verilator", "--binary", "--timing", "-Wno-fatal", "--top", "tb", "-o", "tb", "tb.sv", "core.sv"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    printed = subprocess.run([tmp_path / "obj_dir" / "tb"], cwd=tmp_path, check=True, capture_output=True, text=True)
    simulated = np.array([int(line) for line in printed.stdout.split() if line.isdigit()])
    simulated = np.where(simulated > target.max(), simulated - 2 ** target.bitwidth(), simulated).reshape(-1, 4)
    np.testing.assert_array_equal(simulated.T, expected)
    np.testing.assert_array_equal(requantize(np.broadcast_to(x[:, None], (len(x), 4)), *found, target).T, expected)


def board(**resources):
    from dataclasses import replace

    from nash_hw.boards.boards import find_board

    found = find_board("U250")
    return replace(found, resources={**found.resources, **resources})


def lowered(source):
    from nash_hw.graph.lower import lower
    from nash_hw.graph.streamline import streamline

    return lower(streamline(source)[0])


@pytest.mark.parametrize("weight_bits", [1, 2, 4])
@pytest.mark.parametrize("act_bits", [1, 2, 4, 8])
def test_network_with_every_possible_requant_computes_the_same(weight_bits, act_bits, monkeypatch):
    from nash_hw.fold import quantizers
    from nash_hw.graph.steps import minimize_bit_widths, partition, specialize, to_hardware

    source = residual_network(weight_bits, act_bits)
    images = pictures(source)
    expected = run(lowered(source), images)
    monkeypatch.setattr(quantizers, "_price", lambda op_type, *_: op_type != "Requant_rtl")
    model = quantizers.infer_requants(lowered(source), board(), 10**6)
    assert "Requant" in op_types(model)
    np.testing.assert_array_equal(run(model, images), expected)
    model = specialize(minimize_bit_widths(partition(to_hardware(model))), PART)
    assert "Requant_rtl" in op_types(model)
    np.testing.assert_array_equal(run(model, images), expected)


def test_thresholds_stay_where_multipliers_are_dear():
    from nash_hw.fold.quantizers import infer_requants

    source = residual_network()
    assert "Requant" in op_types(infer_requants(lowered(source), board(LUT=1000, DSP=10**6), 10**6))
    assert "Requant" not in op_types(infer_requants(lowered(source), board(DSP=1), 10**6))


def test_requants_are_chosen_for_the_rate_that_is_asked_for():
    """Sixteen channels at once need sixteen multipliers, and each threshold memory holds but one channel."""
    from nash_hw.fold.quantizers import infer_requants

    net = Network((1, 2, 6, 6))
    x = net.relu(net.norm(net.conv(net.image, (16, 2, 3, 3), 8), 16))
    x = net.relu(net.norm(net.conv(x, (16, 16, 3, 3)), 16), 8, 0.01)
    source = net.finish(net.head(x, 16), (1, 3))
    few_dsps = board(DSP=5000)
    assert "Requant" in op_types(infer_requants(lowered(source), few_dsps, 36 * 16))
    assert "Requant" not in op_types(infer_requants(lowered(source), few_dsps, 36))


def test_layers_tell_requants_from_thresholds(model_json, tmp_path):
    from nash_hw.build.build import BuildConfig, build

    config = BuildConfig(board="U250", clock_mhz=200, out=tmp_path / "hw", target_fps=500, quiet=True)
    result = build(model_json, config)
    kinds = {layer["op_type"] for layer in result["layers"]}
    assert {"Requant_rtl", "Thresholding_rtl"} <= kinds
    assert {record["num_flips"] for record in result["verification"]} == {0}


def test_outputs_beyond_reach_are_not_compared_for():
    """15 inputs of 4 bits reach at most 16 of the 255 steps of an 8-bit quantizer."""
    from nash_hw.graph.streamline import streamline

    net = Network((1, 2, 6, 6))
    x = net.relu(net.norm(net.conv(net.image, (4, 2, 3, 3), 8), 4), scale=0.07)
    y = net.node("Add", [net.quantize(x, 0.03, 8), net.quantize(net.conv(x, (4, 4, 1, 1)), 0.03, 8)])
    model, _ = streamline(net.finish(net.head(net.relu(y), 4), (1, 3)))
    types = {
        (
            model.get_tensor_datatype(node.input[0]).name,
            model.get_tensor_datatype(node.output[0]).name,
        ): model.get_tensor_shape(node.input[1])[1]
        for node in model.get_nodes_by_op_type("MultiThreshold")
    }
    assert types["UINT4", "UINT6"] == 63  # 15 * 0.07 / 0.03 = 35
