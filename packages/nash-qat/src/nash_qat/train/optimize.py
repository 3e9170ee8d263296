"""Optimizers and the learning rate over a phase of training."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..quant import quantizers
from ..recipe import Recipe

_CYCLE_RISE, _CYCLE_START, _CYCLE_END = 0.3, 1 / 25, 1 / 25e4  # those of torch's OneCycleLR


def optimizer(network: nn.Module, recipe: Recipe, *, weight_bits: int | None = None) -> torch.optim.Optimizer:
    """Return the recipe's optimizer; weights decay, scales and batch normalization do not.

    weight_bits: of the backbone in quantized epochs, None in float ones.
    """
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        decays = parameter.ndim > 1 and not quantizers.is_scale(name)
        (weights if decays else others).append(parameter)
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay_at(weight_bits)},
        {"params": others, "weight_decay": 0.0},
    ]
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.learning_rate)
        case "adam":
            return torch.optim.Adam(groups, lr=recipe.learning_rate)


def rate(recipe: Recipe, epochs: float, num_epochs: int, *, step: float) -> float:
    """Return the share of the learning rate for the step behind `epochs` of a phase that has `num_epochs`.

    `step` is a step's share of an epoch. A warm-up scales the beginning of the schedule and does not delay it.
    """
    warmup = min(1.0, (epochs + step) / recipe.warmup_epochs) if recipe.warmup_epochs else 1.0
    return warmup * _scheduled(recipe, epochs, num_epochs)


def _scheduled(recipe: Recipe, epochs: float, num_epochs: int) -> float:
    done = epochs / num_epochs
    match recipe.schedule:
        case "step":
            assert recipe.step_factor is not None
            assert recipe.step_epochs is not None
            return recipe.step_factor ** (int(epochs) // recipe.step_epochs)
        case "cosine":
            return _cosine(1.0, 0.0, done)
        case "one_cycle":
            if done < _CYCLE_RISE:
                return _cosine(_CYCLE_START, 1.0, done / _CYCLE_RISE)
            return _cosine(1.0, _CYCLE_END, (done - _CYCLE_RISE) / (1 - _CYCLE_RISE))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
