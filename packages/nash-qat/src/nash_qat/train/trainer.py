"""Training: epochs without quantizers if the recipe wants them, then quantized epochs, then the export.

A run can stop after any step and go on to the same bits: all chance is drawn from the seed, the epoch and the step.
Shapes: pictures (B, C, H, W) uint8, logits (B, K).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base import interrupt
from ..base import manifest as manifests
from ..base.errors import Interrupted, OutputError
from ..base.progress import TrainingProgress
from ..data import ahead
from ..data.originals import Originals
from ..data.splits import Splits
from ..export import evaluate
from ..export import files as export
from ..network import calibrate, pretrained, sums, weights
from ..network.average import Average
from ..network.genotype import Genotype
from ..network.network import Network
from ..quant import quantizers
from . import board, checkpoint, compiled, optimize
from . import loss as losses
from . import teacher as teachers
from .runs import (
    BEST,
    CHECKPOINT,
    FLOAT,
    GENOTYPE,
    HISTORY,
    RunState,
    Settings,
    best_record,
    export_run,
    read_checkpoint,
    refuse_other_settings,
)
from .selection import Selection, float_top1, keep_best, own_buffers, top1
from .watch import Watch, refuse_unless_finite
from .world import World

_ALONE = World(device=torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Inputs(Splits):
    """What a run reads: its data, and weights from files."""

    init: weights.Weights | None = None
    teacher: teachers.Teacher | None = None


class Trainer:
    """A training run in a folder: `start` or `resume` it, `train`, then `finish` with the export."""

    def __init__(
        self,
        genotype: Genotype,
        settings: Settings,
        inputs: Inputs,
        out: Path,
        *,
        world: World = _ALONE,
        has_board: bool = False,
    ) -> None:
        self._genotype, self._settings, self._recipe = genotype, settings, settings.recipe
        self._inputs, self._out, self._world, self._has_board = inputs, out, world, has_board
        self.state = RunState(class_names=list(inputs.train.class_names), data=inputs.record())
        self._pictures = Originals(inputs.train, genotype.input_shape)
        self._starts = _batch_starts(len(inputs.train), self._recipe.batch_size, world.size)
        self._golden = export.golden_candidates(inputs.watched[1], seed=settings.seed)
        self._watch = Watch(world.steps_between_readings)
        self._clock = time.monotonic()
        self._teacher: nn.Module | None = None
        self._starts_trained = False  # with every weight of a network that was trained before
        if inputs.teacher is not None:
            self._teacher = inputs.teacher.module.to(world.device, memory_format=torch.channels_last)
        self.network = self._new_network()
        if inputs.init is not None:
            self._warm_start(inputs.init)
        self._begin_phase()

    def start(self, genotype_path: Path) -> None:
        """Make the run's folder.

        Raises:
            OutputError: it holds a run already, or cannot be written.
        """
        if self._world.is_main:
            out = export.make_folder(self._out)
            if (out / CHECKPOINT).exists():
                raise OutputError(f"{out}: already holds a training run; pass --resume to go on, or another --out")
            with manifests.atomic_path(out / GENOTYPE) as temporary:
                shutil.copyfile(genotype_path, temporary)
        self._carry_bias()
        self._carry_statistics()
        self._save()
        self._world.wait()

    def resume(self) -> None:
        """Take up the run in the folder.

        Raises:
            IntegrityError: there is none, or its checkpoint is damaged.
            UsageError: it has other settings, or its data has changed.
        """
        saved = read_checkpoint(self._out)
        refuse_other_settings(Settings.completed(saved.state["settings"]), self._settings.to_dict(), self._out)
        refuse_other_settings({"data": saved.state["run"]["data"]}, {"data": self.state.data}, self._out)
        checkpoint.load_into(self.network, saved.part("network"), self._out / CHECKPOINT)
        self.network.to(self._world.device)  # loading has made new parameter objects of the activation scales
        self.state = RunState(**saved.state["run"])
        self._begin_phase()
        checkpoint.restore_optimizer(self._optimizer, self.network, saved.part("optimizer"))
        if self._average is not None:
            self._average.restore(saved.part("average"))
            self._average.num_updates = self.state.num_average_updates
        if self._teacher is None and saved.part("teacher"):
            teacher = self._new_network()
            checkpoint.load_into(teacher, saved.part("teacher"), self._out / CHECKPOINT)
            self._set_teacher(teacher)

    def train(self) -> None:
        """Take all steps that are left; a checkpoint is saved every epoch and every `checkpoint_steps`.

        Raises:
            DivergedError: the loss, its gradient or a weight is not finite.
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
        """
        state, num_steps = self.state, self._settings.epochs * len(self._starts)
        done_steps = state.epoch * len(self._starts) + state.step
        progress = TrainingProgress(num_steps=num_steps, done_steps=done_steps, is_shown=self._world.is_main)
        with interrupt.deferred() as request, progress:
            while state.epoch < self._settings.epochs:
                if state.epoch >= self._settings.float_epochs and not state.is_calibrated:
                    self._begin_quantized()
                self._train_epoch(progress, request)
                self._stop_if(request)
        if not state.is_trained:
            if not state.is_calibrated:  # there are no epochs
                self._begin_quantized()
            if self._average is not None:
                self._average.copy_to(self.network)
            self._measure_statistics()
            state.is_trained = True
            self._save()
        self._world.wait()

    def finish(self, folder: Path | None = None) -> dict[str, Any]:
        """Export the network, read the test split if that was not done yet, and return the model manifest.

        folder: where the export is written, the run's own if not given.
        """
        folder = folder or self._out
        manifest = export_run(self._out, folder)
        if self.state.accuracy is None:
            self._measure(folder / manifest["onnx"]["path"])
            self._save()
        manifest["accuracy"] = self.state.accuracy
        manifest["training"]["best"] = best_record(self.state)
        return manifest

    def _measure(self, onnx_path: Path) -> None:
        """Measure the exported network, the best epoch's and that of the float epochs on the test split."""
        state, test = self.state, self._inputs.test
        is_float = self._settings.starts_in_float
        floats = float_top1(self._out / FLOAT, self._new_network(), test, self._world.device) if is_float else None

        def accuracy_of(path: Path) -> dict[str, Any]:
            return {**evaluate.accuracy_of(path, test)[0].to_dict(), "float_top1": floats}

        state.accuracy = accuracy_of(onnx_path)
        if state.best_epoch == state.epoch:
            state.best_accuracy = state.accuracy
        elif state.best_epoch is not None:
            with tempfile.TemporaryDirectory(dir=onnx_path.parent) as folder:
                best = export_run(self._out, Path(folder), best=True)
                state.best_accuracy = accuracy_of(Path(folder) / best["onnx"]["path"])

    def _new_network(self) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._settings.seed)
            network = Network(self._genotype, self._settings.quantization)
        return network.to(self._world.device, memory_format=torch.channels_last)

    def _set_teacher(self, teacher: Network) -> None:
        quantizers.set_mode(teacher, "float")
        self._teacher = teacher.eval().requires_grad_(False)

    def _warm_start(self, init: weights.Weights) -> None:
        if self._settings.epochs == 0:
            weights.load_all(self.network, init)
            return
        num_taken, without = weights.warm_start(self.network, init)
        self._starts_trained = not without
        if self._world.is_main:
            first = f", none for {without[0]} and others" if without else ""
            print(f"{init.path}: took {num_taken} of {num_taken + len(without)} tensors{first}", file=sys.stderr)

    def _carry_bias(self) -> None:
        """Let the classifier's weights stand for the bias of a network of torchvision, if they are that network's."""
        bias = None if self._inputs.init is None else self._inputs.init.classifier_bias
        if bias is None or len(bias) != self._genotype.num_classes:
            return
        pictures = self._training_pictures(self._recipe.calibration_pictures)
        pretrained.carry_bias(self.network, bias, calibrate.to_input(pictures))
        self._begin_phase()

    def _carry_statistics(self) -> None:
        """Let sums whose weights come from a file normalize with the statistics of training pictures."""
        if self._inputs.init is not None and self._settings.quantization.join == "fused":
            pictures = self._training_pictures(self._recipe.calibration_pictures)
            quantizers.set_mode(self.network, "float")
            sums.take_statistics(self.network, calibrate.to_input(pictures))
            quantizers.set_mode(self.network, "float" if self._settings.starts_in_float else "fused")

    def _begin_phase(self) -> None:
        """Make what belongs to the float epochs, or to the quantized ones."""
        is_float = self._settings.starts_in_float and not self.state.is_calibrated
        quantizers.set_mode(self.network, "float" if is_float else "fused")
        self._parameters = list(self.network.parameters())  # a table, as finding them takes longer than clipping
        weight_bits = None if is_float else self._settings.quantization.weight_bits
        self._optimizer = optimize.optimizer(self.network, self._recipe, weight_bits=weight_bits)
        decay = self._recipe.ema_decay
        self._average = None if decay is None else Average(self.network, decay)
        self._wrapped = self._world.wrapped(
            compiled.network(self.network) if self._settings.is_compiled else self.network
        )

    def _begin_quantized(self) -> None:
        if self._settings.starts_in_float:
            if self._average is not None:
                self._average.copy_to(self.network)
            self._keep_float_network()
        quantizers.set_mode(self.network, "fused")
        calibrate.calibrate(self.network, self._training_pictures(self._recipe.calibration_pictures))
        self.state.is_calibrated = True
        self._begin_phase()

    def _keep_float_network(self) -> None:
        if self._world.is_main:
            weights.write(self._out / FLOAT, self.network)
        if self._recipe.distill_weight > 0 and self._teacher is None:
            teacher = self._new_network()
            teacher.load_state_dict(self.network.state_dict())
            self._set_teacher(teacher)

    def _train_epoch(self, progress: TrainingProgress, request: interrupt.StopRequest) -> None:
        state = self.state
        self.network.train()
        order = torch.randperm(len(self._inputs.train), generator=self._generator("order", state.epoch)).numpy()
        batches = ahead.mapped(lambda step: self._batch(order, state.epoch, step), range(state.step, len(self._starts)))
        for batch in batches:
            self._train_step(batch)
            state.step += 1
            progress.step()
            if state.step == len(self._starts):
                break
            if state.step % self._recipe.checkpoint_steps == 0:
                self._save()
            if self._world.size == 1 or self._watch.is_empty:  # several processes read a value to agree on it
                self._stop_if(request)
        self._read_losses()
        self._end_epoch(progress)

    def _batch(self, order: NDArray[np.int64], epoch: int, step: int) -> losses.Batch:
        """Return this process's share of a batch, changed at random."""
        world, start = self._world, self._starts[step]
        indices = order[start : start + self._recipe.batch_size][world.rank :: world.size]
        labels = torch.from_numpy(self._inputs.train.labels[indices])
        place = () if world.size == 1 else (world.rank,)
        generator = self._generator("augment", epoch, step, *place)
        changed = self._pictures.changed(indices, self._recipe.augmentation_of(self._settings.dataset), generator)
        x = calibrate.to_input(changed.to(world.device))
        return losses.mixed(losses.Batch(x=x, labels=labels.to(world.device)), self._recipe, generator)

    def _train_step(self, batch: losses.Batch) -> None:
        """Train on this process's share of a batch, and note the mean loss of the whole."""
        recipe, world, state = self._recipe, self._world, self.state
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.zero_grad()
        num_samples = min(recipe.batch_size, len(self._inputs.train) - self._starts[state.step])
        parts = batch.parts(recipe.accumulation)
        loss_sum = torch.zeros((), dtype=torch.float64, device=world.device)
        for number, part in enumerate(parts, 1):
            with world.no_sync(self._wrapped, is_last=number == len(parts)):
                loss = losses.loss(self._logits(part.x, num_samples), part, recipe, self._teacher)
                (loss * (len(part) * world.size / num_samples)).backward()
            loss_sum += loss.detach().double() * len(part)
        self._watch.note(world.sum(loss_sum) / num_samples, self._clip_gradient(), epoch=state.epoch, step=state.step)
        if self._watch.is_full:
            self._read_losses()
        self._optimizer.step()
        self.network.constrain()
        if self._average is not None:
            self._average.update(self.network)

    def _logits(self, x: Tensor, num_samples: int) -> Tensor:
        """Return a part's logits; a smaller last batch is not worth compiled kernels of its own and runs without."""
        recipe, device = self._recipe, self._world.device
        is_small = self._settings.is_compiled and num_samples < recipe.batch_size
        kernels = compiled.off() if is_small else nullcontext()
        with kernels, torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            return self._wrapped(x).float()

    def _clip_gradient(self) -> Tensor:
        """Bring the gradient to the recipe's length, if it is longer, and return the length it had."""
        limit, gradients = self._recipe.gradient_clip, [p.grad for p in self._parameters if p.grad is not None]
        if limit is None:
            return nn.utils.get_total_norm(gradients)
        return nn.utils.clip_grad_norm_(self._parameters, limit)

    def _read_losses(self) -> None:
        """Add the losses noted since the last time, in the order of the steps; a run that diverged ends here."""
        for loss in self._watch.read():
            self.state.loss_sum += loss

    def _end_epoch(self, progress: TrainingProgress) -> None:
        state = self.state
        phase = "quantized" if state.is_calibrated else "float"
        split, pictures = self._inputs.watched
        with self._as_exported():
            self._world.share_buffers(self.network)
            accuracy = top1(self.network, pictures, self._world)
            self._keep_best(accuracy, split)
        entry = {
            "epoch": state.epoch + 1,
            "phase": phase,
            "loss": state.loss_sum / len(self._starts),
            "split": split,
            "top1": accuracy,
            "learning_rate": float(self._optimizer.param_groups[0]["lr"]),
        }
        state.history.append(entry)
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        self._save()
        if self._has_board and self._world.is_main:
            board.write(self._out, state.history)
        number = f"epoch {state.epoch}/{self._settings.epochs} {phase}"
        progress.epoch(f"{number}: loss {entry['loss']:.4f}, {split} top1 {accuracy:.2f} %")

    def _keep_best(self, accuracy: float, split: str) -> None:
        """Keep the weights of the quantized epoch with the best accuracy on the split that is watched."""
        state = self.state
        if state.is_calibrated and (state.best_top1 is None or accuracy > state.best_top1):
            state.best_top1, state.best_epoch = accuracy, state.epoch + 1
            selection = Selection(rule="best", split=split, epoch=state.best_epoch, top1=accuracy)
            if self._world.is_main:
                keep_best(self._out / BEST, self.network, selection)

    @contextmanager
    def _as_exported(self) -> Iterator[None]:
        """Let the network be what an export would write: averaged, and if quantized with statistics measured anew."""
        with self._averaged():
            if not self.state.is_calibrated:
                yield
                return
            with own_buffers(self.network):
                self._measure_statistics()
                yield

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the network have its average within a block, where the recipe takes one."""
        if self._average is None:
            yield
        else:
            with self._average.within(self.network):
                yield

    def _measure_statistics(self) -> None:
        batch_size = self._recipe.batch_size
        pictures = self._training_pictures(self._recipe.statistics_batches * batch_size)
        if len(pictures):
            calibrate.estimate_statistics(self.network, pictures.split(batch_size))

    def _training_pictures(self, num_pictures: int) -> Tensor:
        """Return up to `num_pictures` plain training pictures, drawn by the seed."""
        order = torch.randperm(len(self._inputs.train), generator=self._generator("calibration")).numpy()
        return torch.from_numpy(self._inputs.train.images[order[:num_pictures]]).to(self._world.device)

    def _learning_rate(self) -> float:
        """Return the rate of the next step; each phase has its own schedule."""
        recipe, state, num_float = self._recipe, self.state, self._settings.float_epochs
        first, last = (num_float, self._settings.epochs) if state.is_calibrated else (0, num_float)
        is_fine_tuning = state.is_calibrated and (num_float > 0 or self._starts_trained)
        factor = recipe.fine_tuning_factor if is_fine_tuning else 1.0
        step = 1 / len(self._starts)
        done = state.epoch - first + state.step * step
        return recipe.learning_rate * factor * optimize.rate(recipe, done, last - first, step=step)

    def _generator(self, *purpose: object) -> torch.Generator:
        text = "/".join(map(str, (self._settings.seed, *purpose)))
        digest = hashlib.sha256(text.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))

    def _stop_if(self, request: interrupt.StopRequest) -> None:
        if not self._world.sum(torch.tensor(int(request.signal_name is not None))):
            return
        self._save()
        where = f"epoch {self.state.epoch + 1}, step {self.state.step}"
        cause = request.signal_name or "a signal to another process"
        raise Interrupted(f"stopped by {cause} in {where}; go on with the same command and --resume")

    def _save(self) -> None:
        self._read_losses()
        if not self._world.is_main:
            return
        where = {"epoch": self.state.epoch, "step": self.state.step}
        for tensor in self.network.state_dict().values():
            refuse_unless_finite("weights", tensor.sum().item(), **where)
        now = time.monotonic()
        self.state.seconds += now - self._clock
        self._clock = now
        parts = {
            "network": self.network.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self._optimizer, self.network),
            "golden": {"pictures": self._golden},
        }
        if self._average is not None:
            parts["average"] = self._average.tensors
            self.state.num_average_updates = self._average.num_updates
        if self._teacher is not None and self._inputs.teacher is None:
            parts["teacher"] = self._teacher.state_dict()
        state = {"settings": self._settings.to_dict(), "run": asdict(self.state)}
        checkpoint.save(self._out / CHECKPOINT, parts=parts, state=state)
        lines = "".join(json.dumps(entry) + "\n" for entry in self.state.history)
        with manifests.atomic_path(self._out / HISTORY) as temporary:
            temporary.write_text(lines, "utf-8")


def _batch_starts(num_samples: int, batch_size: int, num_processes: int = 1) -> list[int]:
    """Return where batches start; a last one of a single sample a process is left out, as it has no variance."""
    return [start for start in range(0, num_samples, batch_size) if num_samples - start >= 2 * num_processes]
