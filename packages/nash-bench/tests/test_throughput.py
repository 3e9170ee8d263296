from __future__ import annotations

import numpy as np
import pytest

from nash_bench.measure import throughput
from nash_bench.measure.throughput import describe_environment, measure_latency, measure_throughput

BATCH = np.zeros((4, 1, 2, 2), dtype=np.uint8)


class Clock:
    """A clock that each run of a batch moves on by the next of the given times."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = iter(seconds)
        self.now = 0.0

    def run(self, batch: np.ndarray) -> None:
        assert batch is BATCH
        self.now += next(self._seconds)


def measure(monkeypatch: pytest.MonkeyPatch, seconds: list[float], num_repeats: int) -> throughput.CpuThroughput:
    clock = Clock(seconds)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock.now)
    return measure_throughput(clock.run, BATCH, num_threads=2, num_repeats=num_repeats)


def test_median_and_spread_without_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(monkeypatch, [9.0, 9.0, 1.0, 0.5, 2.0, 0.8, 4.0], num_repeats=5)
    assert found.throughput_fps == pytest.approx(4)
    assert (found.min_fps, found.max_fps) == (pytest.approx(1), pytest.approx(8))
    assert found.iqr_fps == pytest.approx(5 - 2)
    assert (found.batch_size, found.num_threads, found.num_repeats) == (4, 2, 5)


def test_short_batches_are_timed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(monkeypatch, [0.05] * (2 + 3 * 5), num_repeats=3)  # 4 batches fill 0.2 s, one more is safe
    assert found.throughput_fps == pytest.approx(80)
    assert found.iqr_fps == pytest.approx(0, abs=1e-9)


def test_environment_names_no_machine() -> None:
    import platform

    environment = describe_environment(2, 4)
    assert (environment["num_threads"], environment["num_cores"]) == (2, 4)
    assert {"cpu", "python", "numpy", "onnx", "onnxruntime", "qonnx"} <= set(environment)
    assert platform.node() not in map(str, environment.values())


@pytest.mark.parametrize(
    ("seconds", "num_runs", "p99"), [(0.005, 200, pytest.approx(5000)), (0.1, 30, None), (1e-6, 1000, pytest.approx(1))]
)
def test_latency_is_of_runs_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch, seconds: float, num_runs: int, p99: object
) -> None:
    clock = Clock([9.0] * 4 + [seconds] * (1 + num_runs))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock.now)
    found = measure_latency(clock.run, BATCH)
    assert found["latency_p50_us"] == pytest.approx(1e6 * seconds, rel=1e-4)
    assert (found["latency_num_runs"], found["latency_p99_us"]) == (num_runs, p99)
