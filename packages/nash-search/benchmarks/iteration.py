"""Time and memory of one iteration (alpha step and weight step) against the reference algorithm, with their ratios.

    python benchmarks/iteration.py [--width 16] [--batch-size 32] [--stem 3] [--rounds 3] [--repeats 12] [--threads 2]
                                   [--ways "edge, two-path" "layer, two-path"]

ResNet18 v1 on 32 x 32 pictures; `reference.py` is the reference algorithm. Each way runs in a process of its own, the
ways in turn, for several rounds. Time is the median of all repeats (which operations an iteration samples makes a
difference), beside it the shortest; with one thread it is that of the processor. Memory is by how much the
process grows beyond what it holds before its first iteration (Linux), the largest of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import reference
import torch
from torch import Tensor

from nash_search.data import datasets as data
from nash_search.genotype import zoo
from nash_search.search import recipe
from nash_search.search.search import Search
from nash_search.search.settings import Settings
from nash_search.supernet import allocator

REFERENCE = "reference"
WAYS = {  # relaxation, gradient of the alphas, precision, and preset
    REFERENCE: None,
    "edge, two-path": ("edge", "two-path", "mixed", None),
    "edge, two-path, float32": ("edge", "two-path", "float32", None),
    "edge, full": ("edge", "full", "mixed", None),
    "layer, two-path": ("layer", "two-path", "mixed", None),
    "layer, swap": ("layer", "swap", "mixed", None),
    "layer, swap, w4a4": ("layer", "swap", "mixed", "w4a4"),
    "layer, swap, v3": ("layer", "swap", "mixed", "v3"),
    "edge, two-path, w4a4": ("edge", "two-path", "mixed", "w4a4"),
}


def search(
    width: int, stem: int, relaxation: str, gradient: str, precision: str, preset: str | None
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that trains alphas and weights once on a batch, as `nash-search run` does."""
    backbone = zoo.build("resnet18", width=width)
    backbone = replace(backbone, stem=replace(backbone.stem, kernel=stem, stride=1 if stem == 3 else 2))
    settings = Settings(
        backbone=backbone,
        variant="v1",
        dataset="cifar10",
        recipe=recipe.load("paper"),
        relaxation=relaxation,
        gradient=gradient,
        seed=0,
        threads=torch.get_num_threads(),
        precision=precision,
        preset=preset,
    )
    images, labels = np.zeros((128, 3, 32, 32), np.uint8), np.arange(128) % 10
    blank = data.Split(name="blank", images=images, labels=labels, class_names=tuple("abcdefghij"))
    begun = Search(settings, blank, Path())  # nothing is written before `save`

    def run(x: Tensor, y: Tensor) -> None:
        begun.architecture_step(x, y)
        begun.weight_step(x, y)
        begun.step += 1

    return run


@dataclass(frozen=True)
class Measured:
    """The times of some calls, and the growth of the process."""

    seconds: list[float]
    megabytes: float


def measure(way: str, width: int, stem: int, batch_size: int, repeats: int, threads: int) -> Measured:
    """Measure one way in this process, which should be fresh."""
    torch.set_num_threads(threads)
    allocator.keep_freed()  # all ways, though the search alone does so of itself
    torch.manual_seed(0)
    x, y = torch.rand(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    if way == REFERENCE:
        run = reference.Search(width, stem)
    else:
        x, run = x.contiguous(memory_format=torch.channels_last), search(width, stem, *WAYS[way])
    clock = time.process_time if threads == 1 else time.perf_counter
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, times = _status("VmRSS"), []
    for _ in range(repeats + 2):
        started = clock()
        run(x, y)
        times.append(clock() - started)
    return Measured(times[2:], _status("VmHWM") - before)


def _status(key: str) -> float:
    """Return a figure of /proc/self/status in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def main() -> None:
    """Print a line a way, with the ratios to the first of them, the reference algorithm unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--stem", type=int, choices=(3, 7), default=3, help="its kernel; 7 has stride 2")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    options = vars(parser.parse_args())
    print("resnet18 v1, width {width}, {stem}x{stem} stem, batch {batch_size}, {threads} threads".format(**options))
    rounds, ways = options.pop("rounds"), options.pop("ways")
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found[way].append(pool.submit(measure, way, **options).result())
    base: tuple[float, float, float] | None = None
    for way, measured in found.items():
        seconds = [second for one in measured for second in one.seconds]
        figures = median(seconds), min(seconds), max(one.megabytes for one in measured)
        base = base or figures
        print(
            f"{way:23}  median {1e3 * figures[0]:6.0f} ms, {base[0] / figures[0]:.2f} times as fast; "
            f"shortest {1e3 * figures[1]:6.0f} ms, {base[1] / figures[1]:.2f}; "
            f"{figures[2]:5.0f} MB, {100 * figures[2] / base[2]:.0f} %"
        )


if __name__ == "__main__":
    main()
