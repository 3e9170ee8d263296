"""Command line of nash-search."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from .base import console
from .base.console import Json
from .options import (
    CostResource,
    DeviceName,
    GradientName,
    Precision,
    RelaxationName,
    VariantName,
    backbone_of,
    settings_of,
    with_options_of,
)

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Search for the operations to add beside the convolutions of a fixed CNN backbone.",
)

_PRIMITIVES_HELP = "Search these instead of the variant's: none,skip_connect,conv_3x3."
_GRADIENT_HELP = "Of the alphas: of two gates a choice, of all, or of losses. [default: swap, for edge two-path]"
_PRECISION_HELP = "Of the computation; mixed: float32, but convolutions multiply in bfloat16 where that is fast."
_FINISH_HELP = "Score so many of the most probable networks by a short training and keep the best. [default: 0]"
_FINISH_RANDOM_HELP = "Random networks of the same cost that are scored beside. [default: as many as --finish]"
_COST_HELP = "The cost; sum: of the shares of the board; scarcest: the largest share, of the whole accelerator."
_PRESET_HELP = "Search among quantized networks: w4a4 (wNaM, 1 to 8), v1 to v4, or resnet34-v3."
_RECIPE_HELP = "A recipe's name, or a file (.json). [default: quick, with --preset quick-quantized]"
_ALONG_HELP = "What the budgets are of: one resource, the scarcest one, or the sum; of the whole accelerator."
_STATE_HELP = "State dict of torchvision's network. [default: the published one, downloaded]"
_STATISTICS_HELP = (
    "Where normalizations are folded into convolutions: whose pictures they take statistics of. [default: noise]"
)
_VAL_HELP = "Share of the training split that is left alone: the validation split of nash-qat, the same pictures."
_WIDTH_HELP = "Channels of the stem, which all others follow. [default: the backbone's own, see zoo]"


class SchemaName(StrEnum):
    """The schemas this package owns."""

    GENOTYPE = "genotype"
    RECIPE = "recipe"
    SPACE = "space"
    PARETO = "pareto"


def _print_version(*, value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"nash-search {version('nash-search')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=lambda value: _print_version(value=value), is_eager=True)
    ] = False,
) -> None:
    pass


@app.command("run")
def run_command(
    backbone: Annotated[str, typer.Option(help="A backbone's name (see zoo), or a genotype file (.json).")],
    variant: Annotated[VariantName, typer.Option(help="Which variant of the strategy.")],
    out: Annotated[Path, typer.Option(help="The folder for genotype.json, alphas.json, history and checkpoint.")],
    dataset: Annotated[str, typer.Option(help="digits, cifar10, cifar100 or imagefolder.")] = "digits",
    data: Annotated[Path | None, typer.Option(help="The folder a dataset lies in; digits needs none.")] = None,
    preset: Annotated[str | None, typer.Option(help=_PRESET_HELP)] = None,
    recipe: Annotated[str | None, typer.Option(help=_RECIPE_HELP)] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's number.")] = None,
    num_images: Annotated[int | None, typer.Option(min=4, help="Search on so many pictures only, drawn by --seed.")] = (
        None
    ),
    val_fraction: Annotated[float, typer.Option(min=0, max=0.9, help=_VAL_HELP)] = 0.0,
    width: Annotated[int | None, typer.Option(min=1, help=_WIDTH_HELP)] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Pixels a side. [default: 32]")] = None,
    relaxation: Annotated[RelaxationName, typer.Option(help="One choice a layer, or one an edge (the paper's).")] = (
        RelaxationName.LAYER
    ),
    gradient: Annotated[GradientName | None, typer.Option(help=_GRADIENT_HELP)] = None,
    primitives: Annotated[str | None, typer.Option(help=_PRIMITIVES_HELP)] = None,
    costs: Annotated[Path | None, typer.Option(help="What each operation costs (costs.json of nash-hw).")] = None,
    cost_weight: Annotated[float, typer.Option(min=0, help="Of the expected cost beside the loss.")] = 0.0,
    cost_resource: Annotated[CostResource, typer.Option(help=_COST_HELP)] = CostResource.SUM,
    budget: Annotated[str | None, typer.Option(help="Of the operations together: lut=20000,bram=5%.")] = None,
    total_budget: Annotated[str | None, typer.Option(help="Of the whole accelerator: lut=60000,dsp=20%.")] = None,
    sweep_cost: Annotated[str | None, typer.Option(help="A search for each of these cost weights: 0,0.1,1.")] = None,
    init_weights: Annotated[Path | None, typer.Option(help="Begin with the weights of this safetensors file.")] = None,
    discard_below: Annotated[float | None, typer.Option(min=0, max=1, help="Discard less probable operations.")] = None,
    discard_after: Annotated[int, typer.Option(min=1, help="With --discard-below: from the end of this epoch on.")] = 1,
    finish: Annotated[int, typer.Option(min=0, help=_FINISH_HELP, show_default=False)] = 0,
    finish_epochs: Annotated[int | None, typer.Option(min=1, help="Of the last of these. [default: 4]")] = None,
    finish_random: Annotated[int | None, typer.Option(min=0, help=_FINISH_RANDOM_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything that is random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor. [default: all its cores]")] = None,
    precision: Annotated[Precision, typer.Option(help=_PRECISION_HELP)] = Precision.MIXED,
    device: Annotated[DeviceName, typer.Option(help="Where to compute; auto: on a GPU if torch sees one.")] = (
        DeviceName.CPU
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search that lies in --out.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write the history for TensorBoard, too.")] = False,
    as_json: Json = False,
) -> None:
    """Search a genotype for a backbone on a dataset."""
    asked = SimpleNamespace(**locals())
    from .base import parallel
    from .base.errors import UsageError
    from .search import search, sweep

    if cost_weight and sweep_cost is not None:
        raise UsageError("--sweep-cost: got --cost-weight beside it; leave that out")
    settings, options = settings_of(asked)
    if sweep_cost is None:
        path = search.run(settings, out, **options)
        if parallel.is_first():
            _print_genotype(path, as_json=as_json)
    else:
        found = sweep.run(settings, sweep.parse_weights(sweep_cost), out, **options)
        if parallel.is_first():
            console.print_result({"sweep": found}, sweep.table(found), as_json=as_json)


@app.command("pareto")
@with_options_of(run_command)
def pareto_command(
    along: Annotated[CostResource, typer.Option(help=_ALONG_HELP)] = CostResource.SCARCEST,
    points: Annotated[int, typer.Option(min=1, help="Budgets to find a genotype for.")] = 8,
    as_json: Json = False,
    **of_run: Any,
) -> None:
    """Search, and write genotypes along the trade-off between loss and cost, plain widths among them."""
    from .base import parallel
    from .search import pareto

    settings, options = settings_of(SimpleNamespace(**of_run))
    found = pareto.run(settings, of_run["out"], along=along.value, num_points=points, **options)
    if parallel.is_first():
        console.print_result(found, pareto.table(found), as_json=as_json)


def _print_genotype(path: Path, *, as_json: bool) -> None:
    from .genotype import genotype
    from .search import finish
    from .view import draw

    found = genotype.load(path)
    result = {"genotype": str(path), "name": found.name, "search": found.search, "nas_ops": draw.nas_ops(found)}
    tables = [draw.table(found)]
    if "finish" in found.search:
        tables.append(finish.table(path, found.search["finish"]))
    console.print_result(result, "" if as_json else "\n".join([*tables, str(path)]), as_json=as_json)


@app.command("zoo")
def zoo_command(
    name: Annotated[str | None, typer.Argument(help="What to write; without it the zoo is listed.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help=_WIDTH_HELP)] = None,
    input_size: Annotated[int, typer.Option(min=1, help="Pixels a side; up to 64 the stem is 3x3.")] = 32,
    num_classes: Annotated[int, typer.Option(min=2, help="Classes to tell apart.")] = 10,
    channels: Annotated[int, typer.Option(min=1, help="Of a picture: 3 for colour, 1 for grey.")] = 3,
    out: Annotated[Path | None, typer.Option(help="The genotype file; without it, it is printed.")] = None,
    as_json: Json = False,
) -> None:
    """List the published genotypes and the plain backbones, or write one."""
    from dataclasses import asdict

    from .base import manifest
    from .genotype import genotype, zoo
    from .view import draw

    if name is None:
        entries = list(zoo.entries())
        listed = {"zoo": [asdict(entry) for entry in entries]}
        console.print_result(listed, draw.zoo_table(entries), as_json=as_json)
        return
    found = zoo.build(name, width=width, input_size=input_size, num_classes=num_classes, channels=channels)
    if out is None:
        import json

        content = manifest.header("genotype") | genotype.to_manifest(found)
        console.print_result(content, json.dumps(content, indent=1), as_json=as_json)
        return
    genotype.save(found, out)
    console.print_result({"genotype": str(out), "name": found.name}, f"{out}: {found.name}", as_json=as_json)


@app.command("show")
def show_command(
    path: Annotated[Path, typer.Argument(metavar="GENOTYPE", help="A genotype.json.")],
    svg: Annotated[Path | None, typer.Option(help="Draw the cells into this file, too.")] = None,
    heatmap: Annotated[Path | None, typer.Option(help="Draw the search's probabilities into this file, too.")] = None,
    as_json: Json = False,
) -> None:
    """Print a genotype as a table, or draw it."""
    from .base import atomic
    from .genotype import genotype
    from .view import draw
    from .view import heatmap as heatmaps

    found = genotype.load(path)
    drawings = {} if svg is None else {svg: draw.svg(found)}
    if heatmap is not None:
        drawings[heatmap] = heatmaps.svg(found, heatmaps.load(path, found))
    if drawings:
        with atomic.atomic_paths(*drawings) as temporaries:
            for temporary, drawing in zip(temporaries, drawings.values(), strict=True):
                temporary.write_text(drawing, "utf-8")
    result = {
        "genotype": str(path),
        "name": found.name,
        "backbone": found.backbone,
        "variant": found.variant,
        "num_classes": found.num_classes,
        "input": [found.input.channels, found.input.height, found.input.width],
        "nas_ops": draw.nas_ops(found),
        "svg": None if svg is None else str(svg),
        "heatmap": None if heatmap is None else str(heatmap),
    }
    console.print_result(result, "" if as_json else draw.table(found), as_json=as_json)


@app.command("space")
def space_command(
    backbone: Annotated[str, typer.Option(help="A backbone's name (see zoo), or a genotype file (.json).")],
    variant: Annotated[VariantName, typer.Option(help="Which variant of the strategy.")],
    out: Annotated[Path, typer.Option(help="The space file (.json).")],
    width: Annotated[int | None, typer.Option(min=1, help=_WIDTH_HELP)] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Pixels a side. [default: 32]")] = None,
    num_classes: Annotated[int | None, typer.Option(min=2, help="Classes to tell apart. [default: 10]")] = None,
    primitives: Annotated[str | None, typer.Option(help=_PRIMITIVES_HELP)] = None,
    as_json: Json = False,
) -> None:
    """Write every operation that a search could choose, with its shapes."""
    from .base import manifest
    from .genotype import space
    from .genotype.variants import VARIANTS, narrow

    strategy = VARIANTS[variant.value]
    if primitives is not None:
        strategy = narrow(strategy, primitives.split(","))
    found, backbone_file = backbone_of(backbone, width, input_size, num_classes)
    inputs = []
    if backbone_file is not None:
        inputs = [manifest.input_record(backbone_file, manifest.load(backbone_file, "genotype"))]
    count = space.save(found, strategy, out, inputs=inputs)
    console.print_result({"space": str(out), "num_candidates": count}, f"{out}: {count} candidates", as_json=as_json)


@app.command("random")
def random_command(
    like: Annotated[Path, typer.Option(help="The genotype to compare with: its backbone, space and cost are kept.")],
    costs: Annotated[Path, typer.Option(help="What each operation costs (costs.json of nash-hw).")],
    out: Annotated[Path, typer.Option(help="The genotype file (.json).")],
    cost_resource: Annotated[CostResource, typer.Option(help="The cost; sum: of the shares of the board.")] = (
        CostResource.SUM
    ),
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the draw.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw a genotype at random that costs the same within 5 %."""
    from .cost import uniform
    from .view import draw

    result, found = uniform.write(like, costs, out, metric=cost_resource.value, seed=seed)
    console.print_result(result, "" if as_json else f"{draw.table(found)}\n{out}", as_json=as_json)


