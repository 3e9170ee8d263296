"""The architecture step: one step of the alphas on a batch that the weights do not train on.

`full` takes the gradient of every gate: all operations run once, forward only, except the sampled one, which has
run already. `two-path` (ProxylessNAS, arXiv 1812.00332, section 3.2.1) samples two options a choice and takes
the gradient of their two gates, so the cost does not grow with the number of options:

- With G = dL/dg the full gradient of alpha_i is the sum over j of p_i p_j (G_i - G_j). A pair a, b is drawn without
  replacement, with probability P = p_a p_b (1 / (1 - p_a) + 1 / (1 - p_b)); its two alphas get opposite gradients,
  +-p_a p_b / P (G_a - G_b) = +-(G_a - G_b) / (1 / (1 - p_a) + 1 / (1 - p_b)), which makes their expectation the full
  gradient at any alphas. The factor is at most 1/2, so a rare pair is no noisier than another one. (ProxylessNAS has
  q_a q_b (G_a - G_b), with q the probabilities among the two; that is right, up to a factor, at equal alphas only.)
- All other alphas stay, momentum or not, and after the step their probabilities are what they were before.

Either is a first-order estimate of the gradient of the expected loss: exact where the loss is linear in the gate
(the last layer of an unactivated network under a linear loss), an approximation further up. It is a poor one of what
a swap of two operations does: the gate of the active operation multiplies a normalization whose weights are trained,
and so has hardly any gradient.

`swap` therefore asks the loss itself. It runs the sampled path, and once more for each of a few choices with one
option in place of the active one, forward only and from that layer on. With L_a - L_b in place of G_a - G_b, the same
weights make the expectation the gradient of the expected loss, with nothing taken to be linear. Only the alphas of
the choices that were swapped move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..base import parallel
from ..cost.penalty import Penalty
from ..supernet.relaxation import Relaxation
from ..supernet.supernet import Path, Supernet

NUM_SWAPS = 4  # they cost as much as the backward pass of the other two

Gradient = Literal["two-path", "full", "swap"]
DEFAULTS: dict[Relaxation, Gradient] = {"layer": "swap", "edge": "two-path"}  # the paper's is that of edges


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
        num_swaps: int = NUM_SWAPS,
    ) -> None:
        if gradient not in get_args(Gradient):
            raise ValueError(f"gradient: got {gradient!r}, expected one of {', '.join(get_args(Gradient))}")
        self.supernet = supernet
        self.gradient = gradient
        self.weight_decay = weight_decay
        self.penalty = penalty
        self.num_swaps = num_swaps
        self.optimizer = torch.optim.Adam(supernet.alphas(), lr=lr, betas=betas)
        for alpha in supernet.alphas():  # there from the start, so that a checkpoint always has the same tensors
            self.optimizer.state[alpha] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(alpha),
                "exp_avg_sq": torch.zeros_like(alpha),
            }

    def sample(self, generator: torch.Generator) -> Path:
        """Sample a path whose gates are differentiable in the alphas."""
        match self.gradient:
            case "full":
                return self._sample_full(generator)
            case "two-path":
                return self._sample_two(generator)
            case _:
                return self._sample_swaps(generator)

    def _sample_full(self, generator: torch.Generator) -> Path:
        probs = self.supernet.probs()
        active = torch.multinomial(probs.detach(), 1, generator=generator)[:, 0]
        return Path(active.tolist(), [range(probs.shape[1])] * len(probs), probs)

    def _sample_two(self, generator: torch.Generator) -> Path:
        pair = self._sample_pairs(generator)
        gates = self.gates_of(pair)
        active = pair.gather(1, torch.multinomial(gates.detach(), 1, generator=generator))
        return Path(active[:, 0].tolist(), pair.tolist(), gates)

    def _sample_swaps(self, generator: torch.Generator) -> Path:
        pair = self._sample_pairs(generator)
        choices = (self.supernet.admissible.sum(1) > 1).nonzero()[:, 0]
        rows = choices[torch.randperm(len(choices), generator=generator)[: self.num_swaps]]
        gates = self.gates_of(pair)
        scale = torch.zeros(len(pair), 1, dtype=gates.dtype).index_fill(0, rows, len(choices) / max(len(rows), 1))
        gates = gates.detach() + (gates - gates.detach()) * scale
        return Path(pair[:, 0].tolist(), pair.tolist(), gates, rows.tolist())

    def _sample_pairs(self, generator: torch.Generator) -> Tensor:
        """Return two options of each choice, (num_choices, 2), drawn without replacement.

        They are the two largest of logits + Gumbel noise, which finds them however small a probability is.
        """
        logits = self.supernet.logits().detach()
        noise = -torch.empty_like(logits).exponential_(generator=generator).log()
        return (logits + noise).topk(2).indices

    def gates_of(self, pair: Tensor) -> Tensor:
        """Return the two gates of drawn pairs, (num_choices, 2): the probabilities among the two.

        Their gradient is weighed by how likely the pair was to be drawn.
        """
        logits, alphas = self.supernet.logits().detach(), self.supernet.alpha.gather(1, pair)
        # 1 - p as the sum of the others: the difference is 0 long before they are
        others = logits.expand(2, -1, -1).scatter(2, pair.T[..., None], float("-inf")).logsumexp(-1)
        rarity = (others - logits.logsumexp(-1)).exp()
        weight = rarity.prod(0) / rarity.sum(0).clamp_min(torch.finfo(rarity.dtype).tiny)
        difference = (alphas - alphas.flip(1)) * weight[:, None]
        return logits.gather(1, pair).softmax(-1) + (difference - difference.detach())

    def accumulate(self, x: Tensor, target: Tensor, path: Path) -> ArchitectureStep:
        """Set the alphas' gradient from a batch's cross-entropy along a path and the penalty; the weights get none."""
        self.optimizer.zero_grad()
        of_penalty = self._penalty_gradient(path)
        with self.supernet.frozen():
            loss = (self._swap if self.gradient == "swap" else self._gate)(x, target, path)
        parallel.sum_gradients(self.supernet.alphas())
        gradient = self.supernet.alpha.grad
        if of_penalty is not None:
            gradient.add_(of_penalty)
        return ArchitectureStep(
            loss=parallel.total(loss.item()), gradient_norm=float(torch.linalg.vector_norm(gradient))
        )

    def _gate(self, x: Tensor, target: Tensor, path: Path) -> Tensor:
        """Set the gradient of a batch's loss by the gates, and return this process's share of the loss."""
        loss = parallel.share_of_loss(self.supernet(x, path), target)
        loss.backward()
        return loss

    def _swap(self, x: Tensor, target: Tensor, path: Path) -> Tensor:
        """Set the gradient of a batch's loss by what each swap makes of it, and return the loss without one."""
        with torch.no_grad():
            losses = [parallel.share_of_loss(logits, target) for logits in self.supernet.swapped(x, path, path.rows)]
        loss, *others = losses
        differences = torch.stack([other - loss for other in others] or [loss.new_empty(0)]).view(-1).cpu()
        (path.gates[path.rows, 1] * differences).sum().backward()
        return loss

    def _penalty_gradient(self, path: Path) -> Tensor | None:
        """Return the penalty's gradient in the alphas, taken through the same gates as that of the loss.

        With G its derivative by the probabilities, the full gates make it exact, and two gates unbiased.
        """
        if self.penalty is None:
            return None
        probs = self.supernet.probs().detach().requires_grad_()
        (slopes,) = torch.autograd.grad(self.penalty(self.supernet.layout.table(probs)), probs)
        gated = path.gates * slopes.gather(1, torch.tensor([list(row) for row in path.wanted]))
        return torch.autograd.grad(gated.sum(), self.supernet.alpha, retain_graph=True)[0]

    def update(self, path: Path) -> None:
        """Move the alphas along their gradient, and the multipliers of a budget along theirs."""
        if self.penalty is not None:
            self.penalty.update(self.supernet.table())
        alpha = self.supernet.alpha
        wanted = torch.zeros_like(alpha).scatter_(1, torch.tensor([list(row) for row in path.wanted]), 1.0)
        if path.rows is not None:
            wanted *= torch.zeros(len(alpha), 1, dtype=alpha.dtype).index_fill(
                0, torch.tensor(path.rows, dtype=torch.long), 1.0
            )
        # Adam would blow the tiny decay of an alpha without a gradient up to a whole step, so only these decay
        alpha.grad.add_(alpha.detach() * wanted, alpha=self.weight_decay)
        mass, before = self._log_mass(wanted), alpha.detach().clone()
        self.optimizer.step()
        if self.gradient != "full":
            with torch.no_grad():  # what momentum makes of the others is undone
                alpha.copy_(torch.where(wanted > 0, alpha + (mass - self._log_mass(wanted)), before))

    def _log_mass(self, wanted: Tensor) -> Tensor:
        """Return the log of the summed exponentials of the wanted alphas: (num_choices, 1)."""
        return self.supernet.alpha.detach().masked_fill(wanted == 0, float("-inf")).logsumexp(-1, keepdim=True)
