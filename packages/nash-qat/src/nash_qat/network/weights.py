"""Weights from a file, found by their names: a float checkpoint, a training run's, a supernet's or torchvision's."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import manifest as manifests
from ..base.errors import IntegrityError, UsageError
from ..quant import quantizers
from . import pretrained, sums
from .genotype import Genotype

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
_NESTED = ("state_dict", "model")  # where a training script's checkpoint keeps its weights


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors by the names this package gives them.

    classifier_bias: (K,) of a network of torchvision, or an imported one, which ours have not. normalization: of the
    pictures that the former was trained on, folded into the tensors already.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    classifier_bias: Tensor | None = None
    normalization: pretrained.Normalization | None = None


def read(path: Path, genotype: Genotype, *, normalization: pretrained.Normalization | None = None) -> Weights:
    """Read a safetensors file, or a state dict that torch.save has written.

    Names are those of this package (a run's checkpoint.safetensors or float.safetensors, what `nash-search import`
    writes), those of a supernet of
    nash-search, of which stem, backbone convolutions, projections and classifier are taken, or those of a ResNet of
    torchvision, whose `normalization` (by default ImageNet's) is folded into the stem.

    Raises:
        IntegrityError: the file is missing, damaged, holds anything but finite tensors, or those of another ResNet.
        UsageError: a normalization for weights that read pixels in [0, 1] already.
    """
    sha256 = manifests.file_sha256(path)
    found = _state_dict(path) if path.suffix in _TORCH_SUFFIXES else _safetensors(path)
    if not pretrained.is_known(found):
        if normalization is not None:
            raise UsageError(f"--init-mean: got {path}, expected a ResNet of torchvision; leave it and --init-std out")
        tensors = _renamed(found, genotype)
        _refuse_unless_finite(tensors, path)
        bias = tensors.pop("classifier.bias", None)
        return Weights(path=path, sha256=sha256, tensors=tensors, classifier_bias=bias)
    _refuse_unless_finite(found, path)
    normalization = normalization or pretrained.IMAGENET
    tensors = pretrained.fold(pretrained.renamed(found, genotype, path), normalization)
    bias = found.get("fc.bias")
    return Weights(path=path, sha256=sha256, tensors=tensors, classifier_bias=bias, normalization=normalization)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: not a readable safetensors file ({error}); write it anew") from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of torch.save; code in it is not run, but refused."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"objects of {blocked[1]}" if blocked else "no weights that torch can read"
        raise IntegrityError(
            f"{path}: holds {what}, expected tensors alone; write it anew with torch.save(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise IntegrityError(f"{path}: not a readable state dict ({reason}); write it anew with torch.save") from error
    nested = next((found[key] for key in _NESTED if isinstance(found, Mapping) and key in found), found)
    if not isinstance(nested, Mapping):
        raise IntegrityError(f"{path}: holds a {type(nested).__name__}, expected tensors by name; save a state_dict()")
    for name, value in nested.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise IntegrityError(
                f"{path}: {name}: got a {type(value).__name__}, expected a tensor; save a state_dict()"
            )
    return {name.removeprefix("module."): tensor for name, tensor in nested.items()}


def _refuse_unless_finite(tensors: dict[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise IntegrityError(f"{path}: {name}: got a value that is not finite; take weights that did not diverge")


@torch.no_grad()
def warm_start(network: nn.Module, weights: Weights) -> tuple[int, list[str]]:
    """Copy weights into a network; return how many fitted and the network's tensors that had no match.

    Of a network of torchvision only the first convolution and the classifier may have other shapes, as pictures of
    another size and other classes ask for; they are then left as they are.

    Raises:
        IntegrityError: not one has the name and shape of one of the network's, or one of torchvision's does not fit.
    """
    state, tensors = _weights_of(network), sums.folded(network, weights.tensors)
    fitting = [name for name, own in state.items() if _fits(own, tensors.get(name))]
    if weights.normalization is not None:
        replaceable = ("stem.", "classifier.")
        wrong = [name for name in weights.tensors if name not in fitting and not name.startswith(replaceable)]
        if wrong:
            raise IntegrityError(f"{weights.path}: {_difference(wrong, state, weights)}; take weights of this width")
        if "stem.conv.weight" not in fitting:
            fitting = [name for name in fitting if not name.startswith("stem.")]
    if not fitting:
        raise IntegrityError(
            f"{weights.path}: got no tensor with the name and shape of one of the network's, expected for example "
            f"{next(iter(state))} {tuple(next(iter(state.values())).shape)}; pass weights of this genotype"
        )
    for name in fitting:
        state[name].copy_(tensors[name])
    return len(fitting), [name for name in state if name not in fitting]


def load_all(network: nn.Module, weights: Weights) -> None:
    """Copy weights into a network, of which none may be missing.

    Raises:
        IntegrityError: one is missing or has another shape.
    """
    _, without = warm_start(network, weights)
    if without:
        difference = _difference(without, _weights_of(network), weights)
        raise IntegrityError(f"{weights.path}: {difference}; pass the float weights of this genotype")


def write(path: Path, network: nn.Module, *, metadata: dict[str, str] | None = None) -> None:
    """Write a network's weights, and strings beside them.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    with manifests.atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))


def _weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point() and not quantizers.is_scale(name)  # float networks have none
    }


def _difference(names: list[str], state: dict[str, Tensor], weights: Weights) -> str:
    """Say what is wrong with the first of `names`, which do not fit, and how many there are."""
    name, count = names[0], f" ({len(names)} such tensors)"
    if name not in weights.tensors:
        return f"{name}: is missing, expected {tuple(state[name].shape)}{count}"
    return f"{name}: got {tuple(weights.tensors[name].shape)}, expected {tuple(state[name].shape)}{count}"


def _fits(own: Tensor, found: Tensor | None) -> bool:
    return found is not None and found.shape == own.shape and found.is_floating_point()


def _renamed(found: dict[str, Tensor], genotype: Genotype) -> dict[str, Tensor]:
    if any(name.startswith("supernet.") for name in found):
        places = [
            f"cells.{c}.layers.{index}" for c, cell in enumerate(genotype.cells) for index in range(len(cell.layers))
        ]
        renamed = {_of_supernet(name.removeprefix("supernet."), places): tensor for name, tensor in found.items()}
        return {name: tensor for name, tensor in renamed.items() if name is not None}
    own = {name.removeprefix("network/"): tensor for name, tensor in found.items() if name.startswith("network/")}
    return own or found


def _of_supernet(name: str, places: list[str]) -> str | None:
    """Return this package's name of a supernet's tensor, None where it has none."""
    if name == "classifier.weight":
        return name
    if match := re.fullmatch(r"stem(_bn)?\.(\w+)", name):
        return f"stem.{'bn' if match[1] else 'conv'}.{match[2]}"
    match = re.fullmatch(r"layers\.(\d+)\.(conv|bn|projection\.0|projection\.1)\.(\w+)", name)
    if match is None or int(match[1]) >= len(places):
        return None
    inner = {"conv": "main.conv", "bn": "main.bn", "projection.0": "residual.conv", "projection.1": "residual.bn"}
    return f"{places[int(match[1])]}.{inner[match[2]]}.{match[3]}"
