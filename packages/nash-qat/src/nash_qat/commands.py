"""What the commands do; each returns its result as a JSON object and as text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from . import recipe as recipes
from .base import atomic, json_file, lock
from .base import manifest as manifests
from .base.errors import ManifestError, UsageError
from .data import augment, splits
from .export import evaluate as evaluation
from .export import execute
from .export import files as exports
from .network import calibrate, pretrained, weights
from .network import genotype as genotypes
from .quant import presets
from .train import board, compiled, runs
from .train import teacher as teachers
from .train import trainer as training
from .train import world as worlds

_SCHEMAS = ("model", "sensitivity", "genotype", "bitcosts")
_NUM_NOISE = 32
_DISTILL_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """Options that replace a quantization's own; None leaves it as it is."""

    weight_scale: str | None = None
    join: str | None = None
    join_shift: int | None = None


def train(
    genotype_path: Path,
    *,
    out: Path,
    dataset: str,
    data_dir: Path | None,
    preset: str | None,
    quantization_path: Path | None,
    scheme: Scheme,
    recipe: str,
    epochs: int | None,
    float_epochs: int | None,
    distill: bool,
    teacher_path: Path | None,
    teacher_genotype_path: Path | None,
    init_path: Path | None,
    init_mean: str | None,
    init_std: str | None,
    bfloat16: bool,
    compile_steps: bool,
    val_fraction: float | None,
    skip_broken: bool,
    device: str,
    seed: int,
    resume: bool,
    tensorboard: bool,
    qcdq: bool,
) -> tuple[dict[str, Any], str] | None:
    """Train a genotype's network into the folder `out`; None is the result of all processes but the first."""
    spec = _spec(preset, quantization_path, scheme)
    plan = recipes.load(recipe)
    genotype = genotypes.load(genotype_path)
    if val_fraction is None:
        val_fraction = splits.fraction_of_search(genotype.manifest, dataset, data_dir)
    num_epochs = plan.epochs if epochs is None else epochs
    num_float_epochs = _num_float_epochs(plan, num_epochs, float_epochs)
    has_teacher = distill or teacher_path is not None
    can_learn = teacher_path is not None or num_float_epochs > 0
    if distill and not can_learn and num_epochs > 0:
        raise UsageError(
            "--distill: got no float epochs, expected some as the teacher; pass --float-epochs or --teacher"
        )
    plan = _with_teacher(plan, has_teacher, can_learn, num_epochs)
    if teacher_genotype_path is not None and teacher_path is None:
        raise UsageError("--teacher-genotype: got no --teacher beside it, expected its weights; pass both")
    if init_path is None:
        _refuse_random_start(plan, recipe, num_epochs, num_float_epochs)
    if bfloat16:
        plan = dataclasses.replace(plan, precision="bfloat16")
    augment.check(plan.augmentation_of(dataset))
    if tensorboard:
        board.check()
    init, teacher = None, None
    normalization = _normalization(init_mean, init_std, init_path)
    if init_path is not None:
        init = weights.read(init_path, genotype, normalization=normalization)
    if teacher_path is not None:
        teacher = teachers.read(teacher_path, genotype, genotype_path=teacher_genotype_path)
    folded = None if init is None else init.normalization
    settings = runs.Settings(
        genotype_sha256=manifests.file_sha256(genotype_path),
        quantization=spec,
        dataset=dataset,
        recipe_name=recipe,
        recipe=plan,
        epochs=num_epochs,
        float_epochs=num_float_epochs,
        seed=seed,
        num_processes=worlds.num_processes(),
        init_weights_sha256=None if init is None else init.sha256,
        init_mean=None if folded is None else list(folded.mean),
        init_std=None if folded is None else list(folded.std),
        teacher_sha256=None if teacher is None else teacher.sha256,
        teacher_genotype_sha256=None if teacher is None else teacher.genotype_sha256,
        skip_broken=skip_broken,
        val_fraction=val_fraction,
        is_compiled=compile_steps,
    )
    with worlds.alone_in(out):
        with worlds.joined(device) as world:
            if compile_steps:
                compiled.check(world.device)
            parts = splits.load(
                dataset,
                genotype.input_shape,
                genotype.num_classes,
                data_dir,
                val_fraction=val_fraction,
                skip_broken=skip_broken,
            )
            inputs = training.Inputs(
                train=parts.train, validation=parts.validation, test=parts.test, init=init, teacher=teacher
            )
            trainer = training.Trainer(genotype, settings, inputs, out, world=world, has_board=tensorboard)
            if resume:
                trainer.resume()
            else:
                trainer.start(genotype_path)
            trainer.train()
        if not world.is_main:
            return None
        with atomic.staged(out) as folder:
            manifest = trainer.finish(folder)
            _write_model(manifest, folder, qcdq=qcdq)
        return _result(manifest, out)


