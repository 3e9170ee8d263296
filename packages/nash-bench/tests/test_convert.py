from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import QONNX, Network, digits_network
from onnx import helper

from nash_bench.base.errors import IntegrityError, UnsupportedError
from nash_bench.measure.convert import read_onnx, to_qcdq
from nash_bench.measure.execute import Reference, Runtime

PIXELS = np.random.default_rng(7).integers(0, 256, (12, 1, 8, 8)).astype(np.uint8)


def assert_equals_qonnx(model: onnx.ModelProto) -> None:
    """Picture by picture onnxruntime gives each bit that qonnx gives; in a batch only the sums' order may differ."""
    expected = Reference(model, scale=1 / 255)(PIXELS)
    runtime = Runtime(model, scale=1 / 255)
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(np.concatenate([runtime(picture[None]) for picture in PIXELS]), expected)
    np.testing.assert_allclose(runtime(PIXELS), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(1, 2), (2, 2), (3, 3), (4, 4), (8, 8), (1, 8), (8, 2)])
def test_network_equals_qonnx(weight_bits: int, act_bits: int) -> None:
    assert_equals_qonnx(digits_network(weight_bits=weight_bits, act_bits=act_bits))


def classifier_of(quantizer: Callable[[Network, str], str]) -> onnx.ModelProto:
    """Return a network with one quantizer of activations, signed values before it."""
    net = Network((1, 1, 8, 8))
    x = net.batch_norm(net.conv("x", net.weight(6, 1, 3, 3), 3), 6)
    features = net.node("Flatten", net.node("GlobalAveragePool", quantizer(net, x)), axis=1)
    return net.model(net.node("Gemm", features, net.weight(10, 6), transB=1), 10)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
def test_quantizer_of_2_to_8_bits_becomes_qcdq(bits: int, signed: int, narrow: int) -> None:
    model = classifier_of(lambda net, x: net.quant(x, 0.02, bits, signed=signed, narrow=narrow))
    kinds = {node.op_type for node in to_qcdq(model).graph.node}
    if (bits, signed, narrow) != (8, 0, 1):  # QuantToQCDQ forgets to narrow an unsigned byte
        assert kinds >= {"QuantizeLinear", "DequantizeLinear"}
        assert ("Clip" in kinds) == (bits < 8 or bool(signed and narrow))
    assert_equals_qonnx(model)


