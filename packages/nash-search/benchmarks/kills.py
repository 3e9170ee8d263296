"""Kill a search with SIGKILL at ten random moments, resume it each time, and compare it with one in one go.

    python benchmarks/kills.py [--kills 10] [--seed 0]

It leaves with code 1 unless alphas, history and genotype are the same, byte by byte.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

_RUN = (
    *("-c", "from nash_search.cli import main; main()", "run", "--backbone", "resnet8", "--variant", "v3"),
    *("--width", "4", "--input-size", "8", "--threads", "1"),
)


def recipe(folder: Path) -> Path:
    """Write the quick recipe with a checkpoint every seven steps."""
    content = json.loads(resources.files("nash_search").joinpath("recipes/quick.json").read_text("utf-8"))
    path = folder / "often.json"
    path.write_text(json.dumps(content | {"epochs": 20, "checkpoint_steps": 7}))
    return path


def step(out: Path) -> int:
    """Return the step of the last checkpoint."""
    try:
        return json.loads((out / "checkpoint.json").read_text())["state"]["step"]
    except FileNotFoundError:
        return 0


def kill(command: list[str], out: Path, moments: random.Random, num_left: int) -> None:
    """Let the search get some way, kill it there, and say where."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = step(out)
    last = first + 2 * moments.random() * (220 - first) / (num_left + 1)  # 20 epochs are 220 steps
    while process.poll() is None and step(out) <= last:
        time.sleep(0.001)
    time.sleep(0.3 * moments.random())
    process.kill()
    print(f"exit code {process.wait()}, checkpoint at step {step(out)}", flush=True)


def main() -> int:
    """Return 0 if the searches ended alike."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, cut = folder / "whole", folder / "cut"
        command = [sys.executable, *_RUN, "--recipe", str(recipe(folder)), "--out"]
        subprocess.run([*command, str(whole)], check=True, capture_output=True)
        for number in range(options.kills):
            kill([*command, str(cut), "--resume"], cut, moments, options.kills - number)
        subprocess.run([*command, str(cut), "--resume"], check=True, capture_output=True)
        names = ("alphas.json", "history.jsonl", "genotype.json")
        differing = [name for name in names if (whole / name).read_bytes() != (cut / name).read_bytes()]
    print(f"differing: {', '.join(differing)}" if differing else "the same alphas, history and genotype")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
