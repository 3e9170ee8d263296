"""Command line of nash-bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .base import console
from .base.console import Json, print_result

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Measure quantized networks and set them side by side: accuracy, speed, hardware.",
)
_DATASETS = "digits (bundled), cifar10, cifar100 or imagefolder"


def main() -> None:
    """Run the command line."""
    console.run(app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib import metadata

        print(f"nash-bench {metadata.version('nash-bench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="model.json of a network, or any ONNX file.", metavar="MODEL")],
    dataset: Annotated[str, typer.Option(help=f"Dataset: {_DATASETS}.")],
    out: Annotated[Path, typer.Option(help="Benchmark manifest to write.")],
    data: Annotated[Path | None, typer.Option(help="Folder the dataset lies in.")] = None,
    hardware: Annotated[Path | None, typer.Option(help="hardware.json of an accelerator built from the model.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of onnxruntime; default: one a core.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the throughput measurement.")] = 9,
    mean: Annotated[
        str | None, typer.Option(help="Of an ONNX file's pixels from 0 to 1, a value a channel: R,G,B.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="The same, what they are divided by.")] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and CPU throughput of a network on the test split of a dataset."""
    from .base.progress import reporting
    from .measure.evaluate import evaluate_to

    with reporting("evaluating") as progress:
        benchmark = evaluate_to(
            out,
            model,
            dataset=dataset,
            data_dir=data,
            hardware_path=hardware,
            batch_size=batch_size,
            num_threads=threads,
            num_repeats=repeats,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            progress=progress,
        )
    print_result(benchmark | {"path": str(out)}, _evaluation_text(benchmark, out), as_json=as_json)


def _numbers(option: str, text: str | None) -> list[float] | None:
    from .base.errors import UsageError

    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option}: got '{text}', expected numbers between commas, as 0.49,0.48,0.45") from error


def _evaluation_text(benchmark: dict[str, Any], out: Path) -> str:
    from .records.figures import OF_TEST, SELECTION_LEGEND

    is_selected = benchmark["identity"]["selected_on"] == "test"
    mark, notes = (OF_TEST, [f"  {SELECTION_LEGEND}"]) if is_selected else ("", [])
    accuracy, cpu = benchmark["accuracy"], benchmark["cpu"]
    top5 = "" if accuracy["top5"] is None else f", top-5 {accuracy['top5']:.2f}{mark} %"
    checks = [
        f"{check['num_samples'] - check['num_flips']} of {check['num_samples']} equal to {check['against']}"
        for check in benchmark["verification"]
    ]
    return "\n".join(
        [
            f"{benchmark['name']} on {accuracy['dataset']}/{accuracy['split']} ({accuracy['num_samples']} pictures)",
            f"  top-1 {accuracy['top1']:.2f}{mark} %{top5}",
            *notes,
            f"  CPU {cpu['throughput_fps']:,.0f} frames/s ({cpu['min_fps']:,.0f} to {cpu['max_fps']:,.0f} in "
            f"{cpu['num_repeats']} repeats), batch {cpu['batch_size']}, {cpu['num_threads']} threads",
            _latency_text(cpu),
            f"  logits: {'; '.join(checks)}",
            f"written: {out}",
        ]
    )


def _latency_text(cpu: dict[str, Any]) -> str:
    p99 = "" if cpu["latency_p99_us"] is None else f", p99 {cpu['latency_p99_us']:,.0f} \N{MICRO SIGN}s"
    p50 = f"{cpu['latency_p50_us']:,.0f} \N{MICRO SIGN}s"
    return f"  CPU latency {p50} for one picture (median of {cpu['latency_num_runs']} runs{p99})"


