"""torchvision's ResNets in this package's names, the normalization of their pictures folded into the first layer.

torchvision's networks read (x - mean) / std where ours read pixels x in [0, 1]. For a convolution W and its batch
normalization (mu, var) that is exact wherever no padding enters: W / std has the channels' scales, and mu moves by
sum W mean / std. At the border it is not: torchvision pads with the mean colour, ours with black.
Shapes: weights (O, I, kH, kW); features (N, C).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..base.errors import IntegrityError, UsageError
from ..quant import quantizers
from .genotype import Genotype

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_NUM_NAMED = 6
_RIDGE = 0.1  # of the mean square of a feature


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What a network reads: (x - mean) / std of pixels x in [0, 1], a value a channel.

    Raises:
        UsageError: not as many of one as of the other, or one that no pixel in [0, 1] has.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UsageError(f"--init-mean: got {len(self.mean)} values, expected {len(self.std)} as --init-std has")
        for option, values, lowest in (("--init-mean", self.mean, 0.0), ("--init-std", self.std, 1e-3)):
            for value in values:
                if not lowest <= value <= 1:
                    raise UsageError(f"{option}: got {value:g}, expected {lowest:g} to 1, as pixels lie in [0, 1]")


IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # of torchvision's weights


def is_known(names: Iterable[str]) -> bool:
    """Say whether tensors have the names of a ResNet of torchvision."""
    return {"conv1.weight", "layer1.0.conv1.weight"} <= set(names)


def renamed(found: dict[str, Tensor], genotype: Genotype, path: Path) -> dict[str, Tensor]:
    """Return a torchvision ResNet's tensors, but for the classifier's bias, in this package's names.

    Its blocks are the genotype's, in order; NAS operations have no counterpart.

    Raises:
        IntegrityError: the genotype is no chain of such blocks, a tensor is missing, or one has no place.
    """
    names = _names(genotype, path)
    unplaced = [name for name in found if name not in names and not name.endswith((".num_batches_tracked", "fc.bias"))]
    problems = [f"{theirs}: is missing, expected for {ours}" for theirs, ours in names.items() if theirs not in found]
    problems += [f"{name}: has no place in the genotype" for name in unplaced]
    if problems:
        more = f" (and {len(problems) - _NUM_NAMED} more)" if len(problems) > _NUM_NAMED else ""
        raise IntegrityError(
            f"{path}: {' | '.join(problems[:_NUM_NAMED])}{more}; take the genotype of the same network: torchvision's "
            "are the backbones resnet18-tv, resnet34-tv and resnet50"
        )
    return {ours: found[theirs] for theirs, ours in names.items()}


def _names(genotype: Genotype, path: Path) -> dict[str, str]:
    """Return this package's names by torchvision's, where a block that projects its residual opens the next stage."""
    names = {"conv1.weight": "stem.conv.weight", "fc.weight": "classifier.weight", **_batch_norm("bn1", "stem.bn")}
    stage, index = 1, -1
    for layers, projects in _blocks(genotype, path):
        stage, index = (stage + 1, 0) if projects and index >= 0 else (stage, index + 1)
        block = f"layer{stage}.{index}"
        for number, layer in enumerate(layers, 1):
            names[f"{block}.conv{number}.weight"] = f"{layer}.main.conv.weight"
            names |= _batch_norm(f"{block}.bn{number}", f"{layer}.main.bn")
        if projects:
            names[f"{block}.downsample.0.weight"] = f"{layers[-1]}.residual.conv.weight"
            names |= _batch_norm(f"{block}.downsample.1", f"{layers[-1]}.residual.bn")
    return names


def _batch_norm(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{key}": f"{ours}.{key}" for key in _BATCH_NORM}


def _blocks(genotype: Genotype, path: Path) -> list[tuple[list[str], bool]]:
    """Return the layers of every residual block, and whether its residual is projected."""
    blocks = []
    for c, cell in enumerate(genotype.cells):
        start = 0
        for number, layer in enumerate(cell.layers, 1):
            if layer.residual_from == start:
                blocks.append(([f"cells.{c}.layers.{index}" for index in range(start, number)], layer.projection))
                start = number
        if start != len(cell.layers):
            raise IntegrityError(
                f"{path}: got the tensors of a ResNet, expected {genotype.name}'s: its cells[{c}].layers[{start}] "
                "belongs to no residual block; take a genotype of residual blocks"
            )
    return blocks


def fold(tensors: dict[str, Tensor], normalization: Normalization) -> dict[str, Tensor]:
    """Return tensors whose stem reads pixels in [0, 1] instead of normalized ones.

    Raises:
        UsageError: the normalization has another number of channels than the stem.
    """
    weight = tensors["stem.conv.weight"].double()
    if weight.shape[1] != len(normalization.mean):
        raise UsageError(
            f"--init-mean: got {len(normalization.mean)} values, expected {weight.shape[1]}, a channel of conv1 each"
        )
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (normalization.mean, normalization.std))
    scaled = weight / std[:, None, None]
    shift = (scaled.sum((2, 3)) * mean).sum(1)  # conv(W, (x - mean) / std) = conv(W / std, x) - shift
    return {
        **tensors,
        "stem.conv.weight": scaled.float(),
        "stem.bn.running_mean": (tensors["stem.bn.running_mean"].double() + shift).float(),
    }


@torch.no_grad()
def carry_bias(network: nn.Module, bias: Tensor, x: Tensor) -> None:
    """Let a classifier without bias stand for one with it: W + bias u, where u f is 1 as nearly as can be.

    u is the least-square answer over the features f of pictures x (N, C, H, W) in [0, 1], a little drawn to zero, as
    pictures may be fewer than features, and scaled so that the mean logits of x are exactly those with the bias.
    """
    found: list[Tensor] = []
    hook = network.classifier.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    mode, was_training = network.classifier.mode, network.training
    quantizers.set_mode(network.eval(), "float")
    for part in x.split(64):
        network(part)
    hook.remove()
    quantizers.set_mode(network.train(was_training), mode)
    features = torch.cat(found).double()
    moments = features.T @ features / len(features)
    moments.diagonal().add_(_RIDGE * moments.diagonal().mean() + 1e-12)
    direction = torch.linalg.solve(moments, features.mean(0))
    direction /= (features @ direction).mean().clamp_min(1e-12)
    network.classifier.weight += (bias.to(direction)[:, None] * direction).to(network.classifier.weight)
