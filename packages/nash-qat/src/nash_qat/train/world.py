"""Processes that train one network together, as torchrun starts them; one process is a world of its own.

Every process takes its share of every batch, so that a run is the same recipe on any number of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from ..base import lock
from ..base.errors import UsageError

_STEPS_BETWEEN_READINGS = 16


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

    @property
    def steps_between_readings(self) -> int:
        """Return after how many steps values are read back: a GPU works behind the program, which reading holds up."""
        return 1 if self.device.type == "cpu" else _STEPS_BETWEEN_READINGS

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
def alone_in(out: Path) -> Iterator[None]:
    """Keep other commands out of a folder, which the first process does for all.

    Raises:
        OutputError: another command works in it.
    """
    with lock.held(out) if int(os.environ.get("RANK", "0")) == 0 else nullcontext():
        yield


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that torchrun has started, for a block in which GPUs compute as `exact_kernels` says.

    Raises:
        UsageError: the device is not there.
    """
    size = num_processes()
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device: got cuda, expected cpu, as this torch sees no GPU; leave the option out")
        torch.cuda.set_device(local_rank)
    elif device != "cpu":
        raise UsageError(f"--device: got '{device}', expected cpu, cuda or auto")
    place = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    with exact_kernels():
        if size == 1:
            yield World(device=place)
            return
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        try:
            yield World(device=place, rank=rank, size=size)
        finally:
            distributed.destroy_process_group()


@contextmanager
def exact_kernels() -> Iterator[None]:
    """Let GPUs compute float32 in full, and to the same bits every time, within a block.

    TF32 would keep 10 of the 23 bits of a mantissa; cudnn would take kernels that add in any order, or choose among
    them by their time.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    flags += [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in flags]
    try:
        for owner, name, value in flags:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
