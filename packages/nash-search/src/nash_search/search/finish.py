"""The finish: the networks that the alphas rank first are trained for a short while each, and the best is kept.

Successive halving (arXiv 1502.07943): in each rung every network that is left trains anew from the supernet's weights,
along its own path, on the half of the weights, all of them on the same batches; the better half by the loss on the
half of the alphas goes on to the next rung, which trains twice as long. Random networks of the same cost pass through
rungs of their own beside them. They are never kept: they tell what the alphas were worth.

`finish.json` has every loss and is written after each network, so that a finish that is stopped goes on from there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base import json_file, manifest, parallel
from ..base.errors import DivergedError, IntegrityError, Interrupted
from ..base.interrupt import Stop
from ..base.progress import Reporter
from ..cost import uniform
from ..cost.costs import SUM
from ..genotype.genotype import Genotype
from ..view.draw import nas_ops
from . import candidates
from .engine import FINISH_FILE, Finished, Search
from .scoring import Trial, trained_loss

ALPHAS, RANDOM = "alphas", "random"  # where a network comes from
_FORMAT = "nash-search finish 1"


@dataclass(kw_only=True, eq=False)
class Network:
    """A network of the finish; it has a loss a rung that it was in, None where its training diverged."""

    origin: str
    genotype: Genotype
    cost: float
    losses: list[float | None] = field(default_factory=list)


def ranked(networks: Sequence[Network], rung: int) -> list[Network]:
    """Return networks by their loss in a rung; what diverged is last, and of equals the first is first."""
    return sorted(networks, key=lambda network: (network.losses[rung] is None, network.losses[rung] or 0.0))


def entrants(networks: Sequence[Network], rung: int) -> list[Network]:
    """Return the networks of one origin that are in a rung: all in the first, then the better half, rounded up."""
    if rung == 0:
        return list(networks)
    before = ranked(entrants(networks, rung - 1), rung - 1)
    return before[: -(-len(before) // 2)]


class Ladder:
    """The networks of a finish, on their way through its rungs."""

    def __init__(self, search: Search) -> None:
        plan, variant = search.settings.finish, search.supernet.variant
        self.path = search.out / FINISH_FILE
        self.rungs = plan.rungs()
        self.trial = Trial(
            supernet=search.supernet,
            weight_half=search.weight_half,
            alpha_half=search.alpha_half,
            batch_size=search.batch_size,
            recipe=search.settings.recipe.weights,
            first_epoch=search.settings.recipe.epochs,
        )
        first = search.genotype()
        by = candidates.yardstick(search.penalty, first, variant)
        tables, limits = search.budget()
        if not limits:
            tables, limits = {by.name: by.table}, {by.name: (1 + uniform.TOLERANCE) * by.of(first, variant)}
        probable = candidates.most_probable(search.supernet, first, tables, limits, count=plan.num_networks)
        drawn = candidates.random_like(first, variant, by, count=plan.num_random, seed=search.settings.seed)
        self.metric = by.name
        self.networks = [
            Network(origin=origin, genotype=found, cost=by.of(found, variant))
            for origin, group in ((ALPHAS, probable), (RANDOM, drawn))
            for found in group
        ]
        if parallel.is_first():
            _warn_of_missing("--finish", plan.num_networks, len(probable))
            _warn_of_missing("--finish-random", plan.num_random, len(drawn))

    def group(self, origin: str) -> list[Network]:
        """Return the networks of one origin."""
        return [network for network in self.networks if network.origin == origin]

    def entrants(self, rung: int) -> list[Network]:
        """Return the networks in a rung, those by the alphas first."""
        return [network for origin in (ALPHAS, RANDOM) for network in entrants(self.group(origin), rung)]

    def restore(self) -> None:
        """Take the losses that finish.json holds, if it is there.

        Raises:
            IntegrityError: it is damaged, or of other networks.
        """
        if not self.path.exists():
            return
        advice = "remove it, and all networks are scored anew"
        try:
            content = json_file.read(self.path)
            if content["format"] != _FORMAT:
                raise IntegrityError(f"{self.path}: format: got {content['format']!r}, expected {_FORMAT!r}; {advice}")
            saved = [(found["origin"], found["nas_ops"], list(found["losses"])) for found in content["networks"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{self.path}: damaged ({type(error).__name__}: {error}); {advice}") from error
        ours = [(network.origin, nas_ops(network.genotype)) for network in self.networks]
        if content["epochs"] != self.rungs or [(origin, ops) for origin, ops, _ in saved] != ours:
            raise IntegrityError(f"{self.path}: networks: got others than those of this search; {advice}")
        for network, (_, _, losses) in zip(self.networks, saved, strict=True):
            network.losses = losses

    def save(self) -> None:
        """Write finish.json; of several processes the first does."""
        if parallel.is_first():
            with manifest.atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self.record(), indent=1, allow_nan=False) + "\n", "utf-8")

    def record(self) -> dict[str, Any]:
        """Return what finish.json holds."""
        networks = [
            {"origin": each.origin, "cost": each.cost, "losses": each.losses, "nas_ops": nas_ops(each.genotype)}
            for each in self.networks
        ]
        return {"format": _FORMAT, "epochs": self.rungs, "cost": self.metric, "networks": networks}

    def climb(self, stop: Stop) -> None:
        """Score the networks rung by rung.

        Raises:
            Interrupted: a stop was requested; what is scored is saved.
            DivergedError: no network by the alphas has a finite loss.
        """
        is_silent = not parallel.is_first()
        with Reporter(self._num_steps(), self._steps_done(), label="finish", is_silent=is_silent) as reporter:
            for rung, epochs in enumerate(self.rungs):
                for network in self.entrants(rung):
                    if len(network.losses) == rung:
                        self._score(network, rung, stop, reporter)
                if all(network.losses[rung] is None for network in entrants(self.group(ALPHAS), rung)):
                    raise DivergedError(
                        f"--finish: every network diverged in {_epochs(epochs)}; lower the learning rate of the "
                        f"weights in the recipe, or leave --finish out"
                    )

    def _score(self, network: Network, rung: int, stop: Stop, reporter: Reporter) -> None:
        epochs, path, step = self.rungs[rung], self.trial.supernet.path_of(network.genotype), self._steps_done()

        def show(loss: float) -> None:
            nonlocal step
            step += 1
            reporter.step(step, loss)

        try:
            loss = trained_loss(self.trial, path, epochs, stop, show)
        except FloatingPointError:
            network.losses.append(None)
        else:
            if loss is None:
                num_scores = sum(len(each.losses) for each in self.networks)
                raise Interrupted(
                    f"stopped by {stop.requested} in the finish, after {num_scores} scores; "
                    f"go on with the same command and --resume"
                )
            network.losses.append(loss)
        self.save()
        number = f"{self.networks.index(network) + 1}/{len(self.networks)} ({network.origin})"
        text = f"finish: network {number}, {_epochs(epochs)}: loss {_loss(network, rung)}"
        reporter.line(text, self._steps_done())

    def _num_steps(self) -> int:
        sizes = [len(self.group(origin)) for origin in (ALPHAS, RANDOM)]
        num_epochs = sum(epochs * sum(-(-size // 2**rung) for size in sizes) for rung, epochs in enumerate(self.rungs))
        return num_epochs * self.trial.steps_per_epoch

    def _steps_done(self) -> int:
        return sum(sum(self.rungs[: len(each.losses)]) for each in self.networks) * self.trial.steps_per_epoch

    def best(self, origin: str = ALPHAS) -> Network:
        """Return the network of an origin that is first in the last rung."""
        last = len(self.rungs) - 1
        return ranked(entrants(self.group(origin), last), last)[0]

    def summary(self) -> dict[str, Any]:
        """Return what the genotype tells of the finish: losses of the last rung, ranks and shares of the first one.

        A share is that of the random networks with a greater loss: 1 beats them all, 0.5 is as good as chance.
        """
        probable, drawn = self.group(ALPHAS), self.group(RANDOM)
        kept = self.best()
        shares = [beaten(network, drawn) for network in probable]
        return {
            "networks": len(probable),
            "random": len(drawn),
            "epochs": self.rungs,
            "kept": probable.index(kept) + 1,
            "loss": kept.losses[-1],
            "random_loss": self.best(RANDOM).losses[-1] if drawn else None,
            "rank_of_first": ranked(probable, 0).index(probable[0]) + 1,
            "first_beats": shares[0],
            "networks_beat": None if None in shares else float(np.mean(shares)),
        }


def beaten(network: Network, drawn: Sequence[Network]) -> float | None:
    """Return the share of random networks with a greater loss in the first rung; None if there are none."""
    if not drawn:
        return None
    order = ranked([*drawn, network], 0)
    return 1 - order.index(network) / len(drawn)


def run(search: Search, stop: Stop) -> Finished:
    """Score the networks of a search whose alphas are done, and return the one to keep.

    Raises:
        Interrupted: a stop was requested; what is scored is saved.
        DivergedError: no network by the alphas has a finite loss.
        IntegrityError: finish.json is damaged, or of another finish.
    """
    ladder = Ladder(search)
    ladder.restore()
    parallel.wait()  # before any of them writes there
    search.save()  # with what is asked of the finish, which the search may have begun without
    ladder.climb(stop)
    kept = ladder.best().genotype
    figures = search.validate(Stop(), kept)
    assert figures is not None  # nobody asks that stop
    return Finished(genotype=kept, accuracy=figures["accuracy"], summary=ladder.summary())


def _warn_of_missing(option: str, asked: int, there: int) -> None:
    if there < asked:
        warnings.warn(f"{option}: got {asked}, but there are only {there} such networks", stacklevel=2)


def table(genotype_path: Path, summary: Mapping[str, Any]) -> str:
    """Return the networks of a finish by rung, and where the search stands among the random ones.

    genotype_path: the genotype.json that finish.json lies beside; summary: its `search.finish`.
    """
    content = json_file.read(genotype_path.parent / FINISH_FILE)
    metric, rungs = content["cost"], content["epochs"]
    lines = ["  network  of      " + "".join(f"{head:>12}" for head in (metric, *map(_epochs, rungs)))]
    for number, found in enumerate(content["networks"], 1):
        network = Network(origin=found["origin"], genotype=None, cost=found["cost"], losses=found["losses"])
        cost = f"{network.cost:.2%}" if metric == SUM else f"{network.cost:,.0f}"
        cells = [cost, *(_loss(network, rung) for rung in range(len(rungs)))]
        mark = "*" if number == summary["kept"] else " "
        lines.append(f"{mark} {number:<7}  {network.origin:<6}  " + "".join(f"{cell:>12}" for cell in cells))
    lines.append(
        f"kept (*): network {summary['kept']}; the first choice of the alphas is number 1, and by loss "
        f"{summary['rank_of_first']} of {summary['networks']}"
    )
    if summary["random"]:
        lines.append(
            f"of {summary['random']} random networks of the same cost the first choice beats "
            f"{summary['first_beats']:.0%}, the networks of the alphas on average {summary['networks_beat']:.0%}"
        )
    return "\n".join(lines)


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number > 1)}"


def _loss(network: Network, rung: int) -> str:
    if rung >= len(network.losses):
        return ""
    loss = network.losses[rung]
    return "diverged" if loss is None else f"{loss:.3f}"
