"""Costs and their expectation, against every genotype of a network of two layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nash_search.base.errors import CapacityError, IntegrityError, ManifestError, UsageError
from nash_search.cost import costs as cost
from nash_search.cost.costs import Costs
from nash_search.cost.penalty import Penalty, Price, parse_budget
from nash_search.genotype import zoo
from nash_search.genotype.decoding import Choice, choices, decode, decode_within
from nash_search.genotype.genotype import Cell, Genotype, Input, Layer, NasOp, Stem
from nash_search.genotype.variants import VARIANTS
from nash_search.search.architect import Architect
from nash_search.supernet.supernet import Path as SampledPath
from nash_search.supernet.supernet import Supernet

Write = Callable[..., Path]
V3 = VARIANTS["v3"]


@pytest.fixture
def tiny() -> Genotype:
    """Return two layers and three edges; v3 may keep nothing or 3 operations of the first, 5 + 3 of the second."""
    layers = (Layer(kernel=3, channels=4, stride=2), Layer(kernel=3, channels=4, stride=1))
    return Genotype(
        name="tiny",
        num_classes=3,
        input=Input(channels=1, height=4, width=4),
        stem=Stem(channels=2, kernel=3, stride=1, max_pool=False),
        cells=(Cell(in_channels=2, layers=layers),),
    )


@pytest.fixture
def costs(tiny: Genotype, priced: Write) -> Costs:
    return cost.load(priced(tiny), tiny, V3)


def _probs(seed: int = 0, scale: float = 1.0) -> Tensor:
    logits = scale * torch.randn(3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return logits.softmax(-1)


def _drawn(network: Genotype, probs: Tensor) -> list[tuple[float, list[Choice]]]:
    """Return every genotype, as choices, with its probability."""
    layers = choices(network, probs.tolist(), V3)
    sums = [sum(choice.probability for choice in layer) for layer in layers]
    drawn = []
    for chosen in product(*layers):
        probability = 1.0
        for choice, total in zip(chosen, sums, strict=True):
            probability *= choice.probability / total
        drawn.append((probability, list(chosen)))
    return drawn


def _lut(nas_op: NasOp | None) -> float:
    """Return the price by the fixture's formula, the shapes worked out by hand: 2 channels before, 4 after."""
    if nas_op is None:
        return 0
    before = 2 if nas_op.input == 0 else 4
    side = {"conv_1x1": 1, "conv_3x3": 3, "conv_5x5": 5}.get(nas_op.op, 0)
    return 100 + 3 * before * 4 * side**2


@pytest.mark.parametrize("seed", range(3))
def test_expected_cost_is_that_of_every_genotype_drawn(tiny: Genotype, costs: Costs, seed: int) -> None:
    probs = _probs(seed)
    drawn = _drawn(tiny, probs)
    assert len(drawn) == (1 + 3) * (1 + 3 + 5)
    assert sum(probability for probability, _ in drawn) == pytest.approx(1)
    expected = sum(p * sum(_lut(choice.nas_op) for choice in chosen) for p, chosen in drawn)
    assert float(costs.expected("lut", probs)) == pytest.approx(expected, rel=1e-12)
    assert costs.largest("lut") == max(sum(_lut(c.nas_op) for c in chosen) for _, chosen in drawn)


def test_certain_probabilities_cost_what_the_genotype_costs(tiny: Genotype, costs: Costs) -> None:
    probs = torch.zeros(3, 6, dtype=torch.double)
    probs[0, 4], probs[1, 0], probs[2, 3] = 1, 1, 1  # conv_3x3 of state 0; of states 0 and 1 none and conv_1x1
    found = decode(tiny, probs.tolist(), V3)
    assert [layer.nas_op.op for layer in found.cells[0].layers] == ["conv_3x3", "conv_1x1"]
    for metric in cost.METRICS:
        assert float(costs.expected(metric, probs)) == pytest.approx(costs.of(found, V3)[metric])
    nothing = torch.zeros(3, 6, dtype=torch.double)
    nothing[:, 0] = 1
    assert decode(tiny, nothing.tolist(), V3).without_nas_ops() == decode(tiny, nothing.tolist(), V3)
    assert [float(costs.expected(metric, nothing)) for metric in cost.METRICS] == [0] * 6
    assert costs.of(found, V3)["lut"] == (100 + 3 * 2 * 4 * 9) + (100 + 3 * 4 * 4)


