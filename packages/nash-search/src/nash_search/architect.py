"""The architecture step: one step of the alphas on a batch that the weights do not train on.

`full` takes the gradient of every gate: all operations run once, forward only, except the sampled one, which has
run already. `two-path` (ProxylessNAS, arXiv 1812.00332, section 3.2.1) samples two operations an edge and takes
the gradient of their two gates, so the cost does not grow with the number of primitives:

- The two alphas get opposite gradients, q_a q_b (G_a - G_b), with q the probabilities among the two and G = dL/dg:
  the one whose output lowers the loss rises. All other alphas get none, and after the step their probabilities
  are what they were before.
- Its expectation is a positively weighted sum over the pairs, where the full gradient has p_i p_j (G_i - G_j).
  While all n primitives are equally likely it is the full gradient times n / (2 (n - 1)).

Either is a first-order estimate of the gradient of the expected loss: exact where the loss is linear in the gate
(the last layer of an unactivated network under a linear loss), an approximation further up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from . import parallel
from .penalty import Penalty
from .supernet import Path, Supernet

Gradient = Literal["two-path", "full"]


@dataclass(frozen=True)
class ArchitectureStep:
    """What happened in one architecture step."""

    loss: float
    gradient_norm: float


class Architect:
    """Trains a supernet's alphas with Adam."""

    def __init__(
        self,
        supernet: Supernet,
        gradient: Gradient = "two-path",
        *,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.0, 0.999),
        weight_decay: float = 1e-3,
        penalty: Penalty | None = None,
    ) -> None:
        if gradient not in get_args(Gradient):
            raise ValueError(f"gradient: got {gradient!r}, expected one of {', '.join(get_args(Gradient))}")
        self.supernet = supernet
        self.gradient = gradient
        self.weight_decay = weight_decay
        self.penalty = penalty
        self.optimizer = torch.optim.Adam(supernet.alphas(), lr=lr, betas=betas)
        for alpha in supernet.alphas():  # there from the start, so that a checkpoint always has the same tensors
            self.optimizer.state[alpha] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(alpha),
                "exp_avg_sq": torch.zeros_like(alpha),
            }

    def sample(self, generator: torch.Generator) -> Path:
        """Sample a path whose gates are differentiable in the alphas."""
        return (self._sample_two if self.gradient == "two-path" else self._sample_full)(generator)

    def _sample_full(self, generator: torch.Generator) -> Path:
        probs = self.supernet.probs()
        active = torch.multinomial(probs.detach(), 1, generator=generator)[:, 0]
        return Path(active.tolist(), [range(probs.shape[1])] * len(probs), probs)

    def _sample_two(self, generator: torch.Generator) -> Path:
        logits = self.supernet.logits()
        # the two largest of logits + Gumbel noise: two draws without replacement, however small a probability is
        noise = -torch.empty_like(logits).exponential_(generator=generator).log()
        pair = (logits.detach() + noise).topk(2).indices
        gates = logits.gather(1, pair).softmax(-1)
        active = pair.gather(1, torch.multinomial(gates.detach(), 1, generator=generator))
        return Path(active[:, 0].tolist(), pair.tolist(), gates)

    def accumulate(self, x: Tensor, target: Tensor, path: Path) -> ArchitectureStep:
        """Set the alphas' gradient from a batch's cross-entropy along a path and the penalty; the weights get none."""
        self.optimizer.zero_grad()
        of_penalty = self._penalty_gradient(path)
        with self.supernet.frozen():
            loss = parallel.share_of_loss(self.supernet(x, path), target)
            loss.backward()
        parallel.sum_gradients(self.supernet.alphas())
        gradient = self.supernet.alpha.grad
        if of_penalty is not None:
            gradient.add_(of_penalty)
        return ArchitectureStep(
            loss=parallel.total(loss.item()), gradient_norm=float(torch.linalg.vector_norm(gradient))
        )

    def _penalty_gradient(self, path: Path) -> Tensor | None:
        """Return the penalty's gradient in the alphas, taken through the same gates as that of the loss.

        With G its derivative by the probabilities: the full gates make it exact, two gates q_a q_b (G_a - G_b).
        """
        if self.penalty is None:
            return None
        probs = self.supernet.probs().detach().requires_grad_()
        (slopes,) = torch.autograd.grad(self.penalty(probs), probs)
        gated = path.gates * slopes.gather(1, torch.tensor([list(row) for row in path.wanted]))
        return torch.autograd.grad(gated.sum(), self.supernet.alpha, retain_graph=True)[0]

    def update(self, path: Path) -> None:
        """Move the alphas along their gradient, and the multipliers of a budget along theirs."""
        if self.penalty is not None:
            self.penalty.update(self.supernet.probs())
        alpha = self.supernet.alpha
        wanted = torch.zeros_like(alpha).scatter_(1, torch.tensor([list(row) for row in path.wanted]), 1.0)
        # Adam would blow the tiny decay of an alpha without a gradient up to a whole step, so only these decay
        alpha.grad.add_(alpha.detach() * wanted, alpha=self.weight_decay)
        before = self._log_mass(wanted)
        self.optimizer.step()
        if self.gradient == "two-path":
            with torch.no_grad():
                alpha.add_((before - self._log_mass(wanted)) * wanted)

    def _log_mass(self, wanted: Tensor) -> Tensor:
        """Return the log of the summed exponentials of the wanted alphas: (num_edges, 1)."""
        return self.supernet.alpha.detach().masked_fill(wanted == 0, float("-inf")).logsumexp(-1, keepdim=True)
