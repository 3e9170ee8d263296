"""What the positions are worth at which calibration looks: all of them, or every n-th; top-1 on the test split.

    python benchmarks/calibration.py GENOTYPE.json --data DIR [--pictures 10000] [--epochs 8] [--seeds 3]

A float network is trained per seed (recipe `cifar`). Then scales are set on 512 pictures: by `scales.best_scale`,
and by the same search over 65,536 values at a fixed stride, which maps of 2^n pixels turn into one column. `w8a2` is
tested as it is then, the others after 200 quantized steps. DIR has the layout of an image folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import folders
import numpy as np
import torch
from torch import Tensor

from nash_qat import recipe
from nash_qat.base import manifest
from nash_qat.data.datasets import Split
from nash_qat.network import genotype, weights
from nash_qat.quant import presets, quantizers, scales
from nash_qat.train import runs, selection
from nash_qat.train import trainer as train

CASES = {"w8a2": 0, "w2a2": 200, "w3a3": 200}  # quantized steps behind the calibration
NUM_STRIDED = 1 << 16
BATCH = 128


def strided_scale(terms: Sequence[Tensor], low: int, high: int) -> float:
    """Return the best scale of values at a fixed stride."""
    values = torch.cat([term.flatten() for term in terms])
    return whole_scale([values[:: max(len(values) // NUM_STRIDED, 1)]], low, high)


whole_scale: Callable[[Sequence[Tensor], int, int], float] = scales.best_scale


@contextmanager
def looking(way: str) -> Iterator[None]:
    """Let calibration look at the values a way names."""
    with mock.patch.object(quantizers, "best_scale", strided_scale if way == "strided" else whole_scale):
        yield


class Bench:
    """The data and the float networks."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.path, self.folder, self.float_epochs = arguments.genotype, folder, arguments.epochs
        self.genotype = genotype.load(self.path)
        whole = folders.load("train", self.genotype, arguments.data)
        order = folders.shuffled(whole)
        self.train = folders.part(whole, order[: arguments.pictures])
        self.watched = folders.part(whole, order[-1000:])
        self.test = folders.load("test", self.genotype, arguments.data)

    def trainer(self, preset: str, seed: int, num_quantized: int, train_split: Split) -> train.Trainer:
        """Return a run that has `float_epochs` float ones before `num_quantized` others."""
        settings = runs.Settings(
            genotype_sha256=manifest.file_sha256(self.path),
            quantization=dataclasses.replace(presets.preset(preset), weight_scale="statistics"),
            dataset="imagefolder",
            recipe_name="cifar",
            recipe=dataclasses.replace(recipe.load("cifar"), batch_size=BATCH),
            epochs=self.float_epochs + num_quantized,
            float_epochs=self.float_epochs,
            seed=seed,
        )
        inputs = train.Inputs(train=train_split, validation=self.watched, test=self.test)
        return train.Trainer(self.genotype, settings, inputs, Path(tempfile.mkdtemp(dir=self.folder)))

    def float_weights(self, seed: int) -> weights.Weights:
        """Train the float network of a seed."""
        trainer = self.trainer("w8a8", seed, 1, self.train)
        trainer.start(self.path)
        trainer.train()
        return weights.read(trainer._out / runs.FLOAT, self.genotype)

    def top1(self, preset: str, seed: int, floats: weights.Weights, num_steps: int) -> float:
        """Return the accuracy after calibration and `num_steps` steps."""
        steps = max(num_steps, 1)
        few = folders.part(self.train, np.arange(min(steps * BATCH, len(self.train))))
        epochs = -(-steps * BATCH // len(few))
        trainer = self.trainer(preset, seed, epochs, few)
        weights.load_all(trainer.network, floats)
        trainer.state.epoch = self.float_epochs
        trainer.start(self.path)
        if num_steps:
            trainer.train()
        else:
            trainer._begin_quantized()
        return selection.top1(trainer.network, self.test)


def main() -> None:
    """Train, calibrate in both ways, print."""
    parser = argparse.ArgumentParser(description="Which values should calibration look at?")
    parser.add_argument("genotype", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    top1: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        for seed in range(arguments.seeds):
            floats = bench.float_weights(seed)
            for preset, num_steps in CASES.items():
                for way in ("strided", "whole"):
                    with looking(way):
                        value = bench.top1(preset, seed, floats, num_steps)
                    top1.setdefault((preset, way), []).append(value)
                    print(f"seed {seed} {preset} {way}: {value:.2f} %", flush=True)
    for (preset, way), values in top1.items():
        print(f"{preset} {way}: {statistics.mean(values):.2f} % ({', '.join(f'{value:.2f}' for value in values)})")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
