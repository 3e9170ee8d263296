"""Small networks of the forms that people have, as ONNX files and as modules, taken as backbones."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from conftest import run_command
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from nash_search.base.errors import IntegrityError, UsageError, VerificationError
from nash_search.genotype import genotype
from nash_search.genotype.genotype import Genotype
from nash_search.genotype.variants import VARIANTS
from nash_search.imports import cutting, graph_onnx, graph_torch, importing, matching
from nash_search.supernet import warm
from nash_search.supernet.quantization import preset
from nash_search.supernet.supernet import Supernet

pytestmark = pytest.mark.usefixtures("handlers_as_before")


def _conv(before: int, channels: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


class Block(nn.Module):
    """A basic block of a ResNet, or with `narrow` a bottleneck."""

    def __init__(self, before: int, channels: int, stride: int = 1, *, narrow: int | None = None) -> None:
        super().__init__()
        if narrow is None:
            self.convs = nn.ModuleList([_conv(before, channels, 3, stride), _conv(channels, channels)])
        else:
            self.convs = nn.ModuleList(
                [_conv(before, narrow, 1), _conv(narrow, narrow, 3, stride), _conv(narrow, channels, 1)]
            )
        is_same = stride == 1 and before == channels
        self.downsample = nn.Identity() if is_same else _conv(before, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs[:-1]:
            y = F.relu(conv(y))
        return F.relu(self.convs[-1](y) + self.downsample(x))


class Inverted(nn.Module):
    """An inverted residual with a linear bottleneck."""

    def __init__(self, before: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        wide = 2 * before
        self.body = nn.Sequential(
            *_conv(before, wide, 1),
            nn.ReLU6(),
            *_conv(wide, wide, 3, stride, wide),
            nn.ReLU6(),
            *_conv(wide, channels, 1),
        )
        self.is_residual = stride == 1 and before == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.is_residual else self.body(x)


def _head(channels: int, classes: int = 5) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(channels, classes)]


def resnet() -> nn.Module:
    stem = [*_conv(3, 4, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, Block(4, 4), Block(4, 8, 2), Block(8, 8), Block(8, 12, 2), *_head(12))


def bottlenecks() -> nn.Module:
    return nn.Sequential(
        *_conv(3, 4, 3), nn.ReLU(), Block(4, 8, narrow=4), Block(8, 8, narrow=4), Block(8, 16, 2, narrow=4), *_head(16)
    )


def vgg() -> nn.Module:
    dense = [
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 16),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 5),
    ]
    biased = [nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU(), nn.MaxPool2d(2, 2)]
    more = [*_conv(8, 8), nn.ReLU(), *_conv(8, 8), nn.ReLU(), nn.MaxPool2d(2, 2), nn.AdaptiveAvgPool2d(3)]
    return nn.Sequential(*_conv(3, 4), nn.ReLU(), nn.MaxPool2d(2, 2), *biased, *more, *dense)


def mobilenet() -> nn.Module:
    blocks = [Inverted(4, 4), Inverted(4, 6, 2), Inverted(6, 6), Inverted(6, 6), Inverted(6, 8, 2)]
    return nn.Sequential(*_conv(3, 4, 3, 2), nn.ReLU6(), *blocks, *_conv(8, 12, 1), nn.ReLU6(), *_head(12))


SIZE = 24
NETWORKS = {"resnet": resnet, "bottlenecks": bottlenecks, "vgg": vgg, "mobilenet": mobilenet}
CELLS = {"resnet": [2, 4, 2], "bottlenecks": [6, 3], "vgg": [1, 2, 2], "mobilenet": [3, 3, 6, 4]}


def _trained(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network whose statistics are not those of a new one."""
    torch.manual_seed(0)
    network = make()
    for _ in range(3):
        network(torch.rand(16, 3, SIZE, SIZE))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


def _export(network: nn.Module, path: Path, *, keeps_norms: bool = False) -> Path:
    mode = torch.onnx.TrainingMode.PRESERVE if keeps_norms else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, 3, SIZE, SIZE),), str(path), dynamo=False, training=mode,
            do_constant_folding=not keeps_norms, opset_version=17, input_names=["input"], output_names=["logits"],
        )  # fmt: skip
    return path


def _logits(found: Genotype, path: Path, x: Tensor) -> Tensor:
    with torch.no_grad():
        return importing.network_of(found, load_file(path))(x)


