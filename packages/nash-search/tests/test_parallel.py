"""Two processes on this machine against one with the joined batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nash_search.data.datasets import Split
from nash_search.search import batches
from nash_search.search.recipe import Augmentation

COMMAND = [
    *(sys.executable, "-c", "from nash_search.cli import main; main()"),
    *("run", "--backbone", "resnet8", "--variant", "v3", "--width", "2", "--input-size", "8", "--seed", "3"),
    *("--threads", "1", "--epochs", "2", "--num-images", "201", "--precision", "float64"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]


def _run(command: list[str], out: Path, code: int = 0) -> subprocess.CompletedProcess:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--out", str(out)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(code), done.stderr
    return done


def _layers(found: dict) -> list[dict]:
    return [layer for cell in found["cells"] for layer in cell["layers"]]


def _alphas(folder: Path) -> np.ndarray:
    rows = [edge["alphas"] for edge in json.loads((folder / "alphas.json").read_text())["edges"]]
    return np.array([[0.0 if alpha is None else alpha for alpha in row] for row in rows])


@pytest.mark.parametrize(
    ("relaxation", "gradient", "quantized"),
    [("layer", "two-path", []), ("edge", "full", []), ("layer", "swap", ["--preset", "w4a4"])],
)
def test_two_processes_search_like_one(relaxation: str, gradient: str, quantized: list[str], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["--relaxation", relaxation, "--gradient", gradient, *quantized]
    if gradient == "swap":
        options += ["--finish", "2", "--finish-epochs", "1"]
    _run([*COMMAND, *options], one)
    done = _run([*TORCHRUN, *COMMAND, *options, "--json"], two)
    assert json.loads(done.stdout)["search"]["processes"] == 2  # printed once
    assert done.stderr.count("epoch 2/2") == 1
    found = [json.loads((folder / "genotype.json").read_text()) for folder in (one, two)]
    ops = [
        [layer["nas_op"] and (layer["nas_op"]["op"], layer["nas_op"]["input"]) for layer in _layers(each)]
        for each in found
    ]
    assert ops[0] == ops[1]
    assert np.abs(_alphas(one) - _alphas(two)).max() < 1e-9
    assert np.abs(_alphas(one)).max() > 0.03
    histories = [[json.loads(line) for line in (folder / "history.jsonl").open()] for folder in (one, two)]
    for record, other in zip(*histories, strict=True):
        assert record == pytest.approx(other, rel=1e-9)
    if gradient != "swap":
        return
    finishes = [json.loads((folder / "finish.json").read_text())["networks"] for folder in (one, two)]
    assert len(finishes[0]) == 4
    for network, other in zip(*finishes, strict=True):
        assert network["losses"] == pytest.approx(other["losses"], rel=1e-9)


def test_resuming_in_two_processes_asks_for_as_many(tmp_path: Path) -> None:
    short = [*COMMAND, "--num-images", "16"]
    _run([*TORCHRUN, *short], tmp_path / "run")
    again = _run([*TORCHRUN, *short, "--resume"], tmp_path / "run")
    assert "epoch" not in again.stderr
    done = _run([*short, "--resume"], tmp_path / "run", code=2)
    assert "processes: got 1, expected 2" in done.stderr


@pytest.mark.parametrize("cutout", [0, 5])
def test_shares_of_a_batch_are_the_batch(cutout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 3, 16, 16), dtype=np.uint8)
    split = Split(name="any", images=images, labels=np.arange(40) % 3, class_names=tuple("abc"))
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=cutout)
    half, _ = batches.halve(split, augmentation, seed=0)
    whole, labels = half.batch(1, 2, 7)
    for rank in range(3):
        monkeypatch.setattr(batches.parallel, "mine", lambda rank=rank: slice(rank, None, 3))
        x, y = half.batch(1, 2, 7)
        assert x.equal(whole[rank::3])
        assert y.equal(labels[rank::3])
