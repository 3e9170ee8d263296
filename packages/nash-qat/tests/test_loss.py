from __future__ import annotations

import pytest
import torch
from conftest import TINY_RECIPE
from torch import nn

from nash_qat import recipe
from nash_qat.train import loss
from nash_qat.train.loss import Batch


def _plan(**changes: object) -> recipe.Recipe:
    return recipe.parse({**TINY_RECIPE, **changes}, where="test")


def _plain_batch(size: int = 16) -> Batch:
    """Return pictures whose every pixel is their label."""
    labels = torch.arange(size)
    return Batch(x=labels.float().view(-1, 1, 1, 1).expand(-1, 3, 12, 12).clone(), labels=labels)


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_share_of_labels_is_the_share_of_pixels(way: str) -> None:
    shares = set()
    for seed in range(20):
        mixed = loss.mixed(_plain_batch(), _plan(**{way: 1.0}), _generator(seed))
        assert mixed.other_labels is not None
        expected = mixed.share * mixed.labels + (1 - mixed.share) * mixed.other_labels
        torch.testing.assert_close(mixed.x.mean((1, 2, 3)), expected.float(), rtol=1e-4, atol=1e-4)
        assert sorted(mixed.other_labels.tolist()) == mixed.labels.tolist()
        is_whole = (mixed.x == mixed.x.round()).all()
        assert is_whole == (way == "cutmix") or mixed.share in (0.0, 1.0)
        shares.add(mixed.share)
    assert len(shares) > 10
    assert min(shares) < 0.6 < 0.9 < max(shares)


def test_both_ways_take_turns_and_none_changes_nothing() -> None:
    kinds = set()
    for seed in range(20):
        mixed = loss.mixed(_plain_batch(), _plan(mixup=1.0, cutmix=1.0), _generator(seed))
        kinds.add(bool((mixed.x == mixed.x.round()).all()))
    assert kinds == {True, False}
    batch = _plain_batch()
    assert loss.mixed(batch, _plan(), _generator()) is batch


def test_mixing_depends_on_the_generator_alone() -> None:
    first, second = (loss.mixed(_plain_batch(), _plan(mixup=0.4), _generator(3)) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert first.share == second.share


def test_mixed_loss_is_the_soft_labels_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    batch = Batch(x=torch.zeros(4, 1, 2, 2), labels=torch.tensor([0, 1, 2, 3]),
                  other_labels=torch.tensor([1, 1, 4, 0]), share=0.3)  # fmt: skip
    soft = 0.3 * torch.eye(5)[batch.labels] + 0.7 * torch.eye(5)[batch.other_labels]
    smoothed = 0.9 * soft + 0.1 / 5
    expected = -(smoothed * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss.loss(logits, batch, _plan(label_smoothing=0.1), None), expected)


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    torch.manual_seed(0)
    teacher, logits, batch = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.randn(6, 5), _batch_of_six()
    plan = _plan(distill_weight=0.25, distill_temperature=3.0)
    p, q = (teacher(batch.x) / 3).softmax(1), (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.75 * nn.functional.cross_entropy(logits, batch.labels) + 0.25 * 9 * divergence
    torch.testing.assert_close(loss.loss(logits, batch, plan, teacher), expected)
    alike = loss.loss(teacher(batch.x), batch, _plan(distill_weight=1.0), teacher)
    assert abs(alike.item()) < 1e-6


def _batch_of_six() -> Batch:
    torch.manual_seed(1)
    return Batch(x=torch.randn(6, 3, 2, 2), labels=torch.tensor([0, 1, 2, 3, 4, 0]))


@pytest.mark.parametrize("num_parts", [1, 2, 3, 8])
def test_parts_have_the_gradient_of_the_whole(num_parts: int) -> None:
    torch.manual_seed(0)
    network, batch = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), _batch_of_six()
    loss.loss(network(batch.x), batch, _plan(), None).backward()
    expected = network[1].weight.grad.clone()
    network.zero_grad()
    parts = batch.parts(num_parts)
    assert [len(part) for part in parts] == {1: [6], 2: [3, 3], 3: [2, 2, 2], 8: [2, 2, 2]}[num_parts]
    for part in parts:
        (loss.loss(network(part.x), part, _plan(), None) * len(part) / len(batch)).backward()
    torch.testing.assert_close(network[1].weight.grad, expected)