def test_sum_adds_the_shares_of_what_the_board_has(costs: Costs) -> None:
    shares = costs.tables["lut"] / 100_000 + costs.tables["ff"] / 200_000
    shares += costs.tables["bram"] / 1000 + costs.tables["dsp"] / 500
    assert torch.allclose(costs.table("sum"), shares, rtol=1e-12)  # no URAM: none is asked for, either


def _penalty(costs: Costs, **price: object) -> Penalty:
    return Penalty(costs, Price(**price), multiplier_lr=0.1)


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_penalty_gradient_equals_finite_differences(relaxation: str, tiny: Genotype, costs: Costs) -> None:
    torch.manual_seed(0)
    supernet = Supernet(tiny, V3, relaxation, alpha_std=0.5).double()
    penalty = _penalty(costs, weight=0.7, metric="lut", budget={"bram": "3"})
    penalty.multipliers.fill_(0.4)
    architect = Architect(supernet, "full", penalty=penalty)
    gradient = architect._penalty_gradient(architect.sample(torch.Generator().manual_seed(0)))
    step = 1e-6
    for index in range(supernet.alpha.numel()):
        pair = []
        for sign in (1, -1):
            alpha = supernet.alpha.detach().clone()
            alpha.view(-1)[index] += sign * step
            probs = alpha.masked_fill(~supernet.admissible, float("-inf")).softmax(-1)
            pair.append(float(penalty(supernet.layout.table(probs))))
        assert float(gradient.view(-1)[index]) == pytest.approx((pair[0] - pair[1]) / (2 * step), rel=1e-5, abs=1e-9)
    assert gradient.abs().max() > 1e-2


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_two_path_penalty_is_unbiased_at_unequal_alphas(relaxation: str, tiny: Genotype, costs: Costs) -> None:
    torch.manual_seed(0)
    supernet = Supernet(tiny, V3, relaxation, alpha_std=1.0).double()
    architect = Architect(supernet, penalty=_penalty(costs, weight=1.0))
    num_rows, num_options = supernet.alpha.shape
    nowhere = [0] * num_rows
    full = architect._penalty_gradient(SampledPath(nowhere, [range(num_options)] * num_rows, supernet.probs()))
    mean, p = torch.zeros_like(full), supernet.probs().detach()
    for a, b in combinations(range(num_options), 2):
        drawn = torch.where((p[:, a] > 0) & (p[:, b] > 0), p[:, a] * p[:, b], 0.0)
        drawn *= (1 / (1 - p[:, a]) + 1 / (1 - p[:, b])).nan_to_num(posinf=0.0)
        pairs = torch.tensor([[a, b]] * num_rows)
        gradient = architect._penalty_gradient(SampledPath(nowhere, pairs.tolist(), architect.gates_of(pairs)))
        mean += drawn[:, None] * gradient
    assert full.abs().max() > 1e-2
    assert torch.allclose(mean, full, rtol=1e-9, atol=1e-12)


def test_penalty_joins_the_gradient_of_the_loss(tiny: Genotype, costs: Costs) -> None:
    torch.manual_seed(0)
    supernet = Supernet(tiny, V3).double()
    x, y = torch.rand(6, 1, 4, 4, dtype=torch.double), torch.tensor([0, 1, 2, 0, 1, 2])
    gradients = []
    for penalty in (None, _penalty(costs, weight=2.0)):
        architect = Architect(supernet, "full", penalty=penalty)
        path = architect.sample(torch.Generator().manual_seed(0))
        architect.accumulate(x, y, path)
        gradients.append(supernet.alpha.grad.clone())
    of_penalty = architect._penalty_gradient(architect.sample(torch.Generator().manual_seed(0)))
    assert torch.allclose(gradients[1] - gradients[0], of_penalty, rtol=1e-9)


def test_heavier_weight_makes_the_genotype_cheaper(tiny: Genotype, costs: Costs) -> None:
    expected = []
    for weight in (0.0, 0.1, 1.0):
        torch.manual_seed(0)
        supernet = Supernet(tiny, V3)
        penalty = _penalty(costs, weight=weight, metric="lut")
        architect, generator = Architect(supernet, lr=0.02, penalty=penalty), torch.Generator().manual_seed(0)
        for _ in range(100):
            x, y = torch.rand(16, 1, 4, 4, generator=generator), torch.randint(3, (16,), generator=generator)
            path = architect.sample(generator)
            architect.accumulate(x, y, path)
            architect.update(path)
        expected.append(float(penalty.expected(supernet.table())))
    assert expected[0] > expected[1] > expected[2]


