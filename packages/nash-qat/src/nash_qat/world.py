"""Processes that train one network together, as torchrun starts them; one process is a world of its own.

Every process takes its share of every batch, so that a run is the same recipe on any number of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from .errors import UsageError


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among `size`."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Say whether this process writes files and reports progress."""
        return self.rank == 0

    def wrapped(self, network: nn.Module) -> nn.Module:
        """Return the network in a form whose gradients are the mean over all processes."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def no_sync(self, wrapped: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        """Return a context in which gradients of a batch's earlier parts are kept for the last one to exchange."""
        is_alone = is_last or not isinstance(wrapped, nn.parallel.DistributedDataParallel)
        return nullcontext() if is_alone else wrapped.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            values = values.to(self.device)
            distributed.all_reduce(values)
        return values

    def share_buffers(self, network: nn.Module) -> None:
        """Give all processes the statistics of the first one."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()


def num_processes() -> int:
    """Return how many processes torchrun has started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that torchrun has started, for a block.

    Raises:
        UsageError: the device is not there.
    """
    size = num_processes()
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device: got cuda, expected cpu, as this torch sees no GPU; leave the option out")
        torch.cuda.set_device(local_rank)
    elif device != "cpu":
        raise UsageError(f"--device: got '{device}', expected cpu or cuda")
    place = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    if size == 1:
        yield World(device=place)
        return
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(device=place, rank=rank, size=size)
    finally:
        distributed.destroy_process_group()
