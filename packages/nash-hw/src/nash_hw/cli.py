"""Command line of nash-hw."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import texts
from .base import console, lock
from .base.console import Json, print_result
from .base.errors import UsageError
from .base.several import SeveralBits

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Turn a quantized CNN into a streaming FPGA accelerator with FINN.",
)


def main() -> None:
    """Run the command line."""
    console.run(app)


def _version(value: bool) -> None:
    if value:
        print(f"nash-hw {metadata.version('nash-hw')}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def build(
    model: Annotated[Path, typer.Argument(metavar="model.json", help="The manifest of a quantized model.")],
    board: Annotated[str, typer.Option(help="The board: a name of 'nash-hw boards', or a .json file.")],
    out: Annotated[Path, typer.Option(help="The folder to write hardware.json and its files to.")],
    clock_mhz: Annotated[float, typer.Option(help="The clock of the accelerator, in MHz.")] = 200.0,
    target_fps: Annotated[
        float | None, typer.Option(help="Fold to the cheapest design that reaches this frame rate.")
    ] = None,
    max_utilization: Annotated[
        float | None,
        typer.Option(help="Fold to the fastest design within this part of each resource (0.7 if neither is given)."),
    ] = None,
    until: Annotated[
        Literal["estimate", "hdl", "simulate", "bitfile"],
        typer.Option(
            help="How far to go: hdl writes RTL that needs no Vivado, simulate runs it, bitfile writes FINN's folder."
        ),
    ] = "estimate",
    price: Annotated[
        str | None,
        typer.Option(
            help="What all of each resource costs, LUT=2,DSP=0.1 (LUT=2 and 1 for others if not given), or balance: "
            "the fullest resource as little full as --target-fps lets it be."
        ),
    ] = None,
    num_fpgas: Annotated[int, typer.Option(help="How many boards to lay the network out on; several Alveos.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished step of a stopped build.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build the accelerator of a model for a board."""
    from .build.build import BuildConfig
    from .build.build import build as build_model

    config = BuildConfig(
        board=board,
        clock_mhz=clock_mhz,
        out=out,
        target_fps=target_fps,
        max_utilization=max_utilization,
        price=price,
        until=until,
        num_fpgas=num_fpgas,
        resume=resume,
    )
    result = build_model(model, config)
    print_result(result, texts.build_text(result, out), as_json=as_json)