def test_multipliers_rise_over_the_budget_and_fall_below_it(costs: Costs) -> None:
    penalty = _penalty(costs, budget={"lut": "400", "dsp": "50%"})
    assert penalty.limits == {"lut": 400, "dsp": 250}
    probs = _probs()
    excess = float(costs.expected("lut", probs)) / 400 - 1
    assert excess > 0
    penalty.update(probs)
    assert penalty.multipliers.tolist() == pytest.approx([0.1 * excess, 0.0])
    cheap = torch.zeros(3, 6, dtype=torch.double)
    cheap[:, 3] = 1
    penalty.update(cheap)
    assert 0 < penalty.multipliers[0] < 0.1 * excess
    record = penalty.record(cheap)
    assert record["multiplier_lut"] == penalty.multipliers[0]
    assert record["expected_lut"] == pytest.approx(float(costs.expected("lut", cheap)))


@pytest.mark.parametrize("seed", range(8))
def test_decoding_within_a_budget_equals_trying_everything(tiny: Genotype, costs: Costs, seed: int) -> None:
    probs = _probs(seed, scale=2.0)
    tables = {name: costs.table(name).numpy() for name in ("lut", "dsp")}
    limits = {"lut": 420.0, "dsp": 1.5}
    score, wanted = -1.0, None
    for probability, chosen in _drawn(tiny, probs):
        sums = {name: sum(table[c.row, c.column] for c in chosen) for name, table in tables.items()}
        if all(sums[name] <= limit for name, limit in limits.items()) and probability > score:
            score, wanted = probability, [choice.nas_op for choice in chosen]
    found = decode_within(tiny, probs.tolist(), V3, tables, limits)
    assert [layer.nas_op for layer in found.cells[0].layers] == wanted
    assert costs.of(found, V3)["lut"] <= limits["lut"]
    loose = {"lut": 1e6, "dsp": 1e6}
    assert decode_within(tiny, probs.tolist(), V3, tables, loose) == decode(tiny, probs.tolist(), V3)


def test_budget_that_nothing_keeps_to_is_refused(tiny: Genotype, costs: Costs) -> None:
    without = replace(V3, primitives=V3.primitives[1:])
    tables, probs = {"lut": costs.table("lut")[:, 1:].numpy()}, _probs()[:, 1:].tolist()
    with pytest.raises(CapacityError, match=r"--budget: got lut=223 \(at least 224\)"):
        decode_within(tiny, probs, without, tables, {"lut": 223})
    assert decode_within(tiny, probs, without, tables, {"lut": 224}).cells[0].layers[0].nas_op.op == "conv_1x1"
    tables["lut"] = costs.table("lut").numpy()
    found = decode_within(tiny, _probs().tolist(), V3, tables, {"lut": 10})
    assert found.cells == tiny.cells  # nothing is free


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("luts=3", r"got 'luts', expected one of lut, .*did you mean lut\?"),
        ("lut", "lut: got '', expected a number above 0"),
        ("lut=-1", "lut: got '-1'"),
        ("lut=inf", "lut: got 'inf'"),
        ("cycles=5%", "cycles: got '5%'"),
        ("lut=3,lut=4", "got lut twice"),
    ],
)
def test_wrong_budget_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_budget(text)


def _edited(path: Path, edit: Callable[[dict], object]) -> Path:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["candidates"].pop(), r"got none for cell 0, layer 2, input 1, op conv_5x5, .*nash-search space"),
        (lambda c: c["candidates"].append(c["candidates"][0]), r"candidates\[15\]: got cell 0, .* twice"),
        (lambda c: c["candidates"][2].update(cell=4), r"candidates\[2\]: got cell 4, layer 1, .*the backbone lacks"),
        (lambda c: c["candidates"][0].update(cycles=-1), r"candidates\[0\]\.cycles: got -1, expected at least 0"),
        (lambda c: c["available"].pop("LUT"), r"available: misses the key 'LUT'"),
        (lambda c: c.update(schema="nash.space/1.0"), r"got a space manifest, expected a costs manifest"),
    ],
)
def test_costs_of_another_space_name_the_first_difference(
    edit: Callable, message: str, tiny: Genotype, priced: Write
) -> None:
    with pytest.raises(ManifestError, match=message):
        cost.load(_edited(priced(tiny), edit), tiny, V3)


