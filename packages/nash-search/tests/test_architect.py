"""Gate gradients against finite differences, in double precision, on networks whose paths can be enumerated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nash_search import zoo
from nash_search.architect import Architect
from nash_search.genotype import Cell, Genotype, Input, Layer, Stem
from nash_search.operations import Operation
from nash_search.sums import BatchNorm, Term, normalized_sum
from nash_search.supernet import Path, Supernet
from nash_search.variants import VARIANTS, Variant

LINEAR = Variant(  # no activation: the loss below is linear in what is added to the last state
    name="v1",
    primitives=VARIANTS["v1"].primitives,
    binary_backbone=False,
    activation="none",
    on_strided_edge="any",
)


@pytest.fixture
def tiny() -> Supernet:
    """Return a network of two layers and three edges, thus 216 paths."""
    torch.manual_seed(0)
    layers = (Layer(kernel=3, channels=4, stride=2), Layer(kernel=3, channels=4, stride=1))
    network = Genotype(
        name="tiny",
        num_classes=3,
        input=Input(channels=1, height=4, width=4),
        stem=Stem(channels=2, kernel=3, stride=1, max_pool=False),
        cells=(Cell(in_channels=2, layers=layers),),
    )
    return Supernet(network, LINEAR, alpha_std=0.5).double()


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"])


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, 3, 8, 8, generator=generator), torch.randint(10, (6,), generator=generator)


def _linear_loss(supernet: Supernet, path: Path) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, 1, 4, 4, dtype=torch.double, generator=generator)
    direction = torch.randn(5, 3, dtype=torch.double, generator=generator)
    return (supernet(x, path) * direction).sum()


def _paths() -> Iterator[list[int]]:
    yield from (list(active) for active in product(range(6), repeat=3))


def _losses(supernet: Supernet) -> dict[tuple[int, ...], float]:
    with supernet.frozen(), torch.no_grad():
        return {tuple(active): _linear_loss(supernet, Path(active)).item() for active in _paths()}


def _expected_loss(probs: Tensor, losses: dict[tuple[int, ...], float]) -> float:
    rows = probs.tolist()
    return sum(rows[0][a] * rows[1][b] * rows[2][c] * loss for (a, b, c), loss in losses.items())


def _finite_differences(supernet: Supernet, losses: dict[tuple[int, ...], float], step: float = 1e-5) -> Tensor:
    gradient = torch.zeros_like(supernet.alpha)
    for index in range(gradient.numel()):
        pair = []
        for sign in (1, -1):
            alpha = supernet.alpha.detach().clone()
            alpha.view(-1)[index] += sign * step
            pair.append(_expected_loss(alpha.softmax(-1), losses))
        gradient.view(-1)[index] = (pair[0] - pair[1]) / (2 * step)
    return gradient


def _gradient(supernet: Supernet, path: Path) -> Tensor:
    with supernet.frozen():
        (gradient,) = torch.autograd.grad(_linear_loss(supernet, path), supernet.alpha)
    return gradient


def test_full_gradient_is_that_of_the_expected_loss(tiny: Supernet) -> None:
    # exact for the edges into the last state, in which the loss is linear, however the path runs before it
    expected = _finite_differences(tiny, _losses(tiny))[1:]
    probs = tiny.probs()
    mean = torch.zeros_like(expected)
    for active in _paths():
        weight = probs[[0, 1, 2], active].prod().item()
        mean += weight * _gradient(tiny, Path(active, [range(6)] * 3, tiny.probs()))[1:]
    assert expected.abs().max() > 1e-3
    assert torch.allclose(mean, expected, rtol=1e-6, atol=1e-9)


def test_full_gradient_is_that_of_the_loss_in_the_gates(tiny: Supernet) -> None:
    # up the network, too: move one gate a little and see what the loss does; no sign in the path's way
    active, step = [1, 2, 1], 1e-6
    states = _gradient_of_gates(tiny, active)
    for index in range(6):
        pair = [_loss_with_gate(tiny, active, index, sign * step) for sign in (1, -1)]
        assert states[0, index].item() == pytest.approx((pair[0] - pair[1]) / (2 * step), rel=1e-5, abs=1e-9)


def _gradient_of_gates(supernet: Supernet, active: list[int]) -> Tensor:
    gates = torch.ones(3, 6, dtype=torch.double, requires_grad=True)
    with supernet.frozen():
        (gradient,) = torch.autograd.grad(_linear_loss(supernet, Path(active, [range(6)] * 3, gates)), gates)
    return gradient


def _loss_with_gate(supernet: Supernet, active: list[int], index: int, opening: float) -> float:
    """Return the loss when the first edge's gate of `index` is opened a little further."""
    layer = supernet.layers[0]
    plain = layer._backbone

    def with_more(states: list) -> list[Term]:
        term = layer.mixed[0](states, index)
        if term is None:
            return plain(states)
        output = term.features if term.norm is None else normalized_sum([term])
        return [*plain(states), Term(opening * output)]

    layer._backbone = with_more
    try:
        with supernet.frozen(), torch.no_grad():
            return _linear_loss(supernet, Path(active)).item()
    finally:
        del layer._backbone


