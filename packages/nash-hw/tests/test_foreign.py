"""Networks as others export them: what comes before the first quantizer, bipolar activations, pools, joins.

Each is held against qonnx's own execution at every stage, in every integer.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from networks import QONNX, Network, pictures, qonnx_outputs
from networks import run as execute
from onnx import helper

from nash_hw.base import manifest
from nash_hw.base.errors import ManifestError, UnsupportedError, UsageError


class Foreign(Network):
    """A network that reads pictures from 0 to 1 as they are."""

    def __init__(self, shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self._nodes.clear()
        self.image = "x"

    def sign(self, x: str) -> str:
        return self.node("BipolarQuant", [x, self.constant(1.0)], QONNX)

    def centred(self) -> str:
        """The pictures from -1 to 1."""
        return self.node("Sub", [self.node("Mul", ["x", self.constant(2.0)]), self.constant([1.0])])

    def flatten_by_shape(self, x: str) -> str:
        """What exporters make of ``x.view(x.shape[0], -1)``."""
        size = self.node("Gather", [self.node("Shape", [x]), self.constant(0, np.int64)], axis=0)
        size = self.node("Unsqueeze", [size, self.constant([0], np.int64)])
        return self.node("Reshape", [x, self.node("Concat", [size, self.constant([-1], np.int64)], axis=0)])

    def dense(self, x: str, shape, bits: int) -> str:
        """A linear layer, weights (out, in)."""
        return self.node("MatMul", [x, self.node("Transpose", [self.weights(shape, bits)], perm=[1, 0])])


def cnv(weight_bits: int, act_bits: int) -> onnx.ModelProto:
    """FINN's CNV, small: signed input of 8 bits, no padding, a flattening of more than one pixel."""
    net = Foreign((1, 3, 12, 12))

    def activate(x: str, channels: int) -> str:
        x = net.norm(x, channels)
        return net.sign(x) if act_bits == 1 else net.quantize(x, 1.0, act_bits, narrow=True)

    x = net.quantize(net.centred(), 1 / 128, 8)
    x = activate(net.conv(x, (4, 3, 3, 3), weight_bits, pads=[0] * 4), 4)
    x = activate(net.conv(x, (4, 4, 3, 3), weight_bits, pads=[0] * 4), 4)
    x = net.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = activate(net.conv(x, (6, 4, 3, 3), weight_bits, pads=[0] * 4), 6)
    x = activate(net.dense(net.flatten_by_shape(x), (5, 24), weight_bits), 5)
    x = net.dense(x, (3, 5), weight_bits)
    x = net.node(
        "Div", [net.node("Sub", [x, net.constant([0.4])]), net.node("Pow", [net.constant([9.0]), net.constant(0.5)])]
    )
    return net.finish(net.node("Add", [x, net.constant([-1.1])]), (1, 3))


def padded_signs() -> onnx.ModelProto:
    """Bipolar activations that a convolution pads with zeros, which no bit stands for."""
    net = Foreign((1, 2, 6, 6))
    x = net.sign(net.norm(net.conv(net.sign(net.centred()), (4, 2, 3, 3), 2), 4))
    x = net.relu(net.norm(net.conv(x, (4, 4, 3, 3), 1), 4))
    return net.finish(net.head(x, 4), (1, 3))


def mobilenet() -> onnx.ModelProto:
    """One scale a channel before depthwise convolutions, a normalized input, a pool that truncates, a 32-bit bias."""
    net = Foreign((1, 3, 9, 9))
    x = net.node("Sub", ["x", net.constant(np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1)))])
    x = net.node("Div", [x, net.constant(0.226)])
    x = net.norm(net.conv(x, (4, 3, 3, 3), 8, stride=2, pads=[0] * 4), 4)
    x = net.relu(x, scale=np.reshape([0.2, 0.3, 0.15, 0.25], (1, 4, 1, 1)))
    x = net.relu(net.norm(net.conv(x, (4, 1, 3, 3), group=4), 4), scale=0.1)
    x = net.relu(net.norm(net.conv(x, (6, 4, 1, 1)), 6), scale=0.125)
    x = net.node("AveragePool", [x], kernel_shape=[4, 4], strides=[1, 1])
    x = net.node("Mul", [x, net.constant(16.0)])
    x = net.node("Trunc", [x, *map(net.constant, (0.125, 0.0, 8.0, 4.0))], QONNX, rounding_mode="FLOOR")
    bias = net.quantize(net.constant([0.3, -0.2, 0.11]), 0.001, 32)
    x = net.node("Reshape", [x, net.constant([1, -1], np.int64)])
    x = net.node("Gemm", [x, net.weights((3, 6), 8), bias], transB=1)
    return net.finish(x, (1, 3))


