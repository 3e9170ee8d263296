"""How far searches agree on what they choose when nothing but the seed differs, and how well their gradients foretell.

    python benchmarks/agreement.py [--seeds 4] [--epochs 40] [--width 8] [--size 16] [--ways layer,swap,w4a4]

ResNet8 v3 on digits, recipe quick, or quick-quantized with a preset. The seed decides the halves of the data, the
weights, and every path. Printed are, a way (relaxation, gradient of the alphas, and preset, if any),

- agreement: of all pairs of seeds and all layers, how often both genotypes have the same operation of the same state,
  or both nothing; beside it, how often two would that draw their layers independently with the shares seen;
- signs: of the alphas' gradient of a batch, two options of a choice at a time, how often it has the better option rise:
  the one with the lower loss on the whole half of the alphas, all else on the path as it was. At the end of the search.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch
from torch.nn import functional as F

from nash_search.base.interrupt import Stop
from nash_search.base.progress import Reporter
from nash_search.data import datasets as data
from nash_search.genotype import zoo
from nash_search.genotype.genotype import Genotype
from nash_search.search import recipe
from nash_search.search.search import Search
from nash_search.search.settings import Settings
from nash_search.supernet.supernet import Path as SampledPath

WAYS = ("edge,two-path", "layer,two-path", "layer,swap")
_NUM_BATCHES = 8  # that signs are looked at on

Kept = tuple[str, int] | None


def search(way: str, seed: int, split: data.Split, epochs: int, width: int, out: Path) -> Search:
    """Return a finished search."""
    relaxation, gradient, *presets = way.split(",")
    preset = presets[0] if presets else None
    settings = Settings(
        backbone=zoo.build("resnet8", width=width, input_size=split.images.shape[2]),
        variant="v3",
        dataset="digits",
        recipe=replace(recipe.load(recipe.default(preset), epochs=epochs), checkpoint_steps=10**9),
        relaxation=relaxation,
        gradient=gradient,
        seed=seed,
        threads=1,
        preset=preset,
    )
    found = Search(settings, split, out)
    with Reporter(found.num_steps, 0, is_silent=True) as reporter:
        found.train(Stop(), reporter)
    return found


def kept(found: Genotype) -> list[Kept]:
    """Return what each layer has, in order."""
    ops = (layer.nas_op for cell in found.cells for layer in cell.layers)
    return [None if nas_op is None else (nas_op.op, nas_op.input) for nas_op in ops]


def agreement(found: Sequence[Sequence[Kept]]) -> tuple[float, float]:
    """Return the share of layers that two of the genotypes have in common, and the one expected by chance."""
    pairs = [one == other for a, b in combinations(found, 2) for one, other in zip(a, b, strict=True)]
    shares = [count / (len(found) * len(found[0])) for count in Counter(op for ops in found for op in ops).values()]
    return sum(pairs) / len(pairs), sum(share**2 for share in shares)


def signs(search: Search, seed: int) -> tuple[int, int]:
    """Return how many of the gradient's signs are right, of how many."""
    generator, architect, alpha = torch.Generator().manual_seed(seed), search.architect, search.supernet.alpha
    num_right = num_seen = 0
    for number in range(_NUM_BATCHES):
        path = architect.sample(generator)
        architect.accumulate(*search.alpha_half.batch(0, number % search.steps_per_epoch, search.batch_size), path)
        gradient = alpha.grad.clone()
        for row in range(len(alpha)) if path.rows is None else path.rows:
            one, other = path.wanted[row]
            if gradient[row, one] != 0:
                num_seen += 1
                num_right += bool(gradient[row, one] > 0) == (
                    _loss(search, path, row, one) > _loss(search, path, row, other)
                )
    return num_right, num_seen


@torch.no_grad()
def _loss(search: Search, path: SampledPath, row: int, option: int) -> float:
    active = list(path.active_index)
    active[row] = option
    with search.supernet.frozen():
        losses = [
            F.cross_entropy(search.supernet(x, SampledPath(active)), y, reduction="sum").item()
            for x, y in search.alpha_half.clean_batches(128)
        ]
    return sum(losses)


def main() -> None:
    """Print a line a search, and one a way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--ways", nargs="+", default=WAYS, help="relaxation,gradient[,preset]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = data.load("digits", "train", data.Preprocessing(channels=3, height=options.size, width=options.size))
    for way in options.ways:
        found, num_right, num_seen = [], 0, 0
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                done = search(way, seed, split, options.epochs, options.width, Path(folder))
            found.append(kept(done.genotype()))
            right, seen = signs(done, seed)
            num_right, num_seen = num_right + right, num_seen + seen
            accuracy, ops = done.history[-1]["accuracy"], [op and f"{op[0]} of {op[1]}" for op in found[-1]]
            print(f"{way}, seed {seed}: {accuracy:.1f} %, {ops}", flush=True)
        same, by_chance = agreement(found)
        print(
            f"{way}: agreement {same:.2f} (by chance {by_chance:.2f}), signs {num_right / num_seen:.2f} of {num_seen}"
        )


if __name__ == "__main__":
    main()
