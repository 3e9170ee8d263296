"""Weights from a file: a float checkpoint, a training run's, or those of a supernet, found by their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import manifest as manifests
from . import quantizers
from .errors import IntegrityError
from .genotype import Genotype


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors by the names this package gives them."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]


def read(path: Path, genotype: Genotype) -> Weights:
    """Read a safetensors file.

    Names are those of this package (a run's checkpoint.safetensors or float.safetensors), or those of a supernet of
    nash-search, of which stem, backbone convolutions, projections and classifier are taken.

    Raises:
        IntegrityError: the file is missing, damaged, or holds a value that is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    sha256 = manifests.file_sha256(path)
    try:
        found = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path}: not a readable safetensors file ({error}); write it anew") from error
    tensors = _renamed(found, genotype)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise IntegrityError(f"{path}: {name}: got a value that is not finite; take weights that did not diverge")
    return Weights(path=path, sha256=sha256, tensors=tensors)


@torch.no_grad()
def warm_start(network: nn.Module, weights: Weights) -> tuple[int, list[str]]:
    """Copy weights into a network; return how many fitted and the network's tensors that had no match.

    Raises:
        IntegrityError: not one has the name and the shape of one of the network's.
    """
    state = _weights_of(network)
    fitting = [name for name, own in state.items() if _fits(own, weights.tensors.get(name))]
    if not fitting:
        raise IntegrityError(
            f"{weights.path}: got no tensor with the name and shape of one of the network's, expected for example "
            f"{next(iter(state))} {tuple(next(iter(state.values())).shape)}; pass weights of this genotype"
        )
    for name in fitting:
        state[name].copy_(weights.tensors[name])
    return len(fitting), [name for name in state if name not in fitting]


def load_all(network: nn.Module, weights: Weights) -> None:
    """Copy weights into a network, of which none may be missing.

    Raises:
        IntegrityError: one is missing or has another shape.
    """
    _, without = warm_start(network, weights)
    if without:
        raise IntegrityError(
            f"{weights.path}: {without[0]}: is missing or has another shape ({len(without)} such tensors); "
            "pass the float weights of this genotype"
        )


def write(path: Path, network: nn.Module) -> None:
    """Write a network's weights.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    with manifests.atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors))


def _weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point() and not quantizers.is_scale(name)  # float networks have none
    }


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
