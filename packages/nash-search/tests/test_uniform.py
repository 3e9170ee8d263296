"""Random genotypes of a cost, against all genotypes of a small space."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from nash_search.base.errors import CapacityError, ManifestError, UsageError
from nash_search.cost import costs as cost
from nash_search.cost import uniform
from nash_search.cost.costs import Costs
from nash_search.genotype import genotype, zoo
from nash_search.genotype.decoding import choices
from nash_search.genotype.genotype import Genotype, NasOp
from nash_search.genotype.variants import VARIANTS

Write = Callable[..., Path]
V3 = VARIANTS["v3"]


@pytest.fixture
def costs(tiny: Genotype, priced: Write) -> Costs:
    return cost.load(priced(tiny), tiny, V3)


def _ops(found: Genotype) -> tuple:
    return tuple(layer.nas_op and (layer.nas_op.op, layer.nas_op.input) for layer in found.cells[0].layers)


def test_every_genotype_of_the_cost_is_drawn_equally_often(tiny: Genotype, costs: Costs) -> None:
    everything = [
        replace(tiny.with_nas_ops([choice.nas_op for choice in chosen]))
        for chosen in product(*choices(tiny, [[0.0] * 6] * 6, V3))
    ]
    assert len(everything) == 4 * 9 * 14
    target = costs.total("lut", tiny, V3)
    fitting = {_ops(one) for one in everything if abs(costs.total("lut", one, V3) - target) <= 0.05 * target}
    fitting -= {_ops(tiny)}
    num_draws = 40 * len(fitting)
    counts = Counter(_ops(uniform.draw(tiny, V3, costs, "lut", seed)) for seed in range(num_draws))
    assert len(fitting) == 5
    assert set(counts) == fitting
    chi_squared = sum((counts[one] - 40) ** 2 / 40 for one in fitting)
    freedom = len(fitting) - 1
    assert abs(chi_squared - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("metric", ["sum", "lut", "cycles"])
def test_random_genotype_costs_the_same(metric: str, priced: Write) -> None:
    like = zoo.build("resnet18-v3", width=4)
    priced_alike = cost.load(priced(like), like, V3)
    target, found = priced_alike.total(metric, like, V3), set()
    for seed in range(5):
        drawn = uniform.draw(like, V3, priced_alike, metric, seed)
        assert abs(priced_alike.total(metric, drawn, V3) - target) <= 0.05 * target
        assert genotype.check(drawn) == []
        assert drawn.without_nas_ops().cells == like.without_nas_ops().cells
        assert drawn.cells == uniform.draw(like, V3, priced_alike, metric, seed).cells
        found.add(str(drawn.cells))
    assert len(found) == 5


def test_written_genotype_names_what_it_is_like(tiny: Genotype, priced: Write, tmp_path: Path) -> None:
    costs_path = priced(tiny)
    genotype.save(replace(tiny, search={"primitives": ["none", "conv_1x1", "conv_3x3"]}), tmp_path / "like.json")
    result, drawn = uniform.write(tmp_path / "like.json", costs_path, tmp_path / "r.json", metric="lut", seed=3)
    written = json.loads((tmp_path / "r.json").read_text())
    assert genotype.load(tmp_path / "r.json") == drawn
    assert written["name"] == result["name"] == "tiny-random3"
    assert [record["schema"] for record in written["inputs"]] == ["nash.genotype/1.1", "nash.costs/1.0"]
    assert written["search"]["random"]["cost_of_like"] == result["cost_of_like"] == 316 + 148
    assert abs(result["cost"] - 464) <= 0.05 * 464
    assert result["costs"]["lut"] == result["cost"]
    assert {op and op["op"] for cell in result["nas_ops"] for op in cell} <= {None, "conv_1x1", "conv_3x3"}


def test_genotype_that_no_other_resembles_is_refused(tiny: Genotype, costs: Costs) -> None:
    without = replace(V3, primitives=("none", "conv_5x5"))
    table = {name: table[:, [0, 5]].clone() for name, table in costs.tables.items()}
    narrowed = replace(costs, tables=table, keeps=costs.keeps[:, [0, 5]])
    only = tiny.with_nas_ops([NasOp(op="conv_5x5", input=0), None, None])
    assert uniform.draw(only, without, narrowed, "lut", 0)  # beside another layer it costs the same
    table["lut"][0, 1] = 7
    with pytest.raises(CapacityError, match=r"--like: got tiny at lut=7; no other genotype found within 5%"):
        uniform.draw(only, without, narrowed, "lut", 0)


def test_genotype_without_cost_or_variant_is_refused(tiny: Genotype, costs: Costs) -> None:
    with pytest.raises(UsageError, match=r"got tiny, whose operations cost no lut"):
        uniform.draw(tiny.without_nas_ops(), V3, costs, "lut", 0)
    with pytest.raises(UsageError, match=r"which is of no variant"):
        uniform.variant_of(replace(tiny, variant=None))


def test_genotype_of_another_space_is_refused(tiny: Genotype, costs: Costs) -> None:
    odd = tiny.with_nas_ops([NasOp(op="skip_connect", input=0), None, None])
    with pytest.raises(ManifestError, match=r"got cell 0, layer 1, input 0, op skip_connect, which v3 never keeps"):
        uniform.draw(odd, V3, costs, "lut", 0)