@app.command("import")
def import_network(
    model: Annotated[Path, typer.Argument(metavar="model.onnx", help="A quantized network in QONNX.")],
    out: Annotated[Path, typer.Option(help="The model.json to write; graph and examples are written beside it.")],
    golden: Annotated[
        Path | None,
        typer.Option(help="A .npz of pictures, 'input', and what the network gives, 'output'; random pictures if not."),
    ] = None,
    input_scale: Annotated[
        float | None,
        typer.Option(help="What a pixel of 1 stands for, 1/255 as a number; found by 'output' if not given."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Of the pictures, NCHW or NHWC; found by their shape if not given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The network's name; the file's if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Write the model.json of a QONNX network of any origin."""
    from .build.import_model import ImportConfig, import_model

    config = ImportConfig(out=out, golden=golden, input_scale=input_scale, layout=layout, name=name)
    result = import_model(model, config)
    print_result(result, texts.import_text(result, out), as_json=as_json)


@app.command(cls=SeveralBits)
def costs(
    source: Annotated[
        Path, typer.Argument(metavar="space.json|model.json", help="What 'nash-search space' or nash-qat writes.")
    ],
    board: Annotated[str, typer.Option(help="The board, a name of 'nash-hw boards'.")],
    target_fps: Annotated[float, typer.Option(help="The frame rate that every operation must reach.")],
    out: Annotated[Path, typer.Option(help="The file to write, beside space.json for nash-search to check it.")],
    weight_bits: Annotated[
        int | None, typer.Option(help="Of a space: bits of the weights of the operations, 1 to 8.")
    ] = None,
    act_bits: Annotated[int | None, typer.Option(help="Of a space: bits of the activations, 1 to 8.")] = None,
    bits: Annotated[
        list[int] | None, typer.Option(help="Of a model: bit widths that its tensors may have, several numbers.")
    ] = None,
    joins: Annotated[
        str | None,
        typer.Option(help="Of a space: how terms of a sum are quantized, aligned (the default), quantized or fused."),
    ] = None,
    widths: Annotated[
        str | None, typer.Option(help="Of a space: price the plain backbone at these widths, too: 8,10,12.")
    ] = None,
    clock_mhz: Annotated[float, typer.Option(help="The clock of the accelerator, in MHz.")] = 200.0,
    as_json: Json = False,
) -> None:
    """Price every candidate operation of a search space, or the bits of every tensor of a model, on a board."""
    from .costs.costs import is_model

    target = {"board": board, "target_fps": target_fps, "clock_mhz": clock_mhz}
    if is_model(source):
        from .costs.bitcosts import BitCostsConfig, price_bits, summary

        if weight_bits is not None or act_bits is not None or joins or widths:
            raise UsageError(
                "--weight-bits, --act-bits, --joins, --widths: are for a space.json; a model's bits are --bits"
            )
        result = price_bits(source, BitCostsConfig(bits=tuple(bits or (2, 3, 4, 8)), **target), out)
    else:
        from .costs.costs import CostsConfig, parse_widths, price_space, summary

        if bits or weight_bits is None or act_bits is None:
            raise UsageError("a space.json is priced at one --weight-bits and one --act-bits; --bits are for a model")
        kind = {} if joins is None else {"joins": joins}
        kind |= {} if widths is None else {"widths": parse_widths(widths)}
        config = CostsConfig(weight_bits=weight_bits, act_bits=act_bits, **target, **kind)
        result = price_space(source, config, out)
    print_result(result, f"{texts.columns(summary(result))}\nwrote {out}", as_json=as_json)


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The --out of a build that FINN has been run in.")],
    as_json: Json = False,
) -> None:
    """Read what FINN and Vivado have made of a build folder into hardware.json."""
    from .handover.collect import collect as collect_results

    with lock.held(out) if out.is_dir() else nullcontext():
        result = collect_results(out)
    print_result(result, "\n".join(texts.measured_text(result, out)), as_json=as_json)


@app.command()
def simulate(
    hw_dir: Annotated[Path, typer.Argument(metavar="HW_DIR", help="The --out of a build with --until hdl.")],
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the build with what is found; HW_DIR itself if not given.")
    ] = None,
    frames: Annotated[int, typer.Option(help="How many frames to compare back to back, at least.")] = 8,
    golden: Annotated[
        Path | None,
        typer.Option(help="The golden.npz of the model: its pictures are simulated; random ones if not given."),
    ] = None,
    size_fifos: Annotated[
        bool, typer.Option("--size-fifos/--no-size-fifos", help="Search FIFO depths, or keep those that are written.")
    ] = True,
    trials: Annotated[int, typer.Option(help="How many simulations the search for fewer FIFO bits may take.")] = 40,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write the waveforms of all streams over two frames, simulation/trace.fst.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="The folder of compiled layers, which builds share; the user's cache if not given."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="How many layers to compile at a time; one a core if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate a whole accelerator, cycle by cycle, and size its FIFOs."""
    from .simulate.command import SimulateConfig
    from .simulate.command import simulate as simulate_accelerator

    given = {} if cache is None else {"cache": cache}
    config = SimulateConfig(
        folder=hw_dir,
        out=out,
        frames=frames,
        golden=golden,
        size_fifos=size_fifos,
        trials=trials,
        trace=trace,
        jobs=jobs,
        **given,
    )
    result = simulate_accelerator(config)
    print_result(result, "\n".join(texts.simulated_text(result, out or hw_dir)), as_json=as_json)


@app.command()
def boards(as_json: Json = False) -> None:
    """List the boards, their FPGAs and resources."""
    from .boards.board import RESOURCES
    from .boards.boards import all_boards
    from .finn.finn_env import contained_finn

    with contained_finn():
        found = all_boards()
    rows = [
        {
            "name": board.name,
            "fpga_part": board.fpga_part,
            "num_slrs": board.num_slrs,
            "resources": dict(board.resources),
            "source": board.source,
        }
        for board in found
    ]
    table = [["board", "part", "SLRs", *RESOURCES, "source"]]
    table += [
        [board.name, board.fpga_part, str(board.num_slrs)]
        + [f"{board.resources[name]:,}" for name in RESOURCES]
        + [board.source]
        for board in found
    ]
    print_result({"boards": rows}, texts.columns(table), as_json=as_json)


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(help="hardware, costs, bitcosts (written here), model, space or board (read here).")
    ] = "hardware",
    as_json: Json = False,
) -> None:
    """Print a JSON Schema this package holds files to."""
    import json

    from .base import manifest

    if kind not in ("hardware", "costs", "bitcosts", "model", "space", "board"):
        raise UsageError(f"KIND: got '{kind}', expected hardware, costs, bitcosts, model, space or board")
    result = manifest.schema(kind)
    print_result(result, json.dumps(result, indent=1), as_json=as_json)