def residual() -> onnx.ModelProto:
    """A residual network without a quantizer at the input; the sides of a join have scales of 3 to 2."""
    net = Foreign((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv("x", (4, 3, 3, 3), 8), 4), scale=0.5)
    y = net.relu(net.norm(net.conv(x, (4, 4, 3, 3)), 4), scale=0.75)
    x = net.relu(net.node("Add", [x, y]), scale=0.5)
    y = net.relu(net.norm(net.conv(x, (8, 4, 3, 3), stride=2), 8), scale=0.5)
    x = net.relu(net.norm(net.conv(x, (8, 4, 1, 1), stride=2, pads=[0] * 4), 8), scale=0.5)
    x = net.relu(net.node("Add", [x, y]), scale=1.0)
    return net.finish(net.head(x, 8), (1, 3))


def leaky() -> onnx.ModelProto:
    """Leaky ReLUs, averages of windows, a dense layer behind a whole map."""
    net = Foreign((1, 3, 8, 8))
    x = net.norm(net.conv("x", (4, 3, 3, 3), 8), 4)
    x = net.quantize(net.node("LeakyRelu", [x], alpha=0.125), 0.1, 4)
    x = net.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = net.norm(net.conv(net.quantize(x, 0.1, 5), (4, 4, 3, 3)), 4)
    x = net.quantize(net.node("LeakyRelu", [x], alpha=0.3), 0.2, 4)
    x = net.relu(net.norm(net.dense(net.node("Flatten", [x], axis=1), (6, 64), 4), 6))
    return net.finish(net.dense(x, (3, 6), 4), (1, 3))


NETWORKS = {
    "cnv-w1a1": lambda: cnv(1, 1),
    "cnv-w1a2": lambda: cnv(1, 2),
    "cnv-w2a2": lambda: cnv(2, 2),
    "padded-signs": padded_signs,
    "mobilenet": mobilenet,
    "residual": residual,
    "leaky": leaky,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_gives_what_qonnx_gives(name, finn):
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.quantizers import infer_requants
    from nash_hw.graph import steps
    from nash_hw.graph.lower import lower
    from nash_hw.graph.streamline import streamline

    source = NETWORKS[name]()
    images = pictures(source, 4)
    expected = qonnx_outputs(source, images)
    board = find_board("RFSoC2x2")
    model, logits = streamline(source, input_scale=1 / 255)

    def gives_the_same(model):
        return np.abs(execute(model, images) * logits.scale + logits.bias - expected).max() < 1e-5

    assert gives_the_same(model)
    model = lower(model)
    assert gives_the_same(model)
    model = steps.to_hardware(infer_requants(model, board, 256))
    assert gives_the_same(model)
    model = steps.specialize(steps.minimize_bit_widths(steps.partition(model)), board.fpga_part)
    assert gives_the_same(model)


@pytest.fixture
def files(tmp_path):
    """A network, its pictures and its outputs, as a stranger keeps them."""
    source = cnv(1, 2)
    images = pictures(source, 8)
    onnx.save(source, str(tmp_path / "cnv.onnx"))
    return tmp_path, images, qonnx_outputs(source, images)


def imported(folder, *, golden=None, **options):
    from nash_hw.build.import_model import ImportConfig, import_model

    if golden is not None:
        np.savez(folder / "golden.npz", **golden)
        options["golden"] = folder / "golden.npz"
    return import_model(folder / "cnv.onnx", ImportConfig(out=folder / "out" / "model.json", **options))


def test_import_finds_the_scale_by_the_outputs(files):
    folder, images, outputs = files
    written = imported(folder, golden={"input": images, "output": outputs})
    assert written["input"]["scale"] == 1 / 255
    assert written["import"]["verification"]["num_flips"] == 0
    assert manifest.load(folder / "out" / "model.json", "model") == written


def test_import_finds_layout_and_scale_of_real_pictures(files):
    folder, images, _ = files
    written = imported(folder, golden={"input": (images / 255).astype(np.float32).transpose(0, 2, 3, 1)})
    assert written["input"]["scale"] == 1 / 255
    with np.load(folder / "out" / "model.npz") as arrays:
        assert (arrays["input"] == images).all()


def test_import_asks_for_a_scale_nothing_tells(files):
    folder, images, _ = files
    with pytest.raises(UsageError, match="--input-scale"):
        imported(folder, golden={"input": images})
    assert imported(folder, input_scale=1 / 256)["golden"]["num_samples"] == 8


def test_import_refuses_the_outputs_of_another_network(files):
    folder, images, outputs = files
    with pytest.raises(ManifestError, match=r"input scale of 0\.00392157, 0\.00390625"):
        imported(folder, golden={"input": images, "output": outputs + 1})


def test_import_takes_a_transposition_off_the_input(files):
    folder, images, outputs = files
    source = onnx.load(str(folder / "cnv.onnx"))
    for node in source.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = "nchw" if name == "x" else name
    source.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]))
    source.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 12, 12, 3]))
    onnx.save(source, str(folder / "cnv.onnx"))
    written = imported(folder, golden={"input": images.transpose(0, 2, 3, 1), "output": outputs})
    assert written["input"]["shape"] == [1, 3, 12, 12]


