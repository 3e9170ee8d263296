"""What the commands do; each returns its result as a JSON object and as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import calibrate, presets, runs
from . import evaluate as evaluation
from . import export as exports
from . import genotype as genotypes
from . import manifest as manifests
from . import recipe as recipes
from . import train as training
from .errors import ManifestError, UsageError

_SCHEMAS = ("model", "genotype")
_NUM_NOISE = 32


def train(
    genotype_path: Path,
    *,
    out: Path,
    dataset: str,
    data_dir: Path | None,
    preset: str | None,
    quantization_path: Path | None,
    recipe: str,
    epochs: int | None,
    seed: int,
    resume: bool,
) -> tuple[dict[str, Any], str]:
    """Train a genotype's network into the folder `out`."""
    spec = _spec(preset, quantization_path)
    plan = recipes.load(recipe)
    genotype = genotypes.load(genotype_path)
    settings = runs.Settings(
        genotype_sha256=manifests.file_sha256(genotype_path),
        quantization=spec,
        dataset=dataset,
        recipe_name=recipe,
        recipe=plan,
        epochs=epochs or plan.epochs,
        seed=seed,
    )
    train_split, test_split = (
        evaluation.load_split(dataset, name, genotype.input_shape, genotype.num_classes, data_dir)
        for name in ("train", "test")
    )
    splits = training.Splits(train=train_split, test=test_split)
    trainer = training.Trainer(genotype, settings, splits, out)
    if resume:
        trainer.resume()
    else:
        trainer.start(genotype_path)
    trainer.train()
    return _save_model(trainer.finish(), out)


def export(
    source: Path, *, out: Path, preset: str | None, quantization_path: Path | None, seed: int | None
) -> tuple[dict[str, Any], str]:
    """Export a run's folder, or the untrained network of a genotype."""
    if source.is_dir():
        if preset is not None or quantization_path is not None or seed is not None:
            raise UsageError(f"{source}: is a training run, which has its own bits and seed; leave out the options")
        return _save_model(runs.export_run(source, out), out)
    spec = _spec(preset, quantization_path)
    seed = seed or 0
    genotype = genotypes.load(source)
    network = exports.untrained(genotype, spec, seed=seed)
    pictures = calibrate.noise_pictures(_NUM_NOISE, genotype.input_shape, seed=seed + 1)
    return _save_model(exports.export(network, pictures, out, exports.Provenance(genotype_path=source)), out)


def evaluate(model_path: Path, *, dataset: str, data_dir: Path | None) -> tuple[dict[str, Any], str]:
    """Measure an exported network's accuracy."""
    name, accuracy = evaluation.evaluate(model_path, dataset=dataset, data_dir=data_dir)
    result = {"name": name, "accuracy": accuracy.to_dict()}
    return result, f"{name} on {accuracy.dataset}/{accuracy.split}: {_accuracy_text(accuracy.to_dict())}"


def schema(kind: str) -> tuple[dict[str, Any], str]:
    """Return one of this package's schemas."""
    if kind not in _SCHEMAS:
        raise UsageError(f"KIND: got '{kind}', expected one of {', '.join(_SCHEMAS)}")
    result = manifests.schema(kind)
    return result, json.dumps(result, indent=1)


def _spec(preset: str | None, path: Path | None) -> presets.QuantizationSpec:
    if path is None:
        return presets.preset(preset or "w4a4")
    if preset is not None:
        raise UsageError("--quantization: got a --preset beside it, expected one of the two")
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check --quantization") from error
    except ValueError as error:
        raise ManifestError(f"{path}: not valid JSON ({error}); mend it") from error
    try:
        return presets.QuantizationSpec.from_dict(values)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}; mend it") from error


def _save_model(manifest: dict[str, Any], out: Path) -> tuple[dict[str, Any], str]:
    path = out / runs.MODEL
    manifests.save(path, manifest, "model")
    result = {
        "model": str(path),
        "name": manifest["name"],
        "accuracy": manifest["accuracy"],
        "complexity": manifest["complexity"],
        "agreement": manifest["onnx"]["agreement"],
    }
    return result, f"{path}: {_summary(manifest)}"


def _summary(manifest: dict[str, Any]) -> str:
    complexity, accuracy = manifest["complexity"], manifest["accuracy"]
    parts = [
        manifest["name"],
        "not evaluated" if accuracy is None else _accuracy_text(accuracy),
        f"{complexity['macs'] / 1e6:.2f} M MACs",
        f"{complexity['weight_bits'] / 8192:.1f} KiB of weights",
    ]
    return ", ".join(parts)


def _accuracy_text(accuracy: dict[str, Any]) -> str:
    top5 = "" if accuracy["top5"] is None else f", top5 {accuracy['top5']:.2f} %"
    return f"top1 {accuracy['top1']:.2f} %{top5} ({accuracy['num_samples']} pictures)"
