from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from nash_search.genotype import genotype, zoo
from nash_search.genotype.decoding import best
from nash_search.genotype.genotype import Genotype
from nash_search.genotype.variants import VARIANTS
from nash_search.layers.binary import BinaryConv2d
from nash_search.supernet.supernet import Path, Supernet


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"], "edge")


def _ops(found: Genotype) -> list[tuple[str, int] | None]:
    return [layer.nas_op and (layer.nas_op.op, layer.nas_op.input) for cell in found.cells for layer in cell.layers]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("relaxation", ["layer", "edge"])
@pytest.mark.parametrize("name", ["resnet8", "resnet34", "resnet20", "vgg11", "mobilenetv1", "odd"])
def test_any_network_runs_and_decodes(variant: str, relaxation: str, name: str, odd_network: Genotype) -> None:
    network = odd_network if name == "odd" else zoo.build(name, width=2, input_size=8)
    supernet = Supernet(network, VARIANTS[variant], relaxation)
    generator = torch.Generator().manual_seed(0)
    shape = network.input
    x = torch.rand(3, shape.channels, shape.height, shape.width)
    for _ in range(3):
        logits = supernet(x, supernet.sample(generator))
        assert logits.shape == (3, network.num_classes)
        assert logits.isfinite().all()
    assert genotype.check(supernet.genotype()) == []


@pytest.mark.parametrize(("name", "width"), [("resnet32", 2), ("resnet50", 1), ("resnet50", 3), ("resnet56", 1)])
def test_deep_backbone_runs_and_decodes(name: str, width: int) -> None:
    network = zoo.build(name, width=width, input_size=8)
    supernet = Supernet(network, VARIANTS["v1"], "edge")
    logits = supernet(torch.rand(2, 3, 8, 8), supernet.sample(torch.Generator().manual_seed(0)))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert genotype.check(supernet.genotype()) == []


def test_max_pool_is_left_out_where_a_bottleneck_narrows() -> None:
    supernet = Supernet(zoo.build("resnet50", width=2, input_size=8), VARIANTS["v1"], "edge")
    pool = supernet.variant.primitives.index("max_pool_3x3")
    edges = list(supernet.backbone.edges())
    narrowing = [edge.out_channels < edge.in_channels for edge in edges]
    assert any(narrowing)
    assert (supernet.probs()[:, pool] == 0).tolist() == narrowing


def test_backbone_of_a_genotype_loses_its_nas_ops() -> None:
    supernet = Supernet(zoo.build("resnet18-v3", width=2, input_size=8), VARIANTS["v1"])
    assert supernet.backbone.cells == zoo.build("resnet18", width=2, input_size=8).cells


def test_weights_and_alphas_are_disjoint_and_complete(supernet: Supernet) -> None:
    weights, alphas = set(supernet.weights()), set(supernet.alphas())
    assert not weights & alphas
    assert weights | alphas == set(supernet.parameters())


def test_alphas_are_in_the_state_dict(supernet: Supernet) -> None:
    other = Supernet(supernet.backbone, supernet.variant, "edge")
    assert not torch.equal(other.alpha, supernet.alpha)
    other.load_state_dict(supernet.state_dict())
    assert torch.equal(other.alpha, supernet.alpha)


def test_alphas_start_small_with_the_given_deviation() -> None:
    alpha = Supernet(zoo.build("resnet34", width=1), VARIANTS["v1"], "edge", alpha_std=1e-3).alpha
    assert alpha.shape == (104, 6)
    assert alpha.std().item() == pytest.approx(1e-3, rel=0.1)


def test_inadmissible_primitives_have_no_probability(odd_network: Genotype) -> None:
    supernet = Supernet(odd_network, VARIANTS["v1"], "edge")
    probs = supernet.probs()
    assert torch.equal(probs == 0, ~supernet.admissible)
    assert probs[1, 1] == probs[2, 1] == 0  # max-pools from 4 and 8 channels to 6
    assert torch.allclose(probs.sum(1), torch.ones(len(probs)))


def test_discarding_keeps_the_best_and_what_decoding_keeps(supernet: Supernet) -> None:
    with torch.no_grad():
        supernet.alpha.copy_(torch.randn(9, 6, generator=torch.Generator().manual_seed(0)))
    probs = supernet.probs().detach()
    decoded = [choice.probability for choice in best(supernet.backbone, supernet.table().tolist(), supernet.variant)]
    supernet.discard(0.3)
    after = supernet.probs().detach()
    kept = after > 0
    assert kept.any(1).all()
    assert (kept[probs >= 0.3]).all()
    extra = kept & (probs < 0.3)
    assert all(p == probs[row].max() or p in decoded for row in range(9) for p in probs[row][extra[row]].tolist())
    assert kept.sum() < 20
    assert genotype.check(supernet.genotype()) == []
    supernet.discard(0.0)
    assert torch.equal(supernet.probs() > 0, kept)  # for good


