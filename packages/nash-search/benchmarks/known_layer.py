"""Search on a task that one operation of one state beside one layer solves, once a seed, and print what is found.

    python benchmarks/known_layer.py [--seeds 10] [--relaxation layer] [--gradient swap] [--preset w4a1]

Pictures have two channels of random black and white pixels; in each of them they repeat every three pixels, along the
rows or along the columns, which makes four classes. Only a 5x5 window sees that (`receptive_field.py` has one channel
and one place). The backbone sees single pixels: three layers of 1x1 convolutions, the first two of one channel, so
that binary convolutions read one bit a pixel of states 1 and 2, and of state 0 all. The four classes are told apart
by conv_5x5 of state 0 beside layer 3, one of 10 options there. conv_5x5 beside the other layers, or of the other
states, solves a part: trained alone, 192 steps, such networks end at 71 and 76 %, the right one at 93 %. In a quantized
supernet states 1 and 2 have one bit a pixel with a preset wNa1; with more, they hold both bits of state 0.
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
PRIMITIVES = ("none", "skip_connect", "conv_3x3", "conv_5x5")
LAYER, SOLUTION = 3, ("conv_5x5", 0)


def pictures(num_images: int) -> Split:
    """Return so many pictures of the task, a quarter of them of each class."""
    labels = np.arange(num_images) % 4
    strips = np.random.default_rng(0).integers(0, 2, (num_images, 2, _SIDE, _PERIOD), dtype=np.uint8) * 255
    images = np.tile(strips, _SIDE // _PERIOD)
    for channel in (0, 1):
        turned = labels >> channel & 1 == 1
        images[turned, channel] = images[turned, channel].swapaxes(1, 2)
    names = tuple(f"{one}, {other}" for other in ("rows", "columns") for one in ("rows", "columns"))
    return Split(name="periodic", images=images, labels=labels.astype(np.int64), class_names=names)


def backbone() -> Genotype:
    """Return a network of three layers of 1x1 convolutions, the first two of one channel."""
    layers = [Layer(kernel=1, channels=channels, stride=1) for channels in (1, 1, 16)]
    return Genotype(
        name="pixels",
        num_classes=4,
        input=Input(channels=2, height=_SIDE, width=_SIDE),
        stem=Stem(channels=8, kernel=1, stride=1, max_pool=False),
        cells=(Cell(in_channels=8, layers=tuple(layers)),),
    )


def begun(
    seed: int,
    out: Path,
    *,
    relaxation: str = "layer",
    gradient: str = "swap",
    epochs: int = 40,
    warmup: int = 10,
    **changes: object,
) -> Search:
    """Return a search before its first step; further keyword arguments are settings."""
    quick = recipe.load("quick", epochs=epochs)
    settings = Settings(
        backbone=backbone(),
        variant="v1",
        dataset="digits",  # its augmentation: none
        recipe=replace(quick, batch_size=32, warmup_epochs=warmup, checkpoint_steps=10**6),
        relaxation=relaxation,
        gradient=gradient,
        seed=seed,
        threads=1,
        primitives=PRIMITIVES,
    )
    return Search(replace(settings, **changes), pictures(2048), out)


def found(seed: int, out: Path, **options: object) -> tuple[Genotype, float]:
    """Return the genotype that a search finds, and its accuracy (percent) in the supernet."""
    search = begun(seed, out, **options)
    with Reporter(search.num_steps, 0, is_silent=True) as reporter:
        search.train(Stop(), reporter)
    return search.genotype(), search.history[-1]["accuracy"]


def is_solved(genotype: Genotype) -> bool:
    """Return whether the layer that matters has the operation that solves the task."""
    return _named(genotype.cells[0].layers[LAYER - 1].nas_op) == SOLUTION


def _named(nas_op: NasOp | None) -> tuple[str, int] | None:
    return None if nas_op is None else (nas_op.op, nas_op.input)


def main() -> None:
    """Print a line a seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--relaxation", choices=("layer", "edge"), default="layer")
    parser.add_argument("--gradient", choices=("two-path", "full", "swap"), default="swap")
    parser.add_argument("--preset", help="of a quantized supernet, such as w4a1")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=10, help="epochs in which the weights train alone")
    options = vars(parser.parse_args())
    torch.set_num_threads(1)
    num_seeds, num_solved = options.pop("seeds"), 0
    for seed in range(num_seeds):
        with tempfile.TemporaryDirectory() as folder:
            genotype, accuracy = found(seed, Path(folder), **options)
        num_solved += is_solved(genotype)
        kept = [_named(layer.nas_op) for layer in genotype.cells[0].layers]
        print(f"seed {seed}: {kept}, accuracy {accuracy:.1f} %", flush=True)
    op, state = SOLUTION
    print(f"{op} of state {state} beside layer {LAYER} found in {num_solved} of {num_seeds} seeds")


if __name__ == "__main__":
    main()
