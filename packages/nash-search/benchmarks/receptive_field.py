"""Search on a task that only a 5x5 receptive field solves, once a seed, and print what is found.

    python benchmarks/receptive_field.py [--seeds 10]

Pictures are random black and white pixels that repeat every three pixels: along the rows in one class, along the
columns in the other. The nine pixels of a 3x3 window are independent in both, so only a wider one can tell them
apart. The backbone sees single pixels (1x1 convolutions) and has one place for one operation.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nash_search.base.interrupt import Stop
from nash_search.base.progress import Reporter
from nash_search.data.datasets import Split
from nash_search.genotype.genotype import Cell, Genotype, Input, Layer, NasOp, Stem
from nash_search.search import recipe
from nash_search.search.search import Search
from nash_search.search.settings import Settings

_SIDE, _PERIOD = 12, 3


def pictures(num_images: int) -> Split:
    """Return so many pictures of the task, half of them of either class."""
    labels = np.arange(num_images) % 2
    strips = np.random.default_rng(0).integers(0, 2, (num_images, 1, _SIDE, _PERIOD), dtype=np.uint8) * 255
    images = np.tile(strips, _SIDE // _PERIOD)
    images[labels == 1] = images[labels == 1].swapaxes(2, 3)
    return Split(name="periodic", images=images, labels=labels.astype(np.int64), class_names=("rows", "columns"))


def backbone() -> Genotype:
    """Return a network of 1x1 convolutions with one layer for one operation."""
    return Genotype(
        name="pixels",
        num_classes=2,
        input=Input(channels=1, height=_SIDE, width=_SIDE),
        stem=Stem(channels=8, kernel=1, stride=1, max_pool=False),
        cells=(Cell(in_channels=8, layers=(Layer(kernel=1, channels=8, stride=1),)),),
    )


def found(seed: int, out: Path, primitives: tuple[str, ...] | None = None) -> tuple[NasOp, float]:
    """Return the operation that a search of 192 steps finds, and the accuracy (percent) it ends at."""
    quick = recipe.load("quick", epochs=12)
    settings = Settings(
        backbone=backbone(),
        variant="v1",
        dataset="digits",  # its augmentation: none
        recipe=replace(quick, batch_size=32, checkpoint_steps=10**6),
        gradient="two-path",
        seed=seed,
        threads=1,
        primitives=primitives,
    )
    search = Search(settings, pictures(1024), out)
    with Reporter(search.num_steps, 0) as reporter:
        search.train(Stop(), reporter)
    return search.genotype().cells[0].layers[0].nas_op, search.history[-1]["accuracy"]


def main() -> None:
    """Print a line a seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    num_found = 0
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            nas_op, accuracy = found(seed, Path(folder))
        num_found += nas_op.op == "conv_5x5"
        print(f"seed {seed}: {nas_op.op}, probability {nas_op.probability:.2f}, accuracy {accuracy:.1f} %")
    print(f"conv_5x5 found in {num_found} of {arguments.seeds} seeds")


if __name__ == "__main__":
    main()
