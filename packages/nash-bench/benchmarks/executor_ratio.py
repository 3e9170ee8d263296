"""How much faster than qonnx's executor is evaluation, on the same samples, and are the predictions the same?

    python benchmarks/executor_ratio.py MODEL.json [--dataset cifar10 --data DIR] [--samples 64] [--batch-size 64]

Runs the whole test split through onnxruntime, and evenly spread samples of it through qonnx (node by node as it is
meant to be used, one picture at a time). Prints pictures a second of both, the ratio, how many predictions of the
samples are equal, and the largest difference of a logit.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np

from nash_bench.base import manifest
from nash_bench.data import datasets as data
from nash_bench.measure.convert import read_onnx
from nash_bench.measure.execute import Reference, Runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    model = manifest.load(options.model, "model")
    network = read_onnx(manifest.resolve(options.model, model["onnx"]["path"], model["onnx"]["sha256"]))
    scale = model["input"]["scale"]
    _, channels, height, width = model["input"]["shape"]
    preprocessing = data.Preprocessing(channels=channels, height=height, width=width)
    split = data.load(options.dataset, "test", preprocessing, data_dir=options.data)

    start = time.perf_counter()
    runtime = Runtime(network, scale=scale)
    load_seconds = time.perf_counter() - start
    runtime(split.images[np.arange(options.batch_size)])  # warm-up
    predictions, seconds = [], 0.0
    for images, _ in split.batches(options.batch_size):
        start = time.perf_counter()
        logits = runtime(images)
        seconds += time.perf_counter() - start
        predictions.append(logits.argmax(axis=1))
    fps = len(split) / seconds

    reference = Reference(network, scale=scale)
    indices = np.linspace(0, len(split) - 1, options.samples).astype(np.int64)
    pixels = split.images[indices]
    start = time.perf_counter()
    expected = reference(pixels)
    reference_fps = len(pixels) / (time.perf_counter() - start)
    num_equal = int((np.concatenate(predictions)[indices] == expected.argmax(axis=1)).sum())
    difference = np.abs(runtime(pixels) - expected).max()

    print(f"model        {model['name']}, input {channels}x{height}x{width}, {split.name}")
    print(f"qonnx        {reference_fps:10.2f} pictures/s over {len(pixels)} pictures")
    print(f"onnxruntime  {fps:10.2f} pictures/s over {len(split)} pictures, batch {options.batch_size}")
    print(f"ratio        {fps / reference_fps:10.1f}")
    print(f"conversion   {load_seconds:10.2f} s, once a model")
    print(f"predictions  {num_equal} of {len(pixels)} equal; logits differ by at most {difference:.2g}")


if __name__ == "__main__":
    main()
