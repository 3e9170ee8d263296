from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import networks
import pytest
import torch
from conftest import Outcome
from safetensors.torch import save_file

from nash_qat.base import manifest
from nash_qat.base.errors import IntegrityError
from nash_qat.export import files as export
from nash_qat.network import weights
from nash_qat.network.network import Network
from nash_qat.quant.presets import preset

GENOTYPE = networks.parsed(networks.NASH)


def _network(seed: int) -> Network:
    return export.untrained(GENOTYPE, preset("w4a4"), seed=seed)


def test_own_weights_come_back(tmp_path: Path) -> None:
    first, second = _network(0), _network(1)
    weights.write(tmp_path / "w.safetensors", first)
    weights.load_all(second, weights.read(tmp_path / "w.safetensors", GENOTYPE))
    for name, tensor in second.state_dict().items():
        if "scaling_impl" not in name and tensor.is_floating_point():
            assert torch.equal(tensor, first.state_dict()[name]), name


def test_supernet_gives_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = {
        "supernet.alpha": torch.rand(10, 6),
        "supernet.stem.weight": torch.rand(4, 1, 3, 3),
        "supernet.stem_bn.running_var": torch.rand(4),
        "supernet.layers.1.conv.weight": torch.rand(4, 4, 3, 3),
        "supernet.layers.3.bn.bias": torch.rand(8),
        "supernet.layers.3.projection.0.weight": torch.rand(8, 4, 1, 1),
        "supernet.layers.3.projection.1.weight": torch.rand(8),
        "supernet.layers.4.mixed.0.ops.3.conv.weight": torch.rand(8, 8, 3, 3),
        "supernet.classifier.weight": torch.rand(10, 8),
        "sgd.momentum_buffer.stem.weight": torch.rand(4, 1, 3, 3),
    }
    save_file(found, tmp_path / "s.safetensors")
    network = _network(0)
    num_taken, without = weights.warm_start(network, weights.read(tmp_path / "s.safetensors", GENOTYPE))
    assert num_taken == 7
    assert "cells.0.layers.0.main.conv.weight" in without
    state = network.state_dict()
    for ours, theirs in {
        "stem.conv.weight": "stem.weight",
        "stem.bn.running_var": "stem_bn.running_var",
        "cells.0.layers.1.main.conv.weight": "layers.1.conv.weight",
        "cells.1.layers.1.main.bn.bias": "layers.3.bn.bias",
        "cells.1.layers.1.residual.conv.weight": "layers.3.projection.0.weight",
        "cells.1.layers.1.residual.bn.weight": "layers.3.projection.1.weight",
        "classifier.weight": "classifier.weight",
    }.items():
        assert torch.equal(state[ours], found[f"supernet.{theirs}"]), ours


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(IntegrityError, match="cannot be read"):
        weights.read(path, GENOTYPE)
    path.write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        weights.read(path, GENOTYPE)
    save_file({"classifier.weight": torch.full((10, 8), torch.nan)}, path)
    with pytest.raises(IntegrityError, match=r"classifier\.weight: got a value that is not finite"):
        weights.read(path, GENOTYPE)
    save_file({"classifier.weight": torch.rand(7, 8)}, path)
    with pytest.raises(IntegrityError, match="got no tensor with the name and shape"):
        weights.warm_start(_network(0), weights.read(path, GENOTYPE))
    save_file({"classifier.weight": torch.rand(10, 8)}, path)
    with pytest.raises(IntegrityError, match=r"stem\.conv\.weight: is missing"):
        weights.load_all(_network(0), weights.read(path, GENOTYPE))


def test_float_network_teaches_and_starts_another_run(
    run: Callable[..., Outcome], nash_path: Path, recipe_path: Path, tmp_path: Path
) -> None:
    common = ("train", nash_path, "--recipe", recipe_path, "--epochs", 2)
    first = run(*common, "--float-epochs", 1, "--distill", "--out", tmp_path / "a")
    assert first.code == 0, first.err
    assert "epoch 1/2 float" in first.err
    floats = tmp_path / "a" / "float.safetensors"
    second = run(*common, "--float-epochs", 0, "--teacher", floats, "--init-weights", floats, "--out", tmp_path / "b")
    assert second.code == 0, second.err
    assert "epoch 1/2 quantized" in second.err
    assert "took 51 of 51 tensors" in second.err
    training = manifest.load(tmp_path / "b" / "model.json", "model")["training"]
    assert training["float_epochs"] == 0
    assert training["teacher_sha256"] == training["init_weights_sha256"] == manifest.file_sha256(floats)
    assert training["settings"]["distill_weight"] == 0.5
    losses = [json.loads(line)["loss"] for line in (tmp_path / "b" / "history.jsonl").read_text().splitlines()]
    assert losses[1] < losses[0]


def test_teacher_must_come_from_somewhere(
    run: Callable[..., Outcome], nash_path: Path, recipe_path: Path, tmp_path: Path
) -> None:
    common = ("train", nash_path, "--recipe", recipe_path, "--out", tmp_path / "a")
    refused = run(*common, "--float-epochs", 0, "--distill")
    assert refused.code == 2
    assert "pass --float-epochs or --teacher" in refused.err
    own = recipe_path.with_name("distills.json")
    own.write_text(json.dumps({**json.loads(recipe_path.read_text()), "distill_weight": 0.5, "epochs": 1}))
    without = run("train", nash_path, "--recipe", own, "--float-epochs", 0, "--out", tmp_path / "b")
    assert without.code == 0, without.err
    assert manifest.load(tmp_path / "b" / "model.json", "model")["training"]["settings"]["distill_weight"] == 0
    assert run(*common, "--float-epochs", 2).code == 2
    (tmp_path / "t.safetensors").write_bytes(b"")
    assert run(*common, "--teacher", tmp_path / "t.safetensors").code == 4
    assert not (tmp_path / "a").exists()
