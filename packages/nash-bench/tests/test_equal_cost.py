from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from builders import Built, write_hardware, write_networks

from nash_bench.base.errors import DataError
from nash_bench.base.progress import render
from nash_bench.compare.comparison import compare
from nash_bench.compare.configurations import configurations, spread_of
from nash_bench.compare.equal_cost import Gains, find_gains
from nash_bench.compare.families import find_pairs
from nash_bench.compare.gains_text import equal_cost_text, gains_table
from nash_bench.compare.rivals import Point, rival_at
from nash_bench.compare.seeds import seeds_table
from nash_bench.records.collect import collect
from nash_bench.report.files import write_report

FAMILY: list[Built] = [(None, 4, 0, 80.0, 100), (None, 6, 0, 86.0, 200), (None, 8, 0, 90.0, 400)]


def gains_of(root: Path, networks: list[Built]) -> Gains:
    write_networks(root, networks)
    (found,) = find_gains(configurations([row.record for row in collect([root]).rows]))
    return found


def lut(found: Gains) -> object:
    return next(one for one in found.at_equal_cost if one.axis == "LUT")


@pytest.mark.parametrize("seed", range(20))
def test_rival_is_the_interpolation_of_a_growing_family(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, accuracies = np.sort(rng.uniform(100, 1000, 5)), rng.uniform(50, 99, 5)
    points = [Point(width=w, cost=c, top1=a, std=None) for w, (c, a) in enumerate(zip(costs, accuracies, strict=True))]
    for cost in rng.uniform(costs[0], costs[-1], 20):
        rival = rival_at(points, cost)
        assert rival.top1 == pytest.approx(np.interp(cost, costs, accuracies))
        assert costs[rival.widths[0]] <= cost <= costs[rival.widths[1]]
        assert np.dot(rival.weights, accuracies) == pytest.approx(rival.top1)
        assert not rival.is_cheaper
    assert rival_at(points, costs[0] - 1e-6) is None
    best = rival_at(points, costs[-1] + 1e-6)
    assert (best.is_cheaper, best.top1) == (True, accuracies.max())
    assert rival_at(points, costs[-1] + 1e-6, is_high_good=True) is None  # as a throughput it would be the fastest
    assert rival_at(points, costs[0] - 1e-6, is_high_good=True).top1 == accuracies.max()


def test_highest_of_several_crossings_counts() -> None:
    costs, accuracies = (100, 300, 200, 200), (80.0, 90.0, 94.0, 97.0)
    points = [Point(width=w, cost=c, top1=a, std=1.0) for w, (c, a) in enumerate(zip(costs, accuracies, strict=True))]
    assert rival_at(points, 150).top1 == 82.5
    assert rival_at(points, 250).top1 == 92.0  # 87.5 on the way up, 92 on the way down
    assert rival_at(points, 200).top1 == 97.0
    assert rival_at(points, 300).widths == (1, 1)


def test_gain_at_equal_width_and_cost(tmp_path: Path) -> None:
    found = gains_of(tmp_path, [*FAMILY, ("v3", 4, 0, 89.0, 300)])
    assert (found.gain, found.std) == (9.0, None)
    assert (lut(found).rival.top1, lut(found).rival.widths) == (88.0, (6, 8))
    assert (lut(found).gain, lut(found).std) == (1.0, None)
    others = {one.axis: one.status for one in found.at_equal_cost if one.axis != "LUT"}
    of_board = {others.pop(axis) for axis in ("scarcest", "price")}
    assert of_board == {"unknown"}  # the builder knows no shares of the board
    assert set(others.values()) == {"constant"}  # and gives every width the same of everything else


def test_spread_is_of_both_sides(tmp_path: Path) -> None:
    seeds = [(variant, width, 1, top1 + 2, luts) for variant, width, _, top1, luts in FAMILY]
    found = gains_of(tmp_path, [*FAMILY, *seeds, ("v3", 4, 0, 88.0, 250), ("v3", 4, 1, 92.0, 350)])
    own, family = statistics.stdev([88, 92]), statistics.stdev([80, 82])
    assert found.top1.num_seeds == 2
    assert found.gain == pytest.approx(90 - 81)
    assert found.std == pytest.approx((own**2 + family**2) ** 0.5)
    assert lut(found).cost == 300
    assert lut(found).gain == pytest.approx(90 - 89)
    assert lut(found).std == pytest.approx((own**2 + family**2) ** 0.5)


@pytest.mark.parametrize(
    ("networks", "text"),
    [
        ([*FAMILY, ("v3", 4, 0, 89.0, 401)], "\N{MINUS SIGN}1.00 pp (\N{MINUS SIGN}5.49 to +3.49) \N{SECTION SIGN}"),
        ([*FAMILY, ("v3", 4, 0, 89.0, 99)], "cheaper than every baseline"),
        ([*FAMILY, ("v3", 4, 0, 89.0, 400)], "\N{MINUS SIGN}1.00 pp (\N{MINUS SIGN}5.49 to +3.49)"),
        ([FAMILY[0], ("v3", 4, 0, 89.0, 100)], "one width only"),
        ([*FAMILY, ("v3", 4, 0, 89.0, None)], "n/a"),
    ],
)
def test_nothing_is_extrapolated(tmp_path: Path, networks: list[Built], text: str) -> None:
    assert equal_cost_text(lut(gains_of(tmp_path, networks))) == text


def test_no_baseline_of_that_width_leaves_equal_cost(tmp_path: Path) -> None:
    found = gains_of(tmp_path, [*FAMILY, ("v3", 5, 0, 89.0, 300)])
    assert (found.baseline, found.gain, lut(found).gain) == (None, None, 1.0)


def test_other_terms_are_another_family(tmp_path: Path) -> None:
    write_networks(tmp_path / "a", FAMILY, clock_mhz=100.0)
    write_networks(tmp_path / "b", [("v3", 4, 0, 89.0, 300)], clock_mhz=200.0)
    assert find_gains(configurations([row.record for row in collect([tmp_path]).rows])) == []


def test_other_cost_weights_are_no_seeds_of_one_network(tmp_path: Path) -> None:
    paths = write_networks(tmp_path, [*FAMILY, ("v3", 4, 0, 89.0, 300), ("v3", 4, 1, 91.0, 300)])
    for path, weight in zip(paths[-2:], (0.1, 0.5), strict=True):
        model = json.loads(path.read_text())
        model["genotype"]["copy"]["search"] = {"costs": {"weight": weight, "resource": "LUT", "budget": {"DSP": 20}}}
        path.write_text(json.dumps(model))
    found = configurations([row.record for row in collect([tmp_path]).rows if not row.record.identity.is_baseline])
    assert [one.label for one in found] == [
        f"resnet18-v3-w4a4, width 4, cost weight {weight} of LUT, DSP <= 20" for weight in (0.1, 0.5)
    ]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("quantization", "join", "aligned"), ("training", "epochs", 300), ("training", "recipe", "cifar")],
)
def test_other_joins_and_recipes_are_another_family(tmp_path: Path, part: str, key: str, value: object) -> None:
    model = write_networks(tmp_path, [*FAMILY, ("v3", 4, 0, 89.0, 300)])[-1]

    def num_gains() -> tuple[int, int]:
        rows = collect([tmp_path]).rows
        return len(find_pairs(rows)), len(find_gains(configurations([row.record for row in rows])))

    assert num_gains() == (1, 1)
    content = json.loads(model.read_text())
    content[part][key] = value
    model.write_text(json.dumps(content))
    write_hardware(model.parent.parent / "hw", model, resources={"LUT": 300})
    assert num_gains() == (0, 0)


