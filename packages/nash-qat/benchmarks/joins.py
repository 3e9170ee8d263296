"""Train networks with every kind of addition, with several seeds; top-1 on the test split and paired differences.

    python benchmarks/joins.py GENOTYPE.json... --data DIR --out FOLDER
        [--kinds quantized aligned:0 aligned:2 aligned:3 fused] [--preset w4a4] [--seeds 0 1 2]
        [--pictures 10000] [--epochs 10]

DIR has the layout of an image folder: train/CLASS/picture.jpg and test/ or val/. A kind is a word of the quantization's
`join`, and behind a colon its `join_shift`. All take the same pictures in the same order with the same budget and the
recipe `cifar`, all epochs quantized; 1,000 other training pictures are there to watch, and the test split is read once,
behind the last step. FOLDER keeps a line of results.jsonl for every run that is done: stopped, the same command goes on
with the next one. The interval of a difference is of the seeds' paired differences (Student's t, 95 %).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folders
import torch
from scipy import stats

from nash_qat import recipe
from nash_qat.base import manifest
from nash_qat.network import genotype
from nash_qat.quant import presets
from nash_qat.train import runs, selection
from nash_qat.train import trainer as train

NUM_WATCHED = 1000
REFERENCE = "quantized"


def quantization(preset: str, kind: str) -> presets.QuantizationSpec:
    """Return a preset with additions of a kind such as 'aligned:2'."""
    join, _, shift = kind.partition(":")
    spec = dataclasses.replace(presets.preset(preset), join=join)
    return dataclasses.replace(spec, join_shift=int(shift)) if shift else spec


def trained(path: Path, kind: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one network and return its line of results.jsonl."""
    start, tree = time.process_time(), genotype.load(path)
    whole = folders.load("train", tree, arguments.data)
    order = folders.shuffled(whole)
    number = arguments.pictures
    inputs = train.Inputs(
        train=folders.part(whole, order[:number]),
        validation=folders.part(whole, order[number : number + NUM_WATCHED]),
        test=folders.load("test", tree, arguments.data),
    )
    settings = runs.Settings(
        genotype_sha256=manifest.file_sha256(path),
        quantization=quantization(arguments.preset, kind),
        dataset="imagefolder",
        recipe_name="cifar",
        recipe=recipe.load("cifar"),
        epochs=arguments.epochs,
        float_epochs=0,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = train.Trainer(tree, settings, inputs, Path(folder) / "run")
        trainer.start(path)
        trainer.train()
        top1 = selection.top1(trainer.network, inputs.test)
        losses = [round(entry["loss"], 4) for entry in trainer.state.history]
    seconds = round(time.process_time() - start)
    return {"network": path.stem, "kind": kind, "seed": seed, "top1": top1, "losses": losses, "seconds": seconds}


def summary(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield mean and standard deviation of every network and kind, and its paired difference from the reference."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in lines:
        found.setdefault((line["network"], line["kind"]), {})[line["seed"]] = line["top1"]
    for (network, kind), by_seed in sorted(found.items()):
        values = list(by_seed.values())
        spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        text = f"{network} {kind}: top1 {statistics.mean(values):.2f}{spread} % ({len(values)} seeds)"
        reference = found.get((network, REFERENCE), {})
        gains = [by_seed[seed] - reference[seed] for seed in by_seed.keys() & reference.keys()]
        if kind != REFERENCE and len(gains) > 1:
            half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
            text += f", {statistics.mean(gains):+.2f} +- {half:.2f} to {REFERENCE}"
        yield text


def main() -> None:
    """Run what is left to run, one seed of all after the other, and print the summary."""
    parser = argparse.ArgumentParser(description="Accuracy of the kinds of additions.")
    parser.add_argument("genotypes", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["quantized", "aligned:0", "aligned:2", "aligned:3", "fused"])
    parser.add_argument("--preset", default="w4a4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    done = {(line["network"], line["kind"], line["seed"]) for line in lines}
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            for source in arguments.genotypes:
                if (source.stem, kind, seed) in done:
                    continue
                lines.append(trained(source, kind, seed, arguments))
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(json.dumps(lines[-1]), flush=True)
    for text in summary(lines):
        print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
