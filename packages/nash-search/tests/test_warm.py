"""Weights from a file: of a search, or under the names that nash-qat gives them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nash_search.base.errors import IntegrityError, UsageError
from nash_search.genotype import zoo
from nash_search.genotype.genotype import Genotype
from nash_search.genotype.variants import VARIANTS
from nash_search.supernet import warm
from nash_search.supernet.quantization import preset
from nash_search.supernet.supernet import Supernet


def _supernet(backbone: Genotype, seed: int, relaxation: str = "layer", quantized: str | None = None) -> Supernet:
    torch.manual_seed(seed)
    quantization = None if quantized is None else preset(quantized)
    supernet = Supernet(backbone, VARIANTS["v3"], relaxation, quantization=quantization)
    for tensor in supernet.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor))
    return supernet


@pytest.fixture
def source() -> Supernet:
    return _supernet(zoo.build("resnet8", width=2, input_size=8), 0)


@pytest.fixture
def target() -> Supernet:
    return _supernet(zoo.build("resnet8", width=2, input_size=8), 1)


def test_weights_of_a_search_are_taken_without_its_alphas(source: Supernet, target: Supernet, tmp_path: Path) -> None:
    save_file({f"supernet.{name}": x.contiguous() for name, x in source.state_dict().items()}, tmp_path / "a")
    alpha = target.alpha.detach().clone()
    assert warm.start(target, tmp_path / "a") == len(source.state_dict()) - 2  # alphas and what is admissible
    assert torch.equal(target.alpha, alpha)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor) == (name != "alpha"), name


def test_quantized_supernet_begins_with_float_weights(source: Supernet, tmp_path: Path) -> None:
    save_file({f"supernet.{name}": x.contiguous() for name, x in source.state_dict().items()}, tmp_path / "a")
    target = _supernet(source.backbone, 1, quantized="w4a4")
    assert warm.start(target, tmp_path / "a") == len(source.state_dict()) - 2
    assert torch.equal(target.layers[0].conv.weight, source.layers[0].conv.weight)


@pytest.mark.parametrize(("one", "other"), [("edge", "layer"), ("layer", "edge")])
def test_either_relaxation_begins_with_the_weights_of_the_other(one: str, other: str, tmp_path: Path) -> None:
    backbone = zoo.build("resnet8", width=2, input_size=8)
    source, target = _supernet(backbone, 0, one), _supernet(backbone, 1, other)
    save_file({f"supernet.{name}": x.contiguous() for name, x in source.state_dict().items()}, tmp_path / "a")
    shared = source.state_dict().keys() & target.state_dict().keys() - {"alpha", "admissible"}
    assert warm.start(target, tmp_path / "a") == len(shared)
    assert any(".mixed." in name for name in shared)
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in shared)
    assert target.alpha.shape != source.alpha.shape


def _as_retrained(supernet: Supernet) -> dict[str, torch.Tensor]:
    """Return the backbone of resnet8 under nash-qat's names, written out by hand."""
    modules = {"stem": "stem.conv", "stem_bn": "stem.bn", "classifier": "classifier"}
    for number, (cell, layer) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]):
        modules[f"layers.{number}.conv"] = f"cells.{cell}.layers.{layer}.main.conv"
        modules[f"layers.{number}.bn"] = f"cells.{cell}.layers.{layer}.main.bn"
    for number, cell in ((3, 1), (5, 2)):
        modules[f"layers.{number}.projection.0"] = f"cells.{cell}.layers.1.residual.conv"
        modules[f"layers.{number}.projection.1"] = f"cells.{cell}.layers.1.residual.bn"
    state = supernet.state_dict()
    return {
        f"network/{theirs}.{key.removeprefix(ours + '.')}": state[key].contiguous()
        for ours, theirs in modules.items()
        for key in state
        if key.startswith(f"{ours}.")
    }


def test_backbone_of_a_retrained_network_is_taken(source: Supernet, target: Supernet, tmp_path: Path) -> None:
    tensors = _as_retrained(source)
    save_file(tensors | {"network/stem.conv.scale": torch.ones(1)}, tmp_path / "a")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert warm.start(target, tmp_path / "a") == len(tensors) == 6 * 5 + 2 * 5 + 5 + 1
    for name, tensor in target.state_dict().items():
        is_backbone = ".mixed." not in name and name not in ("alpha", "admissible")
        assert torch.equal(tensor, (source.state_dict() if is_backbone else before)[name]), name


def test_file_that_does_not_fit_is_refused(source: Supernet, target: Supernet, tmp_path: Path) -> None:
    tensors = _as_retrained(source)
    del tensors["network/cells.1.layers.0.main.bn.bias"]
    save_file(tensors, tmp_path / "a")
    with pytest.raises(UsageError, match=r"got no 'network/cells\.1\.layers\.0\.main\.bn\.bias'"):
        warm.start(target, tmp_path / "a")
    wider = _supernet(replace(zoo.build("resnet8", width=4, input_size=8)), 0)
    save_file(_as_retrained(wider), tmp_path / "b")
    with pytest.raises(UsageError, match=r"stem\.conv\.weight: got shape \(4, 3, 3, 3\), expected \(2, 3, 3, 3\)"):
        warm.start(target, tmp_path / "b")
    (tmp_path / "c").write_bytes(b"nothing of the kind")
    for name in ("c", "absent"):
        with pytest.raises(IntegrityError, match="cannot be read as safetensors"):
            warm.start(target, tmp_path / name)