def test_two_runs_of_one_seed_stand_alone(tmp_path: Path) -> None:
    write_networks(
        tmp_path, [(None, 4, 0, 80.0, 100), (None, 4, 0, 82.0, 100), (None, 6, 0, 1.0, 1), (None, 6, 1, 3.0, 1)]
    )
    found = configurations([row.record for row in collect([tmp_path]).rows])
    assert sorted(one.spread("top1").mean for one in found) == [2.0, 80.0, 82.0]


def test_unknown_value_gives_no_mean() -> None:
    assert spread_of([1.0, None]) is None
    assert spread_of([]) is None


def test_pairs_are_of_one_seed_where_there_is_one(tmp_path: Path) -> None:
    networks = [(None, 4, 0, 80.0, 1), (None, 4, 1, 81.0, 1), ("v3", 4, 1, 89.0, 1), ("v3", 4, 7, 89.0, 1)]
    write_networks(tmp_path, networks)
    seeds = [
        (pair.candidate.record.identity.seed, pair.baseline.record.identity.seed)
        for pair in find_pairs(collect([tmp_path]).rows)
    ]
    assert sorted(seeds) == [(1, 1), (7, 0), (7, 1)]


def test_report_states_both_gains(tmp_path: Path) -> None:
    write_networks(tmp_path / "runs", [*FAMILY, ("v3", 4, 0, 89.0, 300), ("v3", 6, 0, 91.0, 500)])
    _, results = write_report([tmp_path / "runs"], tmp_path / "out")
    first, second = results["gains"]
    at_width = first["equal_width"]
    assert (at_width["baseline"], at_width["gain"], at_width["std"]) == ("resnet18-w4a4, width 4", 9.0, None)
    assert at_width["interval"]["low"] < 9.0 < at_width["interval"]["high"]
    assert first["equal_cost"]["LUT"]["gain"] == 1.0
    assert second["equal_cost"]["LUT"]["status"] == "dearer"
    assert second["equal_cost"]["LUT"]["gain"] == 1.0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["gains"] == json.loads(
        json.dumps(results["gains"])
    )
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert "| resnet18-v3-w4a4, width 4 | 1 | 89.00 | +9.00 pp (+" in markdown
    assert "+1.00 pp (\N{MINUS SIGN}3.30 to +5.30) \N{SECTION SIGN} |" in markdown
    assert r"\\" in (tmp_path / "out" / "results.tex").read_text()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "over 88.00 % at 300, widths 6 to 8" in page
    assert "over 90.00 %, width 8, that takes less than 500" in page


