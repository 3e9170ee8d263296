"""A training run's folder: what it was asked to do, where it stands, and its export."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..base import manifest as manifests
from ..base.errors import IntegrityError, UsageError
from ..data import splits
from ..export import files as export
from ..network import genotype as genotypes
from ..network.network import Network
from ..quant.presets import QuantizationSpec
from ..recipe import Recipe
from . import checkpoint
from .selection import Selection, load_best

CHECKPOINT, GENOTYPE = "checkpoint.safetensors", "genotype.json"
BEST, FLOAT = "best.safetensors", "float.safetensors"
HISTORY, MODEL, QCDQ = "history.jsonl", "model.json", "model-qcdq.onnx"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides a run's outcome beside its data; a resumed run must have the same."""

    genotype_sha256: str
    quantization: QuantizationSpec
    dataset: str
    recipe_name: str
    recipe: Recipe
    epochs: int
    float_epochs: int
    seed: int
    num_processes: int = 1
    init_weights_sha256: str | None = None
    init_mean: list[float] | None = None
    init_std: list[float] | None = None
    teacher_sha256: str | None = None
    teacher_genotype_sha256: str | None = None
    skip_broken: bool = False
    is_compiled: bool = False
    val_fraction: float | None = None

    @property
    def starts_in_float(self) -> bool:
        """Say whether the network runs without quantizers first: in float epochs, or to be calibrated without any."""
        return self.float_epochs > 0 or self.epochs == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @staticmethod
    def completed(saved: dict[str, Any]) -> dict[str, Any]:
        """Return saved settings with the defaults of those that an older release did not know."""
        defaults = {entry.name: entry.default for entry in fields(Settings) if entry.default is not MISSING}
        return defaults | saved


@dataclass(kw_only=True)
class RunState:
    """Where a run stands: `step` of `epoch` is the next to take. `seconds` is the time spent so far.

    best_epoch: the quantized one (counted from 1) that has the best accuracy so far, best_top1, on the split that is
    watched. accuracy, best_accuracy: of the last epoch and of that one on the test split, known when the run has ended.
    data: the splits, as the manifest has them.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    is_calibrated: bool = False
    is_trained: bool = False
    num_average_updates: int = 0
    best_epoch: int | None = None
    best_top1: float | None = None
    accuracy: dict[str, Any] | None = None
    best_accuracy: dict[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    class_names: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


def read_checkpoint(run_dir: Path) -> checkpoint.Checkpoint:
    """Read the checkpoint of a run, whose state is one of a run.

    Raises:
        IntegrityError: there is none, or it is damaged.
    """
    saved = checkpoint.load(run_dir / CHECKPOINT)
    if problems := manifests.problems(saved.state, "run"):
        raise IntegrityError(manifests.joined(run_dir / CHECKPOINT, problems, "restart without --resume"))
    return saved


def refuse_other_settings(saved: dict[str, Any], asked: dict[str, Any], out: Path) -> None:
    """Compare the settings of a saved run with those asked for.

    Raises:
        UsageError: they differ; every differing key is named with both values.
    """
    before, now = _flat(saved), _flat(asked)
    differences = [
        f"{key}: got {now.get(key)!r}, expected {before.get(key)!r} as the run has"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise UsageError(f"{out}: {' | '.join(differences[:8])}; pass the run's own options, or another --out")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def best_record(state: RunState) -> dict[str, Any] | None:
    """Return the best quantized epoch on the split that epochs are compared on, and its accuracy on the test split."""
    if state.best_epoch is None:
        return None
    return {
        "split": state.history[state.best_epoch - 1]["split"] if state.best_epoch <= len(state.history) else None,
        "epoch": state.best_epoch,
        "top1": state.best_top1,
        "test_top1": None if state.best_accuracy is None else state.best_accuracy["top1"],
    }


def training_record(
    settings: dict[str, Any], state: RunState, selection: Selection, genotype: dict[str, Any]
) -> dict[str, Any]:
    """Return the `training` entry of a model manifest."""
    return {
        "dataset": settings["dataset"],
        "recipe": settings["recipe_name"],
        "epochs": state.epoch,
        "float_epochs": settings["float_epochs"],
        "seed": settings["seed"],
        "num_processes": settings["num_processes"],
        "init_weights_sha256": settings["init_weights_sha256"],
        "init_mean": settings.get("init_mean"),
        "init_std": settings.get("init_std"),
        "teacher_sha256": settings["teacher_sha256"],
        "is_compiled": settings.get("is_compiled", False),
        "teacher_genotype_sha256": settings.get("teacher_genotype_sha256"),
        "seconds": round(state.seconds, 1),
        "selection": selection.to_dict(),
        "best": best_record(state),
        "validation_seen_by_search": splits.seen_by_search(genotype, settings["dataset"], state.data),
        "data": state.data,
        "settings": settings["recipe"],
    }


def trained(run_dir: Path) -> tuple[checkpoint.Checkpoint, Network]:
    """Return a run's last checkpoint and the quantized network of it.

    Raises:
        IntegrityError: the folder holds no run, or a damaged one.
        UsageError: the run has no quantized epoch yet.
    """
    saved = read_checkpoint(run_dir)
    if not saved.state["run"]["is_calibrated"]:
        raise UsageError(f"{run_dir}: stopped before its first quantized step; go on with nash-qat train --resume")
    settings, genotype_path = saved.state["settings"], run_dir / GENOTYPE
    if manifests.file_sha256(genotype_path) != settings["genotype_sha256"]:
        raise IntegrityError(f"{genotype_path}: is not the genotype that was trained; restore it")
    network = Network(genotypes.load(genotype_path), QuantizationSpec.from_dict(settings["quantization"]))
    checkpoint.load_into(network, saved.part("network"), run_dir / CHECKPOINT)
    return saved, network


def export_run(run_dir: Path, out: Path, *, best: bool = False) -> dict[str, Any]:
    """Write the network of a run's last checkpoint, or of its best quantized epoch, and return its manifest.

    Its accuracy is what was measured when the run ended, None before.

    Raises:
        IntegrityError: the folder holds no run, or a damaged one.
        UsageError: the run has no quantized epoch yet.
    """
    saved, network = trained(run_dir)
    settings, state = saved.state["settings"], RunState(**saved.state["run"])
    selection = Selection(rule="last", split=None, epoch=state.epoch, top1=None)
    if best:
        selection = load_best(run_dir / BEST, network)
    provenance = export.Provenance(
        genotype_path=run_dir / GENOTYPE,
        class_names=tuple(state.class_names),
        training=training_record(settings, state, selection, network.genotype.manifest),
    )
    pictures = saved.part("golden").get("pictures")
    if pictures is None or pictures.ndim != 4 or not len(pictures):
        raise IntegrityError(f"{run_dir / CHECKPOINT}: golden/pictures: misses the pictures to export with; train anew")
    manifest = export.export(network, pictures, out, provenance)
    return {**manifest, "accuracy": state.best_accuracy if best else state.accuracy}