def _num_float_epochs(plan: recipes.Recipe, num_epochs: int, asked: int | None) -> int:
    if asked is None:
        return plan.num_float_epochs(num_epochs)
    if asked >= max(num_epochs, 1):
        raise UsageError(f"--float-epochs: got {asked}, expected fewer than the {num_epochs} epochs of the run")
    return asked


def _with_teacher(plan: recipes.Recipe, has_teacher: bool, can_learn: bool, num_epochs: int) -> recipes.Recipe:
    """Return the recipe with a share of the teacher in the loss, if there is one and an epoch to learn from it."""
    if num_epochs == 0 and has_teacher:
        raise UsageError("--epochs: got 0, expected at least 1 with --teacher or --distill; leave those out")
    if num_epochs == 0 or not can_learn:
        return dataclasses.replace(plan, distill_weight=0.0)
    if has_teacher and plan.distill_weight == 0:
        return dataclasses.replace(plan, distill_weight=_DISTILL_WEIGHT)
    return plan


def _refuse_random_start(plan: recipes.Recipe, name: str, num_epochs: int, num_float_epochs: int) -> None:
    if num_epochs == 0:
        raise UsageError("--epochs: got 0, expected at least 1 without trained weights; pass --init-weights FILE")
    if plan.needs_float_start and num_float_epochs == 0:
        raise UsageError(
            f"--recipe {name}: got no trained weights, expected some to start from (needs_float_start); pass "
            "--init-weights FILE, or --float-epochs N with as many --epochs more"
        )


def _normalization(mean: str | None, std: str | None, path: Path | None) -> pretrained.Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None or path is None:
        raise UsageError(
            "--init-mean: expected --init-weights and --init-std beside it; pass all three, or --init-weights alone"
        )
    return pretrained.Normalization(mean=_numbers("--init-mean", mean), std=_numbers("--init-std", std))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option}: got '{text}', expected numbers with commas between, as in 0.5,0.5,0.5") from error


def export(
    source: Path,
    *,
    out: Path,
    preset: str | None,
    quantization_path: Path | None,
    scheme: Scheme,
    seed: int | None,
    best: bool,
    qcdq: bool,
) -> tuple[dict[str, Any], str]:
    """Export a run's folder, or the untrained network of a genotype."""
    if source.is_dir():
        if (preset, quantization_path, seed) != (None, None, None) or scheme != Scheme():
            raise UsageError(f"{source}: is a training run, which has its own bits and seed; leave out the options")
        with lock.held(out), atomic.staged(out) as folder:
            manifest = runs.export_run(source, folder, best=best)
            _write_model(manifest, folder, qcdq=qcdq)
        return _result(manifest, out)
    if best:
        raise UsageError(f"--best: got {source}, expected the folder of a training run")
    spec = _spec(preset, quantization_path, scheme)
    seed = seed or 0
    genotype = genotypes.load(source)
    network = exports.untrained(genotype, spec, seed=seed)
    pictures = calibrate.noise_pictures(_NUM_NOISE, genotype.input_shape, seed=seed + 1)
    with lock.held(out), atomic.staged(out) as folder:
        manifest = exports.export(network, pictures, folder, exports.Provenance(genotype_path=source))
        _write_model(manifest, folder, qcdq=qcdq)
    return _result(manifest, out)


def evaluate(
    model_path: Path, *, dataset: str, data_dir: Path | None, confusion_path: Path | None, skip_broken: bool
) -> tuple[dict[str, Any], str]:
    """Measure an exported network's accuracy."""
    name, accuracy = evaluation.evaluate(
        model_path, dataset=dataset, data_dir=data_dir, confusion_path=confusion_path, skip_broken=skip_broken
    )
    result = {"name": name, "accuracy": accuracy.to_dict()}
    return result, f"{name} on {accuracy.dataset}/{accuracy.split}: {_accuracy_text(accuracy.to_dict())}"


