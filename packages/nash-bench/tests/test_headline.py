"""The verdict: intervals that hold what they promise, and no winner where chance or a missing rival could be it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from builders import Built, write_networks
from scipy import stats

from nash_bench.compare import headline
from nash_bench.compare.configurations import Configuration
from nash_bench.compare.equal_cost import gains_of
from nash_bench.compare.gains_text import verdict_line
from nash_bench.records.collect import collect
from nash_bench.report.files import write_report
from nash_bench.stats.uncertainty import Part, interval

SPREAD = np.sqrt(1.6**2 + 0.5**2 + 0.6**2)  # of what decides a picture: its own difficulty, a network's view of it


def _hits(rng: np.random.Generator, skill: float, difficulty: np.ndarray, num_seeds: int, noise: float) -> np.ndarray:
    """Return the hits (seeds, pictures) of one configuration whose seeds differ in skill by `noise`."""
    own = rng.normal(0, 0.5, difficulty.shape)
    each = rng.normal(0, noise, (num_seeds, 1)) + rng.normal(0, 0.6, (num_seeds, len(difficulty)))
    return skill + difficulty + own + each > 0


def _part(weight: float, hits: np.ndarray) -> Part:
    return Part(weight=weight, top1=tuple(100 * hits.mean(axis=1)), num_samples=hits.shape[1], hits=tuple(hits))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_interval_covers_the_truth(num_seeds: int, noise: float) -> None:
    rng, covered, num_cases = np.random.default_rng(num_seeds), 0, 1000
    skills, weights = (1.3, 1.0, 1.25), (1.0, -0.4, -0.6)
    rates = [100 * stats.norm.cdf(skill / np.hypot(SPREAD, noise)) for skill in skills]
    truth = float(np.dot(weights, rates))
    for _ in range(num_cases):
        difficulty = rng.normal(0, 1.6, 500)
        parts = [
            _part(weight, _hits(rng, skill, difficulty, num_seeds, noise))
            for weight, skill in zip(weights, skills, strict=True)
        ]
        found = interval(parts)
        covered += found.low <= truth <= found.high
    assert 930 <= covered <= 980


def test_pictures_that_are_not_known_to_be_shared_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 1.6, 2000)
    parts = [_part(weight, _hits(rng, 1.2, difficulty, 3, 0.05)) for weight in (1.0, -1.0)]
    apart = [dataclasses.replace(part, hits=None) for part in parts]
    shared, unknown = interval(parts), interval(apart)
    assert shared.value == pytest.approx(unknown.value)
    assert 1.5 * (shared.high - shared.low) < unknown.high - unknown.low


def test_one_seed_is_of_pictures_alone() -> None:
    hits = _hits(np.random.default_rng(0), 1.0, np.zeros(400), 1, 0.0)
    assert interval([_part(1.0, hits), _part(-1.0, ~hits)]).is_of_pictures_alone


LUTS = 1_728_000  # of the board
PLAIN: list[Built] = [
    (None, width, seed, top1 + seed / 5, share * LUTS)
    for width, top1, share in ((4, 80.0, 0.1), (8, 90.0, 0.3))
    for seed in (0, 1, 2)
]


def _verdicts(root: Path, networks: list[Built]) -> list[headline.Verdict]:
    write_networks(root, networks, accuracy={"top5": 100.0, "num_samples": 10_000}, resources={"FF": 50_000})
    return headline.verdicts(gains_of(collect([root])))


def _nash(top1: float, share: float, *, seeds: int = 3) -> list[Built]:
    return [("v3", 4, seed, top1 + seed / 5, share * LUTS) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("nash", "outcome", "gain"),
    [
        (_nash(88.0, 0.2), "wins", 3.0),
        (_nash(82.0, 0.2), "loses", -3.0),
        (_nash(85.2, 0.2), "draws", 0.2),
        (_nash(88.0, 0.4), "loses", -2.0),  # it takes more than every baseline, and the best of them is better
        (_nash(95.0, 0.4), "open", 5.0),  # it is better than a cheaper baseline, and a wider one was not measured
    ],
)
def test_verdict(tmp_path: Path, nash: list[Built], outcome: str, gain: float) -> None:
    (found,) = _verdicts(tmp_path, [*PLAIN, *nash])
    assert (found.outcome, found.num_configurations) == (outcome, 1)
    assert found.gain.value == pytest.approx(gain)
    assert (found.why == headline.DEARER) == (outcome == "open")


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    (found,) = _verdicts(tmp_path, [*PLAIN, *_nash(99.0, 0.2, seeds=1)])
    assert (found.outcome, found.why) == ("open", headline.ONE_SEED)
    assert verdict_line(found).startswith(
        "Open: NASH ahead by 13.80 points at equal use of the scarcest resource (95 %"
    )


def test_cheaper_than_every_baseline_is_no_rival(tmp_path: Path) -> None:
    assert _verdicts(tmp_path, [*PLAIN, *_nash(99.0, 0.05)]) == []


def test_each_seed_stands_against_the_rival_at_its_own_cost(tmp_path: Path) -> None:
    nash: list[Built] = [("v3", 4, 0, 83.0, 0.15 * LUTS), ("v3", 4, 1, 88.0, 0.25 * LUTS)]
    (found,) = _verdicts(tmp_path, [*PLAIN, *nash])
    rivals = [80.2 + 2.5, 80.2 + 7.5]
    assert found.gain.value == pytest.approx(np.mean([83.0 - rivals[0], 88.0 - rivals[1]]))
    spread = np.std([83.0 - rivals[0], 88.0 - rivals[1]], ddof=1)
    assert spread < 0.2 < np.std([83.0, 88.0], ddof=1)
    assert found.gain.high - found.gain.low < 2.5  # 38 with the seeds' own accuracies


def test_several_networks_are_judged_by_their_mean(tmp_path: Path) -> None:
    others: list[Built] = [("v4", 4, seed, 81.0 + seed / 5, 0.2 * LUTS) for seed in range(3)]
    (found,) = _verdicts(tmp_path, [*PLAIN, *_nash(88.0, 0.2), *others])
    assert (found.outcome, found.num_configurations) == ("draws", 2)
    assert found.gain.value == pytest.approx((3.0 - 4.0) / 2)


def test_networks_drawn_at_random_are_a_control(tmp_path: Path) -> None:
    """The best of them is no win of NASH's, and their mean is what a search has to beat."""
    for number, top1 in enumerate((82.0, 99.0)):
        drawn: list[Built] = [("v3", 4, seed, top1 + seed / 5, 0.2 * LUTS) for seed in range(3)]
        root, search = tmp_path / f"random{number}", {"random": {"seed": number}}
        write_networks(
            root, drawn, accuracy={"top5": 100.0, "num_samples": 10_000}, resources={"FF": 50_000}, search=search
        )
    given: list[Built] = [("v3", 4, seed, 70.0 + seed / 5, 0.2 * LUTS) for seed in range(3)]
    write_networks(
        tmp_path / "given", given, accuracy={"top5": 100.0, "num_samples": 10_000}, resources={"FF": 50_000}, search={}
    )
    (found,) = _verdicts(tmp_path, [*PLAIN, *_nash(82.0, 0.2)])
    assert (found.outcome, found.num_configurations) == ("loses", 2)  # the searched and the given one
    assert found.gain.value == pytest.approx((-3.0 - 15.0) / 2)
    assert found.over_random.value == pytest.approx(82.0 - (82.0 + 99.0) / 2)
    assert found.over_random.low < found.over_random.value < found.over_random.high
    assert "over random networks of the same cost" in verdict_line(found)
    labels = {one.candidate.label for one in gains_of(collect([tmp_path]))}
    assert {label.partition("width 4")[2] for label in labels} == {"", ", as given", ", random 0", ", random 1"}


