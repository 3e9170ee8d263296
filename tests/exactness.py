"""Hold the accelerators of many networks, bits and joins against nash-qat's own logits, integer by integer.

    python tests/exactness.py --out FOLDER [--only TEXT...] [--without-folding]

It takes the commands that NASH_SEARCH, NASH_QAT and NASH_HW name, as the tests beside it, but nash-qat and nash-hw work
in one process each: to start them takes longer than most of the work. Every network is untrained, exported, and goes
through the steps of `nash-hw build` for a U250 at a frame rate that leaves little to fold; `--without-folding` executes
the specialized layers in place of the folded ones. FOLDER keeps a line of results.jsonl for each combination that is
done, failed ones, too; stopped, the same command goes on with the next one. `--only` takes those whose title has one of
the texts in it. The exit code is 1 if one of FOLDER is not exact.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BOARD, CLOCK_MHZ, FPS = "U250", 200.0, 1.0
JOINS = ("quantized", "aligned", "fused")
NUM_SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A network of the zoo, or a cell with one operation, and how it is quantized."""

    network: str
    preset: str
    join: str
    width: int = 4
    size: int = 16

    @property
    def title(self) -> str:
        return f"{self.network}, width {self.width}, {self.size}x{self.size}, {self.preset}, {self.join}"


OPERATIONS = ("max_pool_3x3", "skip_connect", "conv_1x1", "conv_3x3", "conv_5x5")
_PUBLISHED = ("resnet18-v1", "resnet18-v2", "resnet18-v3", "resnet18-v4", "resnet34-v3")
_PLAIN = ("resnet18", "resnet34-tv", "vgg11", "resnet50", "mobilenetv1")
_FIRST = (
    ("operations", "w4a4"),
    ("resnet18-v3", "v3"),
    ("resnet18-v4", "w1a2"),
    ("resnet18-v3", "w8a8"),
    ("mobilenetv1", "w4a4"),
    ("vgg11", "w2a2"),
    ("resnet50", "w2a2"),
    ("resnet18-v4", "v4"),
    ("resnet18-v1", "v1"),
    ("resnet18-v2", "v2"),
    ("resnet34-v3", "resnet34-v3"),
    ("resnet18-v3", "w4a4"),
    ("operations", "w1a2"),
    ("resnet18-v3", "w2a2"),
    ("resnet50", "w8a8"),
    ("resnet34-tv", "w4a4"),
    ("resnet18", "w4a4"),
)
_BITS = ("w4a4", "w1a2", "w8a8", "w2a2", "w3a3", "w1a1", "w8a4", "w1a8")


def combinations() -> Iterator[Combination]:
    """Yield all combinations, those first that differ most."""
    rest = ((network, preset) for preset in _BITS for network in ("operations", *_PUBLISHED, *_PLAIN))
    cases = list(dict.fromkeys((*_FIRST, *rest)))
    for part in (cases[: len(_FIRST)], cases[len(_FIRST) :]):
        for join in reversed(JOINS):  # the tests hold networks of quantized joins already
            for network, preset in part:
                yield Combination(network=network, preset=preset, join=join)


def command(package: str) -> Path:
    """Return the command of a package."""
    variable = f"NASH_{package.upper()}"
    if variable not in os.environ:
        sys.exit(f"{variable} is not set to the nash-{package} command")
    return Path(os.environ[variable])


class Worker:
    """A process in a package's environment that answers one request after the other."""

    def __init__(self, package: str) -> None:
        python = command(package).with_name("python")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([python, __file__, "--serve", package], **pipes)

    def ask(self, request: Any) -> dict[str, Any]:
        """Return the answer; it has the key `error` where something went wrong."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else {"error": "the process has ended"}

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve(package: str) -> None:
    """Answer the requests on stdin, a line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin:
        try:
            answer = {"qat": _export, "hw": _verify}[package](**json.loads(line))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _export(genotype: str, preset: str, join: str, out: str) -> dict[str, Any]:
    """Export an untrained network; the answer tells in how many samples float32 differed from float64."""
    import dataclasses

    from nash_qat.base import manifest
    from nash_qat.export import files as export
    from nash_qat.network.genotype import load
    from nash_qat.quant import presets

    spec = dataclasses.replace(presets.preset(preset), join=join)
    path, tree = Path(genotype), load(Path(genotype))
    network = export.untrained(tree, spec, seed=0)
    pictures = export.calibrate.noise_pictures(NUM_SAMPLES, tree.input_shape, seed=1)
    found = export.export(network, pictures, Path(out), export.Provenance(genotype_path=path))
    manifest.save(Path(out) / "model.json", found, "model")
    return {"float32": found["onnx"]["agreement"]}