def sensitivity(
    source: Path,
    *,
    out: Path,
    dataset: str | None,
    data_dir: Path | None,
    bits: tuple[int, ...],
    num_pictures: int,
    skip_broken: bool,
    device: str,
    seed: int,
    resume: bool,
) -> tuple[dict[str, Any], str]:
    """Measure how much a run's network loses by the bits of single tensors."""
    from .bits import sensitivity as measuring

    question = measuring.Question(bits=tuple(sorted(set(bits))), num_pictures=num_pictures, seed=seed)
    run = measuring.TrainedRun.read(source)
    genotype = run.network.genotype
    parts = splits.load(
        dataset or run.settings["dataset"],
        genotype.input_shape,
        genotype.num_classes,
        data_dir,
        val_fraction=run.settings["val_fraction"],
        skip_broken=skip_broken,
    )
    split = parts.train if parts.validation is None else parts.validation
    with worlds.joined(device) as world:
        result = measuring.Sensitivity(run, question, split, out, device=world.device).run(resume=resume)
    data, base = result["data"], result["base"]
    measured = f"loss {base['loss']:.4f}, top1 {base['top1']:.2f} %"
    pictures = f"{data['num_samples']} pictures of {data['dataset']}/{data['split']}"
    return result, f"{out}: {result['name']}, {len(result['tensors'])} tensors, {measured} ({pictures})"


def assign(
    sensitivity_path: Path, bitcosts_path: Path, *, budgets: tuple[str, ...], out: Path
) -> tuple[dict[str, Any], str]:
    """Choose bits within budgets and write them as a quantization."""
    from .bits import assign as assigning

    problem = assigning.Problem.read(sensitivity_path, bitcosts_path)
    choice = assigning.solve(problem, assigning.parse_budgets(budgets))
    with manifests.atomic_path(out) as temporary:
        temporary.write_text(json.dumps(choice.quantization, indent=1) + "\n", "utf-8")
    return {"quantization": str(out), **choice.to_dict()}, f"{choice.text()}\nwrote {out}"


def schema(kind: str) -> tuple[dict[str, Any], str]:
    """Return one of this package's schemas."""
    if kind not in _SCHEMAS:
        raise UsageError(f"KIND: got '{kind}', expected one of {', '.join(_SCHEMAS)}")
    result = manifests.schema(kind)
    return result, json.dumps(result, indent=1)


def _spec(preset: str | None, path: Path | None, scheme: Scheme) -> presets.QuantizationSpec:
    if path is not None and preset is not None:
        raise UsageError("--quantization: got a --preset beside it, expected one of the two")
    spec = presets.preset(preset or "w4a4") if path is None else _spec_of(path)
    options = {key: value for key, value in vars(scheme).items() if value is not None}
    changed = {key: value for key, value in options.items() if value != getattr(spec, key)}
    if not changed:
        return spec
    name = None if spec.preset is None else "-".join([spec.preset, *map(_in_name, changed.items())])
    try:
        return dataclasses.replace(spec, **changed, preset=name)
    except ManifestError as error:
        raise UsageError(str(error).replace("quantization.", "--").replace("_", "-")) from error


def _in_name(option: tuple[str, Any]) -> str:
    key, value = option
    return f"shift{value}" if key == "join_shift" else str(value)


def _spec_of(path: Path) -> presets.QuantizationSpec:
    try:
        values = json_file.parse(_text_of(path))
    except json_file.Unreadable as error:
        raise ManifestError(f"{path}: {error}; mend it") from error
    try:
        return presets.QuantizationSpec.from_dict(values)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}; mend it") from error


def _text_of(path: Path) -> str:
    try:
        return json_file.text(path)
    except json_file.Unreadable as error:
        raise UsageError(f"{path}: {error}; check --quantization") from error


def _write_model(manifest: dict[str, Any], folder: Path, *, qcdq: bool) -> None:
    if qcdq:
        execute.write_qcdq(folder / runs.QCDQ, folder / manifest["onnx"]["path"])
        manifest["artifacts"].append(manifests.artifact_record(folder / runs.QCDQ, folder, "qcdq"))
    manifests.save(folder / runs.MODEL, manifest, "model")


def _result(manifest: dict[str, Any], out: Path) -> tuple[dict[str, Any], str]:
    path = out / runs.MODEL
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
