"""What is fuzzed: each kind of file, the mutation that fits it, and the command that reads it."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from binaries import mutated_npz, mutated_onnx, mutated_safetensors
from mutations import mutated_json, mutated_lines

Mutation = Callable[[bytes, random.Random], bytes]
SHAPE = ("--backbone", "resnet8", "--variant", "v3", "--width", "4", "--input-size", "16")
PLACE = ("--board", "Pynq-Z1", "--clock-mhz", "100", "--target-fps", "5000")
SEARCH = ("run", *SHAPE, "--dataset", "digits", "--epochs", "1", "--num-images", "64")
TRAIN = ("train", "search/genotype.json", "--dataset", "digits", "--preset", "w2a2")


def _json(content: bytes, dice: random.Random) -> bytes:
    return mutated_json(content.decode(), dice)


def _lines(content: bytes, dice: random.Random) -> bytes:
    return mutated_lines(content.decode(), dice)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A file, how it is broken, and the arguments that have it read; paths are relative to a copy of the seeds.

    keeps: what it could do in spite of an error stays.
    needs: the files and folders of the seeds that are copied beside it. named_in: the manifests that hold its hash,
    from the inside out: they are told the new one, so that its content is looked at.
    """

    name: str
    package: str
    file: str
    mutation: Mutation
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    named_in: tuple[str, ...] = ()
    keeps: bool = False

    def prepare(self, seeds: Path, folder: Path, dice: random.Random) -> None:
        """Copy what the command needs into `folder`, and break the file there."""
        for name in {*self.needs, self.file, *self.named_in}:
            source, target = seeds / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif not target.exists():
                shutil.copyfile(source, target)
        before = (folder / self.file).read_bytes()
        (folder / self.file).write_bytes(self.mutation(before, dice))
        changed, old = folder / self.file, before
        for name in self.named_in:
            manifest = folder / name
            text = manifest.read_bytes()
            new = changed.read_bytes()
            manifest.write_bytes(text.replace(_sha256(old), _sha256(new)))
            changed, old = manifest, text


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


