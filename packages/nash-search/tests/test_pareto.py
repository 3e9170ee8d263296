"""Genotypes along the trade-off between loss and cost, against every genotype of a small space."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nash_search.base import manifest
from nash_search.base.errors import Interrupted, ManifestError, UsageError
from nash_search.cost.penalty import Price
from nash_search.genotype import backbones, genotype, zoo
from nash_search.genotype.decoding import choices
from nash_search.search import engine, pareto
from nash_search.search.pareto import Point

Write = Callable[..., Path]


@pytest.fixture
def asked(settings, priced: Write) -> dict:
    """Return what a search of two epochs needs to know of costs."""
    costs = priced(settings.backbone, has_backbone=True)  # and of width 4
    return {"costs_file": costs, "price": Price(metric="lut")}


@pytest.fixture
def run(settings, asked: dict, tmp_path: Path) -> Callable[..., dict]:
    """Run it into a folder."""

    def start(along: str = "lut", num_points: int = 4, **options) -> dict:
        changed = replace(settings, **asked)
        return pareto.run(changed, tmp_path / "run", along=along, num_points=num_points, **options)

    return start


def test_points_keep_to_ever_larger_budgets(run, tmp_path: Path) -> None:
    content = run()
    assert manifest.load(tmp_path / "run/pareto.json", "pareto") == json.loads(json.dumps(content))
    found = [point for point in content["points"] if point["kind"] == "found"]
    assert [point["budget"] for point in found] == sorted(point["budget"] for point in found)
    for point in found:
        assert point["cost"] == point["total"]["lut"] == 1000 + point["operations"]["lut"]
        assert point["cost"] <= point["budget"] + 1e-6
        written = genotype.load(tmp_path / "run" / point["genotype"])
        assert written.search["costs"]["total"] == point["total"]
        assert written.search["accuracy"] == point["accuracy"]
    searched = genotype.load(tmp_path / "run/search/genotype.json")
    last = genotype.load(tmp_path / "run" / found[-1]["genotype"])
    assert last.cells == searched.cells
    assert found[-1]["accuracy"] == searched.search["accuracy"]  # it is what the search scored
    plain = {point["width"]: point for point in content["points"] if point["kind"] == "plain"}
    assert (plain[2]["cost"], plain[4]["cost"]) == (1000, 3000)
    assert plain[2]["loss"] > 0
    assert (plain[4]["loss"], plain[4]["is_dominated"]) == (None, None)
    wide = genotype.load(tmp_path / "run" / plain[4]["genotype"])
    assert wide.cells == zoo.build("resnet8", width=4, input_size=8).cells
    for record in content["artifacts"]:
        manifest.resolve(tmp_path / "run/pareto.json", record["path"], record["sha256"])


def test_points_are_the_most_probable_within_their_budgets(begin, asked: dict) -> None:
    search = begin(primitives=("none", "conv_1x1", "conv_3x3"), **asked)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        search.supernet.alpha.copy_(torch.randn(search.supernet.alpha.shape, generator=generator))
    ladder = list(pareto.ladder(search, "lut", 5))
    assert [budget for budget, _ in ladder] == pytest.approx(
        [1000 + (ladder[-1][0] - 1000) * number / 4 for number in range(5)]
    )
    layers = choices(search.supernet.backbone, search.supernet.table().tolist(), search.supernet.variant)
    table = search.penalty.costs.tables["lut"]
    best: dict[float, float] = {0.0: 0.0}  # by cost, the highest log probability: layer by layer, all of it
    for layer in layers:
        after: dict[float, float] = {}
        for cost, score in best.items():
            for choice in layer:
                reached = cost + float(table[choice.row, choice.column])
                after[reached] = max(after.get(reached, -math.inf), score + math.log(choice.probability))
        best = after
    for budget, one in ladder:
        expected = max(score for cost, score in best.items() if 1000 + cost <= budget + 1e-6)
        kept = [layer.nas_op for cell in one.cells for layer in cell.layers]
        score = sum(
            math.log(next(choice.probability for choice in layer if choice.nas_op == op))
            for layer, op in zip(layers, kept, strict=True)
        )
        assert score == pytest.approx(expected)


def test_scarcest_keeps_every_resource_within_its_share(run) -> None:
    content = run("scarcest")
    held = content["available"]
    for point in content["points"]:
        shares = [point["total"][name] / held[name] for name in held if held[name]]
        assert point["cost"] == pytest.approx(max(shares))
        assert point["budget"] is None or point["cost"] <= point["budget"] * (1 + 1e-6)


def test_resuming_scores_only_what_is_missing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run()
    scored = next((tmp_path / "run/points").glob("lut-*.json"))
    scored.unlink()
    calls, validate = [], engine.Search.validate
    monkeypatch.setattr(
        engine.Search, "validate", lambda *arguments: calls.append(arguments[2]) or validate(*arguments)
    )
    assert run(resume=True) == first
    assert len(calls) == 1
    other = run("bram", num_points=3, resume=True)  # the same search
    assert {point["genotype"] for point in other["points"]} >= {"points/plain-2.json", "points/plain-4.json"}


def test_a_stop_between_points_keeps_what_is_there(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate, calls = engine.Search.validate, []

    def stopped(search, stop, found=None):
        calls.append(found)
        return validate(search, stop, found) if len(calls) < 4 else None  # two epochs, a point, then the stop

    monkeypatch.setattr(engine.Search, "validate", stopped)
    monkeypatch.setattr(pareto.parallel.JointStop, "requested", property(lambda self: len(calls) >= 4 and "SIGTERM"))
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM at lut-.*; go on with the same command and --resume"):
        run()
    assert (tmp_path / "run/points/plain-2.json").exists()
    assert not (tmp_path / "run/pareto.json").exists()


def _point(cost: float, loss: float | None) -> Point:
    figures = {"kind": "found", "genotype": "g.json", "width": 2, "budget": None, "operations": {}, "total": {}}
    return Point(cost=cost, loss=loss, accuracy=None, **figures)


def test_dominated_points_cost_no_less_and_lose_no_less_than_another() -> None:
    points = [_point(3, 0.5), _point(1, 0.9), _point(2, 0.9), _point(3, 0.6), _point(2, None), _point(1, 0.9)]
    judged = pareto._judged(points)
    assert [(point.cost, point.loss, point.is_dominated) for point in judged] == [
        (1, 0.9, False),
        (1, 0.9, False),  # the same
        (2, 0.9, True),
        (2, None, None),
        (3, 0.5, False),
        (3, 0.6, True),
    ]


def test_pareto_without_prices_is_refused(settings, priced: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got no --costs"):
        pareto.run(settings, tmp_path / "run", along="lut", num_points=2)
    without = replace(settings, costs_file=priced(settings.backbone), price=Price())
    with pytest.raises(ManifestError, match="got no price of the backbone at width 2"):
        pareto.run(without, tmp_path / "run", along="lut", num_points=2)
    assert not (tmp_path / "run").exists()


def test_widths_scale_all_channels() -> None:
    for name in ("resnet8", "mobilenetv1", "resnet50"):
        narrow, wide = (backbones.build(name, width=width, input_size=16, num_classes=10) for width in (8, 12))
        assert backbones.widened(narrow, 12) == wide
    bottleneck = backbones.build("resnet50", width=2, input_size=16, num_classes=10)
    first, *others = bottleneck.cells[0].layers
    odd = replace(bottleneck.cells[0], layers=(replace(first, channels=1), *others))
    with pytest.raises(UsageError, match="got width 3, which makes no whole number of 1 at 2"):
        backbones.widened(replace(bottleneck, cells=(odd,)), 3)


def test_table_marks_the_dominated() -> None:
    total = {"lut": 1234.0, "bram": 5.0, "uram": 0.0, "dsp": 7.0}
    rows = [
        {"cost": 0.125, "total": total, "loss": 0.5, "accuracy": 80.0, "kind": "found", "is_dominated": True},
        {"cost": 0.25, "total": total, "loss": None, "accuracy": None, "kind": "plain", "is_dominated": None},
    ]
    text = pareto.table({"along": "scarcest", "points": [row | {"genotype": "g.json"} for row in rows]})
    header, first, second = text.splitlines()
    assert first.split() == ["12.50%", "1,234", "5", "0", "7", "0.500", "80.0", "%", "found", "yes", "g.json"]
    assert second.split() == ["25.00%", "1,234", "5", "0", "7", "-", "-", "plain", "-", "g.json"]
    assert header.index("dominated") == first.index("yes") == second.rindex("-")
