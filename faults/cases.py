"""What is tried: each command that writes, in its smallest form, with what lies there before."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .programs import Programs

ROOT = Path(__file__).resolve().parent.parent
FAKE = ROOT / "packages" / "nash-bench" / "tests" / "fake_stage.py"
_NETWORK = "--width 2 --input-size 8"
_SPACE = f"--backbone resnet8 --variant v3 {_NETWORK}"
_SEARCH = f"{_SPACE} --num-images 256"
_DIGITS = "--dataset digits --seed 0"
_BOARD = "--board Pynq-Z1 --clock-mhz 100"
_GRID = {"backbone": "resnet8", "variant": ["none", "v3"], "width": 4, "preset": ["w2a2", "w4a4"]}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command that writes.

    line: its arguments, with {had} for the folder of fixtures and {disk} for the folder that it writes to. files: what
    it writes there; each is there before with other content. before: a folder of the fixtures that lies there instead,
    as `out`. going_on: what resumes a stopped one. kept: what may stay of a failed one, because going on needs it.
    volatile: paths that differ from run to run.
    """

    line: str
    files: tuple[str, ...] = ()
    before: str | None = None
    going_on: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()

    def arguments(self, had: Path, disk: Path) -> list[str]:
        """Return the command line, the package first."""
        return [part.format(had=had, disk=disk) for part in shlex.split(self.line)]

    def prepare(self, had: Path, disk: Path) -> None:
        """Write what lies there before."""
        (disk / "notes.txt").write_text("of somebody else\n")
        for name in self.files:
            (disk / name).write_text("before\n")
        if self.before is not None:
            shutil.copytree(had / self.before, disk / "out")


CASES: dict[str, Case] = {
    "search run": Case(
        line=f"search run {_SEARCH} {_DIGITS} --recipe {{had}}/search-recipe.json --out {{disk}}/out",
        going_on=("--resume",),
        kept=("out", r"out/checkpoint.*", "out/history.jsonl", "out/alphas.json"),
    ),
    "search pareto": Case(
        line=f"search pareto {_SEARCH} {_DIGITS} --recipe {{had}}/search-recipe.json --costs {{had}}/costs.json "
        "--points 2 --out {disk}/out",
        going_on=("--resume",),
        kept=("out", "out/search", "out/search/[^.].*", "out/points", "out/points/[^.].*"),
    ),
    "search show": Case(
        line="search show {had}/search/genotype.json --svg {disk}/cells.svg --heatmap {disk}/heat.svg",
        files=("cells.svg", "heat.svg"),
    ),
    "search space": Case(line=f"search space {_SPACE} --out {{disk}}/space.json", files=("space.json",)),
    "search random": Case(
        line="search random --like {had}/search/genotype.json --costs {had}/costs.json --out {disk}/random.json",
        files=("random.json",),
    ),
    "search export": Case(line="search export {had}/plain.json --out {disk}/float.onnx", files=("float.onnx",)),
    "search import": Case(
        line="search import {had}/float.onnx --out {disk}/g.json --weights {disk}/w.safetensors",
        files=("g.json", "w.safetensors"),
    ),
    "qat train": Case(
        line=f"qat train {{had}}/plain.json --preset w2a2 {_DIGITS} --recipe {{had}}/qat-recipe.json "
        "--out {disk}/out",
        going_on=("--resume",),
        kept=("out", r"out/(checkpoint|best|float)\.safetensors", "out/history.jsonl", "out/genotype.json"),
    ),
    "qat export": Case(line="qat export {had}/plain.json --preset w2a2 --qcdq --out {disk}/out", before="model"),
    "qat sensitivity": Case(
        line="qat sensitivity {had}/model --bits 2 3 --pictures 16 --out {disk}/sensitivity.json",
        files=("sensitivity.json",),
        going_on=("--resume",),
        kept=(r"sensitivity\.json\.partial",),
    ),
    "hw build": Case(
        line=f"hw build {{had}}/model/model.json {_BOARD} --target-fps 500 --out {{disk}}/out",
        before="hardware",
        going_on=("--resume",),
        kept=(r"out/\.steps", r"out/\.steps/.*"),
    ),
    "hw costs": Case(
        line="hw costs {had}/space.json --board U250 --weight-bits 4 --act-bits 4 --target-fps 1000 "
        "--out {disk}/costs.json",
        files=("costs.json",),
    ),
    "hw import": Case(
        line="hw import {had}/model/model.onnx --golden {had}/model/golden.npz --out {disk}/m.json",
        files=("m.json", "m.onnx", "m.npz"),
    ),
    "hw simulate": Case(
        line="hw simulate {disk}/out --frames 2 --trials 2 --cache {had}/cache",
        before="hardware",
        kept=(r"out/\.simulate", r"out/\.simulate/.*"),
    ),
    "bench evaluate": Case(
        line="bench evaluate {had}/model/model.json --dataset digits --repeats 1 --out {disk}/b.json",
        files=("b.json", "b.outcomes.json"),
    ),
    "bench report": Case(line="bench report {had}/runs --out {disk}/out", before="report"),
    "bench compare": Case(line="bench compare {had}/runs/a/benchmark.json {had}/runs/b/benchmark.json"),
    "bench import": Case(line="bench import {had}/hardware/hardware.json --power-w 2.5 --out {disk}/new.json"),
    "bench sweep": Case(
        line="bench sweep {had}/grid.yaml --out {disk}/out --jobs 2",
        kept=("out", "out/.*"),
        volatile=(r"out/logs(/.*)?", r"out/\.snakemake(/.*)?", r"out/\.sweep\.lock", r"out/sweep\.json"),
    ),
}