def _verify(model: str, is_folded: bool) -> dict[str, Any]:
    """Take the steps of a build that execute the network."""
    from nash_hw.boards.boards import find_board
    from nash_hw.build.flow import Flow, Source, Target
    from nash_hw.finn.finn_env import contained_finn

    with contained_finn():
        target = Target(board=find_board(BOARD), clock_mhz=CLOCK_MHZ, fps=FPS, utilization=None)
        flow, state = Flow(Source.read(Path(model)), target), None
        names = Flow.NAMES if is_folded else (*Flow.NAMES[: Flow.NAMES.index("fold")], "verify specialized")
        for name in names:
            state = flow.run(name, state)
        return {"stages": state.verification, "layers": len(state.model.graph.node)}


def write_genotype(combination: Combination, path: Path) -> None:
    """Write the genotype of a combination."""
    given = ("--width", str(combination.width), "--input-size", str(combination.size))
    name = "resnet18" if combination.network == "operations" else combination.network
    subprocess.run([command("search"), "zoo", name, *given, "--out", path], check=True, stdout=subprocess.DEVNULL)
    if combination.network == "operations":
        genotype = json.loads(path.read_text("utf-8"))
        genotype |= {"name": "operations", "backbone": None, "cells": _cells_of_operations(combination.width)}
        path.write_text(json.dumps(genotype), "utf-8")


def _cells_of_operations(width: int) -> list[dict[str, Any]]:
    """Return cells in which each operation stands beside a layer of stride 1 and one of stride 2."""
    cells, channels = [], width
    for number, op in enumerate(OPERATIONS):
        wider = channels * (2 - number % 2)
        cells += [_cell(channels, channels, 1, op), _cell(channels, wider, 2, op)]
        channels = wider
    return cells


def _cell(in_channels: int, channels: int, stride: int, op: str) -> dict[str, Any]:
    common = {"kernel": 3, "channels": channels, "groups": 1}
    first = {"stride": stride, "residual_from": None, "projection": False, "nas_op": _operation(op, 0)}
    needs_projection = stride > 1 or in_channels != channels
    second = {"stride": 1, "residual_from": 0, "projection": needs_projection, "nas_op": _operation(op, 1)}
    return {"in_channels": in_channels, "layers": [common | first, common | second]}


def _operation(op: str, state: int) -> dict[str, Any]:
    return {"op": op, "input": state, "probability": None}


def line_of(result: dict[str, Any]) -> str:
    """Return what a line of results.jsonl says, in words."""
    title = Combination(**result["combination"]).title
    if "error" in result:
        return f"{title}: {result['error']}"
    stages = ", ".join(f"{stage['stage']} {stage['num_flips']}/{stage['num_samples']}" for stage in result["stages"])
    float32 = result["float32"]
    return f"{title}: all stages equal, flips {stages}; float32 {float32['num_flips']}/{float32['num_samples']}"


def is_exact(result: dict[str, Any]) -> bool:
    """Tell whether no sample differs in any stage."""
    return "error" not in result and not any(stage["num_flips"] for stage in result["stages"])


def run(out: Path, wanted: list[Combination], *, is_folded: bool) -> int:
    """Try all that is not done yet, print and keep a line each, and return how many are not exact."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    results = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    done = [result["combination"] for result in results]
    qat, hw = Worker("qat"), Worker("hw")
    for combination in wanted:
        if asdict(combination) in done:
            continue
        start = time.monotonic()
        genotype, model = out / "genotype.json", out / "model"
        write_genotype(combination, genotype)
        quantization = {"preset": combination.preset, "join": combination.join}
        found = qat.ask({"genotype": str(genotype), **quantization, "out": str(model)})
        if "error" not in found:
            found |= hw.ask({"model": str(model / "model.json"), "is_folded": is_folded})
        result = {"combination": asdict(combination), **found, "seconds": round(time.monotonic() - start, 1)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        results.append(result)
        print(line_of(result), flush=True)
    qat.stop()
    hw.stop()
    return sum(not is_exact(result) for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="the folder of results.jsonl")
    parser.add_argument("--only", nargs="+", default=[""], help="texts, of which a combination's title has one in it")
    parser.add_argument("--without-folding", action="store_true")
    parser.add_argument("--serve", choices=("qat", "hw"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if options.out is None:
        parser.error("--out is missing")
    wanted = [one for one in combinations() if any(text in one.title for text in options.only)]
    failed = run(options.out, wanted, is_folded=not options.without_folding)
    sys.exit(f"{failed} combinations are not exact" if failed else 0)


if __name__ == "__main__":
    main()
