"""The search: alphas and weights trained in turn, each on its own half of the training split.

One step is an architecture step (Adam on the alphas, on a batch of the alpha half; no weight and no running
statistic changes) and a weight step (SGD along one sampled path, on a batch of the weight half). Everything random
follows from the seed and the step, so a search that is interrupted and resumed ends at the same alphas, bit by bit
(on the same processor and release of torch, with as many threads).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base import manifest, parallel
from ..base.errors import CapacityError, DivergedError, IntegrityError, Interrupted, UsageError
from ..base.interrupt import Stop
from ..base.progress import Reporter
from ..cost import costs as cost
from ..cost.penalty import Penalty
from ..data import datasets as data
from ..data import holdout
from ..genotype import genotype
from ..genotype.genotype import Genotype
from ..layers import devices
from ..supernet import warm
from ..supernet.supernet import Supernet
from . import batches, checkpoint, training
from .architect import Architect, ArchitectureStep
from .settings import Settings

GENOTYPE_FILE, ALPHAS_FILE, HISTORY_FILE = "genotype.json", "alphas.json", "history.jsonl"
FINISH_FILE = "finish.json"
_DTYPES = {"mixed": torch.float32, "float32": torch.float32, "float64": torch.float64}
_ALPHA_PATHS, _WEIGHT_PATHS = 0, 1  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What the finish came to.

    accuracy: of the genotype with the supernet's weights, percent.
    summary: for `search.finish` of the genotype.
    """

    genotype: Genotype
    accuracy: float
    summary: Mapping[str, Any]


