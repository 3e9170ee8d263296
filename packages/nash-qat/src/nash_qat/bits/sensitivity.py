"""How much a trained network loses when one tensor alone has other bits.

Every tensor is measured at every bit width by itself, with all others as the run has them: weights are quantized by
their own rule, learned scales of weights and those of activations are found anew by least square error (those that a
fused sum has in common are kept but for a power of two), nothing is trained. What is measured is the cross-entropy and
the accuracy on the run's validation split, or on its training split if it held nothing out: test pictures stay unseen.
Shapes: pictures (B, C, H, W) uint8, logits (B, K).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..base import interrupt, json_file
from ..base import manifest as manifests
from ..base.errors import DivergedError, IntegrityError, Interrupted, UsageError
from ..base.progress import TrainingProgress
from ..data.datasets import Split
from ..network import bits as table
from ..network import calibrate
from ..network.network import Activation, Network
from ..network.sums import FusedSum
from ..network.terms import ConvBN
from ..quant import quantizers
from ..quant.presets import BITS, RESOLVED
from ..train import runs

KIND = "sensitivity"
_BATCH = 256
_CALIBRATION_PICTURES = 256  # the first of those that are measured
_PARTIAL = ".partial"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to measure: which bits, on how many pictures, drawn by which seed."""

    bits: tuple[int, ...]
    num_pictures: int
    seed: int

    def __post_init__(self) -> None:
        wrong = [each for each in self.bits if each not in BITS]
        if wrong:
            raise UsageError(f"--bits: got {wrong[0]}, expected {BITS.start}..{BITS.stop - 1}")
        if not self.bits:
            raise UsageError("--bits: got none, expected some of 1..8")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Mean cross-entropy, and top-1 accuracy in percent."""

    loss: float
    top1: float


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run's folder, the quantized network of its last checkpoint and its settings."""

    folder: Path
    network: Network
    settings: dict[str, Any]

    @staticmethod
    def read(source: Path) -> TrainedRun:
        """Read the run in a folder, or the one whose model.json is given.

        Raises:
            IntegrityError: there is none, or it is damaged.
            UsageError: it has not come to its quantized epochs.
        """
        folder = source.parent if source.is_file() else source
        saved, network = runs.trained(folder)
        return TrainedRun(folder=folder, network=network.eval(), settings=saved.state["settings"])


def candidates(network: Network, bits: tuple[int, ...]) -> dict[str, list[int]]:
    """Return the bits that each tensor can have, its own among them."""
    lowest = {name: tensor.lowest for name, tensor in table.tensors(network.genotype, network.spec.join).items()}
    return {name: sorted({own, *(each for each in bits if each >= lowest[name])}) for name, own in network.bits.items()}


@torch.no_grad()
def with_bits(network: Network, name: str, bits: int, pictures: Tensor) -> Network:
    """Return a copy of a network in which one tensor has other bits; `pictures` calibrate it if it is an activation."""
    spec = dataclasses.replace(network.spec, overrides={**network.spec.overrides, name: bits})
    with torch.random.fork_rng(devices=[]):
        result = Network(network.genotype, spec)
    result.to(pictures.device, memory_format=torch.channels_last).eval()
    kind = table.tensors(network.genotype, network.spec.join)[name].kind
    place = _module_name(name, kind)
    activations = (f"{place}.fine.", f"{place}.coarse.") if kind in ("act", "state") else ()
    kept = {key: value for key, value in network.state_dict().items() if not key.startswith(activations)}
    result.load_state_dict(kept, strict=not activations)
    quantizer = result.get_submodule(place)
    if kind == "weight":
        layer = quantizer.conv if isinstance(quantizer, ConvBN) else quantizer
        if quantizers.has_learned_weight_scale(layer):
            quantizers.fit_weight_scale(layer)
        if quantizers.follows_weights(layer):
            quantizers.fit_units(layer)
        if network.spec.join == "fused" and place.endswith(".main"):
            _keep_terms(network, result, place)
        return result
    if isinstance(quantizer, Activation):
        before, after = network.get_submodule(place).quantizer_of(kind), quantizer.quantizer_of(kind)
        quantizer = _keep_other(network.get_submodule(place), quantizer, kind)
        if network.spec.join == "fused" and quantizers.shares_scale(before):
            quantizers.set_act_scale(after, float(before.scale) * 2.0 ** (network.bits[name] - bits))
            return result
    if quantizer is not None:
        calibrate.calibrate_one(result, quantizer, pictures)
    return result


def _keep_terms(old: Network, new: Network, place: str) -> None:
    """Let the other terms of a sum be as nearly as can be what they were for the scales of its convolution before."""
    total = new.get_submodule(place.replace("main", "join"))
    if isinstance(total, FusedSum):
        total.keep(old.get_submodule(place.replace("main", "join")))


def _module_name(name: str, kind: str) -> str:
    return f"{name.removesuffix('state')}act" if kind == "state" else name


def _keep_other(old: Activation, new: Activation, kind: str) -> nn.Module | None:
    """Give the reader whose bits have not changed its scale; return the quantizer of the other, if it has its own."""
    other = "state" if kind == "act" else "act"
    changed, kept = new.quantizer_of(kind), new.quantizer_of(other)
    if kept.levels == old.quantizer_of(other).levels:
        kept.log2_threshold.copy_(old.quantizer_of(other).log2_threshold)
        return None if changed is kept else changed
    return changed  # nothing reads the other


