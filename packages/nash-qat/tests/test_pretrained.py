from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from conftest import Outcome
from resnets import ResNet, randomize
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from nash_qat.base import manifest
from nash_qat.base.errors import IntegrityError
from nash_qat.data import datasets as data
from nash_qat.network import pretrained, weights
from nash_qat.network.genotype import Genotype
from nash_qat.network.network import Network
from nash_qat.network.pretrained import Normalization
from nash_qat.quant import presets, quantizers

Run = Callable[..., Outcome]
STAGES = (2, 1, 1)
GREY = Normalization(mean=(0.45,), std=(0.25,))
NONE = Normalization(mean=(0.0,), std=(1.0,))


def _tree(stages: tuple[int, ...] = STAGES, *, width: int = 4, large: bool = False, **settings: Any) -> dict[str, Any]:
    cells, in_channels = [], width
    for stage, num_blocks in enumerate(stages):
        channels, layers = width << stage, []
        for block in range(num_blocks):
            shrinks = stage > 0 and block == 0
            layers.append(networks.layer(channels, stride=2 if shrinks else 1))
            layers.append(networks.layer(channels, residual_from=2 * block, projection=shrinks))
        cells.append(networks.cell(in_channels, *layers))
        in_channels = channels
    stem = {"channels": width, "kernel": 7, "stride": 2, "max_pool": True} if large else None
    return networks.manifest(*cells, stem=stem, name="resnet", **settings)


def _teacher_like(path: Path, *, large: bool = False, num_classes: int = 10, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    network = ResNet(STAGES, width=4, channels=1, large=large, num_classes=num_classes)
    randomize(network, seed=seed)
    torch.save(network.state_dict(), path)
    return network


def _float(tree: dict[str, Any], path: Path, normalization: Normalization | None) -> Network:
    genotype: Genotype = networks.parsed(tree)
    network = Network(genotype, presets.preset("w4a4")).eval()
    weights.load_all(network, weights.read(path, genotype, normalization=normalization))
    quantizers.set_mode(network, "float")
    return network


def _normalized(x: Tensor, normalization: Normalization) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalization.mean, normalization.std))
    return (x - mean) / std


def _error(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


@torch.no_grad()
def _with_black_border(network: nn.Module, x: Tensor, normalization: Normalization) -> Tensor:
    """Return the logits of a network whose first convolution pads with black, as ours do, not with the mean colour."""
    padding = network.conv1.padding
    framed = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    network.conv1.padding = (0, 0)
    logits = network(_normalized(framed, normalization))
    network.conv1.padding = padding
    return logits


@pytest.mark.parametrize("large", [False, True])
@torch.no_grad()
def test_logits_are_the_other_networks_but_for_the_border(tmp_path: Path, large: bool) -> None:
    tree = _tree(large=large, size=24)
    theirs = _teacher_like(tmp_path / "w.pth", large=large)
    x = torch.rand(8, 1, 24, 24)
    plain = _float(tree, tmp_path / "w.pth", NONE)(x)
    assert _error(plain, theirs(x) - theirs.fc.bias) < 1e-5
    folded = _float(tree, tmp_path / "w.pth", GREY)(x)
    assert _error(folded, _with_black_border(theirs, x, GREY) - theirs.fc.bias) < 1e-5
    assert 1e-3 < _error(folded, theirs(_normalized(x, GREY)) - theirs.fc.bias) < 0.5  # what the border's colour does


@torch.no_grad()
def test_colours_are_folded_each_with_its_own_figures(tmp_path: Path) -> None:
    network = randomize(ResNet(STAGES, width=4), seed=1)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    x = torch.rand(4, 3, 16, 16)
    ours = _float(_tree(size=16, channels=3), tmp_path / "w.safetensors", None)(x)  # ImageNet's, unless told otherwise
    assert _error(ours, _with_black_border(network, x, pretrained.IMAGENET) - network.fc.bias) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is an extra")
@pytest.mark.parametrize(("name", "stages"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3))])
@torch.no_grad()
def test_logits_are_torchvisions(tmp_path: Path, name: str, stages: tuple[int, ...]) -> None:
    data.load_torchvision()
    torch.manual_seed(0)
    theirs = randomize(getattr(importlib.import_module("torchvision.models"), name)(), seed=0)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    tree = _tree(stages, width=64, large=True, size=72, channels=3, num_classes=1000)
    x = torch.rand(2, 3, 72, 72)
    plain = _float(tree, tmp_path / "w.pth", Normalization(mean=(0, 0, 0), std=(1, 1, 1)))(x)
    assert _error(plain, theirs(x) - theirs.fc.bias) < 1e-5
    folded = _float(tree, tmp_path / "w.pth", None)(x)
    assert _error(folded, _with_black_border(theirs, x, pretrained.IMAGENET) - theirs.fc.bias) < 1e-5