def test_costs_of_other_shapes_are_refused(priced: Write) -> None:
    path = priced(zoo.build("resnet8", width=4, input_size=8))
    with pytest.raises(ManifestError, match=r"space\.json: candidates\[0\]\.in_channels: got 4, expected 8"):
        cost.load(path, zoo.build("resnet8", width=8, input_size=8), V3)
    with pytest.raises(ManifestError, match=r"candidates\[0\]\.input_height: got 8, expected 16"):
        cost.load(path, zoo.build("resnet8", width=4, input_size=16), V3)


def test_space_that_changed_since_is_refused(tiny: Genotype, priced: Write) -> None:
    path = priced(tiny)
    (path.parent / "space.json").write_text((path.parent / "space.json").read_text() + " ")
    with pytest.raises(IntegrityError, match="it has changed since"):
        cost.load(path, tiny, V3)


def test_costs_without_their_space_warn(tiny: Genotype, priced: Write) -> None:
    path = priced(tiny)
    (path.parent / "space.json").unlink()
    with pytest.warns(UserWarning, match="cannot be checked"):
        cost.load(path, tiny, V3)


def test_unknown_figures_are_counted(tiny: Genotype, priced: Write) -> None:
    with pytest.warns(UserWarning, match="figures that are null count as 0: 1 of them"):  # a skip of stride 1
        found = cost.load(priced(tiny), tiny, V3)
    assert found.num_unknown == 1
    assert found.tables["dsp"][2, 2] == 0


def test_share_of_what_the_board_lacks_is_refused(costs: Costs) -> None:
    with pytest.raises(UsageError, match="uram: got 5%, but U250 has none"):
        _penalty(costs, budget={"uram": "5%"})


def test_resource_that_nothing_costs_is_refused(costs: Costs) -> None:
    with pytest.raises(ManifestError, match="--cost-resource: got uram, which no operation costs"):
        _penalty(costs, weight=1.0, metric="uram")


def test_costs_of_a_wider_space_serve_a_narrower_search(tiny: Genotype, priced: Write) -> None:
    narrow = replace(V3, primitives=("none", "conv_1x1"))
    found = cost.load(priced(tiny), tiny, narrow)
    assert found.tables["lut"].shape == (3, 2)
    assert found.largest("lut") == (100 + 3 * 8) + (100 + 3 * 16)


@pytest.fixture
def whole(tiny: Genotype, priced: Write) -> Costs:
    return cost.load(priced(tiny, has_backbone=True), tiny, V3)


@pytest.mark.parametrize("seed", range(3))
def test_expected_cycles_are_those_of_the_slowest_layer_drawn(tiny: Genotype, whole: Costs, seed: int) -> None:
    probs = _probs(seed).requires_grad_()
    for is_whole, least in ((False, 0), (True, 100)):
        largest = []
        for probability, chosen in _drawn(tiny, probs.detach()):
            cycles = [
                int(c.nas_op.op[-1]) ** 2 * 4 for c in chosen if c.nas_op is not None and c.nas_op.op[-1].isdigit()
            ]
            cycles += [4 for c in chosen if c.nas_op is not None and c.nas_op.op == "skip_connect"]
            largest.append((probability, max([least, *cycles])))
        expected = whole.expected("cycles", probs, is_whole=is_whole)
        assert float(expected) == pytest.approx(sum(p * cycles for p, cycles in largest), rel=1e-12)
    (gradient,) = torch.autograd.grad(whole.expected("cycles", probs), probs)
    assert torch.autograd.gradcheck(lambda x: whole.expected("cycles", x), (probs,))
    assert gradient.abs().max() > 1


def test_whole_accelerator_is_the_backbone_and_its_operations(tiny: Genotype, whole: Costs) -> None:
    probs = _probs()
    for metric, backbone in (("lut", 1000), ("ff", 800), ("bram", 5), ("uram", 0), ("dsp", 10)):
        alone = float(whole.expected(metric, probs))
        assert float(whole.expected(metric, probs, is_whole=True)) == pytest.approx(backbone + alone)
    found = decode(tiny, probs.tolist(), V3)
    operations, total = whole.of(found, V3), whole.of(found, V3, is_whole=True)
    assert total["lut"] == 1000 + operations["lut"]
    assert total["cycles"] == max(100, operations["cycles"])
    assert whole.of(tiny, V3, is_whole=True) == whole.backbone
    assert {width: figures["lut"] for width, figures in whole.plain.items()} == {2: 1000, 4: 3000}


