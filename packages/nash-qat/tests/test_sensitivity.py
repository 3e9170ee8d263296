from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from conftest import TINY_RECIPE
from torch.nn import functional

from nash_qat import cli, commands
from nash_qat.base import manifest
from nash_qat.base.errors import IntegrityError, Interrupted, UsageError
from nash_qat.bits import sensitivity
from nash_qat.data import datasets
from nash_qat.export import files as export
from nash_qat.network import bits, calibrate
from nash_qat.network.network import Activation, Network
from nash_qat.quant import quantizers

QUESTION = sensitivity.Question(bits=(2,), num_pictures=40, seed=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one quantized epoch at w4a4, whose states have bits of their own in one place."""
    folder = tmp_path_factory.mktemp("trained")
    recipe, quantization = folder / "recipe.json", folder / "bits.json"
    recipe.write_text(json.dumps(TINY_RECIPE))
    own = {"weight_bits": 4, "nas_weight_bits": 4, "act_bits": 4, "state_bits": 4}
    quantization.write_text(json.dumps(own | {"overrides": {"cells.0.layers.0.state": 6}}))
    genotype = networks.written(networks.NASH, folder)
    cli.train(genotype, folder / "run", quantization=quantization, recipe=str(recipe), epochs=1, float_epochs=0)
    return folder / "run"


@pytest.fixture
def network(trained: Path) -> Network:
    return sensitivity.TrainedRun.read(trained).network


@pytest.fixture(scope="module")
def split() -> datasets.Split:
    return datasets.load("digits", "train", datasets.Preprocessing(channels=1, height=8, width=8))


def _measured(trained: Path, split: datasets.Split, out: Path, *, resume: bool = False) -> dict[str, Any]:
    run = sensitivity.TrainedRun.read(trained)
    return sensitivity.Sensitivity(run, QUESTION, split, out, device=torch.device("cpu")).run(resume=resume)


@pytest.fixture(scope="module")
def measured(trained: Path, split: datasets.Split) -> Path:
    """The sensitivity.json of the run."""
    path = trained.parent / "measured" / "sensitivity.json"
    _measured(trained, split, path)
    return path


def _scales(network: Network) -> dict[str, float]:
    """Return the scale of every activation quantizer by the tensors it makes."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, Activation):
            for kind in ("act", "state"):
                tensor = f"{name.removesuffix('act')}{kind}"
                if tensor in network.bits:
                    found[tensor] = float(quantizers.act_scale(module.quantizer_of(kind)))
        elif quantizers.is_learned(module) and not name.endswith((".fine", ".coarse")):
            found[name] = float(quantizers.act_scale(module))
    return found


@pytest.mark.parametrize("wanted", [2, 6])
def test_one_tensor_alone_changes(wanted: int, network: Network) -> None:
    pictures = calibrate.noise_pictures(32, (1, 8, 8), seed=0)
    before, scales = network.state_dict(), _scales(network)
    tensors = bits.tensors(network.genotype)
    chosen = ("stem_act", "stem_state", "cells.0.layers.0.act", "cells.1.layers.0.nas_op", "cells.1.layers.2.join")
    for name in (*chosen, "cells.1.layers.2.act", "features", "classifier"):
        tensor = tensors[name]
        changed = sensitivity.with_bits(network, name, wanted, pictures)
        assert changed.bits == network.bits | {name: wanted}
        assert {key: value for key, value in _scales(changed).items() if key != name} == {
            key: value for key, value in scales.items() if key != name
        }, name
        if tensor.kind != "weight":
            reader = name.replace("state", "act")
            other = {"act": "state", "state": "act"}.get(tensor.kind)
            shared = other is not None and changed.bits.get(reader.replace("act", str(other))) == wanted
            assert shared or _scales(changed)[name] != scales[name]
        for key, value in changed.state_dict().items():
            if "act_quant" not in key:
                assert torch.equal(value, before[key]), key
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_activation_gets_the_scale_of_least_square_error(network: Network) -> None:
    pictures = calibrate.noise_pictures(32, (1, 8, 8), seed=0)
    changed = sensitivity.with_bits(network, "cells.1.layers.0.act", 2, pictures)
    quantizer = changed.get_submodule("cells.1.layers.0.act").fine
    found = float(quantizers.act_scale(quantizer))
    seen: list[torch.Tensor] = []
    quantizer.register_forward_pre_hook(lambda _module, terms: seen.append(terms[0]))
    with torch.no_grad():
        changed(calibrate.to_input(pictures))
    values = seen[0].double()

    def error(scale: float) -> float:
        return float(((values / scale).round().clamp(0, 3) * scale - values).square().sum())

    assert error(found) < min(error(0.8 * found), error(1.25 * found))


def test_loss_is_that_of_the_network_with_other_bits(measured: Path, network: Network, split: datasets.Split) -> None:
    result = json.loads(measured.read_text())
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(3))[:40].numpy()
    x = calibrate.to_input(torch.from_numpy(split.images[order]))
    labels = torch.from_numpy(split.labels[order])

    def loss(net: Network) -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(net.eval()(x), labels))

    spec = dataclasses.replace(network.spec, overrides={**network.spec.overrides, "cells.1.layers.1.main": 2})
    other = Network(network.genotype, spec)
    other.load_state_dict(network.state_dict())
    tensors = {tensor["name"]: tensor for tensor in result["tensors"]}
    found = {each["bits"]: each["loss"] for each in tensors["cells.1.layers.1.main"]["measured"]}
    assert found == pytest.approx({2: loss(other), 4: loss(network)}, rel=1e-5)
    assert result["base"]["loss"] == pytest.approx(loss(network), rel=1e-5)
    assert abs(found[2] - found[4]) > 1e-3


