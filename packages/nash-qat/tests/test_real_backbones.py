"""What backbones of one's own have and ours had not: linear bottlenecks, ReLU6, pools in a cell, dense layers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from conftest import Outcome
from safetensors.torch import save_file
from torch.nn import functional as F

from nash_qat.base import manifest
from nash_qat.base.errors import ManifestError
from nash_qat.export import files as export
from nash_qat.network import bits, calibrate, genotype, weights
from nash_qat.network.network import Network
from nash_qat.quant import presets, quantizers

_LINEAR = {"activation": "none"}
_RELU6 = {"activation": "relu6"}
_POOLED = {"pool": {"kernel": 2, "stride": 2}}


def _layer(channels: int, *more: dict[str, Any], **settings: Any) -> dict[str, Any]:
    layer = networks.layer(channels, **settings)
    for keys in more:
        layer |= keys
    return layer


def _stem(**more: Any) -> dict[str, Any]:
    return {"channels": 4, "kernel": 3, "stride": 1, "max_pool": False, **more}


MOBILE = networks.manifest(
    networks.cell(
        4,
        _layer(8, _RELU6, kernel=1),
        _layer(8, _RELU6, groups=8),
        _layer(4, _LINEAR, kernel=1, residual_from=0, nas=("conv_3x3", 0)),
        _layer(8, _RELU6, kernel=1),
        _layer(8, _RELU6, groups=8),
        _layer(4, _LINEAR, kernel=1, residual_from=3),
    ),
    networks.cell(4, _layer(8, _RELU6, stride=2), _layer(6, _LINEAR, kernel=1, nas=("skip_connect", 0))),
    stem=_stem(activation="relu6"),
    name="mobile",
)
VGG = networks.manifest(
    networks.cell(4, _layer(6, _POOLED, nas=("conv_1x1", 0))),
    networks.cell(6, _layer(6), _layer(8, _POOLED, residual_from=None, nas=("conv_3x3", 0))),
    networks.cell(8, _layer(12, {"padding": 0}), _layer(8, kernel=1)),
    size=24,
    stem=_stem(max_pool=True, pool_kernel=2),
    name="vgg",
)
ALL = {tree["name"]: tree for tree in (MOBILE, VGG)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("preset", "join"), [("w4a4", "aligned"), ("w1a1", "quantized"), ("w8a8", "quantized")])
def test_export_computes_what_the_network_does(name: str, preset: str, join: str, tmp_path: Path) -> None:
    parsed = networks.parsed(ALL[name])
    network = export.untrained(parsed, dataclasses.replace(presets.preset(preset), join=join), seed=0)
    path = networks.written(ALL[name], tmp_path)
    pictures = calibrate.noise_pictures(16, parsed.input_shape, seed=1)
    model = export.export(network, pictures, tmp_path / "out", export.Provenance(genotype_path=path))  # refuses else
    manifest.save(tmp_path / "out" / "model.json", model, "model")
    assert manifest.load(tmp_path / "out" / "model.json", "model")["genotype"]["copy"]["cells"] == ALL[name]["cells"]


def test_states_behind_linear_layers_are_signed() -> None:
    network = export.untrained(networks.parsed(MOBILE), presets.preset("w4a1"), seed=0)
    found = network.bits
    assert (found["cells.0.layers.0.act"], found["cells.0.layers.2.act"], found["cells.1.layers.1.act"]) == (1, 2, 2)
    act = network.cells[0].layers[2].act
    assert act.fine.levels[0] < 0 == network.cells[0].layers[1].act.fine.levels[0]
    with pytest.raises(ManifestError, match=r"quantization\.join: got fused, expected aligned or quantized .* linear"):
        Network(networks.parsed(MOBILE), dataclasses.replace(presets.preset("w4a4"), join="fused"))


def test_sums_with_a_linear_state_are_quantized_among_aligned_ones() -> None:
    network = Network(networks.parsed(MOBILE), dataclasses.replace(presets.preset("w4a4"), join="aligned"))
    own, with_linear = (network.cells[0].layers[number] for number in (2, 5))
    assert (own._direct, own.join.leader is None) == (("residual",), False)  # of the stem's state, behind a ReLU6
    assert (with_linear._direct, with_linear.join.leader) == ((), None)


def test_relu6_clips_in_float_and_its_quantizer_at_most_there() -> None:
    spec = dataclasses.replace(presets.preset("w4a4"), join="quantized")  # scales that others follow are rounded
    network = Network(networks.parsed(MOBILE), spec)
    act = network.stem_act.fine
    quantizers.set_mode(network, "float")
    assert act(torch.tensor([[-1.0, 5.0, 7.0]])).tolist() == [[0.0, 5.0, 6.0]]
    quantizers.set_mode(network, "fused")
    quantizers.set_act_scale(act, 3.0)
    assert act(torch.tensor([[-1.0, 100.0]])).tolist() == [[0.0, pytest.approx(6.0)]]
    with torch.no_grad():
        act.log2_threshold.fill_(5.0)
    network.constrain()
    assert act(torch.tensor([[100.0]])).tolist() == [[pytest.approx(6.0)]]


def test_float_network_is_the_one_that_torch_computes() -> None:
    network = Network(networks.parsed(VGG), presets.preset("w4a4")).eval()
    quantizers.set_mode(network, "float")
    x = torch.rand(2, 1, 24, 24)
    with torch.no_grad():
        state = F.max_pool2d(F.relu(network.stem(x)), 2)
        assert state.shape[2:] == (12, 12)
        for cell in network.cells:
            states = [state]
            for layer in cell.layers:
                total = layer.main(states[-1])
                if layer.nas_op is not None:
                    total = total + layer.nas_op(states[0])
                state = F.relu(total)
                states.append(state if layer.pool is None else F.max_pool2d(state, 2))
            state = states[-1]
        assert state.shape[1:] == (8, 1, 1)
        torch.testing.assert_close(network(x), network.classifier(state.flatten(1)))


def test_training_starts_from_imported_weights(run: Callable[..., Outcome], recipe_path: Path, tmp_path: Path) -> None:
    path = networks.written(MOBILE | {"head": {"pool": "global_avg", "bias": True}}, tmp_path)
    network = Network(networks.parsed(MOBILE), presets.preset("w4a4"))
    tensors = {name: tensor.contiguous() for name, tensor in weights._weights_of(network).items()}
    tensors["classifier.bias"] = torch.arange(10.0)
    save_file({name: tensor for name, tensor in tensors.items() if ".nas_op." not in name}, tmp_path / "w.safetensors")
    found = weights.read(tmp_path / "w.safetensors", networks.parsed(MOBILE))
    assert found.classifier_bias.tolist() == list(range(10))
    outcome = run("train", path, "--recipe", recipe_path, "--init-weights", tmp_path / "w.safetensors",
                  "--out", tmp_path / "run", "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "took" in outcome.err
    assert json.loads((tmp_path / "run" / "model.json").read_text())["accuracy"]["split"] == "test"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool": {"kernel": 2, "stride": 2}}, r"cells\[0\]\.layers\[2\]\.pool: got one behind a layer without"),
        ({"activation": "gelu"}, r"activation"),
        ({"padding": 0, "kernel": 3}, r"cells\[0\]\.layers\[2\]\.residual_from: got state 0, whose size does not fit"),
    ],
)
def test_layers_that_cannot_be_built_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    tree = json.loads(json.dumps(MOBILE))
    tree["cells"][0]["layers"][2] |= change
    with pytest.raises(ManifestError, match=said):
        genotype.load(networks.written(tree, tmp_path))


def test_signed_states_have_two_bits_at_least() -> None:
    found = bits.tensors(networks.parsed(MOBILE))
    assert {found[name].lowest for name in found if name.endswith((".2.act", ".2.state"))} == {2}
