"""Train CIFAR-10 pictures with and without float epochs before the quantized ones, and with distillation from them.

    python benchmarks/pretraining.py GENOTYPE.json --data DIR [--pictures 5000] [--epochs 12] [--preset w2a2]

DIR has the layout of an image folder: train/CLASS/picture.png and val/ or test/. All three ways train for as many
epochs on the first `--pictures` training pictures of a seeded order, and are tested on half as many test pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from nash_qat import evaluate, genotype, manifest, presets, recipe, runs, train
from nash_qat.data import Split

WAYS = {"quantized epochs only": (0.0, 0.0), "float epochs first": (0.5, 0.0), "and distillation": (0.5, 0.5)}


def few(split: Split, number: int) -> Split:
    """Return some pictures of a split."""
    chosen = np.random.default_rng(0).permutation(len(split))[:number]
    return dataclasses.replace(split, images=split.images[chosen], labels=split.labels[chosen])


def accuracy(path: Path, settings: runs.Settings, inputs: train.Inputs) -> float:
    """Train a network and return its top1."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = train.Trainer(genotype.load(path), settings, inputs, Path(folder) / "run")
        trainer.start(path)
        trainer.train()
        return train.top1(trainer.network, inputs.test)


def main() -> None:
    """Train every way with every seed and print means and spreads."""
    parser = argparse.ArgumentParser(description="Does float pretraining help, does distillation?")
    parser.add_argument("genotype", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="w2a2")
    arguments = parser.parse_args()
    tree, plan = genotype.load(arguments.genotype), recipe.load("cifar")
    splits = {
        name: few(
            evaluate.load_split("imagefolder", name, tree.input_shape, tree.num_classes, arguments.data),
            number,
        )
        for name, number in (("train", arguments.pictures), ("test", arguments.pictures // 2))
    }
    inputs = train.Inputs(train=splits["train"], test=splits["test"])
    for way, (float_fraction, distill_weight) in WAYS.items():
        results = []
        for seed in range(arguments.seeds):
            settings = runs.Settings(
                genotype_sha256=manifest.file_sha256(arguments.genotype),
                quantization=presets.preset(arguments.preset),
                dataset="imagefolder",
                recipe_name="cifar",
                recipe=dataclasses.replace(plan, distill_weight=distill_weight, batch_size=64),
                epochs=arguments.epochs,
                float_epochs=round(arguments.epochs * float_fraction),
                seed=seed,
            )
            results.append(accuracy(arguments.genotype, settings, inputs))
        spread = statistics.stdev(results) if len(results) > 1 else float("nan")
        each = ", ".join(f"{result:.2f}" for result in results)
        print(f"{way}: top1 {statistics.mean(results):.2f} +- {spread:.2f} % ({each})", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