@pytest.mark.parametrize("keeps_norms", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_an_onnx_file_are_those_of_the_original(name: str, keeps_norms: bool, tmp_path: Path) -> None:
    network = _trained(NETWORKS[name])
    file = _export(network, tmp_path / f"{name}.onnx", keeps_norms=keeps_norms)
    result = importing.run(str(file), tmp_path / "b.json", tmp_path / "w.safetensors")
    assert not keeps_norms or result["num_folded"] == (2 if name == "vgg" else 0)  # dense layers have none
    assert keeps_norms or result["num_folded"] > 5
    found = genotype.load(tmp_path / "b.json")
    assert (found.name, found.backbone, found.num_classes, found.head_bias) == (name, name, 5, True)
    x = torch.rand(4, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(_logits(found, tmp_path / "w.safetensors", x), expected, atol=1e-5, rtol=1e-5)
    assert [len(cell.layers) for cell in found.cells] == CELLS[name]


def _written(make: Callable[[], nn.Module], folder: Path) -> tuple[Genotype, Path]:
    """Write the backbone and the weights of a network, and return the backbone and the file of the weights."""
    file = _export(_trained(make), folder / "float.onnx")
    importing.run(str(file), folder / "b.json", folder / "w.safetensors")
    return genotype.load(folder / "b.json"), folder / "w.safetensors"


def test_linear_bottlenecks_pools_and_dense_layers_are_in_the_genotype(tmp_path: Path) -> None:
    found, _ = _written(mobilenet, tmp_path)
    layers = [layer for cell in found.cells for layer in cell.layers]
    assert [layer.activation for layer in layers[:6]] == ["relu6", "relu6", "none"] * 2
    assert [layer.residual_from for layer in layers[:6]] == [None, None, 0, None, None, None]
    assert {layer.groups for layer in layers} == {1, 8, 12}
    assert found.stem.activation == "relu6"
    found, _ = _written(vgg, tmp_path)
    layers = [layer for cell in found.cells for layer in cell.layers]
    assert [layer.pool is not None for layer in layers] == [True, False, True, False, False]
    assert (found.stem.max_pool, found.stem.pool_kernel) == (True, 2)
    assert [(layer.kernel, layer.padding) for layer in layers[3:]] == [(3, 0), (1, None)]
    assert found.sizes()[-1] == [(3, 3), (1, 1), (1, 1)]
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["schema"] == "nash.genotype/1.1"
    assert "activation" not in written["cells"][0]["layers"][0]  # what 1.0 says, too, is said as there


@pytest.mark.parametrize("name", NETWORKS)
def test_module_of_torch_is_the_same_backbone_as_its_onnx_file(name: str, tmp_path: Path) -> None:
    network = _trained(NETWORKS[name])
    graph = graph_torch.traced(network, source=name, name="float", shape=(3, SIZE, SIZE))
    chain = matching.match(graph)
    found = cutting.genotype_of(graph, chain)
    assert found == _written(NETWORKS[name], tmp_path)[0]
    tensors, folded = importing.weights_of(chain)
    assert importing.compare(found, tensors, graph, seed=1) < 1e-6
    assert len(folded) == (2 if name == "vgg" else 0)  # dense layers have no batch normalization


def test_pixels_as_the_network_was_trained_on_them_are_folded_into_the_stem(tmp_path: Path) -> None:
    network = _trained(lambda: nn.Sequential(*_conv(3, 4, 1), nn.ReLU(), *_conv(4, 4), nn.ReLU(), *_head(4)))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    file = _export(network, tmp_path / "float.onnx")
    importing.run(str(file), tmp_path / "b.json", tmp_path / "w.safetensors", mean=mean, std=std)
    x = torch.rand(4, 3, SIZE, SIZE)
    pixels = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        expected = network(pixels)  # a 1 x 1 stem has no border, where the two would differ
    found = genotype.load(tmp_path / "b.json")
    torch.testing.assert_close(_logits(found, tmp_path / "w.safetensors", x), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="--mean, --std: got 1 and 3 values, expected 3 positive ones of each"):
        importing.run(str(file), tmp_path / "b.json", tmp_path / "w.safetensors", mean=(0.4,), std=std)


def test_folded_normalizations_get_statistics_that_training_begins_with(tmp_path: Path) -> None:
    found, file = _written(resnet, tmp_path)
    network, x = importing.network_of(found, load_file(file)), torch.rand(64, 3, SIZE, SIZE)
    with torch.no_grad():
        as_it_was, by_the_batch = network(x), network.train()(x)
    assert (as_it_was - by_the_batch).abs().mean() < 0.1 * as_it_was.std(0).mean() + 0.05


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenet"])
@pytest.mark.parametrize("variant", ["v2", "v3"])
def test_search_begins_with_the_weights(name: str, variant: str, tmp_path: Path) -> None:
    found, file = _written(NETWORKS[name], tmp_path)
    if (name, variant) == ("vgg", "v2"):
        with pytest.raises(UsageError, match="--variant v2: got a layer of padding 0"):
            Supernet(found, VARIANTS[variant])
        return
    supernet = Supernet(found, VARIANTS[variant])
    num_taken = warm.start(supernet, file)
    of_backbone = [key for key in supernet.state_dict() if ".mixed." not in key]
    assert num_taken == len(of_backbone) - 2  # all but alphas and what is admissible
    path = supernet.sample(torch.Generator().manual_seed(0))
    loss = F.cross_entropy(supernet(torch.rand(8, 3, SIZE, SIZE), path), torch.arange(8) % 5)
    loss.backward()
    assert torch.isfinite(loss)
    decoded = supernet.genotype()
    assert genotype.check(decoded) == []
    assert decoded.without_nas_ops().cells == found.cells


def test_quantized_supernet_has_signed_states_behind_linear_layers(tmp_path: Path) -> None:
    found, _ = _written(mobilenet, tmp_path)
    supernet = Supernet(found, VARIANTS["v3"], quantization=preset("w4a4"))
    signed = [layer.activate.is_signed for layer in supernet.layers]
    assert signed[:6] == [False, False, True] * 2
    state = supernet.layers[2].activate(torch.linspace(-1, 1, 64).view(1, 1, 8, 8))
    assert state.act.min() < 0 < state.act.max()
    assert len(state.act.unique()) <= 15


class Attention(nn.Module):
    """A transformer in small: patches, layer normalization, self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.LayerNorm(8)
        self.values, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        weights = (x @ x.transpose(1, 2)).softmax(-1)
        return self.head((weights @ self.values(x)).mean(1))


class Dense(nn.Module):
    """A DenseNet in small: what a convolution makes is put beside what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = _conv(3, 4), _conv(4, 4), nn.Sequential(*_head(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(torch.cat([x, F.relu(self.conv(x))], 1))


class Branches(nn.Module):
    """Two chains of two convolutions that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = _conv(3, 4), nn.Sequential(*_head(4))
        self.one, self.other = (nn.Sequential(*_conv(4, 4), nn.ReLU(), *_conv(4, 4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.one(x) + self.other(x)))


REFUSED = {
    "transformer": (Attention, r"'/norm/LayerNormalization' \(LayerNormalization\)|'/Transpose' \(Transpose\)"),
    "densenet": (Dense, r"'/Concat' \(Concat\)"),
    "branches": (Branches, r"convolves the states 0, expected the one before it"),
    "dilated": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.ReLU(), *_conv(4, 4), nn.ReLU(), *_head(4)),
        r"node '/0/Conv' \(Conv\): dilation: got 2, expected 1",
    ),
    "eleven": (
        lambda: nn.Sequential(*_conv(3, 4, 11), nn.ReLU(), *_conv(4, 4), nn.ReLU(), *_head(4)),
        r"node '/0/Conv' \(Conv\): kernel: got 11, expected one of 1, 3, 5, 7",
    ),
    "average": (
        lambda: nn.Sequential(*_conv(3, 4), nn.ReLU(), nn.AvgPool2d(2), *_conv(4, 4), nn.ReLU(), *_head(4)),
        r"node '/3/AveragePool' \(AveragePool\): averages windows",
    ),
    "hidden": (
        lambda: nn.Sequential(
            *_conv(3, 4), nn.ReLU(), *_conv(4, 4), nn.ReLU(), *_head(4, 8), nn.ReLU(), nn.Linear(8, 5)
        ),
        r"node '/9/Gemm' \(Gemm\): is a hidden layer behind the pooled maps",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_the_name_of_its_node(name: str, tmp_path: Path) -> None:
    make, said = REFUSED[name]
    file = _export(_trained(make), tmp_path / "float.onnx")
    outcome = run_command("import", file, "--out", tmp_path / "b.json", "--weights", tmp_path / "w.safetensors")
    assert outcome.code == 6
    assert "float.onnx" in outcome.stderr
    assert re.search(said, outcome.stderr), outcome.stderr
    assert not (tmp_path / "b.json").exists()
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_torn_file_is_refused(kept: float, tmp_path: Path) -> None:
    file = _export(_trained(resnet), tmp_path / "float.onnx")
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(IntegrityError, match=r"float\.onnx: not a readable ONNX network .*; export it anew"):
        graph_onnx.read(file, input_size=None)


def test_other_logits_are_refused(tmp_path: Path) -> None:
    graph = graph_torch.traced(_trained(resnet), source="x.onnx", name="x", shape=(3, SIZE, SIZE))
    chain = matching.match(graph)
    tensors, _ = importing.weights_of(chain)
    tensors["cells.1.layers.2.main.conv.weight"] = tensors["cells.1.layers.2.main.conv.weight"] * 1.01
    with pytest.raises(VerificationError, match=r"x\.onnx: got logits .* off the original's"):
        importing.compare(cutting.genotype_of(graph, chain), tensors, graph, seed=0)


def test_command_line_says_what_it_took(tmp_path: Path) -> None:
    file = _export(_trained(resnet), tmp_path / "mine.onnx")
    place = ("--out", tmp_path / "b.json", "--weights", tmp_path / "w.safetensors")
    outcome = run_command("import", file, *place)
    assert (outcome.code, outcome.text.count("\n")) == (0, 1), outcome.text
    assert "b.json: mine, 9 layers, " in outcome.stdout
    for wrong, expected, said in (
        (("import", "resnet18", *place), 2, "SOURCE: got 'resnet18', expected torchvision:NAME or a file (.onnx)"),
        (("import", tmp_path / "no.onnx", *place), 4, "no.onnx: no such file"),
        (("import", file, "--state", file, *place), 2, "--state: got"),
        (("import", file, "--mean", "a,b", *place), 2, "--mean: got 'a,b', expected numbers"),
        (("import", file, "--input-size", "32", *place), 2, "--input-size: got 32, expected 24"),
    ):
        outcome = run_command(*wrong)
        assert (outcome.code, said in outcome.stderr) == (expected, True), outcome.stderr
    assert onnx.load(file).graph.node