@app.command("import")
def import_(
    hardware: Annotated[Path, typer.Argument(help="hardware.json of the accelerator.", metavar="HARDWARE.json")],
    out: Annotated[Path, typer.Option(help="The hardware.json to write, in another folder.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="nw_metrics.txt, post_synth_resources.json, ooc_synth_and_timing.json.", metavar="FILE..."),
    ] = None,
    power_w: Annotated[float | None, typer.Option(min=0, help="Power measured on the board, in watts.")] = None,
    as_json: Json = False,
) -> None:
    """Take over what synthesis found and what the board did, from result files of FINN and its driver."""
    from .measure.measured import import_measurements, measured_text

    content = import_measurements(hardware, files or (), out, power_w=power_w)
    print_result(content | {"path": str(out)}, measured_text(content, out), as_json=as_json)


@app.command()
def compare(
    baseline: Annotated[Path, typer.Argument(help="benchmark.json or model.json.", metavar="BASELINE.json")],
    candidates: Annotated[
        list[Path],
        typer.Argument(
            help="The same, one or more; seeds of one network count as one too.", metavar="CANDIDATE.json..."
        ),
    ],
    baseline_seed: Annotated[
        list[Path] | None, typer.Option(help="The baseline at another seed; may be given again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how candidates differ from a baseline in accuracy and hardware cost."""
    from .base.progress import render
    from .compare.comparison import compare as set_side_by_side
    from .compare.comparison import comparison_table
    from .compare.seeds import seeds_table

    result = set_side_by_side(baseline, candidates, baseline_seeds=baseline_seed or ())
    tables = [] if as_json else [comparison_table(result), *map(seeds_table, result["seeds"])]
    print_result(result, "\n".join(map(render, tables)), as_json=as_json)


@app.command()
def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(help="Folders that hold manifests, at any depth.", metavar="RUN_DIR...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the report into.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "NASH report",
    as_json: Json = False,
) -> None:
    """Write tables, Pareto plots and one self-contained HTML page of all networks under the folders."""
    from .base.progress import render
    from .report.files import pairs_text, results_table, write_report

    collection, results = write_report(run_dirs, out, title=title)
    lines = [] if as_json else [render(results_table(collection)), *pairs_text(collection), f"page: {results['page']}"]
    print_result(results, "\n".join(lines), as_json=as_json)
    for warning in collection.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for error in collection.errors:
        print(f"error: {error}", file=sys.stderr)
    if collection.errors:  # the rest is reported; the code says that something is missing
        raise typer.Exit(collection.errors[0].exit_code)


@app.command()
def sweep(
    plan_file: Annotated[Path, typer.Argument(help="The axes of the grid.", metavar="SWEEP.yaml")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; one begun there goes on.")],
    engine_options: Annotated[
        list[str] | None, typer.Argument(help="Further options of Snakemake, after --.", metavar="[-- OPTION...]")
    ] = None,
    executor: Annotated[str, typer.Option(help="An executor of Snakemake: local, slurm, kubernetes, ...")] = "local",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cores to use, or jobs to submit at a time; default: all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its size.")] = False,
    as_json: Json = False,
) -> None:
    """Search, train, build and evaluate every network of a grid, and report them."""
    from .sweep import command

    if dry_run:
        plan = command.dry_run(plan_file, out)
        print_result(plan, command.plan_text(plan), as_json=as_json)
        return
    result = command.sweep(plan_file, out, executor=executor, num_jobs=jobs, engine_options=engine_options or ())
    print_result(result, command.result_text(result), as_json=as_json)
    for line in command.problem_lines(result):
        print(line, file=sys.stderr)
    if result["exit_code"]:
        raise typer.Exit(result["exit_code"])


@app.command()
def explore(
    backbone: Annotated[str, typer.Argument(help="A backbone's name ('nash-search zoo'), or a genotype file (.json).")],
    out: Annotated[Path, typer.Option(help="Folder of the exploration; one begun there goes on.")],
    board: Annotated[str, typer.Option(help="A board of 'nash-hw boards'.")],
    target_fps: Annotated[float, typer.Option(min=1e-6, help="Frames a second that each accelerator has to reach.")],
    clock_mhz: Annotated[float, typer.Option(help="Of the accelerator.")] = 200.0,
    preset: Annotated[str, typer.Option(help="Bit widths, wNaM.")] = "w4a4",
    variant: Annotated[str, typer.Option(help="Of the search: v1, v2, v3 or v4.")] = "v3",
    dataset: Annotated[str, typer.Option(help="digits, cifar10, cifar100 or imagefolder.")] = "digits",
    data: Annotated[str | None, typer.Option(help="Folder the dataset lies in.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=2, help="Of an imagefolder.")] = None,
    input_size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 32,
    width: Annotated[int, typer.Option(min=1, help="Channels of the first cell, beside which operations stand.")] = 8,
    widths: Annotated[
        str | None, typer.Option(help="Plain opponents. [default: 1, 1.25, 1.5 and 2 times --width]")
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Searched candidates.")] = 6,
    random: Annotated[int, typer.Option(min=0, help="Random networks beside each that is left in the end.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Of the last trainings.")] = 3,
    search_recipe: Annotated[str, typer.Option(help="Of nash-search.")] = "quick",
    search_epochs: Annotated[int | None, typer.Option(min=1, help="Instead of its own.")] = None,
    qat_recipe: Annotated[str, typer.Option(help="Of nash-qat.")] = "quick",
    epochs: Annotated[int, typer.Option(min=1, help="Of the last trainings.")] = 40,
    rungs: Annotated[int, typer.Option(min=0, help="Short trainings before, each halving the candidates.")] = 1,
    hours: Annotated[float | None, typer.Option(min=0, help="Of all; bounds the epochs of the last trainings.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Cores to use; default: all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands.")] = False,
    as_json: Json = False,
) -> None:
    """From a backbone, a board and a frame rate to the accelerators worth building."""
    from .sweep import explore as exploring
    from .sweep import question

    asked = question.Question(
        backbone=str(Path(backbone).resolve()) if backbone.endswith(".json") else backbone,
        variant=variant,
        board=board,
        target_fps=target_fps,
        clock_mhz=clock_mhz,
        preset=preset,
        dataset=dataset,
        data=data,
        num_classes=num_classes,
        input_size=input_size,
        width=width,
        widths=question.parse_widths(widths, width),
        points=points,
        random=random,
        seeds=tuple(range(seeds)),
        search_recipe=search_recipe,
        search_epochs=search_epochs,
        qat_recipe=qat_recipe,
        epochs=epochs,
        rungs=rungs,
        hours=hours,
    )
    if dry_run:
        planned = question.dry_run(asked, out)
        print_result(planned, "\n".join(planned["steps"]), as_json=as_json)
        return
    result = exploring.Exploration(asked, out, num_jobs=jobs).run()
    print_result(result, exploring.result_text(result), as_json=as_json)
    if result["exit_code"]:
        raise typer.Exit(result["exit_code"])


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(help="benchmark (written here), model, hardware or sweep (read here).")
    ] = "benchmark",
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of a manifest."""
    import json

    from .base import manifest
    from .base.errors import UsageError

    kinds = ("benchmark", "hardware", "model", "sweep")
    if kind not in kinds:
        raise UsageError(f"KIND: got '{kind}', expected one of {', '.join(kinds)}")
    found = manifest.schema(kind)
    print_result(found, json.dumps(found, indent=1), as_json=as_json)


if __name__ == "__main__":
    main()
