from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from nash_bench.compare.families import dominated
from nash_bench.records.collect import Row, collect
from nash_bench.records.facts import RESOURCES, Accuracy, Hardware, Identity
from nash_bench.records.record import Record
from nash_bench.stats.pareto import hypervolume, pareto_front


def dominates(a: list[float], b: list[float], maximize: list[bool]) -> bool:
    gains = [(x - y) if up else (y - x) for x, y, up in zip(a, b, maximize, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


@pytest.mark.parametrize("seed", range(60))
def test_front_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_axes = int(rng.integers(1, 5))
    maximize = rng.integers(0, 2, num_axes).astype(bool).tolist()
    points = rng.integers(0, 6 if seed % 2 else 1000, (int(rng.integers(0, 60)), num_axes)).astype(float).tolist()
    expected = [k for k, point in enumerate(points) if not any(dominates(q, point, maximize) for q in points)]
    assert pareto_front(points, maximize=maximize) == expected


def test_equal_points_keep_each_other() -> None:
    assert pareto_front([(1, 1), (1, 1), (0, 0)], maximize=(True, True)) == [0, 1]


def test_no_points_have_no_front() -> None:
    assert pareto_front([], maximize=(True,)) == []


def test_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        pareto_front([(1, float("nan"))], maximize=(True, True))


def test_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        pareto_front([(1, 2, 3)], maximize=(True, True))


@pytest.mark.parametrize("seed", range(60))
def test_hypervolume_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maximize = tuple(rng.integers(0, 2, 2).astype(bool).tolist())
    points = rng.integers(-3, 13, (int(rng.integers(0, 20)), 2)).tolist()
    reference = tuple(rng.integers(-2, 12, 2).tolist())
    gains = [[(p - r) if up else (r - p) for p, r, up in zip(q, reference, maximize, strict=True)] for q in points]
    expected = sum(any(x < a and y < b for a, b in gains) for x in range(16) for y in range(16))  # unit squares
    assert hypervolume(points, reference=reference, maximize=maximize) == expected


def test_hypervolume_of_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        hypervolume([(1, float("nan"))], reference=(0, 0), maximize=(True, True))


def test_report_states_the_reference_point_of_its_hypervolumes(run_folder: Path) -> None:
    rows = collect([run_folder]).rows
    found = dominated(rows, "LUT")  # 20,000 to 41,500 LUT, 88 to 95.5 %
    assert (found.reference_top1, found.reference_figure) == (87.0, pytest.approx(45_650))
    assert found.area["baseline"] == pytest.approx((88 - 87) * 25_650 + (94 - 88) * 5_650)
    assert found.area["nash"] == pytest.approx((90 - 87) * 24_150 + (95.5 - 90) * 4_150)
    assert found.share["nash"] == pytest.approx(found.area["nash"] / (8.5 * 25_650))
    assert dominated(rows, "FF") is None


def _rows(points: list[tuple[bool, float, float]], board: float = 100_000) -> list[Row]:
    """Return rows of (is baseline, top-1, LUT) of ten classes."""
    rows = []
    for index, (is_baseline, top1, luts) in enumerate(points):
        figures = dict.fromkeys(RESOURCES, 1.0) | {"LUT": luts}
        hardware = Hardware(
            origin="estimated",
            board="U250",
            clock_mhz=200,
            throughput_fps=1000,
            latency_us=10,
            utilization={"LUT": luts / board},
            **figures,
        )
        record = Record(
            identity=Identity(name="net", model_sha256="0" * 64, variant=None if is_baseline else "v3"),
            accuracy=Accuracy(dataset="digits", split="test", num_samples=100, top1=top1),
            hardware=hardware,
        )
        genotype = {"num_classes": 10}
        rows.append(Row(label=str(index), record=record, genotype=genotype, accuracy_source=None, folder=str(index)))
    return rows


def test_added_volume_depends_on_no_other_network() -> None:
    plain, nash = [(True, 80.0, 20_000), (True, 90.0, 50_000)], [(False, 85.0, 25_000)]
    found = dominated(_rows([*plain, *nash]), "LUT").added
    own = 70 * math.log(5) + 10 * math.log(2)
    assert found == pytest.approx(5 * math.log(4 / 2) / own)
    useless = [(True, 10.5, 99_000), (True, 12.0, 90_000)]
    assert dominated(_rows([*plain, *nash, *useless]), "LUT").added == pytest.approx(found)
    assert dominated(_rows([*plain, (False, 79.0, 30_000)]), "LUT").added == 0.0
    assert dominated(_rows(plain), "LUT").added is None
