from __future__ import annotations

import pytest
import torch
from conftest import TINY_RECIPE
from torch import nn

from nash_qat import recipe
from nash_qat.quant import quantizers
from nash_qat.train import optimize


def _rates(num_epochs: int, steps: int, **changes: object) -> list[float]:
    plan = recipe.parse({**TINY_RECIPE, **changes}, where="test")
    return [optimize.rate(plan, step / steps, num_epochs, step=1 / steps) for step in range(num_epochs * steps)]


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=4001, cycle_momentum=False)
    expected = []
    for _ in range(4000):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert _rates(4, 1000, schedule="one_cycle") == pytest.approx(expected, abs=2e-3)


def test_warmup_rises_evenly_and_then_follows_the_schedule() -> None:
    rates = _rates(4, 10, schedule="cosine", warmup_epochs=1.5)
    plain = _rates(4, 10, schedule="cosine")
    assert [rate / whole for rate, whole in zip(rates, plain, strict=True)][:15] == pytest.approx(
        [(step + 1) / 15 for step in range(15)]
    )
    assert rates[15:] == plain[15:]


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_only_weights_decay(name: str, kind: type[torch.optim.Optimizer]) -> None:
    plan = recipe.parse({**TINY_RECIPE, "optimizer": name, "momentum": 0.8, "weight_decay": 0.3}, where="test")
    made = optimize.optimizer(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), plan)
    assert type(made) is kind
    decays = {parameter.ndim: group["weight_decay"] for group in made.param_groups for parameter in group["params"]}
    assert decays == {4: 0.3, 1: 0.0}
    assert all(group.get("momentum", 0.8) == 0.8 for group in made.param_groups)


def test_learned_scales_of_weights_do_not_decay() -> None:
    plan = recipe.parse({**TINY_RECIPE, "weight_decay": 0.3}, where="test")
    conv = quantizers.conv(2, 3, 3, bits=4, padding=1, has_learned_scale=True)
    assert conv.log2_threshold.ndim == 4
    made = optimize.optimizer(conv, plan)
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert decays == {id(conv.weight): 0.3, id(conv.log2_threshold): 0.0}
