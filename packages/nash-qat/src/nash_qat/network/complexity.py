"""Sizes of a network: parameters, multiplications, bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn

from .network import Network
from .terms import ConvBN


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What a network holds and does for one picture.

    num_params: weights (structural zeros excluded) and batch-normalization gammas and betas. macs: multiplications
    with a weight. weight_bits: bits of all weights. bops: macs times the bits of both factors.
    """

    num_params: int
    macs: int
    weight_bits: int
    bops: int

    def to_dict(self) -> dict[str, int]:
        """Return the JSON form."""
        return asdict(self)


def measure(network: Network) -> Complexity:
    """Count a network's parameters and operations on one picture."""
    pixels = _output_pixels(network)
    classifier, bits = network.classifier, network.bits
    rows = [
        (_num_weights(module), pixels[module], module.weight_bits, module.reads_bits)
        for module in network.modules()
        if isinstance(module, ConvBN)
    ]
    rows.append((classifier.weight.numel(), 1, bits["classifier"], bits["features"]))
    norms = sum(2 * module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    return Complexity(
        num_params=norms + sum(weights for weights, *_ in rows),
        macs=sum(weights * num_pixels for weights, num_pixels, *_ in rows),
        weight_bits=sum(weights * bits for weights, _, bits, _ in rows),
        bops=sum(weights * num_pixels * bits * reads for weights, num_pixels, bits, reads in rows),
    )


def _num_weights(module: ConvBN) -> int:
    return module.conv.weight.numel() if module.mask is None else int(module.mask.sum().item())


@torch.no_grad()
def _output_pixels(network: Network) -> dict[ConvBN, int]:
    pixels: dict[ConvBN, int] = {}

    def note(module: ConvBN, _inputs: object, output: torch.Tensor) -> None:
        pixels[module] = output.shape[2] * output.shape[3]

    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, ConvBN)]
    was_training = network.training
    network.eval()(torch.zeros(1, *network.genotype.input_shape))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return pixels