def test_axis_that_says_nothing_has_no_column(tmp_path: Path) -> None:
    heads, cells = gains_table([gains_of(tmp_path, [*FAMILY, ("v3", 4, 0, 89.0, 300)])])
    assert heads == ["NASH configuration", "seeds", "top-1 (%)", "equal width", "equal LUT"]
    assert len(cells[0]) == len(heads)


def test_compare_gives_means_of_seeds(tmp_path: Path) -> None:
    networks = [(None, 4, 0, 80.0, 100), (None, 4, 1, 84.0, 100), ("v3", 4, 0, 88.0, 150), ("v3", 4, 1, 90.0, 250)]
    first, second, *candidates = write_networks(tmp_path, networks)
    assert compare(first, candidates[:1])["seeds"] == []
    (found,) = compare(first, candidates, baseline_seeds=[second])["seeds"]
    assert (found["baseline_seeds"], found["candidate_seeds"]) == ([0, 1], [0, 1])
    top1 = found["figures"]["top1"]
    assert top1["baseline"] == {"mean": 82.0, "std": pytest.approx(8**0.5), "num_seeds": 2}
    assert (top1["delta"], top1["delta_std"]) == (7.0, pytest.approx(10**0.5))
    text = render(seeds_table(found))
    assert "(baseline, seeds 0, 1)" in text
    assert "82.00 ± 2.83" in text
    assert "+7.00 pp ± 3.16" in text
    (single,) = compare(first, candidates)["seeds"]
    assert (single["figures"]["top1"]["delta"], single["figures"]["top1"]["delta_std"]) == (9.0, None)


def test_other_configuration_is_no_seed_of_the_baseline(tmp_path: Path) -> None:
    first, wider, candidate = write_networks(
        tmp_path, [(None, 4, 0, 80.0, 1), (None, 6, 1, 84.0, 1), ("v3", 4, 0, 8.0, 1)]
    )
    with pytest.raises(DataError, match="at another seed"):
        compare(first, [candidate], baseline_seeds=[wider])
