"""Training: epochs without quantizers if the recipe wants them, then quantized epochs, then the export.

A run can stop after any step and go on to the same bits: all chance is drawn from the seed, the epoch and the step.
Shapes: pictures (B, C, H, W) uint8, logits (B, K).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import augment, calibrate, checkpoint, evaluate, export, interrupt, quantizers
from . import manifest as manifests
from .data import Split
from .errors import DivergedError, Interrupted, OutputError
from .genotype import Genotype
from .network import Network
from .progress import TrainingProgress
from .runs import CHECKPOINT, GENOTYPE, HISTORY, RunState, Settings, export_run, refuse_other_settings

_EVALUATION_BATCH = 256
_NUM_GOLDEN_CANDIDATES = 32


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The data of a run."""

    train: Split
    test: Split


class Trainer:
    """A training run in a folder: `start` or `resume` it, `train`, then `finish` with the export."""

    def __init__(self, genotype: Genotype, settings: Settings, splits: Splits, out: Path) -> None:
        self._settings, self._recipe, self._splits, self._out = settings, settings.recipe, splits, out
        self.state = RunState(class_names=list(splits.train.class_names))
        self._num_float_epochs = self._recipe.num_float_epochs(settings.epochs)
        self._starts = _batch_starts(len(splits.train), self._recipe.batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = Network(genotype, settings.quantization)
        self.network.to(memory_format=torch.channels_last)
        quantizers.set_mode(self.network, "float" if self._num_float_epochs else "fused")
        self._optimizer = self._new_optimizer()
        self._golden = _golden_candidates(splits.test, settings.seed)
        self._clock = time.monotonic()

    def start(self, genotype_path: Path) -> None:
        """Make the run's folder.

        Raises:
            OutputError: it holds a run already, or cannot be written.
        """
        out = export.make_folder(self._out)
        if (out / CHECKPOINT).exists():
            raise OutputError(f"{out}: already holds a training run; pass --resume to go on, or another --out")
        with manifests.atomic_path(out / GENOTYPE) as temporary:
            shutil.copyfile(genotype_path, temporary)
        self._save()

    def resume(self) -> None:
        """Take up the run in the folder.

        Raises:
            IntegrityError: there is none, or its checkpoint is damaged.
            UsageError: it has other settings.
        """
        saved = checkpoint.load(self._out / CHECKPOINT)
        refuse_other_settings(saved.state["settings"], self._settings.to_dict(), self._out)
        self.network.load_state_dict(saved.part("network"))
        self.state = RunState(**saved.state["run"])
        is_quantized = self.state.is_calibrated or self._num_float_epochs == 0
        quantizers.set_mode(self.network, "fused" if is_quantized else "float")
        self._optimizer = self._new_optimizer()  # loading has made new parameter objects of the activation scales
        checkpoint.restore_optimizer(self._optimizer, self.network, saved.part("optimizer"))

    def train(self) -> None:
        """Take all steps that are left; a checkpoint is saved every epoch and every `checkpoint_steps`.

        Raises:
            DivergedError: the loss is not finite.
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
        """
        state, num_steps = self.state, self._settings.epochs * len(self._starts)
        progress = TrainingProgress(num_steps=num_steps, done_steps=state.epoch * len(self._starts) + state.step)
        with interrupt.deferred() as request, progress:
            while state.epoch < self._settings.epochs:
                if state.epoch >= self._num_float_epochs and not state.is_calibrated:
                    self._begin_quantized()
                self._train_epoch(progress, request)
                self._stop_if(request)
        if not state.is_trained:
            self._measure_statistics()
            state.is_trained = True
            self._save()

    def finish(self) -> dict[str, Any]:
        """Export the network, measure its accuracy on the test split and return the model manifest."""
        manifest = export_run(self._out, self._out)
        if self.state.accuracy is None:
            accuracy = evaluate.accuracy_of(self._out / manifest["onnx"]["path"], self._splits.test)
            self.state.accuracy = {**accuracy.to_dict(), "float_top1": self.state.float_top1}
            self._save()
        manifest["accuracy"] = self.state.accuracy
        return manifest

    def _train_epoch(self, progress: TrainingProgress, request: interrupt.StopRequest) -> None:
        state = self.state
        self.network.train()
        order = torch.randperm(len(self._splits.train), generator=self._generator("order", state.epoch)).numpy()
        augmentation = self._recipe.augmentation_of(self._settings.dataset)
        while state.step < len(self._starts):
            start = self._starts[state.step]
            indices = order[start : start + self._recipe.batch_size]
            pictures = torch.from_numpy(self._splits.train.images[indices])
            labels = torch.from_numpy(self._splits.train.labels[indices])
            generator = self._generator("augment", state.epoch, state.step)
            state.loss_sum += self._train_step(augment.augment(pictures, augmentation, generator), labels)
            state.step += 1
            progress.step()
            if state.step == len(self._starts):
                break
            if state.step % self._recipe.checkpoint_steps == 0:
                self._save()
            self._stop_if(request)
        self._end_epoch(progress)

    def _train_step(self, pictures: Tensor, labels: Tensor) -> float:
        rate = self._learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = nn.functional.cross_entropy(
            self.network(calibrate.to_input(pictures)), labels, label_smoothing=self._recipe.label_smoothing
        )
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"training: loss: got {value} in epoch {self.state.epoch + 1}, step {self.state.step + 1}, expected a "
                "finite number; the last checkpoint is kept: try a recipe with a lower learning_rate"
            )
        self._optimizer.zero_grad()
        loss.backward()
        if self._recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.gradient_clip)
        self._optimizer.step()
        self.network.constrain()
        return value

    def _end_epoch(self, progress: TrainingProgress) -> None:
        state = self.state
        phase = "quantized" if state.is_calibrated else "float"
        accuracy, loss = self._test_accuracy(), state.loss_sum / len(self._starts)
        entry = {
            "epoch": state.epoch + 1,
            "phase": phase,
            "loss": loss,
            "top1": accuracy,
            "learning_rate": self._rate(),
        }
        state.history.append(entry)
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        self._save()
        progress.epoch(f"epoch {state.epoch}/{self._settings.epochs} {phase}: loss {loss:.4f}, top1 {accuracy:.2f} %")

    def _begin_quantized(self) -> None:
        if self._num_float_epochs:
            self.state.float_top1 = self._test_accuracy()
        quantizers.set_mode(self.network, "fused")
        calibrate.calibrate(self.network, self._training_pictures(self._recipe.calibration_pictures))
        self.state.is_calibrated = True
        self._optimizer = self._new_optimizer()

    def _measure_statistics(self) -> None:
        batch_size = self._recipe.batch_size
        pictures = self._training_pictures(self._recipe.statistics_batches * batch_size)
        if len(pictures):
            calibrate.estimate_statistics(self.network, pictures.split(batch_size))

    def _training_pictures(self, num_pictures: int) -> Tensor:
        """Return up to `num_pictures` plain training pictures, drawn by the seed."""
        order = torch.randperm(len(self._splits.train), generator=self._generator("calibration")).numpy()
        return torch.from_numpy(self._splits.train.images[order[:num_pictures]])

    def _test_accuracy(self) -> float:
        return top1(self.network, self._splits.test)

    def _rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def _learning_rate(self) -> float:
        """Return the rate of the next step; each phase has its own schedule."""
        recipe, state = self._recipe, self.state
        first = self._num_float_epochs if state.is_calibrated else 0
        last = self._settings.epochs if state.is_calibrated else self._num_float_epochs
        if recipe.schedule == "step":
            assert recipe.step_factor is not None
            assert recipe.step_epochs is not None
            return recipe.learning_rate * recipe.step_factor ** ((state.epoch - first) // recipe.step_epochs)
        done = (state.epoch - first + state.step / len(self._starts)) / (last - first)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _new_optimizer(self) -> torch.optim.Optimizer:
        weights = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.network.parameters() if parameter.ndim <= 1]
        groups = [
            {"params": weights, "weight_decay": self._recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.Adam(groups, lr=self._recipe.learning_rate)

    def _generator(self, *purpose: object) -> torch.Generator:
        text = "/".join(map(str, (self._settings.seed, *purpose)))
        digest = hashlib.sha256(text.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))

    def _stop_if(self, request: interrupt.StopRequest) -> None:
        if request.signal_name is None:
            return
        self._save()
        where = f"epoch {self.state.epoch + 1}, step {self.state.step}"
        raise Interrupted(f"stopped by {request.signal_name} in {where}; go on with the same command and --resume")

    def _save(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self._clock
        self._clock = now
        checkpoint.save(
            self._out / CHECKPOINT,
            parts={
                "network": self.network.state_dict(),
                "optimizer": checkpoint.optimizer_tensors(self._optimizer, self.network),
                "golden": {"pictures": self._golden},
            },
            state={"settings": self._settings.to_dict(), "run": asdict(self.state)},
        )
        lines = "".join(json.dumps(entry) + "\n" for entry in self.state.history)
        with manifests.atomic_path(self._out / HISTORY) as temporary:
            temporary.write_text(lines, "utf-8")


@torch.no_grad()
def top1(network: Network, split: Split) -> float:
    """Return the accuracy of a network on a split, in percent."""
    network.eval()
    hits = 0
    for pictures, labels in split.batches(_EVALUATION_BATCH):
        predicted = network(calibrate.to_input(torch.from_numpy(pictures))).argmax(dim=1)
        hits += int((predicted == torch.from_numpy(labels)).sum())
    return 100 * hits / len(split)


def _batch_starts(num_samples: int, batch_size: int) -> list[int]:
    """Return where batches start; a last one of a single sample is left out, as it has no variance."""
    return [start for start in range(0, num_samples, batch_size) if num_samples - start > 1]


def _golden_candidates(split: Split, seed: int) -> Tensor:
    """Return pictures spread over a split, filled up with noise where it is small."""
    spread = np.linspace(0, len(split) - 1, num=min(_NUM_GOLDEN_CANDIDATES, len(split)), dtype=np.int64)
    pictures = torch.from_numpy(split.images[spread])
    _, channels, height, width = pictures.shape
    noise = calibrate.noise_pictures(_NUM_GOLDEN_CANDIDATES, (channels, height, width), seed=seed)
    return torch.cat([pictures, noise])[:_NUM_GOLDEN_CANDIDATES]
