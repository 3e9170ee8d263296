"""Training steps through torch.compile: the network's forward and backward pass as one graph of compiled kernels.

They compute the same function to float tolerance, and the same bits in every run of the same sizes on as many threads.
So no kernel serves several sizes: which one a batch met would depend on what came before it, or on a resume.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ..base.errors import ToolchainError


def network(network: nn.Module) -> nn.Module:
    """Return a network that is compiled when it first meets a size of batch, and forget all compiled before.

    It shares parameters and buffers with `network`, which stays as it is. A network that cannot be traced as one graph
    raises there.
    """
    torch.compiler.reset()
    return torch.compile(network, fullgraph=True, dynamic=False)


def off() -> AbstractContextManager[None]:
    """Return a context in which compiled networks run as they were before, for a size that comes seldom."""
    return torch.compiler.set_stance("force_eager")


def check(device: torch.device) -> None:
    """Compile and run a line of code.

    Raises:
        ToolchainError: it fails; a C++ compiler (CPU) or triton (GPU) is missing or does not work.
    """
    try:
        torch.compile(_probe, fullgraph=True, dynamic=False)(torch.zeros(64, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        lines = (line.strip() for line in str(error).splitlines())
        reason = next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
        tool = "a C++ compiler (g++, or CXX names another)" if device.type == "cpu" else "triton and a C compiler"
        raise ToolchainError(f"--compile: got '{reason}', expected {tool} that works; leave the option out") from error


def _probe(x: Tensor) -> Tensor:
    return x.relu() + 1