ARITHMETIC = {
    "bipolar": lambda net, x: net.bipolar(x, 0.3),
    "one bit signed": lambda net, x: net.quant(x, 0.3, 1, signed=1, narrow=1),
    "one bit unsigned": lambda net, x: net.quant(x, 0.3, 1, signed=0),
    "ten bits": lambda net, x: net.quant(x, 0.001, 10),
    "sixteen bits": lambda net, x: net.quant(x, 1e-4, 16, signed=0),
    "zero point": lambda net, x: net.quant(x, 0.02, 4, zero_point=3, signed=0),
    "floor": lambda net, x: net.quant(x, 0.02, 4, rounding_mode="FLOOR"),
    "ceil": lambda net, x: net.quant(x, 0.02, 4, rounding_mode="CEIL"),
    "two axes of scales": lambda net, x: net.quant(x, net.rng.uniform(0.01, 0.05, (1, 6, 8, 1)), 4),
    "scale of another rank": lambda net, x: net.quant(x, net.rng.uniform(0.01, 0.05, 8), 4),
    "unsigned narrow byte": lambda net, x: net.quant(x, 1e-3, 8, signed=0, narrow=1),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_other_quantizer_becomes_arithmetic(name: str) -> None:
    model = classifier_of(ARITHMETIC[name])
    assert "QuantizeLinear" not in {node.op_type for node in to_qcdq(model).graph.node}
    assert_equals_qonnx(model)


def test_per_channel_scales_of_activations_equal_qonnx() -> None:
    assert_equals_qonnx(classifier_of(lambda net, x: net.quant(x, net.rng.uniform(0.01, 0.05, (1, 6, 1, 1)), 4)))


@pytest.mark.parametrize("value", [0.5, 1.5, 2.5, -0.5, -1.5, 0.0, -0.0])
def test_ties_round_to_even_as_in_qonnx(value: float) -> None:
    net = Network((1, 1, 1, 1))
    shifted = net.node("Add", net.node("Mul", "x", net.constant(0.0)), net.constant(value))
    quantized = net.quant(shifted, 1.0, 4)
    bipolar = net.bipolar(shifted, 1.0)
    model = net.model(net.node("Flatten", net.node("Concat", quantized, bipolar, axis=1)), 2)
    pixels = np.zeros((1, 1, 1, 1), dtype=np.uint8)
    got = Runtime(model, scale=1.0)(pixels)
    np.testing.assert_array_equal(got, [[np.round(value), 1 if value >= 0 else -1]])
    np.testing.assert_array_equal(got, Reference(model, scale=1.0)(pixels))


def test_weight_quantizers_are_folded() -> None:
    nodes = to_qcdq(digits_network()).graph.node
    produced = {name for node in nodes for name in node.output}
    assert all(node.input[1] not in produced for node in nodes if node.op_type in ("Conv", "MatMul"))


def test_original_is_left_alone() -> None:
    model = digits_network()
    before = model.SerializeToString(deterministic=True)
    to_qcdq(model)
    assert model.SerializeToString(deterministic=True) == before


def test_reshape_of_one_picture_takes_a_batch() -> None:
    net = Network((1, 1, 8, 8))
    flat = net.node("Reshape", net.quant("x", 1 / 255, 8, signed=0), net.constant(np.array([1, -1])))
    model = net.model(net.node("MatMul", flat, net.weight(64, 10)), 10)
    assert_equals_qonnx(model)


def test_weights_among_the_inputs_are_constants() -> None:
    model = digits_network()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert [value.name for value in to_qcdq(model).graph.input] == ["x"]


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (lambda net, x: net.node("Trunc", x, domain=QONNX), "Trunc"),
        (lambda net, x: net.quant(x, 0.1, 4, rounding_mode="HALF_DOWN"), "HALF_DOWN"),
        (lambda net, x: net.node("BipolarQuant", x, net.node("ReduceMax", x), domain=QONNX), "computed at run time"),
        (lambda net, x: net.quant(x, 0.1, np.full((1, 6, 1, 1), 4.0)), "bit width a channel"),
    ],
)
def test_operator_without_counterpart_is_refused(quantizer: Callable[[Network, str], str], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        to_qcdq(classifier_of(quantizer))


def test_old_opset_is_refused() -> None:
    net = Network((1, 1, 8, 8))
    model = net.model(net.node("MatMul", net.node("Flatten", "x"), net.weight(64, 10)), 10, opset=11)
    with pytest.raises(UnsupportedError, match="opset: got 11"):
        to_qcdq(model)


def test_fixed_batch_inside_is_refused() -> None:
    net = Network((1, 1, 8, 8))
    flat = net.node("Flatten", net.node("Add", "x", net.constant(np.zeros((1, 1, 8, 8)))))
    fixed = net.node("Reshape", flat, net.constant(np.array([-1, 64, 1])))
    summed = net.node("ReduceSum", fixed, net.constant(np.array([0])), keepdims=0)
    model = net.model(net.node("Transpose", summed), 64)
    with pytest.raises(UnsupportedError, match="fixed batch"):
        Runtime(model, scale=1.0)(np.zeros((3, 1, 8, 8), dtype=np.uint8))


def test_graph_that_onnxruntime_refuses_is_unsupported() -> None:
    net = Network((1, 1, 8, 8))
    model = net.model(net.node("NoSuchOperator", "x"), 10)
    with pytest.raises(UnsupportedError, match="onnxruntime refuses"):
        Runtime(model, scale=1.0)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_integrity_error(tmp_path: Path, keep: float) -> None:
    content = digits_network().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(IntegrityError, match=r"model.onnx: not a (readable|whole) ONNX file"):
        read_onnx(path)


def test_file_of_another_kind_is_integrity_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("<html>no model here</html>")
    with pytest.raises(IntegrityError, match="export it anew"):
        read_onnx(path)


def test_two_outputs_are_refused(tmp_path: Path) -> None:
    model = digits_network()
    model.graph.output.append(helper.make_tensor_value_info("t0", onnx.TensorProto.FLOAT, (1, 1, 8, 8)))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="1 inputs and 2 outputs"):
        read_onnx(tmp_path / "model.onnx")