def test_baseline_of_several_gains_counts_once() -> None:
    plain = Part(weight=-1.0, top1=(80.0, 81.0), num_samples=10**9, source=Configuration(label="plain", records=()))
    gains = [(Part(weight=1.0, top1=(90.0, 90.0), num_samples=10**9, source=object()), plain) for _ in range(4)]
    merged = headline._mean(gains)
    assert [part.weight for part in merged] == [0.25, -1.0, 0.25, 0.25, 0.25]
    alone = interval([gains[0][0], plain])
    assert interval(merged).high - interval(merged).low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_report_begins_and_ends_with_the_verdict(tmp_path: Path) -> None:
    (expected,) = _verdicts(tmp_path / "runs", [*PLAIN, *_nash(82.0, 0.2)])
    _, results = write_report([tmp_path / "runs"], tmp_path / "out")
    (found,) = results["verdicts"]
    assert (found["outcome"], found["axis"]) == ("loses", "scarcest")
    assert found["gain"] == pytest.approx(expected.gain.value)
    page = (tmp_path / "out" / "index.html").read_text()
    cards = page[page.index('<div class="cards">') :]
    assert cards.index("NASH loses by 3.00 points") < cards.index("Networks")
    assert "Best top-1 difference" not in page
    assert verdict_line(expected) in (tmp_path / "out" / "results.md").read_text()
