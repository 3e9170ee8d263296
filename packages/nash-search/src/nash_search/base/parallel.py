"""One search in several processes, each with its share of every batch (torchrun, gloo).

All processes draw the same paths and hold the same alphas and weights. A batch is dealt out picture by picture; batch
normalization, losses and gradients are summed over the processes, so the search is that of one process with the joined
batch, up to the rounding of sums. Gradients are summed here rather than by DistributedDataParallel, which would
have to find the parameters of each newly sampled path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from . import lock
from .interrupt import Stop


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that speaks for all, also before and after they are joined."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """Within the block the processes that torchrun has started search together; a single one is on its own.

    Tensors on GPUs are summed by NCCL, alphas on the CPU by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other commands out of a folder, which the first process does for all.

    Raises:
        OutputError: another command works in it.
    """
    with lock.held(out) if is_first() else nullcontext():
        yield


def mine() -> slice:
    """Return which pictures of a joined batch this process takes."""
    return slice(rank(), None, size())


def wait() -> None:
    """Wait until every process has come here."""
    if size() > 1:
        distributed.barrier()


def summed(x: Tensor) -> Tensor:
    """Return the sum over all processes, differentiable in each one's share."""
    return all_reduce(x) if size() > 1 else x


def total(value: float) -> float:
    """Return the sum of a number over all processes."""
    if size() == 1:
        return value
    share = torch.tensor(value, dtype=torch.double)
    distributed.all_reduce(share)
    return share.item()


def share_of_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return this process's share of the mean cross-entropy of the joined batch."""
    return F.cross_entropy(logits, target, reduction="sum") / total(len(target))


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum the gradients that there are over all processes, which must have them for the same parameters."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class JointStop(Stop):
    """A stop that all processes learn of when any one of them is asked; all must look equally often.

    A second signal is no haste here: torchrun sends one to every process after the terminal has.
    """

    @property
    def requested(self) -> str | None:
        """Return the name of the signal that any process got."""
        if size() > 1:
            latest = torch.tensor(self.received)
            distributed.all_reduce(latest, distributed.ReduceOp.MAX)
            self.received = int(latest)
        return super().requested

    def _request(self, number: int, frame: FrameType | None) -> None:
        if size() > 1:
            self.received = number
        else:
            super()._request(number, frame)