class Search:
    """A search in progress."""

    def __init__(self, settings: Settings, split: data.Split, out: Path) -> None:
        recipe = settings.recipe
        self.settings = settings
        self.out = out
        self._flat = settings.flat(split)
        augmentation = recipe.augmentation_of(settings.dataset)
        held, placed = holdout.held_out(split, settings.val_fraction), devices.placement(settings.device)
        self.weight_half, self.alpha_half = batches.halve(
            split, augmentation, seed=settings.seed, num_images=settings.num_images, held=held, placed=placed
        )
        self._held_out = {"fraction": settings.val_fraction, "count": len(held), "num_pictures": len(split)}
        self.batch_size = min(recipe.batch_size, len(self.weight_half))
        if self.batch_size < parallel.size():
            raise UsageError(f"batches of {self.batch_size}: expected at least a picture for each process; start fewer")
        self.steps_per_epoch = len(self.weight_half) // self.batch_size
        self.num_steps = recipe.epochs * self.steps_per_epoch
        variant, self.dtype = settings.strategy(), _DTYPES[settings.precision]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.supernet = Supernet(
                settings.backbone,
                variant,
                settings.relaxation,
                alpha_std=recipe.alphas.std,
                quantization=settings.quantization(),
            ).to(self.dtype)
        self.supernet.multiply_in(devices.low_precision(placed, settings.precision))
        if settings.init_weights is not None:
            warm.start(self.supernet, settings.init_weights)
        self.supernet.place(placed.device)
        self.penalty: Penalty | None = None
        if settings.costs_file is not None and settings.price is not None:
            costs = cost.load(settings.costs_file, settings.backbone, variant)
            self.penalty = Penalty(costs, settings.price, multiplier_lr=recipe.alphas.multiplier_lr)
        self.genotype()  # that there will be one, also within a budget
        self.architect = Architect(
            self.supernet,
            settings.gradient,
            lr=recipe.alphas.lr,
            betas=recipe.alphas.betas,
            weight_decay=recipe.alphas.weight_decay,
            penalty=self.penalty,
        )
        self.optimizer = training.sgd(self.supernet, recipe.weights)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}
        self._saved_step: int | None = None

    def save(self) -> None:
        """Write a checkpoint and the history so far; of several processes the first does."""
        self._saved_step = self.step
        if not parallel.is_first():
            return
        checkpoint.write(
            self.out,
            checkpoint.Checkpoint(
                settings=self._flat,
                state={"step": self.step, "history": self.history, "sums": self._sums},
                tensors={name: tensor.contiguous() for name, tensor in self._tensors()},
            ),
        )
        with manifest.atomic_path(self.out / HISTORY_FILE) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in self.history), "utf-8")

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Go back to a checkpoint of the same settings."""
        checkpoint.check_settings(self.out, saved.settings, self._flat)
        step, history = saved.state["step"], saved.state["history"]
        num_closed, epochs = step // self.steps_per_epoch, [line["epoch"] for line in history]
        is_whole = epochs == list(range(1, len(epochs) + 1)) and num_closed - 1 <= len(epochs) <= num_closed
        if step > self.num_steps or not is_whole:  # an epoch's line may be still to come
            raise IntegrityError(
                f"{self.out / checkpoint.STATE_FILE}: state: got step {step} of {self.num_steps} and a history of "
                f"{len(history)} epochs, which do not fit together; choose another --out and start anew"
            )
        checkpoint.restore(saved.tensors, self._tensors())
        self.step = self._saved_step = saved.state["step"]
        self.history, self._sums = saved.state["history"], saved.state["sums"]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from checkpoint.tensors_of(self.supernet, self.optimizer, self.architect.optimizer)
        if self.penalty is not None:
            yield "penalty.multipliers", self.penalty.multipliers

    def train(self, stop: Stop, reporter: Reporter) -> None:
        """Search to the end.

        Raises:
            Interrupted: a stop was requested; a checkpoint is saved.
            DivergedError: a loss or gradient is not finite; the last checkpoint is kept.
        """
        while True:
            if stop.requested:
                self.save()
                raise Interrupted(
                    f"stopped by {stop.requested} after step {self.step} of {self.num_steps}; "
                    f"go on with the same command and --resume"
                )
            try:
                if not self._advance(stop, reporter):
                    return
            except FloatingPointError as error:
                raise self._diverged(str(error)) from error
            except torch.OutOfMemoryError as error:
                raise CapacityError(
                    f"step {self.step + 1}: the device's memory does not hold a step on {self.batch_size} pictures; "
                    f"the checkpoint of step {self._saved_step} in {self.out} is kept; lower the recipe's batch_size, "
                    "--width or --input-size, and begin anew"
                ) from error

    def _advance(self, stop: Stop, reporter: Reporter) -> bool:
        """Close an epoch or train a step; return False if there is nothing left to do."""
        if len(self.history) < self.step // self.steps_per_epoch:
            self._close_epoch(stop, reporter)
        elif self.step == self.num_steps:
            return False
        else:
            reporter.step(self.step + 1, self._train_step())
            if self.step % self.settings.recipe.checkpoint_steps == 0:
                self.save()
        return True

    def _train_step(self) -> float:
        epoch, number = divmod(self.step, self.steps_per_epoch)
        step = None
        if epoch >= self.settings.recipe.warmup_epochs:
            step = self.architecture_step(*self.alpha_half.batch(epoch, number, self.batch_size))
        weight_loss = self.weight_step(*self.weight_half.batch(epoch, number, self.batch_size))
        self.step += 1
        sums = self._sums
        sums["weight_loss"] = sums.get("weight_loss", 0.0) + weight_loss
        if step is not None:
            sums["alpha_loss"] = sums.get("alpha_loss", 0.0) + step.loss
            sums["alpha_gradient_norm"] = sums.get("alpha_gradient_norm", 0.0) + step.gradient_norm
            sums["alpha_gradient_norm_min"] = min(sums.get("alpha_gradient_norm_min", math.inf), step.gradient_norm)
        return weight_loss

    def architecture_step(self, x: Tensor, y: Tensor) -> ArchitectureStep:
        """Train the alphas on a batch."""
        path = self.architect.sample(self._generator(_ALPHA_PATHS))
        step = self.architect.accumulate(x.to(self.dtype), y, path)
        training.refuse_unless_finite("alpha loss", step.loss)
        training.refuse_unless_finite("gradient of the alphas", step.gradient_norm)
        self.architect.update(path)
        return step

    def weight_step(self, x: Tensor, y: Tensor) -> float:
        """Train the weights of one sampled path on a batch and return the loss."""
        path, recipe = self.supernet.sample(self._generator(_WEIGHT_PATHS)), self.settings.recipe.weights
        lr = training.rate(recipe, self.step, self.num_steps)
        return training.weight_step(self.supernet, path, x, y, self.optimizer, lr=lr, clip_norm=recipe.clip_norm)

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"step {self.step + 1}: {what}; the checkpoint of step {self._saved_step} in "
            f"{self.out} is kept; lower the learning rates in the recipe"
        )

    def _generator(self, stream: int) -> torch.Generator:
        key = np.random.SeedSequence([self.settings.seed, stream, self.step]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(key[0] >> np.uint64(1)))

    def _close_epoch(self, stop: Stop, reporter: Reporter) -> None:
        validation = self.validate(stop)
        if validation is None:
            return
        minimum = {key: self._sums.pop(key) for key in ("alpha_gradient_norm_min",) if key in self._sums}
        means = {key: value / self.steps_per_epoch for key, value in self._sums.items()}
        probs = self.supernet.probs().detach()
        record = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            **means,
            **minimum,
            **validation,
            "alpha_entropy": float(torch.special.entr(probs).sum(-1).mean()),
            **({} if self.penalty is None else self.penalty.record(self.supernet.table())),
        }
        if self.settings.discard_below is not None:
            if record["epoch"] >= self.settings.discard_after:
                self.supernet.discard(self.settings.discard_below)
            record["num_operations"] = int(self.supernet.admissible.sum())
        self.history.append(record)
        self._sums = {}
        self.save()
        reporter.epoch(record, self.settings.recipe.epochs)

    def validate(self, stop: Stop, found: Genotype | None = None) -> dict[str, float] | None:
        """Return loss and accuracy (percent) of the genotype as it is now on the clean alpha half; None if stopped.

        found: another genotype instead.
        """
        path = self.supernet.path_of(self.genotype() if found is None else found)
        figures = training.evaluate(self.supernet, path, self.alpha_half, self.batch_size, stop)
        return None if figures is None else dict(zip(("loss", "accuracy"), figures, strict=True))

    def genotype(self) -> Genotype:
        """Return the most probable genotype, within the budget if there is one.

        Raises:
            CapacityError: the budget admits none.
        """
        if self.penalty is None or not self.penalty.limits:
            return self.supernet.genotype()
        probs, variant = self.supernet.table().tolist(), self.supernet.variant
        return self.penalty.costs.decode(self.supernet.backbone, probs, variant, self.penalty.limits)

    def budget(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
        """Return by metric the cost of each primitive on each edge, and the limit; empty without a budget."""
        if self.penalty is None:
            return {}, {}
        tables = {name: self.penalty.costs.table(name).numpy() for name in self.penalty.limits}
        return tables, self.penalty.limits

    def write_genotype(self, inputs: list[dict[str, Any]], finished: Finished | None = None) -> Path:
        """Write the alphas and the genotype they decode to, or that the finish chose, and return the latter's path."""
        alphas = self.out / ALPHAS_FILE
        with manifest.atomic_path(alphas) as temporary:
            temporary.write_text(json.dumps(self._alphas(), indent=1) + "\n", "utf-8")
        artifacts = [manifest.artifact_record(alphas, self.out, "alphas")]
        found = self.genotype() if finished is None else finished.genotype
        search = {
            "dataset": self.settings.dataset,
            "recipe": self.settings.recipe.name,
            "epochs": self.settings.recipe.epochs,
            "num_images": len(self.weight_half) + len(self.alpha_half),
            "held_out": self._held_out if self.settings.val_fraction else None,
            "seed": self.settings.seed,
            "relaxation": self.settings.relaxation,
            "gradient": self.settings.gradient,
            "precision": self.settings.precision,
            "preset": self.settings.preset,
            "device": self.settings.device,
            "processes": parallel.size(),
            "accuracy": self.history[-1]["accuracy"] if finished is None else finished.accuracy,
            "accuracy_split": "alphas",
            "alphas": ALPHAS_FILE,
            "primitives": list(self.supernet.variant.primitives),
            "init_weights": None if self.settings.init_weights is None else self.settings.init_weights.name,
            "discard_below": self.settings.discard_below,
            "discard_after": self.settings.discard_after,
        }
        if finished is not None:
            search["finish"] = finished.summary
            artifacts.append(manifest.artifact_record(self.out / FINISH_FILE, self.out, "finish"))
        if self.penalty is not None:
            search["costs"] = self.penalty.summary(found, self.supernet.variant, self.supernet.table())
            inputs = [*inputs, self.penalty.costs.record]
        found = replace(found, name=f"{found.backbone or found.name}-{found.variant}", search=search)
        path = self.out / GENOTYPE_FILE
        genotype.save(found, path, inputs=inputs, artifacts=artifacts)
        return path

    def _alphas(self) -> dict[str, Any]:
        """Return a row an edge; the alpha is null where the layer's choice does not list the primitive."""
        supernet = self.supernet
        alphas = supernet.layout.table(supernet.alpha.detach(), math.nan).tolist()
        rows = zip(supernet.backbone.edges(), alphas, supernet.table().tolist(), strict=True)
        edges = [
            asdict(edge)
            | {"alphas": [None if math.isnan(alpha) else alpha for alpha in alphas], "probabilities": probs}
            for edge, alphas, probs in rows
        ]
        return {
            "relaxation": supernet.relaxation,
            "primitives": list(supernet.variant.primitives),
            "edges": edges,
        }