@app.command("export")
def export_command(
    path: Annotated[Path, typer.Argument(metavar="GENOTYPE", help="A genotype.json.")],
    out: Annotated[Path, typer.Option(help="The ONNX file.")],
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the random weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Write a genotype as a float ONNX network with random weights."""
    from . import export
    from .genotype import genotype

    result = export.export(genotype.load(path), out, seed=seed)
    text = f"{out}: {result['name']}, {result['num_params']:,} parameters, opset {result['opset']}"
    console.print_result(result, text, as_json=as_json)


@app.command("import")
def import_command(
    source: Annotated[str, typer.Argument(help="torchvision:NAME, or a float classifier as a file (.onnx).")],
    out: Annotated[Path, typer.Option(help="The backbone: a genotype file (.json).")],
    weights: Annotated[Path, typer.Option(help="Its weights, for --init-weights (.safetensors).")],
    state: Annotated[Path | None, typer.Option(help=_STATE_HELP)] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Pixels a side. [default: 224, or the file's]")] = None,
    mean: Annotated[str | None, typer.Option(help="Of the pixels it was trained on: 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, typer.Option(help="As --mean, the standard deviation; both go into the stem.")] = None,
    dataset: Annotated[str | None, typer.Option(help=_STATISTICS_HELP)] = None,
    data: Annotated[Path | None, typer.Option(help="The folder that dataset lies in; digits needs none.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the pictures that are compared.")] = 0,
    as_json: Json = False,
) -> None:
    """Take a float CNN of one's own as a backbone, and its weights."""
    from .imports import importing

    result = importing.run(
        source,
        out,
        weights,
        state=state,
        input_size=input_size,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        dataset=dataset,
        data_dir=data,
        seed=seed,
    )
    text = (
        f"{out}: {result['name']}, {result['num_layers']} layers, {result['num_params']:,} parameters in {weights}, "
        f"logits within {result['max_difference']:.1e} of the original's"
    )
    console.print_result(result, text, as_json=as_json)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    from .base.errors import UsageError

    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError as error:
        raise UsageError(f"{option}: got '{text}', expected numbers with commas between, as in 0.5,0.5,0.5") from error


@app.command("schema")
def schema_command(
    kind: Annotated[SchemaName, typer.Argument(help="Which schema.")] = SchemaName.GENOTYPE,
    as_json: Json = False,
) -> None:
    """Print a JSON Schema: of a manifest this package writes, or of a recipe."""
    import json

    from .base import manifest

    schema = manifest.schema(kind.value)
    console.print_result(schema, json.dumps(schema, indent=1), as_json=as_json)


def main() -> None:
    """Run the command line."""
    console.run(app)
