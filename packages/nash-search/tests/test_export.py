from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nash_search import export
from nash_search.base.errors import OutputError, ToolchainError
from nash_search.genotype import zoo
from nash_search.genotype.genotype import Genotype, NasOp
from nash_search.layers import blocks
from nash_search.supernet import network

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def odd_genotype(odd_network: Genotype) -> Genotype:
    """Return a network with every NAS operation, each in its less usual form."""
    one, two = odd_network.cells
    one = replace(one, layers=(*one.layers, replace(one.layers[2], stride=1), replace(one.layers[2], stride=1)))
    ops = [
        NasOp(op="skip_connect", input=0),  # a factorized reduction of an odd size
        NasOp(op="conv_5x5", input=0),
        NasOp(op="conv_1x1", input=2),
        NasOp(op="skip_connect", input=2),
        NasOp(op="skip_connect", input=4),
        NasOp(op="max_pool_3x3", input=0),
    ]
    wide = replace(two, layers=(replace(two.layers[0], channels=16, residual_from=None),))
    return replace(odd_network, cells=(one, wide)).with_nas_ops(ops)


def _network(name: str, odd_genotype: Genotype) -> Genotype:
    return odd_genotype if name == "odd" else zoo.build(name, width=4, input_size=16, num_classes=5)


@pytest.mark.parametrize(
    "name", ["resnet18-v1", "resnet18-v3", "resnet34-v3", "resnet50", "mobilenetv1", "vgg11", "odd"]
)
def test_onnxruntime_computes_what_torch_does(name: str, odd_genotype: Genotype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = _network(name, odd_genotype)
    export.export(found, tmp_path / "float.onnx", seed=1)
    session = onnxruntime.InferenceSession(tmp_path / "float.onnx", providers=["CPUExecutionProvider"])
    model = network.build(found, seed=1)
    for batch in (1, 3):
        pictures = torch.rand(batch, found.input.channels, found.input.height, found.input.width)
        (got,) = session.run(["output"], {"input": pictures.numpy()})
        with torch.no_grad():
            expected = model(pictures)
        assert got.shape == (batch, found.num_classes)
        assert expected.abs().max() < 1e3
        largest = expected.abs().max()
        torch.testing.assert_close(torch.from_numpy(got) / largest, expected / largest, rtol=0, atol=1e-4)


def test_graph_is_one_file_with_a_relu_a_state(tmp_path: Path) -> None:
    found = zoo.build("resnet18-v1", width=4, input_size=16)
    written = export.export(found, tmp_path / "float.onnx", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["float.onnx"]
    graph = onnx.load(tmp_path / "float.onnx")
    assert graph.opset_import[0].version == written["opset"] == 17
    ops = [node.op_type for node in graph.graph.node]
    assert ops.count("Relu") == 17  # the stem's and one a layer, none behind a NAS operation
    assert ops.count("Flatten") == ops.count("GlobalAveragePool") == 1
    assert "Reshape" not in ops
    assert {entry.key: entry.value for entry in graph.metadata_props} == {"name": "resnet18-v1", "seed": "0"}
    for value in (graph.graph.input[0], graph.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_seed_determines_the_weights_and_leaves_the_generator_alone() -> None:
    found = zoo.build("resnet8", width=2, input_size=8)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (network.build(found, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_deepest_network_starts_in_a_sane_range() -> None:
    found = zoo.build("resnet34-v3", width=4, input_size=32)
    with torch.no_grad():
        logits = network.build(found, seed=0)(torch.rand(4, 3, 32, 32))
    assert 1e-3 < logits.abs().max() < 1e3


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (5, 7)])
def test_factorized_reduction_reads_one_pixel_further(size: tuple[int, int]) -> None:
    reduction = blocks.FactorizedReduction(1, 2, size=size)
    reduction.bn = nn.Identity()
    with torch.no_grad():
        for conv in reduction.convs:
            conv.weight.fill_(1.0)
        x = torch.rand(1, 1, *size)
        y = reduction(x)
    rows, columns = (size[0] + 1) // 2, (size[1] + 1) // 2
    assert y.shape == (1, 2, rows, columns)
    for row in range(rows):
        for column in range(columns):
            assert y[0, 0, row, column] == x[0, 0, 2 * row, 2 * column]
            inside = 2 * row + 1 < size[0] and 2 * column + 1 < size[1]
            assert y[0, 1, row, column] == (x[0, 0, 2 * row + 1, 2 * column + 1] if inside else 0)


def test_missing_onnx_is_named_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ToolchainError, match=r"pip install 'nash-search\[export\]'"):
        export.export(zoo.build("resnet8", width=2), tmp_path / "float.onnx", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        export.export(zoo.build("resnet8", width=2, input_size=8), tmp_path / "file" / "float.onnx", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
