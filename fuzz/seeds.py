"""Whole files of every kind, made by the four commands themselves: what the mutations start from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RECIPE = ("--epochs", "1")
SHAPE = ("--backbone", "resnet8", "--variant", "v3", "--width", "4", "--input-size", "16")
PLACE = ("--board", "Pynq-Z1", "--clock-mhz", "100", "--target-fps", "5000")
GRID = """\
backbone: [resnet8]
variant: [none, v3]
width: [4]
baseline_width: [4, 6]
seed: [0, 1]
preset: [w2a2]
board: [Pynq-Z1]
input_size: 16
search_epochs: 1
qat_epochs: 1
clock_mhz: 100
target_fps: 1000
random: 2
"""
METRICS = "{'throughput[images/s]': 4980.5, 'runtime[ms]': 20.1, 'batch_size': 100, 'fclk[mhz]': 100.0}\n"
SYNTHESIS = {"(top)": {"LUT": 14000.0, "FF": 15000.0, "BRAM_36K": 10.0, "BRAM_18K": 3.0, "URAM": 0.0, "DSP": 12.0}}


def make(folder: Path) -> None:
    """Fill a folder, once: a search, a trained network, an accelerator, a benchmark, and small files beside them."""
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    from_search = folder / "search" / "genotype.json"
    _run("search", "run", *SHAPE, "--dataset", "digits", *RECIPE, "--out", from_search.parent)
    _run("search", "space", *SHAPE, "--out", folder / "space.json")
    _run("search", "zoo", "resnet8", "--width", "4", "--input-size", "16", "--out", folder / "plain.json")
    _run("search", "export", folder / "plain.json", "--out", folder / "float.onnx")
    priced = ("--weight-bits", "2", "--act-bits", "2", "--out", folder / "costs.json")
    _run("hw", "costs", folder / "space.json", *PLACE, *priced)
    _run("qat", "train", from_search, "--dataset", "digits", "--preset", "w2a2", *RECIPE, "--out", folder / "model")
    model = folder / "model" / "model.json"
    _run(
        "qat",
        "sensitivity",
        folder / "model",
        "--bits",
        "2",
        "4",
        "--pictures",
        "32",
        "--out",
        folder / "sensitivity.json",
    )
    _run("hw", "costs", model, "--bits", "2", "4", *PLACE, "--out", folder / "bitcosts.json")
    _run("hw", "build", model, *PLACE, "--out", folder / "hardware")
    hardware = folder / "hardware" / "hardware.json"
    _run("bench", "evaluate", model, "--dataset", "digits", "--hardware", hardware, "--out", folder / "benchmark.json")
    texts = {
        "grid.yaml": GRID,
        "nw_metrics.txt": METRICS,
        "post_synth_resources.json": json.dumps(SYNTHESIS),
        "board.json": json.dumps(
            {
                "name": "mine",
                "fpga_part": "xc7z020clg400-1",
                "resources": {"LUT": 53200, "FF": 106400, "BRAM_18K": 280, "URAM": 0, "DSP": 220},
            }
        ),
        "quantization.json": json.dumps(
            json.loads(model.read_text())["quantization"] | {"overrides": {"classifier": 4, "stem_act": 3}}
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    packages = Path(__file__).resolve().parent.parent / "packages"
    recipes = packages / "nash-qat" / "src" / "nash_qat" / "recipes"
    (folder / "qat-recipe.json").write_text((recipes / "quick.json").read_text())
    (folder / "qat-recipe.toml").write_text(_toml(json.loads((recipes / "quick.json").read_text())))
    quick = packages / "nash-search" / "src" / "nash_search" / "recipes" / "quick.json"
    (folder / "recipe.json").write_text(quick.read_text())
    (folder / "complete").touch()


def _run(package: str, *arguments: object) -> None:
    command = [os.environ[f"NASH_{package.upper()}"], *map(str, arguments)]
    print("seeds:", *command[1:3], file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _toml(content: dict, prefix: str = "") -> str:
    plain = [f"{key} = {json.dumps(value)}" for key, value in content.items() if not isinstance(value, dict | None)]
    tables = [
        f"[{prefix}{key}]\n{_toml(value, f'{prefix}{key}.')}"
        for key, value in content.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*plain, *tables])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
