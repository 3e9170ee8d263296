"""Gate gradients against finite differences, in double precision, on networks whose paths can be enumerated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nash_search.genotype import zoo
from nash_search.genotype.genotype import Cell, Genotype, Input, Layer, Stem
from nash_search.genotype.variants import VARIANTS, Variant
from nash_search.layers.operations import Operation
from nash_search.layers.sums import BatchNorm, Term, normalized_sum
from nash_search.search.architect import Architect
from nash_search.supernet.supernet import Path, Supernet

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
    return Supernet(network, LINEAR, "edge", alpha_std=0.5).double()


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"], "edge")


@pytest.fixture
def one_a_layer() -> Supernet:
    torch.manual_seed(0)
    return Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"], "layer")


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
    """Return the expectation of the two-path gradient of the last choice, its pairs enumerated."""
    architect, logits, first = Architect(supernet), supernet.logits().detach(), len(supernet.alpha) - 1
    row, admissible = supernet.probs()[first].tolist(), supernet.admissible.nonzero()
    others = [int(admissible[admissible[:, 0] == number, 1][-1]) for number in range(first)]
    mean = torch.zeros_like(logits[0])
    for a, b in combinations([column for column, p in enumerate(row) if p], 2):
        drawn = row[a] * row[b] * (1 / (1 - row[a]) + 1 / (1 - row[b]))  # without replacement
        wanted = [*([other, 0] for other in others), [a, b]]
        for place, active in enumerate((a, b)):
            gates = architect.gates_of(torch.tensor(wanted))
            gradient = _gradient(supernet, Path([*others, active], wanted, gates))[first]
            mean += drawn * gates[first, place].item() * gradient
    return mean


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_two_path_gradient_is_unbiased_at_any_alphas(relaxation: str, spread: float, tiny: Supernet) -> None:
    torch.manual_seed(1)
    supernet = Supernet(tiny.backbone, LINEAR, relaxation, alpha_std=spread).double()
    full = range(supernet.alpha.shape[1])
    others = [int(column) for column in supernet.admissible[:-1].sum(1) - 1]
    path = Path([*others, 4], [full] * len(supernet.alpha), supernet.probs())
    expected = _gradient(supernet, path)[-1]
    assert expected.abs().max() > 1e-3
    assert torch.allclose(_mean_two_path_gradient(supernet), expected, rtol=1e-9, atol=1e-12)


def test_pair_of_one_possible_option_has_no_gradient(tiny: Supernet) -> None:
    tiny.admissible[2, 1:] = False
    gates = Architect(tiny).gates_of(torch.tensor([[0, 1], [2, 3], [0, 1]]))
    assert gates[2].tolist() == [1, 0]
    (gradient,) = torch.autograd.grad(gates[:, 0].sum(), tiny.alpha)
    assert gradient.isfinite().all()
    assert gradient[2].abs().max() == 0
    assert gradient[0].abs().max() > 0


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_swap_gradient_is_that_of_the_expected_loss_all_the_way_up(relaxation: str, tiny: Supernet) -> None:
    # nothing is taken to be linear: sampled paths and swaps enumerated, against the losses of all paths
    torch.manual_seed(2)
    supernet = Supernet(tiny.backbone, VARIANTS["v1"], relaxation, alpha_std=1.0).double()
    x, y = torch.rand(5, 1, 4, 4, dtype=torch.double), torch.tensor([0, 1, 2, 0, 1])
    columns = [row.nonzero()[:, 0].tolist() for row in supernet.admissible]
    with supernet.frozen(), torch.no_grad():
        losses = {active: F.cross_entropy(supernet(x, Path(active)), y) for active in product(*columns)}
    probs = supernet.probs()
    weights = {active: torch.stack([probs[row, k] for row, k in enumerate(active)]).prod() for active in losses}
    (expected,) = torch.autograd.grad(sum(weights[active] * loss for active, loss in losses.items()), supernet.alpha)
    architect, mean, p = Architect(supernet, "swap"), torch.zeros_like(expected), probs.detach()
    for active, loss in losses.items():
        for row, a in enumerate(active):
            for b in set(columns[row]) - {a}:
                wanted = [[k, (k + 1) % len(columns[r])] for r, k in enumerate(active)]
                wanted[row] = [a, b]
                other = losses[*active[:row], b, *active[row + 1 :]]
                (gradient,) = torch.autograd.grad(
                    architect.gates_of(torch.tensor(wanted))[row, 1] * (other - loss), supernet.alpha
                )
                mean += weights[active].detach() * p[row, b] / (1 - p[row, a]) * gradient
    assert expected.abs().max() > 1e-3
    assert torch.allclose(mean, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_swaps_are_whole_networks(relaxation: str, batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    supernet = Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"], relaxation)
    path = Architect(supernet, "swap").sample(torch.Generator().manual_seed(0))
    rows = range(len(supernet.alpha))
    with supernet.frozen(), torch.no_grad():
        found = list(supernet.swapped(batch[0], path, rows))
        assert torch.equal(found[0], supernet(batch[0], path))
        for row, logits in zip(rows, found[1:], strict=True):
            active = list(path.active_index)
            active[row] = path.wanted[row][1]
            assert torch.equal(logits, supernet(batch[0], Path(active)))


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


@pytest.mark.parametrize(
    ("gradient", "relaxation", "num_rows"),
    [
        ("two-path", "edge", 7),
        ("full", "edge", 7),
        ("swap", "edge", 3),
        ("two-path", "layer", 5),
        ("full", "layer", 6),
        ("swap", "layer", 3),
    ],
)
def test_every_architecture_step_has_a_gradient(
    gradient: str, relaxation: str, num_rows: int, batch: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    supernet = Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"], relaxation)
    architect, generator = Architect(supernet, gradient), torch.Generator().manual_seed(0)
    for _ in range(6):
        path = architect.sample(generator)
        step = architect.accumulate(*batch, path)
        assert step.gradient_norm > 0
        # all but a choice or two: `none` and an operation whose ReLU is dead have the same gradient
        assert (supernet.alpha.grad.abs().sum(1) > 0).sum() >= num_rows
        before = supernet.alpha.detach().clone()
        architect.update(path)
        assert not torch.equal(supernet.alpha, before)


@pytest.mark.parametrize("gradient", ["two-path", "full", "swap"])
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


@pytest.mark.parametrize("gradient", ["two-path", "full", "swap"])
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


@pytest.mark.parametrize("gradient", ["two-path", "full", "swap"])
def test_search_without_a_choice_left_goes_on(
    gradient: str, one_a_layer: Supernet, batch: tuple[Tensor, Tensor]
) -> None:
    one_a_layer.admissible[:, 1:] = False
    architect, before = Architect(one_a_layer, gradient), one_a_layer.alpha.detach().clone()
    path = architect.sample(torch.Generator().manual_seed(0))
    assert architect.accumulate(*batch, path).gradient_norm == 0
    architect.update(path)
    assert path.active_index == [0] * 6
    assert torch.equal(one_a_layer.probs()[:, 0], torch.ones(6))
    assert torch.allclose(one_a_layer.alpha, before, atol=1e-3)


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


@pytest.mark.parametrize("gradient", ["two-path", "swap"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_alphas_that_are_not_sampled_keep_their_probability(
    gradient: str, momentum: float, relaxation: str, batch: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    supernet = Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"], relaxation).double()
    architect = Architect(supernet, gradient, lr=0.1, betas=(momentum, 0.999))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        before, path = supernet.probs().detach(), architect.sample(generator)
        architect.accumulate(batch[0].double(), batch[1], path)
        architect.update(path)
        change = supernet.probs().detach() - before
        sampled = torch.zeros_like(change).scatter_(1, torch.tensor(path.wanted), 1.0).bool()
        if path.rows is not None:
            sampled[[row for row in range(len(change)) if row not in path.rows]] = False
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
    with pytest.raises(ValueError, match="expected one of two-path, full, swap"):
        Architect(supernet, "three-path")  # type: ignore[arg-type]
