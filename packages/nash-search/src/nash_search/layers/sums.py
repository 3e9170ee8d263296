"""The normalized sum that every state is.

Shapes: features and sums (B, C, H, W), channels last; what is kept a channel (C,).

A state is the activated sum of what several layers make of earlier states, each batch-normalized on its own:
sum_k (gamma_k (f_k - mean_k) / std_k + beta_k). Done as one function of the graph, no normalized tensor is ever
written: forward adds gain_k f_k to the sum in place, backward reduces the sum's gradient g to two numbers a channel,

    dgamma_k = sum over pixels of g (f_k - mean_k) / std_k,    dbeta = sum over pixels of g,

from which follow df_k (Ioffe and Szegedy, arXiv 1502.03167, section 3) and, for path binarization, the gradient of the
gate that the term stands behind: dL/dgate_k = <g, gamma_k (f_k - mean_k) / std_k + beta_k>
= sum over channels of gamma_k dgamma_k + beta_k dbeta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..base import parallel
from .quantizers import dot

_MOMENTUM = 0.1  # of running statistics
EPS = 1e-5  # added to variances
_FEW_CHANNELS = 32  # with fewer, a row of pixels is taken together


class BatchNorm(nn.Module):
    """Normalization by the statistics of the batch; running ones are kept for those who take the weights elsewhere."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normalized."""
        return normalized_sum([Term(x, self)])

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the batch (joined over all processes), and let the running ones follow.

        While the weights are frozen, the running ones stay as they are.
        """
        is_trained = self.weight.requires_grad
        if parallel.size() == 1 and x.shape[1] >= _FEW_CHANNELS:
            running = (self.running_mean, self.running_var) if is_trained else (None, None)
            return torch.batch_norm_update_stats(x, *running, _MOMENTUM)
        mean, var, count = _joined(*_column_statistics(x), num_pixels=x.numel() // x.shape[1])
        if is_trained:
            self.running_mean.lerp_(mean, _MOMENTUM)
            self.running_var.lerp_(var * (count / max(count - 1, 1)), _MOMENTUM)
        return mean, var


class Term(NamedTuple):
    """What one layer adds to a state: its features, normalized unless `norm` is None.

    eps: what is added to their variance. Features that stand for s times themselves have EPS / s^2 here, as
    normalize(s f, eps) equals normalize(f, eps / s^2); the running statistics are of the features.
    """

    features: Tensor
    norm: BatchNorm | None = None
    eps: float = EPS

    def normal(self) -> tuple[Tensor, Tensor]:
        """Return the batch's mean and inverse standard deviation: (C,) each."""
        mean, var = self.norm.statistics(self.features.detach())
        return mean, (var + self.eps).rsqrt_()


@dataclass(frozen=True)
class Gating:
    """The gates of the operations behind some terms of a sum.

    gates: (num_edges, num_wanted), differentiable in the alphas.
    wanted: which operation of its edge a gate stands for.
    active: the operation of each edge that runs, and its term (None: it adds nothing).
    run: returns the term of an operation that does not run, given the edge and the operation.
    is_open: whether a gate is above 0, as `gates`.
    """

    gates: Tensor
    wanted: Sequence[Sequence[int]]
    active: Sequence[tuple[int, Term | None]]
    run: Callable[[int, int], Term | None]
    is_open: Sequence[Sequence[bool]]


def normalized_sum(terms: Sequence[Term], gating: Gating | None = None) -> Tensor:
    """Return the sum of the terms, at least one of which is normalized.

    With a gating, each gate gets the gradient that it would have if its operation's term were multiplied by it; in the
    sum itself the gate of the active operation of an edge is 1 and every other one 0.
    """
    normalized = [term for term in terms if term.norm is not None]
    ordered = [*normalized, *(term for term in terms if term.norm is None)]
    return _NormalizedSum.apply(
        ordered,
        gating,
        None if gating is None else gating.gates,
        *(term.features for term in ordered),
        *(term.norm.weight for term in normalized),
        *(term.norm.bias for term in normalized),
    )


