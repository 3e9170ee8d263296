"""Train CIFAR-10 pictures with and without float epochs before the quantized ones, and with distillation from them.

    python benchmarks/pretraining.py GENOTYPE.json --data DIR [--pictures 5000] [--epochs 12] [--preset w2a2]

DIR has the layout of an image folder: train/CLASS/picture.png and val/ or test/. All ways train for as many epochs on
the first `--pictures` training pictures of a seeded order, and are tested on the first `--test-pictures`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

import folders
import torch

from nash_qat import recipe
from nash_qat.base import manifest
from nash_qat.network import genotype
from nash_qat.quant import presets
from nash_qat.train import runs, selection
from nash_qat.train import trainer as train

# float share of the epochs, the quantized ones' share of the learning rate, distillation
WAYS = {
    "quantized epochs only": (0.0, 1.0, 0.0),
    "float epochs first, then 0.3 of the rate": (0.5, 0.3, 0.0),
    "float epochs first, then the whole rate": (0.5, 1.0, 0.0),
    "the same with distillation": (0.5, 1.0, 0.5),
}


def accuracy(path: Path, settings: runs.Settings, inputs: train.Inputs) -> float:
    """Train a network and return its top1."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = train.Trainer(genotype.load(path), settings, inputs, Path(folder) / "run")
        trainer.start(path)
        trainer.train()
        return selection.top1(trainer.network, inputs.test)


def main() -> None:
    """Train every way with every seed and print means and spreads."""
    parser = argparse.ArgumentParser(description="Does float pretraining help, does distillation?")
    parser.add_argument("genotype", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--test-pictures", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="w2a2")
    arguments = parser.parse_args()
    tree, plan = genotype.load(arguments.genotype), recipe.load("cifar")
    splits = {}
    for name, number in (("train", arguments.pictures), ("test", arguments.test_pictures)):
        whole = folders.load(name, tree, arguments.data)
        splits[name] = folders.part(whole, folders.shuffled(whole)[:number])
    inputs = train.Inputs(train=splits["train"], test=splits["test"])
    for way, (float_fraction, factor, distill_weight) in WAYS.items():
        results = []
        for seed in range(arguments.seeds):
            settings = runs.Settings(
                genotype_sha256=manifest.file_sha256(arguments.genotype),
                quantization=presets.preset(arguments.preset),
                dataset="imagefolder",
                recipe_name="cifar",
                recipe=dataclasses.replace(
                    plan, fine_tuning_factor=factor, distill_weight=distill_weight, batch_size=arguments.batch_size
                ),
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