def test_learned_scale_of_weights_fits_the_other_bits() -> None:
    spec = dataclasses.replace(commands.presets.preset("w4a4"), weight_scale="learned")
    network = export.untrained(networks.parsed(networks.NASH), spec, seed=0)
    pictures = calibrate.noise_pictures(8, (1, 8, 8), seed=0)
    for name, place in (("cells.0.layers.0.main", "cells.0.layers.0.main.conv"), ("classifier", "classifier")):
        changed = sensitivity.with_bits(network, name, 2, pictures)
        layer, own = changed.get_submodule(place), network.get_submodule(place)
        assert torch.equal(layer.weight, own.weight)
        assert not torch.equal(layer.log2_threshold, own.log2_threshold)
        expected = layer.log2_threshold.clone()
        quantizers.fit_weight_scale(layer)
        assert torch.equal(layer.log2_threshold, expected)


def test_manifest_says_what_was_measured(measured: Path, trained: Path, network: Network) -> None:
    result = manifest.load(measured, "sensitivity")
    assert list(measured.parent.iterdir()) == [measured]
    assert {tensor["name"]: tensor["bits"] for tensor in result["tensors"]} == network.bits
    assert result["quantization"]["resolved"] == network.bits
    for tensor in result["tensors"]:
        assert [each["bits"] for each in tensor["measured"]] == sorted({2, tensor["bits"]})
        own = next(each for each in tensor["measured"] if each["bits"] == tensor["bits"])
        assert {"loss": own["loss"], "top1": own["top1"]} == result["base"]
    assert result["data"] == {"dataset": "digits", "split": "train", "num_samples": 40, "seed": 3}
    checkpoint = next(each for each in result["inputs"] if each["path"] == "checkpoint.safetensors")
    assert checkpoint["sha256"] == manifest.file_sha256(trained / "checkpoint.safetensors")


def test_stopped_measurement_goes_on_to_the_same_result(
    measured: Path, trained: Path, split: datasets.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, expected = tmp_path / "stopped.json", json.loads(measured.read_text())
    right, calls = sensitivity.measure, []

    def measure(*arguments: Any) -> sensitivity.Loss:
        calls.append(arguments)
        if len(calls) == 8:
            raise Interrupted("stopped")
        return right(*arguments)

    monkeypatch.setattr(sensitivity, "measure", measure)
    with pytest.raises(Interrupted):
        _measured(trained, split, stopped)
    assert not stopped.exists()
    assert _measured(trained, split, stopped, resume=True) == expected
    num_all = 1 + sum(len(tensor["measured"]) - 1 for tensor in expected["tensors"])
    assert len(calls) == num_all + 1  # the one that was stopped is done again, no other
    assert stopped.read_bytes() == measured.read_bytes()


def test_other_measurement_is_not_resumed(trained: Path, split: datasets.Split, tmp_path: Path) -> None:
    out = tmp_path / "sensitivity.json"
    with pytest.raises(IntegrityError, match=r"sensitivity\.json\.partial: no such file"):
        _measured(trained, split, out, resume=True)
    partial = tmp_path / "sensitivity.json.partial"
    partial.write_text(json.dumps({"asked": {"seed": 4, "bits": [2]}, "known": {}}))
    with pytest.raises(UsageError, match="seed: got 3, expected 4"):
        _measured(trained, split, out, resume=True)
    partial.write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        _measured(trained, split, out, resume=True)


def test_masked_weights_and_joins_are_not_tried_at_one_bit() -> None:
    network = Network(networks.parsed(networks.STRIDED_SIDE_OPS), commands.presets.preset("w4a4"))
    found = sensitivity.candidates(network, (1, 3))
    assert found["cells.0.layers.0.nas_op"] == [3, 4]
    assert found["cells.0.layers.0.join"] == [3, 8]
    assert found["cells.0.layers.0.main"] == [1, 3, 4]


def test_command_line(run: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    common = ("--pictures", 16, "--out", tmp_path / "s.json")
    outcome = run("sensitivity", trained / "model.json", "--bits", 2, 3, *common, "--json")
    assert outcome.code == 0, outcome.err
    assert "cells.1.layers.0.main: 2 bit " in outcome.err
    assert outcome.json == manifest.load(tmp_path / "s.json", "sensitivity")
    assert [each["bits"] for each in outcome.json["tensors"][0]["measured"]] == [2, 3, 8]
    assert outcome.json["data"]["split"] == "train (held out)"
    assert run("schema", "sensitivity").json == manifest.schema("sensitivity")
    wrong = run("sensitivity", trained, "--bits", 2, 9, *common)
    assert (wrong.code, "--bits: got 9, expected 1..8" in wrong.err) == (2, True)
    nothing = run("sensitivity", tmp_path, *common)
    assert (nothing.code, "no such checkpoint" in nothing.err) == (4, True)
