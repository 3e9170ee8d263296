"""Time a training step of the float network, of stock Brevitas and of the fused quantizers, beside each other.

    python benchmarks/step.py GENOTYPE.json... [--preset w4a4] [--batch-size 64] [--repeats 15] [--rows float trainer]
    python benchmarks/step.py GENOTYPE.json --rows trainer compiled --beside other/packages/nash-qat/src

All take turns, so that other work on the machine meets all of them; the medians are printed. `float` is made of
torch's own layers, with one ReLU an activation; `brevitas` and `fused` are the quantized network; all are channels last
and take the same Adam step. `trainer` is the step that `nash-qat train` takes, with a gradient clipped and an average
of the weights, `compiled` the same with --compile, `after` what of it comes after the two passes (clipping, Adam,
constraints, average). --beside takes turns with the same row of another version of the sources, in a process of its
own. With one thread it is processor time that counts, else the clock's.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from nash_qat import recipe
from nash_qat.data import datasets as data
from nash_qat.export import files as export
from nash_qat.network import calibrate, genotype
from nash_qat.network.network import Network
from nash_qat.quant import layers, presets, quantizers
from nash_qat.train import runs
from nash_qat.train import trainer as train

ROWS = ("float", "brevitas", "fused", "trainer", "after", "compiled")
now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter


class Timed(Protocol):
    """What has a training step."""

    def step_seconds(self) -> float:
        """Take a step and return its time."""


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
        start = now()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(self.x), self.labels).backward()
        self.optimizer.step()
        return now() - start


class TrainerStepper:
    """The step of `nash-qat train`."""

    def __init__(self, tree: genotype.Genotype, preset: str, batch_size: int, *, is_compiled: bool = False) -> None:
        pictures = calibrate.noise_pictures(batch_size, tree.input_shape, seed=1).numpy()
        labels = np.arange(batch_size, dtype=np.int64) % tree.num_classes
        names = tuple(map(str, range(tree.num_classes)))
        split = data.Split(name="train", images=pictures, labels=labels, class_names=names)
        plan = dataclasses.replace(
            recipe.load("quick"),
            batch_size=batch_size,
            ema_decay=0.999,
            learning_rate=1e-4,
            augmentation={"default": recipe.Augmentation()},
        )
        settings = runs.Settings(
            genotype_sha256="",
            quantization=presets.preset(preset),
            dataset="noise",
            recipe_name="quick",
            recipe=plan,
            epochs=1,
            float_epochs=0,
            seed=0,
            **({"is_compiled": True} if is_compiled else {}),  # which an older version does not know
        )
        self.trainer = train.Trainer(tree, settings, train.Inputs(train=split, test=split), Path())
        calibrate.calibrate(self.trainer.network, torch.from_numpy(pictures))
        self.trainer.state.is_calibrated = True
        self.trainer.network.train()
        self.batch = self.trainer._batch(np.arange(batch_size), 0, 0)

    def step_seconds(self) -> float:
        """Take a step and return its time."""
        start = now()
        self.trainer._train_step(self.batch)
        return now() - start


class AfterPasses(TrainerStepper):
    """What the step does after the forward and the backward pass."""

    def step_seconds(self) -> float:
        """Take a step and return the time of what follows its backward pass."""
        ends: list[float] = []
        first = self.trainer.network.stem.conv.weight  # whose gradient comes last
        hook = first.register_post_accumulate_grad_hook(lambda _parameter: ends.append(now()))
        self.trainer._train_step(self.batch)
        hook.remove()
        return now() - ends[-1]


class Elsewhere:
    """A row of another version of the sources, in a process of its own."""

    def __init__(self, source: Path, path: Path, row: str, preset: str, batch_size: int) -> None:
        command = [sys.executable, __file__, str(path), "--preset", preset, "--batch-size", str(batch_size)]
        command += ["--rows", row, "--serve"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source)},
        )

    def step_seconds(self) -> float:
        """Take a step and return its time."""
        print("step", file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(stepper: Timed) -> None:
    """Take a step and print its time for every line on stdin."""
    for _line in sys.stdin:
        print(stepper.step_seconds(), flush=True)


def steppers(path: Path, rows: list[str], preset: str, batch_size: int) -> dict[str, Timed]:
    """Return what is to be timed, by row."""
    tree = genotype.load(path)
    network = export.untrained(tree, presets.preset(preset), seed=0)
    x = calibrate.to_input(calibrate.noise_pictures(batch_size, tree.input_shape, seed=1))
    labels = torch.arange(batch_size) % tree.num_classes
    made = {
        "float": lambda: Stepper(float_network(network), "float", x, labels),
        "brevitas": lambda: Stepper(copy.deepcopy(network), "brevitas", x, labels),
        "fused": lambda: Stepper(copy.deepcopy(network), "fused", x, labels),
        "trainer": lambda: TrainerStepper(tree, preset, batch_size),
        "after": lambda: AfterPasses(tree, preset, batch_size),
        "compiled": lambda: TrainerStepper(tree, preset, batch_size, is_compiled=True),
    }
    return {row: made[row]() for row in rows}


def measure(timed: dict[str, Timed], repeats: int) -> str:
    """Return the medians, and in brackets how many times that of the first row each is."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for round_number in range(repeats + 2):  # the first two warm up
        for name, stepper in timed.items():
            seconds = stepper.step_seconds()
            if round_number >= 2:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    return ", ".join(f"{name} {1e3 * median:.1f} ms ({median / first:.2f})" for name, median in medians.items())


def main() -> None:
    """Measure the networks of the command line."""
    parser = argparse.ArgumentParser(description="Time a training step.")
    parser.add_argument("genotypes", type=Path, nargs="+")
    parser.add_argument("--preset", default="w4a4")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["float", "brevitas", "fused"])
    parser.add_argument("--beside", type=Path, help="sources of another version")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    preset, batch_size = arguments.preset, arguments.batch_size
    if arguments.serve:
        serve(*steppers(arguments.genotypes[0], arguments.rows, preset, batch_size).values())
        return
    for path in arguments.genotypes:
        others = {}
        if arguments.beside:
            rows = [row for row in arguments.rows if row in ("trainer", "after")]
            others = {f"{row} beside": Elsewhere(arguments.beside, path, row, preset, batch_size) for row in rows}
        timed = others | steppers(path, arguments.rows, preset, batch_size)
        text = measure(timed, arguments.repeats)
        print(f"{path.stem} {preset}, batch {batch_size}, {torch.get_num_threads()} threads: {text}", flush=True)
        for other in others.values():
            other.end()


if __name__ == "__main__":
    main()
