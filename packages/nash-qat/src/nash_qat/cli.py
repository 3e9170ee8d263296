"""Command line of nash-qat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console
from .console import Json

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
    help="Train a searched CNN with quantization and export it as QONNX.",
)
Preset = Annotated[str | None, typer.Option(help="Bit widths: wNaM, v1..v4 or resnet34-v3. [default: w4a4]")]


@app.callback(invoke_without_command=True)
def _version() -> None:
    pass


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="genotype.json, or the folder of a training run.")],
    out: Annotated[Path, typer.Option(help="Folder for model.json, model.onnx and golden.npz.")],
    preset: Preset = None,
    seed: Annotated[int, typer.Option()] = 0,
    json: Json = False,
) -> None:
    """Write QONNX, reference outputs and model.json."""
    from . import calibrate, genotype, manifest, presets
    from . import export as exports

    parsed = genotype.load(source)
    network = exports.untrained(parsed, presets.preset(preset or "w4a4"), seed=seed)
    pictures = calibrate.noise_pictures(32, parsed.input_shape, seed=seed + 1)
    model = exports.export(network, pictures, out, exports.Provenance(genotype_path=source))
    manifest.save(out / "model.json", model, "model")
    console.print_result(
        {"model": str(out / "model.json"), "onnx": model["onnx"]},
        f"{out / 'model.json'}: {model['onnx']}",
        as_json=json,
    )


def main() -> None:
    """Run the command line."""
    console.run(app)
