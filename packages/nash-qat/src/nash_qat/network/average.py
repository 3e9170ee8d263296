"""Exponential average of a network's weights and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import Tensor, nn


class Average:
    """The average of a network's state; `num_updates` tells how often it was moved towards the network.

    Which tensors the state has is looked up once. Their names are kept and not they themselves, as loading a state
    makes new modules with new parameters of the activation scales; a name is followed in a few microseconds.
    """

    def __init__(self, network: nn.Module, decay: float, *, num_updates: int = 0) -> None:
        self._decay, self.num_updates = decay, num_updates
        self.tensors = {name: tensor.clone() for name, tensor in _state(network).items()}
        self._getters = [attrgetter(name) for name in self.tensors]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network; the first steps move it faster, as the start is random."""
        self.num_updates += 1
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self.tensors.values()), [get(network) for get in self._getters], 1 - decay)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up a saved average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Give the network the average."""
        for name, tensor in _state(network).items():
            tensor.copy_(self.tensors[name])

    @contextmanager
    def within(self, network: nn.Module) -> Iterator[None]:
        """Let the network have the average for a block, and its own state again after it."""
        own = {name: tensor.clone() for name, tensor in _state(network).items()}
        self.copy_to(network)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in _state(network).items():
                    tensor.copy_(own[name])


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
