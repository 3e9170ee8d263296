"""One's own float CNN as a backbone and its weights: read, matched, cut into cells, and compared with the original.

Shapes: pictures (B, C, H, W), logits (B, K). Weights have the names that nash-qat gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base import manifest
from ..base.errors import ManifestError, UsageError, VerificationError
from ..data import datasets as data
from ..genotype import genotype
from ..genotype.genotype import Genotype
from ..supernet.network import FloatNetwork
from . import cutting, graph_onnx, graph_torch, matching
from .graphs import Graph
from .matching import Chain, Convolution

TOLERANCE = 1e-5  # of the largest logit, or of 1
_EPS = 1e-5  # what a batch normalization of ours adds to a variance
_NUM_COMPARED, _NUM_MEASURED = 2, 32


def run(
    source: str,
    out: Path,
    weights: Path,
    *,
    state: Path | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the backbone of a network and its weights, and return what was found.

    mean, std: of the pixels it was trained on, a value a channel; they are folded into the stem, which then reads
        pixels in [0, 1]. Without them it reads what the original does.
    dataset: whose training pictures give batch normalizations their statistics where the file has them folded into
        convolutions; None takes noise. It changes no logit.

    Raises:
        UnsupportedError: the network cannot be expressed; the text names the node.
        VerificationError: its logits are not the original's to 1e-5 of the largest.
        IntegrityError, UsageError, DataError: the source, or an option, cannot be used.
    """
    graph = _read(source, state=state, input_size=input_size)
    chain = matching.match(graph)
    found = cutting.genotype_of(graph, chain)
    problems = genotype.check(found)
    if problems:
        raise ManifestError(f"{source}: {' | '.join(problems[:3])}; report the network")
    tensors, folded = weights_of(chain)
    difference = compare(found, tensors, graph, seed=seed)
    if mean is not None or std is not None:
        tensors = normalized(tensors, mean or (), std or (), channels=found.input.channels)
    if folded:
        _measure_statistics(found, tensors, folded, _pictures(found, dataset, data_dir, seed))
    with manifest.atomic_path(weights) as temporary:  # they take their place once the genotype has taken its own
        _write_weights(temporary, tensors, graph.source if source.endswith(".onnx") else source)
        genotype.save(found, out)
    return {
        "genotype": str(out),
        "weights": str(weights),
        "name": found.name,
        "num_layers": 1 + sum(len(cell.layers) for cell in found.cells),
        "num_params": sum(tensor.numel() for name, tensor in tensors.items() if ".running_" not in name),
        "num_folded": len(folded),
        "max_difference": difference,
    }


def _read(source: str, *, state: Path | None, input_size: int | None) -> Graph:
    if source.startswith(graph_torch.PREFIX):
        return graph_torch.read(source, state=state, input_size=input_size)
    if not source.endswith(".onnx"):
        raise UsageError(f"SOURCE: got '{source}', expected {graph_torch.PREFIX}NAME or a file (.onnx)")
    if state is not None:
        raise UsageError(f"--state: got {state} beside {source}, which has weights of its own; leave it out")
    return graph_onnx.read(Path(source), input_size=input_size)