@torch.no_grad()
def measure(network: Network, pictures: Tensor, labels: Tensor) -> Loss:
    """Return the loss and the accuracy of a network.

    Raises:
        DivergedError: the loss is not finite.
    """
    total, hits = 0.0, 0
    for images, wanted in zip(pictures.split(_BATCH), labels.split(_BATCH), strict=True):
        logits = network(calibrate.to_input(images)).double()
        total += functional.cross_entropy(logits, wanted, reduction="sum").item()
        hits += int((logits.argmax(dim=1) == wanted).sum())
    if not math.isfinite(total):
        raise DivergedError(
            f"sensitivity: loss: got {total}, expected a finite number; take a run that did not diverge"
        )
    return Loss(loss=total / len(labels), top1=100 * hits / len(labels))


class Sensitivity:
    """Measures a run's network; what is measured is kept beside `out` until all is."""

    def __init__(self, run: TrainedRun, question: Question, split: Split, out: Path, *, device: torch.device) -> None:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(question.seed)).numpy()
        chosen = np.sort(order[: question.num_pictures])
        self._network = run.network.to(device, memory_format=torch.channels_last)
        self._pictures = torch.from_numpy(split.images[chosen]).to(device)
        self._labels = torch.from_numpy(split.labels[chosen]).to(device)
        self._candidates = candidates(run.network, question.bits)
        self._run, self._question, self._split, self._out = run, question, split, out
        self._known: dict[str, Loss] = {}
        self._checkpoint_sha256 = manifests.file_sha256(run.folder / runs.CHECKPOINT)

    def run(self, *, resume: bool) -> dict[str, Any]:
        """Measure, write the manifest to `out` and return it.

        Raises:
            IntegrityError, UsageError: there is nothing to resume, or something else.
            Interrupted: SIGINT or SIGTERM came; what was measured is kept.
        """
        if resume:
            self._load()
        todo = [(name, each) for name, of_name in self._candidates.items() for each in of_name]
        own = self._network.bits
        num_steps = 1 + sum(each != own[name] for name, each in todo)
        progress = TrainingProgress(num_steps=num_steps, done_steps=len(self._known))
        with interrupt.deferred() as request, progress:
            self._keep("", self._network, progress)
            for name, each in todo:
                if each != own[name] and _key(name, each) not in self._known:
                    changed = with_bits(self._network, name, each, self._pictures[:_CALIBRATION_PICTURES])
                    self._keep(_key(name, each), changed, progress)
                if each == self._candidates[name][-1]:
                    progress.epoch(self._text(name))
                if request.signal_name is not None:
                    raise Interrupted(f"stopped by {request.signal_name}; go on with the same command and --resume")
        manifest = self._manifest()
        manifests.save(self._out, manifest, KIND)
        self._partial.unlink(missing_ok=True)
        return manifest

    def _keep(self, key: str, network: Network, progress: TrainingProgress) -> None:
        if key in self._known:
            return
        self._known[key] = measure(network, self._pictures, self._labels)
        content = {
            "asked": self._asked(),
            "known": {key: dataclasses.asdict(loss) for key, loss in self._known.items()},
        }
        with manifests.atomic_path(self._partial) as temporary:
            temporary.write_text(json.dumps(content), "utf-8")
        progress.step()

    def _load(self) -> None:
        if not self._partial.is_file():
            raise IntegrityError(f"{self._partial}: no such file to resume from; leave --resume out")
        try:
            content = json_file.read(self._partial)
            known = {key: Loss(**loss) for key, loss in content["known"].items()}
            asked = content["asked"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{self._partial}: damaged ({error}); leave --resume out to start anew") from error
        runs.refuse_other_settings(asked, self._asked(), self._partial)
        self._known = known

    @property
    def _partial(self) -> Path:
        return self._out.with_name(self._out.name + _PARTIAL)

    def _asked(self) -> dict[str, Any]:
        asked = dataclasses.asdict(self._question)
        return {
            **asked,
            "bits": list(self._question.bits),
            "dataset": self._split.name,
            "checkpoint_sha256": self._checkpoint_sha256,
        }

    def _losses(self, name: str) -> Iterator[tuple[int, Loss]]:
        for each in self._candidates[name]:
            yield each, self._known["" if each == self._network.bits[name] else _key(name, each)]

    def _text(self, name: str) -> str:
        base = self._known[""].loss
        return f"{name}: " + ", ".join(f"{each} bit {found.loss - base:+.4f}" for each, found in self._losses(name))

    def _manifest(self) -> dict[str, Any]:
        genotype, spec = self._network.genotype, self._network.spec
        records = [
            manifests.input_record(self._run.folder / runs.GENOTYPE, genotype.manifest),
            {"path": runs.CHECKPOINT, "sha256": self._checkpoint_sha256, "schema": None},
        ]
        dataset, _, part = self._split.name.partition("/")
        kinds: Mapping[str, table.QuantizedTensor] = table.tensors(genotype, spec.join)
        return manifests.header(KIND, inputs=records) | {
            "name": f"{genotype.name}-{spec.preset or 'custom'}",
            "quantization": {**spec.to_dict(), RESOLVED: self._network.bits},
            "data": {
                "dataset": dataset,
                "split": part,
                "num_samples": len(self._labels),
                "seed": self._question.seed,
            },
            "base": dataclasses.asdict(self._known[""]),
            "tensors": [
                {
                    "name": name,
                    "kind": kinds[name].kind,
                    "bits": self._network.bits[name],
                    "measured": [{"bits": each, **dataclasses.asdict(loss)} for each, loss in self._losses(name)],
                }
                for name in self._candidates
            ],
        }


def _key(name: str, bits: int) -> str:
    return f"{name}={bits}"