def _mean_two_path_gradient(supernet: Supernet) -> Tensor:
    """Return the expectation of the two-path gradient of the last edge, its pairs enumerated."""
    row, others = supernet.probs()[2].tolist(), [0, 4]
    mean = torch.zeros(6, dtype=torch.double)
    for a, b in combinations(range(6), 2):
        drawn = row[a] * row[b] * (1 / (1 - row[a]) + 1 / (1 - row[b]))  # without replacement
        wanted = [[others[0], 1], [others[1], 1], [a, b]]
        for place, active in enumerate((a, b)):
            gates = supernet.logits().gather(1, torch.tensor(wanted)).softmax(-1)
            gradient = _gradient(supernet, Path([*others, active], wanted, gates))[2]
            mean += drawn * gates[2, place].item() * gradient
    return mean


def test_two_path_gradient_is_a_scaled_full_one_at_equal_alphas(tiny: Supernet) -> None:
    with torch.no_grad():
        tiny.alpha.zero_()
    full = _gradient(tiny, Path([0, 4, 4], [range(6)] * 3, tiny.probs()))[2]
    n = 6
    assert full.abs().max() > 1e-3
    assert torch.allclose(_mean_two_path_gradient(tiny), full * n / (2 * (n - 1)), rtol=1e-9)


def test_two_path_gradient_weighs_each_pair_positively(tiny: Supernet) -> None:
    gates = _gradient_of_gates(tiny, [0, 4, 4])[2]
    probs = tiny.probs()[2]
    expected = torch.zeros(6, dtype=torch.double)
    for i, j in combinations(range(6), 2):
        drawn = probs[i] * probs[j] * (1 / (1 - probs[i]) + 1 / (1 - probs[j]))
        pull = drawn * probs[i] * probs[j] / (probs[i] + probs[j]) ** 2 * (gates[i] - gates[j])
        expected[i] += pull
        expected[j] -= pull
    assert torch.allclose(_mean_two_path_gradient(tiny), expected.detach(), rtol=1e-9)


def test_two_path_gradients_are_opposite_and_favour_the_better(tiny: Supernet) -> None:
    architect, generator = Architect(tiny), torch.Generator().manual_seed(0)
    for _ in range(10):
        path = architect.sample(generator)
        gradient = _gradient(tiny, path)
        assert torch.allclose(gradient.sum(1), torch.zeros(3, dtype=torch.double), atol=1e-15)
        assert ((gradient != 0).sum(1) <= 2).all()
        a, b = path.wanted[2]
        with tiny.frozen(), torch.no_grad():
            losses = [_linear_loss(tiny, Path([*path.active_index[:2], index])).item() for index in (a, b)]
        assert (gradient[2, a] > 0) == (losses[0] > losses[1])


@pytest.mark.parametrize("gradient", ["two-path", "full"])
def test_every_architecture_step_has_a_gradient(
    gradient: str, supernet: Supernet, batch: tuple[Tensor, Tensor]
) -> None:
    architect, generator = Architect(supernet, gradient), torch.Generator().manual_seed(0)
    for _ in range(6):
        path = architect.sample(generator)
        step = architect.accumulate(*batch, path)
        assert step.gradient_norm > 0
        # all but an edge or two: `none` and an operation whose ReLU is dead have the same gradient
        assert (supernet.alpha.grad.abs().sum(1) > 0).sum() >= 7
        before = supernet.alpha.detach().clone()
        architect.update(path)
        assert not torch.equal(supernet.alpha, before)


@pytest.mark.parametrize("gradient", ["two-path", "full"])
def test_weights_and_statistics_keep_out_of_the_architecture_step(
    gradient: str, supernet: Supernet, batch: tuple[Tensor, Tensor]
) -> None:
    architect = Architect(supernet, gradient)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    path = architect.sample(torch.Generator().manual_seed(0))
    architect.accumulate(*batch, path)
    architect.update(path)
    changed = {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"alpha"}
    assert all(weight.grad is None and weight.requires_grad for weight in supernet.weights())


