"""Scales of activations and statistics of batch normalization, measured on pictures.

Shapes: pictures (B, C, H, W) uint8.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..quant import quantizers, scales
from .network import Network
from .sums import FusedSum

_SCALE = torch.tensor(quantizers.INPUT_SCALE, dtype=torch.float32)


def to_input(pictures: Tensor) -> Tensor:
    """Return uint8 pixels as the network's input, float32 in [0, 1] (channels last: the faster layout on CPUs)."""
    return (pictures.float() * _SCALE).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def calibrate(network: Network, pictures: Tensor) -> None:
    """Set every activation scale, first layer first, to the one of least square error on a batch; learned scales of
    weights, too, to that of the weights.

    Each quantizer sees what the quantizers before it let through; batch normalization uses the batch's statistics
    and keeps them. Both sides of an addition are measured together, as they share a quantizer. States that have one
    scale get the geometric mean of their own best ones, and then all behind them is measured again.
    """
    was_training = network.training
    network.train()
    for module in network.modules():
        if quantizers.has_learned_weight_scale(module):
            quantizers.fit_weight_scale(module)
    for module in network.modules():
        if isinstance(module, FusedSum):
            module.fit()
    best = _best_scales(network, pictures, fixed=())
    shared: dict[nn.Module, list[float]] = {}
    for follower, scale in best.items():
        if follower.leader is not None:
            of_leader = scale * 2**follower.shift
            shared.setdefault(follower.leader, [best[follower.leader]]).append(of_leader)
    for leader, found in shared.items():
        quantizers.set_act_scale(leader, math.exp(statistics.fmean(map(math.log, found))))
    if shared:
        _best_scales(network, pictures, fixed=shared)
    network.train(was_training)


def _best_scales(network: Network, pictures: Tensor, *, fixed: Collection[nn.Module]) -> dict[Any, float]:
    """Return the best scale of every state and of every quantizer that has its own, to which it is set if not fixed."""
    best: dict[Any, float] = {}

    def measure(quantizer: nn.Module, terms: tuple[Tensor, ...]) -> None:
        best[quantizer] = scales.best_scale(terms, *quantizer.levels)
        if quantizers.is_learned(quantizer):
            quantizers.set_act_scale(quantizer, best[quantizer])

    with ExitStack() as stack:
        stack.enter_context(_momentum(network, 1.0))
        for module in network.modules():
            if (quantizers.is_learned(module) or quantizers.is_relu(module)) and module not in fixed:
                stack.callback(module.register_forward_pre_hook(measure).remove)
        network(to_input(pictures))
    return best


@torch.no_grad()
def calibrate_one(network: Network, quantizer: nn.Module, pictures: Tensor) -> None:
    """Set the scale of one activation quantizer to the one of least square error on a batch; all else stays.

    A quantizer that has another's scale stays, too.
    """
    if not quantizers.is_learned(quantizer):
        return
    was_training = network.training
    network.eval()
    hook = quantizer.register_forward_pre_hook(_set_best_scale)
    try:
        network(to_input(pictures))
    finally:
        hook.remove()
    network.train(was_training)


@torch.no_grad()
def estimate_statistics(network: Network, batches: Iterable[Tensor]) -> None:
    """Set the statistics of batch normalization to their mean over `batches`, with all quantizers at work."""
    was_training = network.training
    network.train()
    with _momentum(network, None):
        for module in _batch_norms(network):
            module.reset_running_stats()
        for pictures in batches:
            network(to_input(pictures))
    network.train(was_training)


def noise_pictures(num_pictures: int, shape: tuple[int, int, int], *, seed: int) -> Tensor:
    """Return seeded pictures (N, C, H, W) uint8: soft random shapes of several sizes, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    total = torch.zeros(num_pictures, channels, height, width)
    for side in (2, 4, 8, 16):
        coarse = torch.randn(num_pictures, channels, side, side, generator=generator)
        total += nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (total * 64 + 128).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def randomize_batch_norm(network: Network, *, seed: int) -> None:
    """Draw gamma from [0.5, 1.5] and beta from [-0.5, 0.5], as training would spread them."""
    generator = torch.Generator().manual_seed(seed)
    for module in _batch_norms(network):
        module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
        module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)


def _set_best_scale(quantizer: nn.Module, terms: tuple[Tensor, ...]) -> None:
    quantizers.set_act_scale(quantizer, scales.best_scale(terms, *quantizer.levels))


def _batch_norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


@contextmanager
def _momentum(network: nn.Module, momentum: float | None) -> Iterator[None]:
    before: dict[Any, float | None] = {module: module.momentum for module in _batch_norms(network)}
    try:
        for module in before:
            module.momentum = momentum
        yield
    finally:
        for module, value in before.items():
            module.momentum = value
