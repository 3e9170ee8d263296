"""Small networks and searches that the tests share."""

from __future__ import annotations

import importlib.util
import io
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nash_search.base import manifest
from nash_search.cli import main
from nash_search.data import datasets as data
from nash_search.genotype import space, zoo
from nash_search.genotype.genotype import Cell, Genotype, Input, Layer, NasOp, Stem
from nash_search.genotype.variants import VARIANTS, narrow
from nash_search.search import engine, recipe
from nash_search.search.settings import Settings

torch.set_num_threads(1)  # the tensors are tiny


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Return all that it said."""
        return self.stdout + self.stderr


def run_command(*arguments: str | Path) -> Outcome:
    """Run the command line as `main` does, in this process; see `handlers_as_before`."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["nash-search", *map(str, arguments)]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as left:
            main()
    finally:
        sys.argv = argv
    return Outcome(code=int(left.value.code or 0), stdout=stdout.getvalue(), stderr=stderr.getvalue())


@pytest.fixture
def handlers_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what `console.run` does to its process."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def benchmark(name: str) -> ModuleType:
    """Return a script of benchmarks/ as a module."""
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def odd_network() -> Genotype:
    """Return a network such as only a user would write: odd sizes, groups, other kernels, a cell of stride 4."""
    return Genotype(
        name="odd",
        num_classes=3,
        input=Input(channels=1, height=13, width=9),
        stem=Stem(channels=4, kernel=5, stride=1, max_pool=True),
        cells=(
            Cell(
                in_channels=4,
                layers=(
                    Layer(kernel=3, channels=8, stride=2, groups=2),
                    Layer(kernel=1, channels=6, stride=1, residual_from=0, projection=True),
                    Layer(kernel=5, channels=8, stride=2),
                ),
            ),
            Cell(in_channels=8, layers=(Layer(kernel=7, channels=8, stride=1, residual_from=0),)),
        ),
    )


@pytest.fixture
def tiny() -> Genotype:
    """Return three layers, each with an operation: 4 * 9 * 14 genotypes in all."""
    layers = (Layer(kernel=3, channels=4, stride=2), *[Layer(kernel=3, channels=4, stride=1)] * 2)
    network = Genotype(
        name="tiny",
        num_classes=3,
        input=Input(channels=1, height=4, width=4),
        stem=Stem(channels=2, kernel=3, stride=1, max_pool=False),
        cells=(Cell(in_channels=2, layers=layers),),
        variant="v3",
    )
    kept = [NasOp(op="conv_3x3", input=0, probability=0.5), None, NasOp(op="conv_1x1", input=2, probability=0.25)]
    return network.with_nas_ops(kept)


@pytest.fixture(scope="session")
def digits() -> data.Split:
    """Return the digits' training split at 8 x 8."""
    return data.load("digits", "train", data.Preprocessing(channels=3, height=8, width=8))


@pytest.fixture
def settings() -> Settings:
    """Return the settings of a short search: two epochs of five steps."""
    return Settings(
        backbone=zoo.build("resnet8", width=2, input_size=8),
        variant="v3",
        dataset="digits",
        recipe=replace(recipe.load("quick", epochs=2), batch_size=128),
        gradient="two-path",
        seed=3,
        threads=1,
    )


@pytest.fixture
def begin(settings: Settings, digits: data.Split, tmp_path: Path) -> Callable[..., engine.Search]:
    """Start a search; keyword arguments replace settings."""

    def start(out: Path = tmp_path / "run", **changes: object) -> engine.Search:
        return engine.Search(replace(settings, **changes), digits, out)

    return start


@pytest.fixture
def priced(tmp_path: Path) -> Callable[..., Path]:
    """Write a space and its costs, as nash-hw does: 100 LUT and 3 a weight, skips' DSP not known.

    has_backbone: also 1,000 LUT, 10 DSP, ... for the plain backbone, and three times that at twice the width.
    """

    def write(
        backbone: Genotype,
        variant: str = "v3",
        primitives: Sequence[str] | None = None,
        *,
        has_backbone: bool = False,
        **changes: object,
    ) -> Path:
        strategy = VARIANTS[variant] if primitives is None else narrow(VARIANTS[variant], primitives)
        space.save(backbone, strategy, tmp_path / "costs" / "space.json")
        content = json.loads((tmp_path / "costs" / "space.json").read_text())
        costs = {
            "schema": "nash.costs/1.0",
            "created_by": {"package": "nash-hw", "version": "0.1.0"},
            "inputs": [manifest.input_record(tmp_path / "costs" / "space.json", content)],
            "artifacts": [],
            "name": content["name"],
            "board": "U250",
            "available": {"LUT": 100_000, "FF": 200_000, "BRAM_18K": 1000, "URAM": 0, "DSP": 500},
            "candidates": [_price(candidate) for candidate in content["candidates"]],
        }
        own = backbone.stem.channels
        if has_backbone:
            costs |= {"schema": "nash.costs/1.1", "backbone": _plain(own, 1), "widths": [_plain(2 * own, 3)]}
        path = tmp_path / "costs" / "costs.json"
        path.write_text(json.dumps(costs | changes))
        return path

    return write


def _plain(width: int, factor: int) -> dict[str, Any]:
    resources = {"LUT": 1000, "FF": 800, "BRAM_18K": 5, "URAM": 0, "DSP": 10}
    return {
        "width": width,
        "cycles": 100,
        "resources": {name: factor * amount for name, amount in resources.items()},
        "fifos": dict.fromkeys(resources, factor),
    }


def _price(candidate: dict[str, Any]) -> dict[str, Any]:
    num_weights = candidate["num_weights"]
    return {key: candidate[key] for key in ("cell", "layer", "input", "op")} | {
        "cycles": candidate["kernel"] ** 2 * candidate["output_height"] * candidate["output_width"],
        "resources": {
            "LUT": 100 + 3 * num_weights,
            "FF": 50,
            "BRAM_18K": 2 * (candidate["kernel"] - 1),
            "URAM": 0,
            "DSP": None if candidate["op"] == "skip_connect" else num_weights / 100,
        },
    }