def _count_calls(supernet: Supernet) -> Counter[Operation]:
    calls: Counter[Operation] = Counter()
    for module in supernet.modules():
        if isinstance(module, Operation):
            module.register_forward_hook(lambda module, *_: calls.update([module]))
    return calls


@pytest.mark.parametrize(("gradient", "num_calls"), [("two-path", 2 * 9), ("full", 6 * 9)])
def test_each_wanted_operation_runs_once(
    gradient: str, num_calls: int, supernet: Supernet, batch: tuple[Tensor, Tensor]
) -> None:
    calls = _count_calls(supernet)
    architect = Architect(supernet, gradient)
    architect.accumulate(*batch, architect.sample(torch.Generator().manual_seed(0)))
    assert sum(calls.values()) == num_calls
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("gradient", ["two-path", "full"])
def test_discarded_operations_do_not_run(gradient: str, supernet: Supernet, batch: tuple[Tensor, Tensor]) -> None:
    supernet.admissible[:, 5] = supernet.admissible[:, 1] = False
    supernet.admissible[0, 1:5] = False  # an edge of `none` alone
    calls = _count_calls(supernet)
    architect, generator = Architect(supernet, gradient), torch.Generator().manual_seed(0)
    for _ in range(5):
        path = architect.sample(generator)
        architect.accumulate(*batch, path)
        assert supernet.alpha.grad[:, [1, 5]].abs().max() == 0
        assert supernet.alpha.grad[1:].abs().max() > 0
        architect.update(path)
    ran = {(row, index) for row, mixed in enumerate(_mixed(supernet)) for index, op in enumerate(mixed) if op in calls}
    assert not {(row, index) for row, index in ran if not supernet.admissible[row, index]}
    assert supernet.probs()[0].tolist() == [1, 0, 0, 0, 0, 0]


def _mixed(supernet: Supernet) -> list[list[Operation]]:
    return [list(mixed.ops) for layer in supernet.layers for mixed in layer.mixed]


def test_statistics_see_a_batch_once_in_a_weight_step(
    supernet: Supernet, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = batch
    inputs: dict[BatchNorm, Tensor] = {}
    statistics = BatchNorm.statistics

    def noted(norm: BatchNorm, features: Tensor) -> tuple[Tensor, Tensor]:
        inputs[norm] = features
        return statistics(norm, features)

    monkeypatch.setattr(BatchNorm, "statistics", noted)
    path = supernet.sample(torch.Generator().manual_seed(0))
    F.cross_entropy(supernet(x, path), y).backward()
    for norm in (module for module in supernet.modules() if isinstance(module, BatchNorm)):
        mean = 0.1 * inputs[norm].mean((0, 2, 3)) if norm in inputs else torch.zeros_like(norm.running_mean)
        assert torch.allclose(norm.running_mean, mean, atol=1e-6)


def test_alphas_that_are_not_sampled_keep_their_probability(supernet: Supernet, batch: tuple[Tensor, Tensor]) -> None:
    supernet.double()
    architect = Architect(supernet, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        before, path = supernet.probs().detach(), architect.sample(generator)
        architect.accumulate(batch[0].double(), batch[1], path)
        architect.update(path)
        change = supernet.probs().detach() - before
        sampled = torch.zeros_like(change).scatter_(1, torch.tensor(path.wanted), 1.0).bool()
        assert change[~sampled].abs().max() < 1e-12
        assert (change[sampled] != 0).all()


def test_pairs_are_drawn_without_replacement(supernet: Supernet) -> None:
    row = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    with torch.no_grad():
        supernet.alpha.copy_(row.log().expand(9, 6))
    generator, counts, num_draws = torch.Generator().manual_seed(0), Counter(), 400
    for _ in range(num_draws):
        counts.update(tuple(sorted(pair)) for pair in Architect(supernet).sample(generator).wanted)
    expected = 0.4 * 0.3 * (1 / 0.6 + 1 / 0.7)
    assert counts[0, 1] / (9 * num_draws) == pytest.approx(expected, abs=0.03)
    assert all(a != b for a, b in counts)


def test_pairs_are_drawn_when_one_alpha_dwarfs_the_rest(supernet: Supernet) -> None:
    with torch.no_grad():
        supernet.alpha[:, 3] = 1e4
    path = Architect(supernet).sample(torch.Generator().manual_seed(0))
    assert all(3 in pair and pair[0] != pair[1] for pair in path.wanted)
    assert path.active_index == [3] * 9


def test_unknown_gradient_is_refused(supernet: Supernet) -> None:
    with pytest.raises(ValueError, match="expected one of two-path, full"):
        Architect(supernet, "three-path")  # type: ignore[arg-type]
