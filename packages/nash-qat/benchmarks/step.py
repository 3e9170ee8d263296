"""Time a training step of the float network, of stock Brevitas and of the fused quantizers, beside each other.

    python benchmarks/step.py GENOTYPE.json... [--preset w4a4] [--batch-size 64] [--repeats 15]

The three take turns, so that other work on the machine meets all of them; the medians are printed. The float network
is made of torch's own layers, with one ReLU an activation. All are channels last and take the same Adam step.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from nash_qat import calibrate, export, genotype, layers, presets, quantizers
from nash_qat.network import Network


class Add(nn.Module):
    """The sum that a join is without its quantizer."""

    def forward(self, *terms: torch.Tensor) -> torch.Tensor:
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def float_network(network: Network) -> nn.Module:
    """Return the network in torch's own layers."""
    plain = copy.deepcopy(network)
    for name, module in network.named_modules():
        replacement = float_layer(name, module)
        if replacement is not None:
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, replacement)
    return plain


def float_layer(name: str, module: nn.Module) -> nn.Module | None:
    """Return torch's layer for a quantized one."""
    match module:
        case layers.Conv2d():
            sizes = (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding)
            return nn.Conv2d(*sizes, groups=module.groups, bias=False)
        case layers.Linear():
            return nn.Linear(module.in_features, module.out_features, bias=False)
        case layers.Signed():
            return Add()
        case layers.ReLU():
            return nn.Identity() if name.endswith("coarse") else nn.ReLU()
        case layers.Pixels():
            return nn.Identity()
    return None


class Stepper:
    """A network that is trained step by step on one batch."""

    def __init__(self, network: nn.Module, mode: layers.Mode, x: torch.Tensor, labels: torch.Tensor) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()
        quantizers.set_mode(self.network, mode)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.x, self.labels = x, labels

    def step_seconds(self) -> float:
        """Take a step and return its time."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(self.x), self.labels).backward()
        self.optimizer.step()
        return time.perf_counter() - start


def measure(path: Path, preset: str, batch_size: int, repeats: int) -> None:
    """Print the medians of one network."""
    tree = genotype.load(path)
    network = export.untrained(tree, presets.preset(preset), seed=0)
    x = calibrate.to_input(calibrate.noise_pictures(batch_size, tree.input_shape, seed=1))
    labels = torch.arange(batch_size) % tree.num_classes
    steppers = {
        "float": Stepper(float_network(network), "float", x, labels),
        "Brevitas": Stepper(copy.deepcopy(network), "brevitas", x, labels),
        "fused": Stepper(network, "fused", x, labels),
    }
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for round_number in range(repeats + 2):  # the first two warm up
        for name, stepper in steppers.items():
            seconds = stepper.step_seconds()
            if round_number >= 2:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    text = ", ".join(f"{name} {1e3 * m:.0f} ms ({m / medians['float']:.2f})" for name, m in medians.items())
    print(f"{path.stem} {preset}, batch {batch_size}, {torch.get_num_threads()} threads: {text}", flush=True)


def main() -> None:
    """Measure the networks of the command line."""
    parser = argparse.ArgumentParser(description="Time a training step.")
    parser.add_argument("genotypes", type=Path, nargs="+")
    parser.add_argument("--preset", default="w4a4")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    for path in arguments.genotypes:
        measure(path, arguments.preset, arguments.batch_size, arguments.repeats)


if __name__ == "__main__":
    main()
