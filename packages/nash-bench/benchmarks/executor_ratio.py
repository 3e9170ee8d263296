"""How much faster than qonnx's executor is evaluation, on the same samples, and are the predictions the same?

    python benchmarks/executor_ratio.py MODEL.json [--samples 64] [--batch-size 64] [--repeats 5]

Prints pictures a second of both (qonnx node by node as it is meant to be used, one picture at a time), the ratio, the
number of equal predictions and the largest difference of a logit. The pictures are the digits test split.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import numpy as np

from nash_bench import data, manifest
from nash_bench.convert import read_onnx
from nash_bench.execute import Reference, Runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    model = manifest.load(options.model, "model")
    network = read_onnx(manifest.resolve(options.model, model["onnx"]["path"], model["onnx"]["sha256"]))
    scale = model["input"]["scale"]
    _, channels, height, width = model["input"]["shape"]
    split = data.load("digits", "test", data.Preprocessing(channels=channels, height=height, width=width))
    pixels = split.images[np.arange(options.samples) % len(split)]

    start = time.perf_counter()
    runtime = Runtime(network, scale=scale)
    load_seconds = time.perf_counter() - start
    reference = Reference(network, scale=scale)
    runtime(pixels[: options.batch_size])  # warm-up
    seconds = [_timed(runtime, pixels, options.batch_size) for _ in range(options.repeats)]
    start = time.perf_counter()
    expected = reference(pixels)
    reference_fps = len(pixels) / (time.perf_counter() - start)

    logits = np.concatenate([part for _, part in _batches(runtime, pixels, options.batch_size)])
    fps = sorted(len(pixels) / value for value in seconds)
    median = statistics.median(fps)
    num_equal = int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum())
    print(f"model        {model['name']}, input {channels}x{height}x{width}, {len(pixels)} pictures")
    print(f"qonnx        {reference_fps:10.2f} pictures/s")
    print(f"onnxruntime  {median:10.2f} pictures/s ({fps[0]:.0f} to {fps[-1]:.0f}), batch {options.batch_size}")
    print(f"ratio        {median / reference_fps:10.1f}")
    print(f"conversion   {load_seconds:10.2f} s, once a model")
    difference = np.abs(logits - expected).max()
    print(f"predictions  {num_equal} of {len(pixels)} equal; logits differ by at most {difference:.2g}")


def _batches(runtime: Runtime, pixels: np.ndarray, batch_size: int) -> list[tuple[int, np.ndarray]]:
    return [(start, runtime(pixels[start : start + batch_size])) for start in range(0, len(pixels), batch_size)]


def _timed(runtime: Runtime, pixels: np.ndarray, batch_size: int) -> float:
    start = time.perf_counter()
    _batches(runtime, pixels, batch_size)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
