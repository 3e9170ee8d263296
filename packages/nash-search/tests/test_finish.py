"""The finish: which networks it scores, by what, how far each goes, and what it makes of a wrong first choice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import benchmark
from test_search import StopAfter
from torch.nn import functional as F

from nash_search.base import manifest
from nash_search.base.errors import DivergedError, IntegrityError, Interrupted, UsageError
from nash_search.base.interrupt import Stop
from nash_search.base.progress import Reporter
from nash_search.cost import uniform
from nash_search.cost.penalty import Price
from nash_search.genotype import genotype
from nash_search.genotype.decoding import Choice, choices, with_choices
from nash_search.genotype.genotype import Genotype
from nash_search.genotype.variants import VARIANTS
from nash_search.search import candidates, checkpoint, engine, finish, search
from nash_search.search.finish import ALPHAS, RANDOM, Ladder, Network
from nash_search.search.scoring import trained_loss
from nash_search.search.search import Search
from nash_search.search.settings import Finish, Settings
from nash_search.supernet.supernet import Supernet

Begin = Callable[..., Search]
V3 = VARIANTS["v3"]
SMALL = Finish(num_networks=3, epochs=2, num_random=2)


def _supernet(backbone: Genotype, relaxation: str = "layer") -> Supernet:
    torch.manual_seed(0)
    return Supernet(backbone, V3, relaxation, alpha_std=1.0)


def _by_probability(supernet: Supernet) -> list[list[Choice]]:
    """Return every genotype of a space, the most probable first."""
    layers = choices(supernet.backbone, supernet.table().tolist(), V3)
    return sorted(product(*layers), key=lambda chosen: -math.prod(choice.probability for choice in chosen))


def _ops(chosen: list[Choice]) -> list[tuple[str, int] | None]:
    return [choice.nas_op and (choice.nas_op.op, choice.nas_op.input) for choice in chosen]


def _num_apart(one: list, other: list) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
@pytest.mark.parametrize(("distance", "share"), [(1, None), (2, None), (3, None), (1, 0.3), (2, 0.3)])
def test_networks_are_the_most_probable_of_all(
    distance: int, share: float | None, relaxation: str, tiny: Genotype
) -> None:
    supernet, weights = _supernet(tiny, relaxation), candidates.parameters(tiny, V3)
    everything = _by_probability(supernet)
    assert len(everything) == 4 * 9 * 14
    limits = {} if share is None else {"weights": share * weights.max()}
    within = [
        chosen
        for chosen in everything
        if not limits or sum(weights[choice.row, choice.column] for choice in chosen) <= limits["weights"]
    ]
    assert share is None or 50 < len(within) < len(everything) / 2
    expected: list[list] = []
    for ops in map(_ops, within):
        if len(expected) < 25 and all(_num_apart(ops, other) >= distance for other in expected):
            expected.append(ops)
    first = with_choices(tiny, within[0], V3)
    found = candidates.most_probable(supernet, first, {"weights": weights}, limits, count=25, distance=distance)
    assert [uniform.kept(network) for network in found] == expected
    assert all(genotype.check(network) == [] for network in found)


def test_discarded_operations_are_in_no_network(tiny: Genotype) -> None:
    supernet = _supernet(tiny)
    supernet.discard(0.15)
    possible = math.prod(supernet.admissible.sum(1).tolist())
    assert 1 < possible < 50
    found = candidates.most_probable(supernet, supernet.genotype(), {}, {}, count=1000)
    assert len(found) == possible
    columns = [supernet.path_of(network).active_index for network in found]
    assert all(supernet.admissible[row, column] for path in columns for row, column in enumerate(path))


def test_networks_differ_in_a_quarter_of_the_layers() -> None:
    supernet = _supernet(genotype_of("resnet18"))
    found = candidates.most_probable(supernet, supernet.genotype(), {}, {}, count=6)
    kept = [uniform.kept(network) for network in found]
    assert min(_num_apart(a, b) for number, a in enumerate(kept) for b in kept[:number]) == 4
    probabilities = [_log_probability(supernet, network) for network in found]
    assert probabilities == sorted(probabilities, reverse=True)


def genotype_of(name: str) -> Genotype:
    from nash_search.genotype import zoo

    return zoo.build(name, width=2, input_size=8)


def _log_probability(supernet: Supernet, network: Genotype) -> float:
    columns = torch.tensor(supernet.path_of(network).active_index)[:, None]
    return float(supernet.probs().gather(1, columns).log().sum())


def test_random_networks_cost_the_same_and_differ(tiny: Genotype) -> None:
    weights = candidates.yardstick(None, tiny, V3)
    assert weights.name == "weights"
    assert weights.of(tiny, V3) == 2 * 4 * 9 + 4 * 4  # conv_3x3 of 2 channels, conv_1x1 of 4
    found = candidates.random_like(tiny, V3, weights, count=1000, seed=0)
    assert len({tuple(uniform.kept(network)) for network in [tiny, *found]}) == len(found) + 1 > 2
    assert all(weights.of(network, V3) == pytest.approx(88, rel=0.05) for network in found)
    few = candidates.random_like(tiny, V3, weights, count=2, seed=0)
    assert few == found[:2]


def test_networks_without_weights_compare_by_number(tiny: Genotype) -> None:
    skips = tiny.with_nas_ops([None, genotype.NasOp(op="skip_connect", input=1), None])
    number = candidates.yardstick(None, skips, V3)
    assert number.name == "operations"
    found = candidates.random_like(skips, V3, number, count=5, seed=0)
    assert [sum(op is not None for op in uniform.kept(network)) for network in found] == [1] * 5
    plain = tiny.without_nas_ops()
    assert candidates.random_like(plain, V3, candidates.yardstick(None, plain, V3), count=5, seed=0) == []


@pytest.mark.parametrize(
    ("plan", "rungs"),
    [
        (Finish(num_networks=16), [1, 2, 4]),
        (Finish(num_networks=16, epochs=40), [5, 10, 20, 40]),
        (Finish(num_networks=2), [4]),
        (Finish(num_networks=1, epochs=1), [1]),
        (Finish(num_networks=5, epochs=9), [2, 4, 9]),
    ],
)
def test_rungs_double_up_to_the_epochs(plan: Finish, rungs: list[int]) -> None:
    assert plan.rungs() == rungs


def _networks(origin: str, first_losses: list[float | None]) -> list[Network]:
    return [Network(origin=origin, genotype=None, cost=0.0, losses=[loss]) for loss in first_losses]


def test_halving_keeps_the_better(tiny: Genotype) -> None:
    networks = _networks(ALPHAS, [0.5, None, 0.2, 0.2, 0.9])
    second = finish.entrants(networks, 1)
    assert [networks.index(network) for network in second] == [2, 3, 0]
    for network, loss in zip(second, (0.3, 0.1, None), strict=True):
        network.losses.append(loss)
    assert [networks.index(network) for network in finish.entrants(networks, 2)] == [3, 2]


def test_share_beaten_counts_the_random_networks_with_a_greater_loss() -> None:
    drawn = _networks(RANDOM, [0.1, 0.4, 0.6, None])
    (network,) = _networks(ALPHAS, [0.5])
    assert finish.beaten(network, drawn) == 0.5
    assert finish.beaten(drawn[0], drawn[1:]) == 1
    assert finish.beaten(_networks(ALPHAS, [None])[0], drawn) == 0
    assert finish.beaten(network, []) is None


def _train(running: Search) -> Search:
    with Reporter(running.num_steps, running.step, is_silent=True) as reporter:
        running.train(Stop(), reporter)
    return running


def test_score_is_the_loss_after_training_the_path_alone(begin: Begin) -> None:
    running = _train(begin(finish=SMALL, precision="float64"))
    before = {name: tensor.clone() for name, tensor in running.supernet.state_dict().items()}
    ladder = Ladder(running)
    path = running.supernet.path_of(ladder.networks[1].genotype)
    score = trained_loss(ladder.trial, path, 2, Stop())
    assert score == trained_loss(ladder.trial, path, 2, Stop())
    assert all(torch.equal(tensor, before[name]) for name, tensor in running.supernet.state_dict().items())
    recipe = running.settings.recipe
    weights = list(running.supernet.weights())
    optimizer = torch.optim.SGD(weights, lr=recipe.weights.lr, momentum=0.9, weight_decay=recipe.weights.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * running.steps_per_epoch)
    for epoch, number in product(range(2), range(running.steps_per_epoch)):
        x, y = running.weight_half.batch(recipe.epochs + epoch, number, running.batch_size)
        optimizer.zero_grad()
        F.cross_entropy(running.supernet(x.double(), path), y).backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.weights.clip_norm)
        optimizer.step()
        schedule.step()
    assert running.validate(Stop(), ladder.networks[1].genotype)["loss"] == pytest.approx(score, rel=1e-9)


def test_networks_cost_no_more_than_the_first_choice(begin: Begin) -> None:
    running = begin(finish=Finish(num_networks=6, num_random=6))
    with torch.no_grad():
        running.supernet.alpha.normal_(0, 1, generator=torch.Generator().manual_seed(1))
    ladder = Ladder(running)
    assert uniform.kept(ladder.networks[0].genotype) == uniform.kept(running.genotype())
    cost = ladder.networks[0].cost
    assert cost > 0
    assert len(ladder.group(ALPHAS)) == len(ladder.group(RANDOM)) == 6
    assert all(network.cost <= 1.05 * cost for network in ladder.group(ALPHAS))
    assert all(network.cost == pytest.approx(cost, rel=0.05) for network in ladder.group(RANDOM))


def test_networks_keep_to_the_budget(begin: Begin, settings: Settings, priced: Callable[..., Path]) -> None:
    budget = {"lut": "2500", "bram": "1%"}
    running = begin(
        finish=Finish(num_networks=6),
        costs_file=priced(settings.backbone),
        price=Price(metric="lut", budget=budget),
    )
    ladder, costs = Ladder(running), running.penalty.costs
    assert ladder.metric == "lut"
    spent = [network.cost for network in ladder.networks]
    assert len(spent) == 6
    assert max(spent) <= 2500
    assert max(spent) > 1.05 * spent[0]  # the budget, not the first choice, is the limit
    assert max(costs.total("bram", network.genotype, V3) for network in ladder.networks) <= 10


@pytest.mark.parametrize("looks", [3, 14, 60])
def test_interrupted_finish_ends_like_one_in_one_go(looks: int, begin: Begin, tmp_path: Path) -> None:
    whole = _train(begin(tmp_path / "whole", finish=SMALL))
    expected = finish.run(whole, Stop())
    cut = _train(begin(finish=SMALL))
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM in the finish, after \d scores; .*--resume"):
        finish.run(cut, StopAfter(looks))
    again = begin(finish=SMALL)
    again.restore(checkpoint.read(again.out))
    assert finish.run(_train(again), Stop()) == expected
    for name in (finish.FINISH_FILE, engine.HISTORY_FILE):
        assert (again.out / name).read_bytes() == (whole.out / name).read_bytes()
    losses = [network["losses"] for network in json.loads((again.out / finish.FINISH_FILE).read_text())["networks"]]
    assert sorted(map(len, losses[:3])) == [1, 2, 2]
    assert sorted(map(len, losses[3:])) == [1, 2]


def test_stopped_finish_keeps_what_is_scored(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    running, scored = _train(begin(finish=SMALL)), []

    def count(*arguments: object) -> float | None:
        scored.append(arguments[1])
        return trained_loss(*arguments)

    monkeypatch.setattr(finish, "trained_loss", count)
    with pytest.raises(Interrupted):
        finish.run(running, StopAfter(14))
    num_before = len(scored) - 1  # the last one was cut
    assert num_before > 0
    finish.run(running, Stop())
    assert len(scored) - num_before - 1 == 5 + 3 - num_before


def test_run_writes_the_network_it_kept(settings: Settings, tmp_path: Path) -> None:
    path = search.run(replace(settings, finish=SMALL), tmp_path / "run")
    found, content = genotype.load(path), json.loads((tmp_path / "run/finish.json").read_text())
    summary, networks = found.search["finish"], content["networks"]
    assert (summary["networks"], summary["random"], summary["epochs"]) == (3, 2, [1, 2])
    last = {number: each["losses"][1] for number, each in enumerate(networks[:3], 1) if len(each["losses"]) == 2}
    assert len(last) == 2
    assert summary["kept"] == min(last, key=last.get)
    assert summary["loss"] == min(last.values())
    kept = networks[summary["kept"] - 1]["nas_ops"]
    assert [op and (op["op"], op["input"]) for cell in kept for op in cell] == uniform.kept(found)
    first = [each["losses"][0] for each in networks]
    assert summary["rank_of_first"] == sorted(first[:3]).index(first[0]) + 1
    assert summary["first_beats"] == sum(loss > first[0] for loss in first[3:]) / 2
    artifacts = {artifact["role"]: artifact for artifact in json.loads(path.read_text())["artifacts"]}
    assert artifacts["finish"]["sha256"] == manifest.file_sha256(tmp_path / "run/finish.json")
    again = Search(replace(settings, finish=SMALL), _split(settings), tmp_path / "run")
    again.restore(checkpoint.read(tmp_path / "run"))
    assert again.validate(Stop(), found)["accuracy"] == found.search["accuracy"]
    files = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    search.run(replace(settings, finish=SMALL), tmp_path / "run", resume=True)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == files


def _split(settings: Settings) -> object:
    from nash_search.data import datasets as data

    shape = settings.backbone.input
    preprocessing = data.Preprocessing(channels=shape.channels, height=shape.height, width=shape.width)
    return data.load(settings.dataset, "train", preprocessing)


def test_finish_is_added_to_a_search_without_one(settings: Settings, tmp_path: Path) -> None:
    search.run(settings, tmp_path / "run")
    alphas = (tmp_path / "run/alphas.json").read_bytes()
    short = Finish(num_networks=2, epochs=1)
    path = search.run(replace(settings, finish=short), tmp_path / "run", resume=True)
    assert genotype.load(path).search["finish"]["networks"] == 2
    assert (tmp_path / "run/alphas.json").read_bytes() == alphas
    for other in (None, replace(short, num_networks=3)):
        with pytest.raises(UsageError, match=r"finish: got (None|3), expected 2"):
            search.run(replace(settings, finish=other), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-20], r"finish\.json: damaged"),
        (lambda text: text.replace("finish 1", "finish 9"), r"format: got 'nash-search finish 9'"),
        (lambda text: text.replace('"input": 0', '"input": 1', 1), r"networks: got others than those of this search"),
    ],
)
def test_damaged_scores_are_refused(damage: Callable[[str], str], message: str, begin: Begin) -> None:
    running = _train(begin(finish=replace(SMALL, epochs=1)))
    finish.run(running, Stop())
    path = running.out / finish.FINISH_FILE
    path.write_text(damage(path.read_text()))
    with pytest.raises(IntegrityError, match=message + ".*; remove it, and all networks are scored anew"):
        finish.run(running, Stop())


def test_network_that_diverges_is_last(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    running, losses = _train(begin(finish=SMALL)), iter([None, 0.5, 0.4, 0.6, None, 0.3, 0.2, 0.1])

    def planted(*_: object) -> float:
        loss = next(losses)
        if loss is None:
            raise FloatingPointError("the weight loss is nan")
        return loss

    monkeypatch.setattr(finish, "trained_loss", planted)
    summary = finish.run(running, Stop()).summary
    assert (summary["kept"], summary["rank_of_first"], summary["loss"]) == (2, 3, 0.2)
    assert (summary["first_beats"], summary["random_loss"]) == (0, 0.1)
    assert summary["networks_beat"] == pytest.approx((0 + 1 + 1) / 3)
    text = finish.table(running.out / "genotype.json", summary)
    assert "diverged" in text
    assert "* 2        alphas" in text
    assert "first choice beats 0%" in text


def test_finish_of_nothing_finite_is_an_error(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object) -> float:
        raise FloatingPointError("the weight loss is nan")

    monkeypatch.setattr(finish, "trained_loss", planted)
    with pytest.raises(DivergedError, match=r"--finish: every network diverged in 1 epoch; lower the learning rate"):
        finish.run(_train(begin(finish=SMALL)), Stop())


def test_wrong_first_choice_is_mended(priced: Callable[..., Path], tmp_path: Path) -> None:
    task = benchmark("known_layer")
    running = task.begun(
        *(0, tmp_path / "run"),
        epochs=4,
        warmup=3,
        finish=Finish(num_networks=3, epochs=3),
        costs_file=priced(task.backbone(), "v1", task.PRIMITIVES),
        price=Price(metric="lut", budget={"lut": "100000"}),  # else it could not cost more than what is planted
    )
    _train(running)
    for row in range(task.LAYER - 1):
        _plant(running.supernet, row, [("none", 0)])
    _plant(running.supernet, task.LAYER - 1, [("conv_5x5", 2), ("conv_3x3", 0), task.SOLUTION])
    assert not task.is_solved(running.genotype())
    finished = finish.run(running, Stop())
    assert task.is_solved(finished.genotype)
    assert finished.summary["kept"] > 1


def _plant(supernet: Supernet, row: int, ops: list[tuple[str, int]]) -> None:
    """Make these the most probable options of a layer, in order."""
    edges, names = list(supernet.backbone.edges()), supernet.variant.primitives
    menu = [(names[option.primitive], edges[option.edge].input) for option in supernet.layout.menus[row]]
    with torch.no_grad():
        for place, op in enumerate(ops):
            supernet.alpha[row, menu.index(op)] = 9.0 - place