def test_scarcest_is_the_largest_share_of_the_whole_accelerator(tiny: Genotype, whole: Costs) -> None:
    assert whole.least("scarcest") == pytest.approx(10 / 500)  # its DSPs
    totals = [whole.of(_kept(tiny, chosen), V3, is_whole=True) for _, chosen in _drawn(tiny, _probs())]
    shares = [max(t["lut"] / 1e5, t["ff"] / 2e5, t["bram"] / 1000, t["dsp"] / 500) for t in totals]
    for share, (_, chosen) in zip(shares, _drawn(tiny, _probs()), strict=True):
        assert whole.total("scarcest", _kept(tiny, chosen), V3) == pytest.approx(share)
    assert whole.largest("scarcest") >= max(shares)
    certain = torch.zeros(3, 6, dtype=torch.double)
    certain[0, 0], certain[1, 0], certain[2, 5] = 1, 1, 1  # nothing, and conv_5x5 of state 1
    assert float(whole.expected("scarcest", certain)) == pytest.approx((10 + 4 * 4 * 25 / 100) / 500)


def _kept(network: Genotype, chosen: list[Choice]) -> Genotype:
    return network.with_nas_ops([choice.nas_op for choice in chosen])


@pytest.mark.parametrize("seed", range(4))
def test_decoding_within_cycles_equals_trying_everything(tiny: Genotype, whole: Costs, seed: int) -> None:
    probs = _probs(seed, scale=2.0)
    limits = {"cycles": 36.0, "lut": 500.0}
    fitting = [
        (probability, chosen)
        for probability, chosen in _drawn(tiny, probs)
        if all(whole.total(name, _kept(tiny, chosen), V3) <= limit for name, limit in limits.items())
    ]
    best = max(fitting, key=lambda item: item[0])[1]
    found = whole.decode(tiny, probs.tolist(), V3, limits)
    assert [layer.nas_op for layer in found.cells[0].layers] == [choice.nas_op for choice in best]
    assert any(whole.total("cycles", _kept(tiny, chosen), V3) > 36 for _, chosen in _drawn(tiny, probs))


def test_total_budget_counts_the_backbone(tiny: Genotype, whole: Costs) -> None:
    penalty = _penalty(whole, budget={"lut": "900"}, total_budget={"lut": "1700", "dsp": "10%", "cycles": "150"})
    assert penalty.limits == {"lut": 700, "dsp": 40, "cycles": 150}
    probs = _probs()
    expected = [float(whole.expected("lut", probs)) / 900, float(whole.expected("lut", probs) + 1000) / 1700]
    assert (penalty.excess(probs)[:2] + 1).tolist() == pytest.approx(expected)
    record = penalty.record(probs)
    assert record["expected_total_dsp"] == pytest.approx(10 + float(whole.expected("dsp", probs)))
    assert {"multiplier_lut", "multiplier_total_lut", "multiplier_total_cycles"} <= record.keys()
    summary = penalty.summary(tiny, V3, probs)
    assert (summary["operations"]["lut"], summary["total"]["lut"], summary["genotype"]["lut"]) == (0, 1000, 0)


@pytest.mark.parametrize(("limit", "least"), [("lut=999", "1000"), ("cycles=99", "100")])
def test_total_budget_below_the_backbone_is_refused(limit: str, least: str, whole: Costs) -> None:
    message = rf"--total-budget: got {limit}, expected at least {least}, which the plain backbone takes"
    with pytest.raises(CapacityError, match=message):
        _penalty(whole, total_budget=parse_budget(limit, "--total-budget"))
    assert _penalty(whole, total_budget={"lut": "1000"}).limits == {"lut": 0}


@pytest.mark.parametrize("asked", [{"total_budget": {"lut": "5000"}}, {"metric": "scarcest"}])
def test_costs_without_a_backbone_are_refused_where_it_counts(asked: dict, costs: Costs) -> None:
    message = (
        r"costs\.json: got no price of the backbone at width 2, .*'nash-search space', then .*'nash-hw costs' anew"
    )
    with pytest.raises(ManifestError, match=message):
        _penalty(costs, **asked)