def weights_of(chain: Chain) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a chain by name, and the convolutions into which their normalization was folded."""
    tensors: dict[str, Tensor] = {}
    folded = []
    for place, state in zip(cutting.places(chain.states), chain.states, strict=True):
        main = place if place == "stem" else f"{place}.main"
        terms = {main: state.main} | ({} if state.projection is None else {f"{place}.residual": state.projection})
        for name, convolution in terms.items():
            tensors |= _conv_bn(name, convolution)
            folded += [name] if convolution.norm is None else []
    tensors |= {f"classifier.{key}": tensor.float() for key, tensor in chain.classifier.tensors.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, folded


def _conv_bn(name: str, convolution: Convolution) -> dict[str, Tensor]:
    """Return the tensors of a convolution and its batch normalization, in whose mean the bias of the former goes.

    Where there is none, it is one that adds the bias and does nothing else.
    """
    count, norm = convolution.channels, convolution.norm
    bias = torch.zeros(count, dtype=torch.float64) if convolution.bias is None else convolution.bias.double()
    if norm is None:
        values = {"weight": torch.ones(count), "bias": bias, "running_mean": torch.zeros(count)}
        values["running_var"] = torch.full((count,), 1 - _EPS, dtype=torch.float64)
    else:
        own = {"weight": torch.ones(count), "bias": torch.zeros(count), **norm.tensors}
        values = {key: own[key].double() for key in ("weight", "bias", "running_mean", "running_var")}
        values["running_mean"] = values["running_mean"] - bias
        values["running_var"] = values["running_var"] + (norm.attributes["eps"] - _EPS)
    return {f"{name}.conv.weight": convolution.weight.float()} | {
        f"{name}.bn.{key}": value.float() for key, value in values.items()
    }


def network_of(found: Genotype, tensors: Mapping[str, Tensor]) -> FloatNetwork:
    """Return the float network with these weights, ready for evaluation."""
    with torch.device("meta"):
        network = FloatNetwork(found)
    state = {}
    for name in network.state_dict():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
        else:
            state[name] = tensors[_name_in_file(name)]
    network.load_state_dict(state, assign=True)
    return network.eval()


def _name_in_file(name: str) -> str:
    """Return what a tensor of the float network is called in a file of weights.

    >>> _name_in_file("stem.0.weight"), _name_in_file("cells.1.0.projection.1.bias"), _name_in_file("classifier.bias")
    ('stem.conv.weight', 'cells.1.layers.0.residual.bn.bias', 'classifier.bias')
    """
    parts = name.split(".")
    if parts[0] == "classifier":
        return name
    module = {"0": "conv", "1": "bn"}[parts[-2]]
    if parts[0] == "stem":
        return f"stem.{module}.{parts[-1]}"
    term = {"conv": "main", "projection": "residual"}[parts[3]]
    return f"cells.{parts[1]}.layers.{parts[2]}.{term}.{module}.{parts[-1]}"


def compare(found: Genotype, tensors: Mapping[str, Tensor], graph: Graph, *, seed: int) -> float:
    """Return the largest difference between the logits of two random pictures and the original's.

    Raises:
        VerificationError: it is more than 1e-5 of the largest logit.
    """
    pictures = torch.rand(_NUM_COMPARED, *graph.shape, generator=torch.Generator().manual_seed(seed))
    expected = graph.run(pictures)
    with torch.no_grad():
        logits = network_of(found, tensors)(pictures)
    if logits.shape != expected.shape:
        raise VerificationError(f"{graph.source}: got logits {tuple(logits.shape)}, expected {tuple(expected.shape)}")
    difference, largest = float((logits - expected).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise VerificationError(
            f"{graph.source}: got logits {difference:.3g} off the original's, expected {TOLERANCE:g} of the largest "
            f"({largest:.3g}); report the network"
        )
    return difference


def normalized(
    tensors: Mapping[str, Tensor], mean: Sequence[float], std: Sequence[float], *, channels: int
) -> dict[str, Tensor]:
    """Return tensors whose stem reads pixels x in [0, 1] where the original reads (x - mean) / std.

    conv(W, (x - mean) / std) = conv(W / std, x) - sum W mean / std, wherever no padding enters: the original pads with
    the mean colour, this one with black.

    Raises:
        UsageError: not a value a channel of each, or a std that is not positive.
    """
    if len(mean) != channels or len(std) != channels or min(std, default=0) <= 0:
        got = f"{len(mean)} and {len(std)} values"
        raise UsageError(f"--mean, --std: got {got}, expected {channels} positive ones of each, a channel each")
    scaled = tensors["stem.conv.weight"].double() / torch.tensor(std, dtype=torch.float64)[:, None, None]
    shift = (scaled.sum((2, 3)) * torch.tensor(mean, dtype=torch.float64)).sum(1)
    running_mean = tensors["stem.bn.running_mean"].double() + shift
    return {**tensors, "stem.conv.weight": scaled.float(), "stem.bn.running_mean": running_mean.float()}


def _pictures(found: Genotype, dataset: str | None, data_dir: Path | None, seed: int) -> Tensor:
    """Return pictures (B, C, H, W) in [0, 1]: of a dataset's training split, or noise."""
    shape = found.input
    if dataset is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(_NUM_MEASURED, shape.channels, shape.height, shape.width, generator=generator)
    preprocessing = data.Preprocessing(channels=shape.channels, height=shape.height, width=shape.width)
    split = data.load(dataset, "train", preprocessing, data_dir=data_dir)
    chosen = np.random.default_rng(seed).permutation(len(split))[:_NUM_MEASURED]
    return torch.from_numpy(split.images[np.sort(chosen)]).float() / 255


@torch.no_grad()
def _measure_statistics(found: Genotype, tensors: dict[str, Tensor], folded: Sequence[str], pictures: Tensor) -> None:
    """Give batch normalizations that only add a bias the statistics of pictures, and what undoes them.

    With mean m and variance v, gamma sqrt(v + eps) and beta b + m compute what b did: a network that is trained on, and
    normalizes by its batches, then begins near where it was.
    """
    network, wanted = network_of(found, tensors), set(folded)
    with ExitStack() as stack:
        for name, norm in _norms(network):
            if name in wanted:
                stack.callback(norm.register_forward_pre_hook(_hook(name, tensors)).remove)
        network(pictures)


def _norms(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield _name_in_file(f"{name}.weight").removesuffix(".bn.weight"), module


def _hook(name: str, tensors: dict[str, Tensor]) -> Any:
    def measure(_norm: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].double()
        var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        old_bias = tensors[f"{name}.bn.bias"].double()
        old_mean = tensors[f"{name}.bn.running_mean"].double()  # of the stem, where a mean colour was folded in
        var = torch.where(var > _EPS**2, var, torch.ones_like(var))
        new = {"weight": (var + _EPS).sqrt(), "bias": old_bias + mean - old_mean, "running_mean": mean}
        new["running_var"] = var
        for key, value in new.items():
            tensors[f"{name}.bn.{key}"] = value.float()

    return measure


def _write_weights(path: Path, tensors: Mapping[str, Tensor], source: str) -> None:
    from safetensors.torch import save

    path.write_bytes(save(dict(tensors), metadata={"source": Path(source).name}))
