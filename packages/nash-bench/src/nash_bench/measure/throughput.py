"""Measure frames a second and latency on the CPU, and describe the machine they were measured on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..records.facts import CpuThroughput

_NUM_WARMUP = 2
_MIN_SECONDS_A_REPEAT = 0.2
_MAX_BATCHES_A_REPEAT = 64
_NUM_LATENCY_WARMUP = 5
_LATENCY_SECONDS = 1.0
_MIN_LATENCY_RUNS, _MAX_LATENCY_RUNS = 30, 1000
_MIN_RUNS_OF_P99 = 100
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "qonnx")


def measure_throughput(
    run: Callable[[NDArray[np.uint8]], object], batch: NDArray[np.uint8], *, num_threads: int, num_repeats: int
) -> CpuThroughput:
    """Time `run` on a batch of pictures (B, C, H, W), from pixels to logits, after a warm-up.

    A repeat runs as many batches as fill at least 0.2 s; the median over the repeats is the figure.
    """
    seconds = min(_seconds(run, batch, 1) for _ in range(_NUM_WARMUP))
    num_batches = min(_MAX_BATCHES_A_REPEAT, max(1, round(_MIN_SECONDS_A_REPEAT / max(seconds, 1e-9) + 0.5)))
    fps = [num_batches * len(batch) / _seconds(run, batch, num_batches) for _ in range(num_repeats)]
    low, median, high = np.percentile(fps, (25, 50, 75)).tolist()
    return CpuThroughput(
        throughput_fps=median,
        batch_size=len(batch),
        num_threads=num_threads,
        num_repeats=num_repeats,
        min_fps=min(fps),
        max_fps=max(fps),
        iqr_fps=high - low,
    )


def measure_latency(run: Callable[[NDArray[np.uint8]], object], picture: NDArray[np.uint8]) -> dict[str, float | None]:
    """Time `run` on one picture (1, C, H, W) again and again, after a warm-up; the `latency_*` of a CpuThroughput.

    There are 30 to 1,000 runs, about a second of them; a 99th percentile of fewer than 100 is None.
    """
    seconds = min(_seconds(run, picture, 1) for _ in range(_NUM_LATENCY_WARMUP))
    num_runs = min(_MAX_LATENCY_RUNS, max(_MIN_LATENCY_RUNS, round(_LATENCY_SECONDS / max(seconds, 1e-9))))
    times = [1e6 * _seconds(run, picture, 1) for _ in range(num_runs)]
    p50, p99 = np.percentile(times, (50, 99)).tolist()
    return {
        "latency_p50_us": p50,
        "latency_p99_us": p99 if num_runs >= _MIN_RUNS_OF_P99 else None,
        "latency_num_runs": num_runs,
    }


def _seconds(run: Callable[[NDArray[np.uint8]], object], batch: NDArray[np.uint8], num_batches: int) -> float:
    start = time.perf_counter()
    for _ in range(num_batches):
        run(batch)
    return time.perf_counter() - start


def describe_environment(num_threads: int, num_cores: int) -> dict[str, object]:
    """Return the processor, system and versions a measurement belongs to; nothing names the machine or its user."""
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "num_cores": num_cores,
        "num_threads": num_threads,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        **{library: metadata.version(library) for library in _LIBRARIES},
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
