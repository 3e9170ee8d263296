"""Time one iteration (alpha step and weight step) against the reference algorithm, and print the ratio.

    python benchmarks/iteration.py [--width 16] [--batch-size 32] [--repeats 7]

The reference algorithm, written plainly: the sampled operation runs in the forward pass, and in the backward pass of
either step every operation of every edge runs once more for its gate's gradient; operations share nothing, memory is
NCHW, and only the alpha step uses the gates' gradients.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nash_search import zoo
from nash_search.architect import Architect
from nash_search.primitives import State
from nash_search.supernet import MixedOperation, Path, SearchLayer, Supernet
from nash_search.variants import VARIANTS


class Recompute(torch.autograd.Function):
    """One mixed operation whose backward pass runs all of its operations again."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, x: Tensor, mixed: MixedOperation, index: int) -> Tensor:
        ctx.x = x.detach().requires_grad_()
        ctx.mixed, ctx.index = mixed, index
        with torch.enable_grad():
            ctx.output = mixed.ops[index](State(ctx.x))
        return torch.zeros(()) if ctx.output is None else ctx.output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gates = grad.new_zeros(len(ctx.mixed.ops))
        for index, op in enumerate(ctx.mixed.ops):
            output = op(State(ctx.x.detach()))
            if output is not None:
                gates[index] = (output * grad).sum()
        if ctx.output is not None and ctx.output.requires_grad:
            torch.autograd.backward(ctx.output, grad)
        return gates, ctx.x.grad, None, None


def recomputing_layer(layer: SearchLayer, states: Sequence[State], path: Path, first_edge: int) -> State:
    """Stand in for `SearchLayer.forward`."""
    y = layer._backbone([State(state.x) for state in states])
    for edge, mixed in enumerate(layer.mixed, first_edge):
        y = y + Recompute.apply(path.gates[edge], states[mixed.input].x, mixed, path.active_index[edge])
    return State(y if layer.activation is None else layer.activation(y))


def iteration(width: int, gradient: str, *, is_reference: bool) -> Callable[[Tensor, Tensor], None]:
    """Return a function that trains alphas and weights once on a batch."""
    torch.manual_seed(0)
    supernet = Supernet(zoo.build("resnet18", width=width), VARIANTS["v1"])
    if is_reference:
        supernet.to(memory_format=torch.contiguous_format)
        for layer in supernet.layers:
            layer.forward = lambda *args, layer=layer: recomputing_layer(layer, *args)
    architect = Architect(supernet, gradient)
    optimizer = torch.optim.SGD(supernet.weights(), 0.025, momentum=0.9, weight_decay=3e-4)
    generator = torch.Generator().manual_seed(0)

    def run(x: Tensor, y: Tensor) -> None:
        path = architect.sample(generator)
        architect.accumulate(x, y, path)
        architect.update(path)
        optimizer.zero_grad()
        path = architect.sample(generator) if is_reference else supernet.sample(generator)
        F.cross_entropy(supernet(x, path), y).backward()
        torch.nn.utils.clip_grad_norm_([weight for weight in supernet.weights() if weight.grad is not None], 5.0)
        optimizer.step()

    return run


def seconds(run: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor, repeats: int) -> float:
    """Return the shortest time of a call, which other load disturbs least; the first sets things up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run(x, y)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def main() -> None:
    """Print a line a way, with the ratio to the reference algorithm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x, y = torch.rand(arguments.batch_size, 3, 32, 32), torch.randint(10, (arguments.batch_size,))
    reference = seconds(iteration(arguments.width, "full", is_reference=True), x, y, arguments.repeats)
    print(f"resnet18 v1, width {arguments.width}, batch {arguments.batch_size}, {arguments.threads} threads")
    print(f"reference  {1e3 * reference:7.0f} ms")
    x = x.contiguous(memory_format=torch.channels_last)
    for gradient in ("two-path", "full"):
        ours = seconds(iteration(arguments.width, gradient, is_reference=False), x, y, arguments.repeats)
        print(f"{gradient:9}  {1e3 * ours:7.0f} ms  {reference / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