class _NormalizedSum(torch.autograd.Function):
    """Arguments: the terms, normalized ones first, and from `features` on their tensors, which the graph sees."""

    @staticmethod
    def forward(
        ctx: Any, terms: Sequence[Term], gating: Gating | None, gates: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        features, num_normalized = tensors[: len(terms)], (len(tensors) - len(terms)) // 2
        mean, invstd = (
            torch.stack(part) for part in zip(*(term.normal() for term in terms[:num_normalized]), strict=True)
        )
        weight, bias = (torch.stack(part) for part in _halves(tensors[len(terms) :]))
        gain = weight * invstd
        shift = torch.addcmul(bias, mean, gain, value=-1).sum(0)
        width = features[0].shape[3]
        first, *others = _wide(gain, width)
        y = torch.addcmul(*_wide(shift[None], width), features[0], first)
        for x, factor in zip(features[1:num_normalized], others, strict=True):
            y.addcmul_(x, factor)
        for x in features[num_normalized:]:
            y.add_(x)
        ctx.gating, ctx.places = gating, {id(term): place for place, term in enumerate(terms)}
        ctx.save_for_backward(*features, weight, bias, mean, invstd)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous(memory_format=torch.channels_last)
        *features, weight, bias, mean, invstd = ctx.saved_tensors
        normalized, plain = features[: len(weight)], features[len(weight) :]
        dgamma, dbeta = _reduced(grad, normalized, mean, invstd)
        factors = _factors(weight, mean, invstd, dgamma, dbeta, num_pixels=grad.numel() // grad.shape[1])
        gradients = [
            torch.addcmul(constant, grad, of_grad).addcmul_(x, of_features) if is_wanted else None
            for x, constant, of_grad, of_features, is_wanted in zip(
                normalized,
                *(_wide(x, grad.shape[3]) for x in factors),
                ctx.needs_input_grad[3 : 3 + len(normalized)],
                strict=True,
            )
        ]
        gating, of_gates = ctx.gating, None
        ctx.gating = None
        if gating is not None:
            of_normalized = torch.addcmul(weight * dgamma, bias, dbeta).sum(1).unbind()
            inner = [*of_normalized, *(dot(grad, x) for x in plain)]
            of_gates = _gate_gradients(gating, grad, {key: inner[place] for key, place in ctx.places.items()})
        return None, None, of_gates, *gradients, *[grad] * len(plain), *dgamma.unbind(), *dbeta.unbind()


def _halves(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    middle = len(tensors) // 2
    return tensors[:middle], tensors[middle:]


def _wide(x: Tensor, width: int) -> tuple[Tensor, ...]:
    """Return the rows of x (num_terms, C) as what multiplies a picture's channels: (1, C, 1, 1), or (1, C, 1, W).

    With few channels, the loops over them alone are short, and those over a row of pixels are not.
    """
    if x.shape[1] >= _FEW_CHANNELS:
        return x.view(len(x), 1, -1, 1, 1).unbind()
    return torch.cat([x] * width, 1).view(len(x), 1, 1, width, -1).permute(0, 1, 4, 2, 3).unbind()


def _columns(x: Tensor) -> Tensor:
    """Return features of few channels with each row of pixels as one pixel: (B H, W C, 1, 1); others as they are."""
    return x if x.shape[1] >= _FEW_CHANNELS else x.permute(0, 2, 3, 1).reshape(-1, x.shape[3] * x.shape[1], 1, 1)


def _column_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of columns of pixels: (num_columns, C) each."""
    mean, var = torch.batch_norm_update_stats(_columns(x), None, None, _MOMENTUM)
    return mean.view(-1, x.shape[1]), var.view(-1, x.shape[1])


def _joined(means: Tensor, variances: Tensor, *, num_pixels: int) -> tuple[Tensor, Tensor, float]:
    """Return mean and variance of all columns of all processes, (C,) each, and how many pixels they have."""
    total = parallel.total(num_pixels)
    share = num_pixels / len(means) / total  # of a column
    mean = parallel.summed(means.sum(0).mul_(share))
    return mean, parallel.summed((means - mean).square_().add_(variances).sum(0).mul_(share)), total


def _reduced(grad: Tensor, features: Sequence[Tensor], mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """Return dgamma and dbeta of this process's pictures: (num_terms, C) each, as mean and invstd."""
    num_terms, num_channels = mean.shape
    grad, wanted = _columns(grad), [False, True, True]
    num_columns = grad.shape[1] // num_channels
    if num_columns > 1:
        mean, invstd = (torch.cat([x] * num_columns, 1) for x in (mean, invstd))
    found = [
        torch.ops.aten.native_batch_norm_backward(grad, _columns(x), None, None, None, *normal, True, EPS, wanted)
        for x, *normal in zip(features, mean.unbind(), invstd.unbind(), strict=True)
    ]
    dgamma, dbeta = (torch.stack(part) for part in list(zip(*found, strict=True))[1:])
    if num_columns > 1:
        dgamma, dbeta = (x.view(num_terms, num_columns, num_channels).sum(1) for x in (dgamma, dbeta))
    return dgamma, dbeta


def _factors(
    weight: Tensor, mean: Tensor, invstd: Tensor, dgamma: Tensor, dbeta: Tensor, *, num_pixels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, a term, a constant and what multiplies the sum's gradient g and the features in their gradient.

    It is gain (g - (dbeta + dgamma (f - mean) / std) / num_pixels).
    """
    dgamma, dbeta = parallel.summed(torch.stack((dgamma, dbeta))).div_(-parallel.total(num_pixels)).unbind()
    gain, slope = weight * invstd, dgamma * invstd
    constant = torch.addcmul(dbeta, slope, mean, value=-1)
    return constant.mul_(gain), gain, slope.mul_(gain)


def _gate_gradients(gating: Gating, grad: Tensor, inner: Mapping[int, Tensor]) -> Tensor:
    """Return <grad, output of the operation> for every gate that is open; inner: of the terms in the sum, by id.

    The softmax takes no gradient on from a gate that is 0: its operation is discarded, or unfit.
    """
    nothing = grad.new_zeros(())
    gradients = []
    for edge, (indices, (active, term)) in enumerate(zip(gating.wanted, gating.active, strict=True)):
        for column, index in enumerate(indices):
            if not gating.is_open[edge][column]:
                gradients.append(None)
            elif index == active:
                gradients.append(None if term is None else inner[id(term)])
            else:
                gradients.append(_inner(grad, gating.run(edge, index)))
    return torch.stack([nothing if gradient is None else gradient for gradient in gradients]).view_as(gating.gates)


def _inner(grad: Tensor, term: Term | None) -> Tensor | None:
    """Return <grad, term>, or None for no term."""
    if term is None:
        return None
    if term.norm is None:
        return dot(grad, term.features)
    mean, invstd = term.normal()
    (dgamma,), (dbeta,) = _reduced(grad, [term.features], mean[None], invstd[None])
    return torch.dot(term.norm.weight, dgamma).add_(torch.dot(term.norm.bias, dbeta))