@torch.no_grad()
def test_bias_is_carried_by_the_mean_feature(tmp_path: Path) -> None:
    theirs = _teacher_like(tmp_path / "w.pth")
    network = _float(_tree(size=16), tmp_path / "w.pth", NONE)
    x, other = torch.rand(96, 1, 16, 16), torch.rand(32, 1, 16, 16)
    quantizers.set_mode(network, "fused")
    pretrained.carry_bias(network, theirs.fc.bias, x)
    assert network.classifier.mode == "fused"
    quantizers.set_mode(network, "float")
    torch.testing.assert_close(network(x).mean(0), theirs(x).mean(0), rtol=1e-4, atol=1e-5)
    without = _error(theirs(other) - theirs.fc.bias, theirs(other))
    assert _error(network(other), theirs(other)) < without / 5


def test_file_is_calibrated_alone(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    theirs = _teacher_like(tmp_path / "w.pth")
    with torch.no_grad():
        theirs.fc.bias.zero_()
    torch.save({"model": theirs.state_dict(), "epoch": 90}, tmp_path / "w.pth")
    path = networks.written(_tree(size=8), tmp_path)
    command = ("train", path, "--preset", "w8a8", "--recipe", recipe_path, "--epochs", 0, "--out", tmp_path / "run")
    init = ("--init-weights", tmp_path / "w.pth", "--init-mean", "0.45", "--init-std", 0.25)
    done = run(*command, *init, "--json")
    assert done.code == 0, done.err
    model = manifest.load(tmp_path / "run" / "model.json", "model")
    assert model["training"]["epochs"] == model["training"]["float_epochs"] == 0
    assert (model["training"]["init_mean"], model["training"]["init_std"]) == ([0.45], [0.25])
    assert model["training"]["init_weights_sha256"] == manifest.file_sha256(tmp_path / "w.pth")
    assert (tmp_path / "run" / "history.jsonl").read_text() == ""
    network = _float(_tree(size=8), tmp_path / "run" / "float.safetensors", None)
    x = torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        assert _error(network(x), _with_black_border(theirs, x, GREY)) < 1e-5
    assert abs(model["accuracy"]["top1"] - model["accuracy"]["float_top1"]) < 5
    again = run(*command, *init, "--resume", "--json")
    assert again.code == 0
    assert again.json == done.json
    other = run(*command, *init[:2], "--init-mean", 0.5, "--init-std", 0.25, "--resume")
    assert other.code == 2
    assert "init_mean: got [0.5], expected [0.45]" in other.err


REFUSALS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda state: state.pop("layer2.0.conv2.weight"), r"layer2.0.conv2.weight: is missing"),
    "shallow": (
        lambda state: [state.pop(name) for name in list(state) if name.startswith("layer3.")],
        "layer3.0.conv1.weight: is missing, expected for cells.2.layers.0.main.conv.weight",
    ),
    "deep": (
        lambda state: state.update({"layer1.2.conv1.weight": torch.rand(4, 4, 3, 3)}),
        "layer1.2.conv1.weight: has no place in the genotype",
    ),
    "shape": (
        lambda state: state.update({"layer1.0.conv1.weight": torch.rand(4, 3, 3, 3)}),
        "cells.0.layers.0.main.conv.weight: got (4, 3, 3, 3), expected (4, 4, 3, 3)",
    ),
    "value": (
        lambda state: state["bn1.running_var"].fill_(torch.inf),
        "bn1.running_var: got a value that is not finite",
    ),
    "kind": (
        lambda state: state.update({"layer1.0.conv1.weight": 3}),
        "layer1.0.conv1.weight: got a int, expected a t",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("epochs", [0, 1])
def test_file_that_does_not_fit_is_refused_by_name(
    run: Run, recipe_path: Path, tmp_path: Path, case: str, epochs: int
) -> None:
    state = dict(_teacher_like(tmp_path / "w.pth").state_dict())
    spoil, message = REFUSALS[case]
    spoil(state)
    torch.save(state, tmp_path / "w.pth")
    _refused(run, recipe_path, tmp_path, 4, message, "--epochs", epochs, *_GREY_OPTIONS)


_GREY_OPTIONS = ("--init-mean", "0.45", "--init-std", "0.25")


def _refused(run: Run, recipe_path: Path, folder: Path, code: int, message: str, *options: object) -> None:
    path = networks.written(_tree(size=16), folder)
    common = ("--recipe", recipe_path, "--out", folder / "run")
    outcome = run("train", path, *common, "--init-weights", folder / "w.pth", *options)
    assert outcome.code == code, outcome.err
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (folder / "run").exists()


def test_code_is_never_run(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (proof,)

    torch.save({"conv1.weight": Code()}, tmp_path / "w.pth")
    _refused(run, recipe_path, tmp_path, 4, "holds objects of getattr, expected tensors alone")
    assert not proof.exists()
    torch.save(ResNet(STAGES, width=4), tmp_path / "w.pth")
    _refused(run, recipe_path, tmp_path, 4, "objects of resnets.ResNet, expected tensors alone")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"PK\x03\x04" + b"0" * 60, b"\x80\x02K\x01.", b"\x80\x02}."])