def test_import_writes_over_nothing_it_was_given(files):
    from nash_hw.build.import_model import ImportConfig, import_model

    folder, _, _ = files
    before = (folder / "cnv.onnx").read_bytes()
    written = import_model(folder / "cnv.onnx", ImportConfig(out=folder / "cnv.json", input_scale=1 / 255))
    assert written["onnx"]["path"] == "cnv.imported.onnx"
    assert (folder / "cnv.onnx").read_bytes() == before


def test_manifest_by_hand_needs_no_genotype_and_no_bits(files, tmp_path):
    from nash_hw.build.build import BuildConfig, build

    folder, images, outputs = files
    imported(folder, golden={"input": images, "output": outputs})
    path = folder / "out" / "model.json"
    content = json.loads(path.read_text())
    for key in ("genotype", "class_names", "quantization", "import", "created_by"):
        del content[key]
    path.write_text(json.dumps(content))
    config = BuildConfig(board="RFSoC2x2", clock_mhz=100, out=tmp_path / "hw", target_fps=10_000, quiet=True)
    result = build(path, config)
    assert [record["num_flips"] for record in result["verification"]] == [0, 0, 0, 0]


def test_another_input_scale_than_the_golden_one_is_named(model_json, tmp_path):
    from nash_hw.build.build import BuildConfig, build

    content = json.loads(model_json.read_text())
    content["input"]["scale"] = 1 / 128
    model_json.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=r"input\.scale: got 0\.0078125, the quantizer .* 0\.0039215"):
        build(model_json, BuildConfig(board="ZCU104", clock_mhz=200, out=tmp_path / "hw", target_fps=100, quiet=True))


def refused():
    def topk(net, x):
        return net.node("TopK", [net.head(x, 4), net.constant([1], np.int64)])

    def resize(net, x):
        return net.node("Resize", [x, net.constant([]), net.constant([1.0, 1.0, 2.0, 2.0])], mode="nearest")

    def average_at_the_edge(net, x):
        return net.node("AveragePool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)

    def centred_and_padded(net, x):
        return net.conv(net.centred(), (4, 2, 3, 3))

    def scale_of_each_channel_added_up(net, x):
        return net.conv(net.relu(x, scale=np.reshape([0.1, 0.2, 0.3, 0.4], (1, 4, 1, 1))), (4, 4, 1, 1))

    def reshape_to_a_map(net, x):
        return net.node("Reshape", [x, net.constant([1, 8, 3, 6], np.int64)])

    return [value for value in locals().values() if callable(value)]


@pytest.mark.parametrize("make", refused(), ids=lambda function: function.__name__)
def test_what_cannot_be_is_named_with_what_to_change(make):
    from nash_hw.graph.streamline import streamline

    net = Foreign((1, 2, 6, 6))
    x = net.relu(net.norm(net.conv("x", (4, 2, 3, 3), 8), 4))
    output = make(net, x)
    source = net.finish(output, (1, 3))
    with pytest.raises(UnsupportedError) as caught:
        streamline(source, input_scale=1 / 255)
    assert output.split("/")[1] in str(caught.value)
    assert ";" in str(caught.value)


def test_a_network_that_qonnx_cannot_execute_is_refused(files, monkeypatch):
    from qonnx.core import onnx_exec

    def fails(*arguments):
        raise RuntimeError("no shape\n\x1b[31m")

    monkeypatch.setattr(onnx_exec, "execute_onnx", fails)
    folder, images, outputs = files
    with pytest.raises(UnsupportedError, match=r"cannot execute the network to compare with \(no shape \\u001b\[31m\)"):
        imported(folder, golden={"input": images, "output": outputs})
