"""The four installed command lines, and one short chain of them that the tests share."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("search", "qat", "hw", "bench")


def _executable(package: str) -> Path:
    variable = f"NASH_{package.upper()}"
    if variable not in os.environ:
        raise pytest.UsageError(f"{variable} is not set to the nash-{package} command; run nox -s integration")
    return Path(os.environ[variable])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left behind: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """Return the one JSON object on stdout."""
        return json.loads(self.stdout)


Nash = Callable[..., Outcome]


@pytest.fixture(scope="session")
def nash() -> Nash:
    """Run nash-PACKAGE with arguments; `code` is the exit code expected, None for any."""

    def run(package: str, *arguments: str | Path, code: int | None = 0, cwd: Path | None = None) -> Outcome:
        command = [str(_executable(package)), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
        if code is not None:
            assert done.returncode == code, f"{command} left with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return Outcome(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    return run


@pytest.fixture(scope="session")
def python() -> Callable[[str, str], str]:
    """Run a few lines of Python in a package's environment and return what they print."""

    def run(package: str, code: str) -> str:
        interpreter = _executable(package).with_name("python")
        return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout

    return run


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The folder and the manifests of one network's way through the four packages."""

    folder: Path
    genotype: Path
    model: Path
    hardware: Path
    benchmark: Path

    def manifests(self) -> dict[str, Path]:
        """Return the manifest of each kind."""
        return {kind: getattr(self, kind) for kind in ("genotype", "model", "hardware", "benchmark")}


NETWORK = ("--width", "4", "--input-size", "16")


@pytest.fixture(scope="session")
def chains(nash: Nash, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chain]:
    """Take a searched network and its baseline from search to benchmark, an epoch each."""
    folder = tmp_path_factory.mktemp("chain")
    searched, baseline = folder / "nash" / "genotype.json", folder / "baseline" / "genotype.json"
    search = ("--backbone", "resnet8", "--variant", "v3", "--dataset", "digits", "--recipe", "quick", "--epochs", "1")
    nash("search", "run", *search, *NETWORK, "--seed", "1", "--out", searched.parent)
    nash("search", "zoo", "resnet8", *NETWORK, "--out", baseline)
    return {genotype.parent.name: _carry_on(nash, genotype) for genotype in (searched, baseline)}


def _carry_on(nash: Nash, genotype: Path) -> Chain:
    folder = genotype.parent
    chain = Chain(
        folder=folder,
        genotype=genotype,
        model=folder / "model" / "model.json",
        hardware=folder / "hardware" / "hardware.json",
        benchmark=folder / "benchmark.json",
    )
    digits = ("--dataset", "digits")
    budget = ("--preset", "w4a4", "--recipe", "quick", "--epochs", "1", "--seed", "1")
    nash("qat", "train", genotype, *digits, *budget, "--out", chain.model.parent)
    target = ("--board", "U250", "--clock-mhz", "200", "--target-fps", "1000")
    nash("hw", "build", chain.model, *target, "--out", chain.hardware.parent)
    nash("bench", "evaluate", chain.model, *digits, "--hardware", chain.hardware, "--out", chain.benchmark)
    return chain