KINDS = (
    # nash-search
    Kind(name="genotype-show", package="search", file="search/genotype.json", mutation=_json,
         arguments=("show", "search/genotype.json", "--svg", "out.svg")),
    Kind(name="genotype-export", package="search", file="search/genotype.json", mutation=_json,
         arguments=("export", "search/genotype.json", "--out", "out.onnx")),
    Kind(name="genotype-backbone", package="search", file="search/genotype.json", mutation=_json,
         arguments=("space", "--backbone", "search/genotype.json", "--variant", "v1", "--out", "out.json")),
    Kind(name="alphas", package="search", file="search/alphas.json", mutation=_json,
         named_in=("search/genotype.json",),
         arguments=("show", "search/genotype.json", "--heatmap", "out.svg")),
    Kind(name="costs", package="search", file="costs.json", mutation=_json, needs=("search/genotype.json",),
         arguments=("random", "--like", "search/genotype.json", "--costs", "costs.json", "--out", "out.json")),
    Kind(name="recipe", package="search", file="recipe.json", mutation=_json,
         arguments=(*SEARCH, "--recipe", "recipe.json", "--out", "out")),
    Kind(name="search-checkpoint", package="search", file="search/checkpoint.json", mutation=_json, needs=("search",),
         arguments=("run", *SHAPE, "--dataset", "digits", "--epochs", "1", "--resume", "--out", "search")),
    Kind(name="search-weights", package="search", file="model/best.safetensors", mutation=mutated_safetensors,
         arguments=(*SEARCH, "--init-weights", "model/best.safetensors", "--out", "out")),
    Kind(name="search-import", package="search", file="float.onnx", mutation=mutated_onnx,
         arguments=("import", "float.onnx", "--out", "out.json", "--weights", "out.safetensors")),
    # nash-qat
    Kind(name="genotype-qat", package="qat", file="search/genotype.json", mutation=_json,
         arguments=("export", "search/genotype.json", "--preset", "w2a2", "--out", "out")),
    Kind(name="quantization", package="qat", file="quantization.json", mutation=_json, needs=("search/genotype.json",),
         arguments=("export", "search/genotype.json", "--quantization", "quantization.json", "--out", "out")),
    Kind(name="qat-recipe", package="qat", file="qat-recipe.json", mutation=_json, needs=("search/genotype.json",),
         arguments=(*TRAIN, "--recipe", "qat-recipe.json", "--epochs", "1", "--out", "out")),
    Kind(name="qat-recipe-toml", package="qat", file="qat-recipe.toml", mutation=_lines,
         needs=("search/genotype.json",),
         arguments=(*TRAIN, "--recipe", "qat-recipe.toml", "--epochs", "1", "--out", "out")),
    Kind(name="qat-checkpoint", package="qat", file="model/checkpoint.safetensors", mutation=mutated_safetensors,
         needs=("model",), arguments=("export", "model", "--out", "out")),
    Kind(name="qat-weights", package="qat", file="model/best.safetensors", mutation=mutated_safetensors,
         needs=("search/genotype.json",),
         arguments=(*TRAIN, "--epochs", "0", "--init-weights", "model/best.safetensors", "--out", "out")),
    Kind(name="sensitivity", package="qat", file="sensitivity.json", mutation=_json, needs=("bitcosts.json",),
         arguments=("assign", "sensitivity.json", "bitcosts.json", "--budget", "LUT=20000", "--out", "out.json")),
    Kind(name="bitcosts", package="qat", file="bitcosts.json", mutation=_json, needs=("sensitivity.json",),
         arguments=("assign", "sensitivity.json", "bitcosts.json", "--budget", "LUT=20000", "--out", "out.json")),
    Kind(name="model-qat", package="qat", file="model/model.json", mutation=_json, needs=("model",),
         arguments=("evaluate", "model/model.json", "--dataset", "digits")),
    # nash-hw
    Kind(name="model-hw", package="hw", file="model/model.json", mutation=_json, needs=("model",),
         arguments=("build", "model/model.json", *PLACE, "--out", "out")),
    Kind(name="onnx-hw", package="hw", file="model/model.onnx", mutation=mutated_onnx, needs=("model",),
         named_in=("model/model.json",), arguments=("build", "model/model.json", *PLACE, "--out", "out")),
    Kind(name="golden-hw", package="hw", file="model/golden.npz", mutation=mutated_npz, needs=("model",),
         named_in=("model/model.json",), arguments=("build", "model/model.json", *PLACE, "--out", "out")),
    Kind(name="board", package="hw", file="board.json", mutation=_json, needs=("space.json",),
         arguments=("costs", "space.json", "--board", "board.json", "--target-fps", "5000", "--clock-mhz", "100",
                    "--weight-bits", "2", "--act-bits", "2", "--out", "out.json")),
    Kind(name="space", package="hw", file="space.json", mutation=_json,
         arguments=("costs", "space.json", *PLACE, "--weight-bits", "2", "--act-bits", "2", "--out", "out.json")),
    Kind(name="onnx-import", package="hw", file="model/model.onnx", mutation=mutated_onnx,
         needs=("model/golden.npz",),
         arguments=("import", "model/model.onnx", "--out", "out/model.json")),
    Kind(name="golden-import", package="hw", file="model/golden.npz", mutation=mutated_npz, needs=("model/model.onnx",),
         arguments=("import", "model/model.onnx", "--golden", "model/golden.npz", "--out", "out/model.json")),
    # nash-bench
    Kind(name="benchmark", package="bench", file="benchmark.json", mutation=_json, needs=("benchmark.outcomes.json",),
         arguments=("compare", "benchmark.json", "benchmark.json")),
    Kind(name="benchmark-report", package="bench", file="benchmark.json", mutation=_json,
         needs=("benchmark.outcomes.json",), keeps=True, arguments=("report", ".", "--out", "out")),
    Kind(name="outcomes", package="bench", file="benchmark.outcomes.json", mutation=_json, named_in=("benchmark.json",),
         arguments=("compare", "benchmark.json", "benchmark.json")),
    Kind(name="hardware-report", package="bench", file="hardware/hardware.json", mutation=_json,
         needs=("model", "hardware"), keeps=True, arguments=("report", ".", "--out", "out")),
    Kind(name="hardware-import", package="bench", file="hardware/hardware.json", mutation=_json,
         needs=("post_synth_resources.json",),
         arguments=("import", "hardware/hardware.json", "post_synth_resources.json", "--out", "out/hardware.json")),
    Kind(name="metrics", package="bench", file="nw_metrics.txt", mutation=_lines, needs=("hardware",),
         arguments=("import", "hardware/hardware.json", "nw_metrics.txt", "--out", "out/hardware.json")),
    Kind(name="synthesis", package="bench", file="post_synth_resources.json", mutation=_json, needs=("hardware",),
         arguments=("import", "hardware/hardware.json", "post_synth_resources.json", "--out", "out/hardware.json")),
    Kind(name="grid", package="bench", file="grid.yaml", mutation=_lines,
         arguments=("sweep", "grid.yaml", "--out", "out", "--dry-run")),
    Kind(name="model-bench", package="bench", file="model/model.json", mutation=_json, needs=("model",),
         arguments=("evaluate", "model/model.json", "--dataset", "digits", "--out", "out.json")),
    Kind(name="onnx-bench", package="bench", file="model/model.onnx", mutation=mutated_onnx, needs=("model",),
         named_in=("model/model.json",),
         arguments=("evaluate", "model/model.json", "--dataset", "digits", "--out", "out.json")),
    Kind(name="golden-bench", package="bench", file="model/golden.npz", mutation=mutated_npz, needs=("model",),
         named_in=("model/model.json",),
         arguments=("evaluate", "model/model.json", "--dataset", "digits", "--out", "out.json")),
)  # fmt: skip


def of_package(package: str) -> list[Kind]:
    """Return the kinds that a package reads."""
    return [kind for kind in KINDS if kind.package == package]
