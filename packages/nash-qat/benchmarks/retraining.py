"""Retrain one network at several bit widths from the same float weights, with several seeds; top-1 on the test split.

    python benchmarks/retraining.py GENOTYPE.json --data DIR --out FOLDER [--presets w4a4 w3a3 w2a2] [--seeds 0 1 2]
        [--pictures 20000 10000] [--epochs 10 6] [--recipe cifar] [--label now]

DIR has the layout of an image folder: train/CLASS/picture.jpg and test/ or val/. Float epochs take the first of the two
`--pictures` of a seeded order, quantized ones the second; 1,000 other training pictures are there to watch, and the
test split is read once, behind the last step. FOLDER keeps the float weights of every seed and a line of results.jsonl
for every run that is done: stopped, the same command goes on with the next one. To compare two versions of the package,
give each a --label and let them share FOLDER.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folders
import torch

from nash_qat import recipe
from nash_qat.base import manifest
from nash_qat.network import genotype, weights
from nash_qat.quant import presets
from nash_qat.train import runs, selection
from nash_qat.train import trainer as train

NUM_WATCHED = 1000


class Bench:
    """The data, the network and the budget of all runs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.path, self.out = arguments.genotype, arguments.out
        self.label, self.recipe_name = arguments.label, arguments.recipe
        self.num_float, self.num_quantized = arguments.epochs
        self.genotype = genotype.load(self.path)
        whole = folders.load("train", self.genotype, arguments.data)
        order = folders.shuffled(whole)
        most = max(arguments.pictures)
        watched = folders.part(whole, order[most : most + NUM_WATCHED])
        self.test = folders.load("test", self.genotype, arguments.data)
        self.float_inputs, self.quantized_inputs = (
            train.Inputs(train=folders.part(whole, order[:number]), validation=watched, test=self.test)
            for number in arguments.pictures
        )

    def _settings(self, spec: presets.QuantizationSpec, seed: int, epochs: int, float_epochs: int) -> runs.Settings:
        return runs.Settings(
            genotype_sha256=manifest.file_sha256(self.path),
            quantization=spec,
            dataset="imagefolder",
            recipe_name=self.recipe_name,
            recipe=recipe.load(self.recipe_name),
            epochs=epochs,
            float_epochs=float_epochs,
            seed=seed,
        )

    def float_weights(self, seed: int) -> Path:
        """Return the float weights of a seed, trained on the first call."""
        path = self.out / f"float-{seed}.safetensors"
        if not path.exists():
            # one quantized epoch stands behind them, which a run must have and nobody waits for
            settings = self._settings(presets.preset("w8a8"), seed, self.num_float + 1, self.num_float)
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                trainer = train.Trainer(self.genotype, settings, self.float_inputs, run)
                trainer.start(self.path)
                trainer.train()
                (run / runs.FLOAT).rename(path)
        return path

    def retrain(self, preset: str, seed: int) -> dict[str, Any]:
        """Train the quantized epochs of a run and return its line of results.jsonl."""
        start = time.monotonic()
        floats = weights.read(self.float_weights(seed), self.genotype)
        settings = self._settings(presets.preset(preset), seed, self.num_float + self.num_quantized, self.num_float)
        with tempfile.TemporaryDirectory() as folder:
            trainer = train.Trainer(self.genotype, settings, self.quantized_inputs, Path(folder) / "run")
            weights.load_all(trainer.network, floats)
            trainer.state.epoch = self.num_float  # as if this run had trained them
            trainer.start(self.path)
            trainer.train()
            losses = [round(entry["loss"], 4) for entry in trainer.state.history]
            top1 = selection.top1(trainer.network, self.test)
        seconds = round(time.monotonic() - start)
        return {"label": self.label, "preset": preset, "seed": seed, "top1": top1, "losses": losses, "seconds": seconds}


def results(path: Path) -> list[dict[str, Any]]:
    """Return the lines of results.jsonl."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def summary(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield mean and standard deviation of every label and preset."""
    groups: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        groups.setdefault((line["preset"], line["label"]), []).append(line["top1"])
    for (preset, label), values in sorted(groups.items()):
        spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        yield f"{preset} {label}: top1 {statistics.mean(values):.2f}{spread} % ({len(values)} seeds)"


def main() -> None:
    """Run what is left to run and print the summary."""
    parser = argparse.ArgumentParser(description="Accuracy of retraining at several bit widths.")
    parser.add_argument("genotype", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--label", default="now")
    parser.add_argument("--presets", nargs="+", default=["w4a4", "w3a3", "w2a2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, nargs=2, default=[20_000, 10_000])
    parser.add_argument("--epochs", type=int, nargs=2, default=[10, 6])
    parser.add_argument("--recipe", default="cifar")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path, bench = arguments.out / "results.jsonl", Bench(arguments)
    done = {(line["label"], line["preset"], line["seed"]) for line in results(path)}
    for seed in arguments.seeds:
        for preset in arguments.presets:
            if (arguments.label, preset, seed) not in done:
                line = bench.retrain(preset, seed)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)
    print(*summary(results(path)), sep="\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
