"""Command line of nash-qat: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import console
from .base.console import Json
from .base.several import SeveralBits

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Train a searched CNN with quantization and export it as QONNX.",
)
Dataset = Annotated[str, typer.Option(help="digits, cifar10, cifar100 or imagefolder.")]
Data = Annotated[Path | None, typer.Option(help="Folder the dataset lies in; digits needs none.")]
Preset = Annotated[str | None, typer.Option(help="Bit widths: wNaM, v1..v4 or resnet34-v3. [default: w4a4]")]
Quantization = Annotated[Path | None, typer.Option(help="JSON file with bit widths, instead of --preset.")]
Join = Annotated[
    str | None,
    typer.Option(help="How additions are formed: quantized, aligned or fused. [default: the preset's or file's]"),
]
JoinShift = Annotated[
    int | None, typer.Option(help="Of aligned additions: their grid is the states' scale over 2 to this. [default: 2]")
]
WeightScale = Annotated[
    str | None, typer.Option(help="Scales of weights: learned or statistics. [default: the preset's]")
]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out pictures that cannot be read.")]
Qcdq = Annotated[bool, typer.Option("--qcdq", help="Write model-qcdq.onnx for onnxruntime, too.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"nash-qat {version('nash-qat')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    pass


@app.command()
def train(
    genotype: Annotated[Path, typer.Argument(help="genotype.json, as nash-search writes it.")],
    out: Out,
    dataset: Dataset = "digits",
    data: Data = None,
    preset: Preset = None,
    quantization: Quantization = None,
    weight_scale: WeightScale = None,
    join: Join = None,
    join_shift: JoinShift = None,
    recipe: Annotated[str, typer.Option(help="quick, paper, cifar, imagenet, lsq, or a JSON or TOML file.")] = "quick",
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Instead of the recipe's; 0 calibrates --init-weights alone.")
    ] = None,
    float_epochs: Annotated[
        int | None, typer.Option(min=0, help="How many of them, the first, run without quantizers.")
    ] = None,
    distill: Annotated[bool, typer.Option("--distill", help="Imitate the float network, too.")] = False,
    teacher: Annotated[
        Path | None, typer.Option(help="Imitate this: float weights, a run's folder or a TorchScript file.")
    ] = None,
    teacher_genotype: Annotated[
        Path | None, typer.Option(help="genotype.json of the teacher's weights, if it is another one.")
    ] = None,
    init_weights: Annotated[
        Path | None, typer.Option(help="Start from these: a float network's, a supernet's or a torchvision ResNet's.")
    ] = None,
    init_mean: Annotated[
        str | None, typer.Option(help="Of the pixels a torchvision ResNet was trained on. [default: ImageNet's]")
    ] = None,
    init_std: Annotated[str | None, typer.Option(help="As --init-mean, for the standard deviation.")] = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Run convolutions in bfloat16 while training.")] = False,
    compile_steps: Annotated[
        bool, typer.Option("--compile", help="Compile training steps: minutes at first, then faster; needs g++.")
    ] = False,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of the training split to watch epochs on, instead of the test split; 0 for none. "
            "[default: 0.1, but at most 10,000 pictures, or the folder val]",
        ),
    ] = None,
    skip_broken: SkipBroken = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if torch sees one.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Decides all chance of the run.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the history for TensorBoard, too (an extra).")
    ] = False,
    qcdq: Qcdq = False,
    json: Json = False,
) -> None:
    """Train a network with quantization; ends with the export."""
    from . import commands

    outcome = commands.train(
        genotype,
        out=out,
        dataset=dataset,
        data_dir=data,
        preset=preset,
        quantization_path=quantization,
        scheme=commands.Scheme(weight_scale=weight_scale, join=join, join_shift=join_shift),
        recipe=recipe,
        epochs=epochs,
        float_epochs=float_epochs,
        distill=distill,
        teacher_path=teacher,
        teacher_genotype_path=teacher_genotype,
        init_path=init_weights,
        init_mean=init_mean,
        init_std=init_std,
        bfloat16=bfloat16,
        compile_steps=compile_steps,
        val_fraction=val_fraction,
        skip_broken=skip_broken,
        device=device,
        seed=seed,
        resume=resume,
        tensorboard=tensorboard,
        qcdq=qcdq,
    )
    if outcome is not None:
        console.print_result(*outcome, as_json=json)


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(help="Folder of a training run, or genotype.json for the untrained network.")
    ],
    out: Out,
    preset: Preset = None,
    quantization: Quantization = None,
    weight_scale: WeightScale = None,
    join: Join = None,
    join_shift: JoinShift = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For the untrained network's weights. [default: 0]")] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The run's best epoch by validation accuracy, not the last.")
    ] = False,
    qcdq: Qcdq = False,
    json: Json = False,
) -> None:
    """Write model.onnx (QONNX), golden.npz and model.json."""
    from . import commands

    result, text = commands.export(
        source,
        out=out,
        preset=preset,
        quantization_path=quantization,
        scheme=commands.Scheme(weight_scale=weight_scale, join=join, join_shift=join_shift),
        seed=seed,
        best=best,
        qcdq=qcdq,
    )
    console.print_result(result, text, as_json=json)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="model.json")],
    dataset: Dataset = "digits",
    data: Data = None,
    confusion: Annotated[Path | None, typer.Option(help="PNG file to draw the confusion matrix to.")] = None,
    skip_broken: SkipBroken = False,
    json: Json = False,
) -> None:
    """Measure the accuracy of an exported network on a test split."""
    from . import commands

    result, text = commands.evaluate(
        model, dataset=dataset, data_dir=data, confusion_path=confusion, skip_broken=skip_broken
    )
    console.print_result(result, text, as_json=json)


@app.command(cls=SeveralBits)
def sensitivity(
    run: Annotated[Path, typer.Argument(help="Folder of a training run, or its model.json.")],
    out: Annotated[Path, typer.Option(help="File to write: sensitivity.json.")],
    dataset: Annotated[str | None, typer.Option(help="Of its validation pictures. [default: the run's]")] = None,
    data: Data = None,
    bits: Annotated[list[int], typer.Option(help="Bit widths to try, several numbers.")] = [2, 3, 4, 8],  # noqa: B006
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures to measure on, at most.")] = 512,
    skip_broken: SkipBroken = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if torch sees one.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Draws the pictures.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a measurement that was stopped.")] = False,
    json: Json = False,
) -> None:
    """Measure what a run's network loses when one tensor alone has other bits."""
    from . import commands

    result, text = commands.sensitivity(
        run,
        out=out,
        dataset=dataset,
        data_dir=data,
        bits=tuple(bits),
        num_pictures=pictures,
        skip_broken=skip_broken,
        device=device,
        seed=seed,
        resume=resume,
    )
    console.print_result(result, text, as_json=json)


@app.command()
def assign(
    sensitivity: Annotated[Path, typer.Argument(help="sensitivity.json of nash-qat sensitivity.")],
    bitcosts: Annotated[Path, typer.Argument(help="bitcosts.json of nash-hw costs, of the same network.")],
    out: Annotated[Path, typer.Option(help="File to write: bits for --quantization.")],
    budget: Annotated[
        list[str], typer.Option(help="The most of a resource to take, LUT=30000; once for each resource.")
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Choose the bits of every tensor that lose least within budgets of the hardware."""
    from . import commands

    result, text = commands.assign(sensitivity, bitcosts, budgets=tuple(budget), out=out)
    console.print_result(result, text, as_json=json)


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(help="model, sensitivity (written here), genotype or bitcosts (read here).")
    ] = "model",
    json: Json = False,
) -> None:
    """Print a JSON Schema."""
    from . import commands

    result, text = commands.schema(kind)
    console.print_result(result, text, as_json=json)


def main() -> None:
    """Run the command line."""
    console.run(app)
