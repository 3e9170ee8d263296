"""How well a short training of networks of one cost foretells the order of a long one.

    python benchmarks/finish.py --data CIFAR --out DIR [--networks 16] [--size 16] [--epochs 16] [--short 1 2 4]
        [--long-epochs 8]

CIFAR is an image folder with train/ and test/. A search (ResNet8 v3, recipe quick) trains a supernet; a network with a
conv_3x3 beside the second layer of each cell, and random ones of as many weights within 5 %, are trained along their
paths, each

- short: on the weight half, from the weights of the supernet and from those that it began with, and not at all (0
  epochs of the supernet's), scored by the loss on the alpha half, as the finish does;
- long: from other initial weights in another order, scored by the loss on pictures of the test split.

Printed is how far the short scores order the networks as the long ones do: Spearman's and Kendall's correlation, and
the mean rank in the long order of the quarter that the short scores put first. What is done stands in
DIR/scores.jsonl and is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau, rankdata, spearmanr

from nash_search.base.interrupt import Stop
from nash_search.base.progress import Reporter
from nash_search.cost import uniform
from nash_search.data import datasets as data
from nash_search.genotype import zoo
from nash_search.genotype.genotype import Genotype, NasOp
from nash_search.search import batches, candidates, checkpoint, recipe
from nash_search.search.scoring import Trial, trained_loss
from nash_search.search.search import Search
from nash_search.search.settings import Settings
from nash_search.supernet import allocator


def searched(options: argparse.Namespace, split: data.Split, seed: int) -> Search:
    """Return a search before its first step."""
    settings = Settings(
        backbone=zoo.build("resnet8", width=options.width, input_size=options.size),
        variant="v3",
        dataset="imagefolder",
        recipe=replace(recipe.load("quick", epochs=options.epochs), checkpoint_steps=10**6),
        gradient="swap",
        seed=seed,
        threads=1,
        num_images=options.num_images,
    )
    return Search(settings, split, options.out / "search")


def trained(options: argparse.Namespace, split: data.Split) -> Search:
    """Return a finished search, from its checkpoint if there is one."""
    search = searched(options, split, seed=0)
    saved = checkpoint.read(search.out)
    if saved is not None:
        search.restore(saved)
    with Reporter(search.num_steps, search.step) as reporter:
        search.train(Stop(), reporter)
    return search


def trial_of(search: Search, **changes: object) -> Trial:
    """Return what the networks of a search are held against each other with."""
    trial = Trial(
        supernet=search.supernet,
        weight_half=search.weight_half,
        alpha_half=search.alpha_half,
        batch_size=search.batch_size,
        recipe=search.settings.recipe.weights,
        first_epoch=search.settings.recipe.epochs,
    )
    return replace(trial, **changes)


def ways(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Return what the networks go through, in order: where from, and for how many epochs."""
    short = [(way, epochs) for epochs in options.short for way in ("supernet", "scratch")]
    return [("long", options.long_epochs), ("supernet", 0), *short]


def networks_of(options: argparse.Namespace, search: Search) -> list[Genotype]:
    """Return the networks to compare."""
    backbone, variant = search.supernet.backbone, search.supernet.variant
    op = NasOp(op="conv_3x3", input=1)
    like = backbone.with_nas_ops([None, op] * len(backbone.cells))
    weights = candidates.yardstick(None, like, variant)
    found = [like, *candidates.random_like(like, variant, weights, count=options.networks - 1, seed=0)]
    for number, network in enumerate(found):
        print(f"{number}: {uniform.kept(network)}, {weights.of(network, variant):,.0f} weights", flush=True)
    return found


def report(options: argparse.Namespace, known: Mapping[str, float], num_networks: int) -> Iterator[str]:
    """Yield a line a way that all networks have gone through: how far its order is that of the long trainings."""
    (long, long_epochs), *short = ways(options)
    target = np.array([known[f"{number} {long} {long_epochs}"] for number in range(num_networks)])
    order = rankdata(target)
    yield f"{num_networks} networks, {long_epochs} epochs: loss {target.mean():.3f} +- {target.std(ddof=1):.3f}"
    for way, epochs in short:
        names = [f"{number} {way} {epochs}" for number in range(num_networks)]
        if not all(name in known for name in names):
            continue
        losses = np.array([known[name] for name in names])
        first = order[np.argsort(losses)[: max(1, num_networks // 4)]].mean()
        spearman, kendall = spearmanr(losses, target).statistic, kendalltau(losses, target).statistic
        yield (
            f"{way}, {epochs} epochs: Spearman {spearman:.2f}, Kendall {kendall:.2f}, "
            f"best quarter's mean rank {first:.1f} (by chance {(num_networks + 1) / 2:.1f})"
        )


def main() -> None:
    """Score what is not scored yet and print the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("networks", 16), ("size", 16), ("width", 8), ("num-images", 4000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--epochs", type=int, default=16, help="of the search")
    parser.add_argument("--short", type=int, nargs="+", default=[1, 2, 4], help="epochs of the short trainings")
    parser.add_argument("--long-epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_freed()
    preprocessing = data.Preprocessing(channels=3, height=options.size, width=options.size)
    train, test = (data.load("imagefolder", name, preprocessing, data_dir=options.data) for name in ("train", "test"))
    search = trained(options, train)
    seen, _ = batches.halve(test, search.settings.recipe.augmentation_of("imagefolder"), seed=0, num_images=4000)
    begun = trial_of(search, supernet=searched(options, train, seed=0).supernet)
    long = replace(begun, supernet=searched(options, train, seed=1).supernet, alpha_half=seen, first_epoch=1000)
    trials = {"supernet": trial_of(search), "scratch": begun, "long": long}
    file = options.out / "scores.jsonl"
    known = dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}
    networks = networks_of(options, search)
    for way, epochs in ways(options):
        for number, network in enumerate(networks):
            name, trial = f"{number} {way} {epochs}", trials[way]
            if name not in known:
                known[name] = trained_loss(trial, trial.supernet.path_of(network), epochs, Stop())
                with file.open("a") as lines:
                    lines.write(json.dumps([name, known[name]]) + "\n")
    print("\n".join(report(options, known, len(networks))))


if __name__ == "__main__":
    main()
