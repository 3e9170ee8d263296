"""Which epoch of a run is exported, and how accurate networks are.

While a run trains, epochs are compared on its watched split alone (validation, where it has one). The test split is
evaluated once, when all is decided.
Shapes: pictures (B, C, H, W) uint8, logits (B, K).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..base import json_file
from ..base.errors import IntegrityError, UsageError
from ..data.datasets import Split
from ..network import calibrate, weights
from ..network.network import Network
from ..quant import quantizers
from .world import World

_EVALUATION_BATCH = 256
_KEY = "selection"
_ALONE = World(device=torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Why these weights: `split` is what epochs were compared on, with `top1` percent there; None if nothing was."""

    rule: str
    split: str | None
    epoch: int
    top1: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def keep_best(path: Path, network: nn.Module, selection: Selection) -> None:
    """Write weights together with what they were chosen by, in one file, so that the two never disagree.

    Raises:
        OutputError: the file cannot be written.
    """
    weights.write(path, network, metadata={_KEY: json.dumps(selection.to_dict())})


def load_best(path: Path, network: Network) -> Selection:
    """Give a network the weights that `keep_best` wrote, and return what they were chosen by.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it is damaged, or of an earlier version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path}: no such file, as the run has no whole quantized epoch; leave out --best")
    tensors = weights.read(path, network.genotype).tensors
    try:
        with safe_open(path, framework="pt") as file:
            selection = Selection(**json_file.parse((file.metadata() or {})[_KEY]))
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{path}: does not say how it was chosen ({error}); leave out --best") from error
    return selection


@contextmanager
def own_buffers(network: nn.Module) -> Iterator[None]:
    """Let a block change a network's buffers, and put them back after it."""
    own = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(own[name])


@torch.no_grad()
def top1(network: nn.Module, split: Split, world: World = _ALONE) -> float:
    """Return the accuracy of a network on a split, in percent; each process runs its share of the batches."""
    network.eval()
    hits = torch.zeros((), dtype=torch.int64)
    starts = range(0, len(split), _EVALUATION_BATCH)[world.rank :: world.size]
    for start in starts:
        indices = np.arange(start, min(start + _EVALUATION_BATCH, len(split)))
        pictures = torch.from_numpy(split.images[indices]).to(world.device)
        predicted = network(calibrate.to_input(pictures)).argmax(dim=1)
        hits += (predicted.cpu() == torch.from_numpy(split.labels[indices])).sum()
    return 100 * int(world.sum(hits)) / len(split)


def float_top1(path: Path, network: Network, split: Split, device: torch.device) -> float | None:
    """Return the accuracy on a split of a run's float weights, with `network` to hold them; None without the file."""
    if not path.is_file():
        return None
    network.load_state_dict(weights.read(path, network.genotype).tensors)
    network.to(device)
    quantizers.set_mode(network, "float")
    return top1(network, split, World(device=device))
