"""Time and memory of one iteration (alpha step and weight step) against the reference algorithm, with their ratios.

    python benchmarks/iteration.py [--width 16] [--batch-size 32] [--repeats 7] [--threads 1]

Each way runs in a process of its own. Time is the shortest of the repeats, which other load disturbs least; with one
thread it is that of the processor. Memory is by how much the process grows beyond what it holds before its first
iteration (Linux).

The reference algorithm is that of `reference.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import reference
import torch
from torch import Tensor

from nash_search import data, recipe, zoo
from nash_search.search import Search
from nash_search.settings import Settings

REFERENCE = "reference"


def search(width: int, gradient: str, stem: int) -> Callable[[Tensor, Tensor], None]:
    """Return a function that trains alphas and weights once on a batch, as `nash-search run` does."""
    backbone = zoo.build("resnet18", width=width)
    backbone = replace(backbone, stem=replace(backbone.stem, kernel=stem, stride=1 if stem == 3 else 2))
    settings = Settings(
        backbone=backbone,
        variant="v1",
        dataset="cifar10",
        recipe=recipe.load("paper"),
        gradient=gradient,
        seed=0,
        threads=torch.get_num_threads(),
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
    """The shortest time of a call, and the growth of the process."""

    seconds: float
    megabytes: float


def measure(way: str, width: int, batch_size: int, repeats: int, threads: int) -> Measured:
    """Measure one way in this process, which should be fresh."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, y = torch.rand(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    if way != REFERENCE:
        x = x.contiguous(memory_format=torch.channels_last)
    run = reference.Search(width) if way == REFERENCE else search(width, way)
    clock = time.process_time if threads == 1 else time.perf_counter
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, times = _status("VmRSS"), []
    for _ in range(repeats + 1):
        started = clock()
        run(x, y)
        times.append(clock() - started)
    return Measured(min(times[1:]), _status("VmHWM") - before)


def _status(key: str) -> float:
    """Return a figure of /proc/self/status in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def main() -> None:
    """Print a line a way, with the ratios to the reference algorithm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = vars(parser.parse_args())
    print("resnet18 v1, width {width}, batch {batch_size}, {threads} threads".format(**options))
    base: Measured | None = None
    for way in (REFERENCE, "two-path", "full"):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(measure, way, **options).result()
        base = base or found
        print(
            f"{way:9}  {1e3 * found.seconds:7.0f} ms, {base.seconds / found.seconds:.1f} times as fast; "
            f"{found.megabytes:5.0f} MB, {100 * found.megabytes / base.megabytes:.0f} %"
        )


if __name__ == "__main__":
    main()
