"""A training run's state in one file, written atomically: tensors as safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import json_file
from ..base import manifest as manifests
from ..base.errors import IntegrityError
from ..base.quoting import brief

FORMAT = "nash-qat.checkpoint/3"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on: tensors by name, and JSON `state`."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below `prefix`, without it."""
        start = f"{prefix}/"
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def save(path: Path, *, parts: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write a checkpoint; what stood there before is kept until the new one is complete.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    tensors = {
        f"{prefix}/{name}": tensor.detach().cpu().contiguous().clone()
        for prefix, part in parts.items()
        for name, tensor in part.items()
    }
    payload = to_bytes(tensors, metadata={"format": FORMAT, "state": json.dumps(state, allow_nan=False)})
    with manifests.atomic_path(path) as temporary:
        temporary.write_bytes(payload)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        IntegrityError: there is none, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise IntegrityError(f"{path}: no such checkpoint; pass the --out folder of a training run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = json_file.parse(metadata["state"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path}: damaged checkpoint ({error}); restart without --resume") from error
    if metadata.get("format") != FORMAT:
        raise IntegrityError(f"{path}: got format {metadata.get('format')!r}, expected {FORMAT!r}; restart the run")
    return Checkpoint(tensors=tensors, state=state)


def load_into(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Give a network the tensors of a checkpoint.

    Raises:
        IntegrityError: they are not this network's, or not finite.
    """
    odd = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if odd:
        raise IntegrityError(f"{path}: {brief(odd[0])} holds a value that is not finite; restart without --resume")
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = brief(" ".join(str(error).split()), 160, is_text=True)
        raise IntegrityError(
            f"{path}: its tensors are not this network's ({reason}); restart without --resume"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return an optimizer's moments by parameter name."""
    return {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # sgd without momentum
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer the moments that `optimizer_tensors` returned."""
    for name, parameter in network.named_parameters():
        start = f"{name}/"
        moments = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        for key, value in moments.items():
            if key != "step" and value.shape == parameter.shape:
                moments[key] = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value)
        if moments:
            optimizer.state[parameter] = moments