def test_junk_is_refused(run: Run, recipe_path: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    _refused(run, recipe_path, tmp_path, 4, str(tmp_path / "w.pth"), "--epochs", 0)


def test_options_that_contradict_are_refused(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    _teacher_like(tmp_path / "w.pth")
    refused = lambda message, *options: _refused(run, recipe_path, tmp_path, 2, message, *options)  # noqa: E731
    refused("--init-mean: got 3 values, expected 1, a channel of conv1 each")
    refused("pass all three", "--init-mean", "0.5")
    refused("--init-mean: got 'grey', expected numbers", "--init-mean", "grey", "--init-std", "0.2")
    refused("--init-std: got 58.4, expected 0.001 to 1", "--init-mean", "0.5", "--init-std", "58.4")
    refused("--init-mean: got 2 values, expected 1 as --init-std", "--init-mean", "0.5,0.5", "--init-std", "0.2")
    refused("--epochs: got 0, expected at least 1 with --teacher", "--epochs", 0, "--teacher", tmp_path / "w.pth")
    refused("--float-epochs: got 1", "--epochs", 0, "--float-epochs", 1)
    path = networks.written(_tree(size=16), tmp_path)
    alone = run("train", path, "--epochs", 0, "--out", tmp_path / "run")
    assert alone.code == 2
    assert "pass --init-weights FILE" in alone.err
    weights.write(tmp_path / "own.safetensors", Network(networks.parsed(_tree(size=16)), presets.preset("w4a4")))
    own = run("train", path, "--out", tmp_path / "run", "--init-weights", tmp_path / "own.safetensors", *_GREY_OPTIONS)
    assert own.code == 2
    assert "expected a ResNet of torchvision" in own.err


def test_other_classes_get_a_classifier_of_their_own(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    theirs = _teacher_like(tmp_path / "w.pth", num_classes=7)
    _refused(
        run,
        recipe_path,
        tmp_path,
        4,
        "classifier.weight: got (7, 16), expected (10, 16)",
        "--epochs",
        0,
        *_GREY_OPTIONS,
    )
    tree = _tree(size=16)
    tree["cells"][0]["layers"][1]["nas_op"] = {"op": "conv_3x3", "input": 0, "probability": None}
    genotype = networks.parsed(tree)
    network = Network(genotype, presets.preset("w4a4"))
    found = weights.read(tmp_path / "w.pth", genotype, normalization=GREY)
    num_taken, without = weights.warm_start(network, found)
    assert {name.rpartition(".")[0] for name in without} == {
        *("classifier", "cells.0.layers.1.nas_op.conv", "cells.0.layers.1.nas_op.bn"),
    }
    assert num_taken == len(found.tensors) - 1
    assert torch.equal(network.cells[1].layers[1].main.conv.weight, theirs.layer2[0].conv2.weight)
    path = networks.written(tree, tmp_path)
    common = ("--recipe", recipe_path, "--epochs", 1, "--out", tmp_path / "run")
    done = run("train", path, *common, "--init-weights", tmp_path / "w.pth", *_GREY_OPTIONS)
    assert done.code == 0, done.err
    assert "none for cells.0.layers.1.nas_op.conv.weight and others" in done.err


def test_stem_of_another_size_is_left_whole(tmp_path: Path) -> None:
    _teacher_like(tmp_path / "w.pth", large=True)
    genotype = networks.parsed(_tree(size=16))
    network = Network(genotype, presets.preset("w4a4"))
    _, without = weights.warm_start(network, weights.read(tmp_path / "w.pth", genotype, normalization=GREY))
    assert {name.partition(".")[0] for name in without} == {"stem"}
    assert torch.equal(network.stem.bn.running_mean, torch.zeros(4))


def test_chain_without_residuals_is_refused(tmp_path: Path) -> None:
    _teacher_like(tmp_path / "w.pth")
    genotype = networks.parsed(networks.STRIDED_SIDE_OPS)
    with pytest.raises(IntegrityError, match=r"cells\[1\]\.layers\[0\] belongs to no residual block"):
        weights.read(tmp_path / "w.pth", genotype)