def environment(fixtures: Path) -> dict[str, str]:
    """Return what `bench sweep` needs for its four stages to be stand-ins."""
    return {"FAKE_FOLDER": str(fixtures / "stages")} | {
        f"NASH_{package.upper()}": shlex.join([sys.executable, "-S", str(FAKE), package])
        for package in ("search", "qat", "hw", "bench")
    }


def make_fixtures(programs: Programs, had: Path) -> None:
    """Make what the commands read, each file once."""
    had.mkdir(parents=True, exist_ok=True)
    _write(had / "grid.yaml", _GRID)
    _write(had / "search-recipe.json", _shortened("search"))
    _write(had / "qat-recipe.json", _shortened("qat"))
    for target, line in _steps(had):
        if not (had / target).exists():
            ended = programs.run(Case(line=line).arguments(had, had), watched=had)
            if ended.code:
                raise RuntimeError(f"{line}: left with {ended.code}: {ended.stderr[-2000:]}")
    stages = had / "stages"
    stages.mkdir(exist_ok=True)
    for name in ("model/model.json", "hardware/hardware.json", "runs/a/benchmark.json"):
        target = stages / name.rpartition("/")[2]
        shutil.copyfile(had / name, target)


def _steps(had: Path) -> Iterator[tuple[str, str]]:
    """Yield the files that commands read, and the lines that make them."""
    search, train, evaluate, costs = (
        CASES[name].line.rpartition(" --out ")[0] for name in ("search run", "qat train", "bench evaluate", "hw costs")
    )
    yield "space.json", f"search space {_SPACE} --out {had}/space.json"
    yield "plain.json", f"search zoo resnet8 {_NETWORK} --out {had}/plain.json"
    yield "float.onnx", f"search export {had}/plain.json --out {had}/float.onnx"
    yield "costs.json", f"{costs} --out {had}/costs.json"
    yield "search/genotype.json", f"{search} --out {had}/search"
    yield "model/model.json", f"{train} --out {had}/model"
    build = f"hw build {had}/model/model.json {_BOARD} --target-fps 1000 --until hdl"
    yield "hardware/hardware.json", f"{build} --out {had}/hardware"
    yield "runs/a/benchmark.json", f"{evaluate} --out {had}/runs/a/benchmark.json"
    yield "runs/b/benchmark.json", f"{evaluate} --out {had}/runs/b/benchmark.json"
    yield "report/index.html", f"bench report {had}/runs --title Before --out {had}/report"


def _shortened(package: str) -> Mapping[str, Any]:
    """Return the package's quick recipe with few, large steps and many checkpoints."""
    path = ROOT / "packages" / f"nash-{package}" / "src" / f"nash_{package}" / "recipes" / "quick.json"
    recipe = json.loads(path.read_text("utf-8"))
    return recipe | {"epochs": 2, "batch_size": 256, "checkpoint_steps": 2}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