def test_discarding_leaves_what_layers_choose() -> None:
    supernet = Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS["v3"], "layer")
    with torch.no_grad():
        supernet.alpha.copy_(torch.randn(6, 11, generator=torch.Generator().manual_seed(0)))
    probs, found = supernet.probs().detach(), _ops(supernet.genotype())
    supernet.discard(0.15)
    kept = supernet.probs() > 0
    assert torch.equal(kept, (probs >= 0.15) | (probs == probs.amax(1, keepdim=True)))
    assert _ops(supernet.genotype()) == found
    supernet.discard(0.99)
    assert (supernet.probs() > 0).sum(1).tolist() == [1] * 6
    assert _ops(supernet.genotype()) == found


def test_only_the_sampled_primitives_run(supernet: Supernet) -> None:
    calls: Counter[tuple[int, int]] = Counter()
    for row, mixed in enumerate(mixed for layer in supernet.layers for mixed in layer.mixed):
        for index, op in enumerate(mixed.ops):
            op.register_forward_hook(lambda *_, place=(row, index): calls.update([place]))
    path = supernet.sample(torch.Generator().manual_seed(0))
    supernet(torch.rand(2, 3, 8, 8), path)
    assert calls == Counter(enumerate(path.active_index))


def test_backbone_runs_once(supernet: Supernet) -> None:
    calls: Counter[torch.nn.Module] = Counter()
    convs = [supernet.stem, *(layer.conv for layer in supernet.layers)]
    convs += [layer.projection[0] for layer in supernet.layers if layer.projection is not None]
    for conv in convs:
        conv.register_forward_hook(lambda conv, *_: calls.update([conv]))
    supernet(torch.rand(2, 3, 8, 8), supernet.path_of(supernet.genotype()))
    assert calls == Counter(convs)


def test_path_of_nothing_is_the_backbone(supernet: Supernet) -> None:
    x = torch.rand(4, 3, 8, 8)
    with supernet.frozen():
        nothing = supernet(x, Path([0] * len(supernet.alpha)))
        other = supernet(x, Path([4] * len(supernet.alpha)))
    assert not torch.equal(nothing, other)
    gradients = torch.autograd.grad(supernet(x, Path([0] * 9)).sum(), list(supernet.weights()), allow_unused=True)
    used = {id(weight) for weight, grad in zip(supernet.weights(), gradients, strict=True) if grad is not None}
    ops = {id(weight) for layer in supernet.layers for weight in layer.mixed.parameters()}
    assert not used & ops
    assert used | ops == {id(weight) for weight in supernet.weights()}


def test_nan_behind_a_closed_gate_stays_there(supernet: Supernet) -> None:
    with torch.no_grad():
        for mixed in (mixed for layer in supernet.layers for mixed in layer.mixed):
            for parameter in mixed.parameters():
                parameter.fill_(float("nan"))
    assert supernet(torch.rand(2, 3, 8, 8), Path([0] * len(supernet.alpha))).isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_backbone_is_binary_in_v2_only(variant: str) -> None:
    supernet = Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS[variant])
    assert all(isinstance(layer.conv, BinaryConv2d) == (variant == "v2") for layer in supernet.layers)


def test_states_are_bounded_by_tanh_except_in_v2() -> None:
    for variant, is_bounded in (("v1", True), ("v2", False)):
        torch.manual_seed(0)
        supernet = Supernet(zoo.build("resnet8", width=2, input_size=8), VARIANTS[variant], "edge")
        seen = []
        supernet.layers[0].register_forward_hook(lambda _, __, state, seen=seen: seen.append(state.x.abs().max()))
        supernet(torch.rand(8, 3, 8, 8), Path([0] * 9))
        assert (seen[0] <= 1) == is_bounded


def test_sampling_follows_the_probabilities(supernet: Supernet) -> None:
    with torch.no_grad():
        supernet.alpha.zero_()
        supernet.alpha[:, 2] = 20.0
    assert supernet.sample(torch.Generator().manual_seed(0)).active_index == [2] * 9


@pytest.mark.parametrize("max_pool", [False, True])
def test_signs_of_the_first_state_are_those_before_its_relu(max_pool: bool) -> None:
    torch.manual_seed(0)
    network = zoo.build("resnet18", width=4, input_size=8)
    network = replace(network, stem=replace(network.stem, max_pool=max_pool))
    supernet = Supernet(network, VARIANTS["v3"])
    seen = []
    supernet.layers[0].register_forward_hook(lambda _, args, __: seen.append(args[0][0]))
    x = torch.rand(4, 3, 8, 8)
    supernet(x, supernet.path_of(supernet.genotype()))
    before = supernet.stem_bn(supernet.stem(x))
    after = F.relu(before)
    if max_pool:
        before, after = (F.max_pool2d(tensor, 3, 2, 1) for tensor in (before, after))
    state = seen[0]
    assert torch.equal(state.x, after)
    assert torch.equal(state.signs().values() > 0, before >= 0)
    assert {-1.0, 1.0} == set(state.signs().values().unique().tolist())  # of the ReLU's output all are +1
