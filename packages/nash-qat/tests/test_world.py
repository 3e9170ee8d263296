from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE, Outcome
from safetensors.torch import load_file, save_file
from test_train import Setup

from nash_qat.base import manifest
from nash_qat.train import trainer as train
from nash_qat.train import world


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _together(size: int, work: Callable[[world.World], None]) -> None:
    """Run `work` in forked processes that know of each other as torchrun's do."""
    port, children = _free_port(), []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
                os.environ |= {"WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
                with world.joined("cpu") as joined:
                    work(joined)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * size


PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "learning_rate": 1.0,
    "schedule": "step",
    "step_epochs": 9,
    "step_factor": 0.5,
    "gradient_clip": None,
    "augmentation": {"default": {}},
}


@pytest.mark.parametrize(("float_fraction", "accumulation"), [(0.5, 1), (0.0, 2)])
def test_two_processes_take_the_step_of_one(tmp_path: Path, float_fraction: float, accumulation: int) -> None:
    setup = Setup(tmp_path, float_fraction=float_fraction, accumulation=accumulation, **PLAIN)
    order = np.arange(len(setup.inputs.train))

    def step(joined: world.World) -> None:
        trainer = train.Trainer(setup.genotype, setup.settings, setup.inputs, tmp_path / "run", world=joined)
        trainer.network.eval()  # a process has statistics of its share of the batch only
        last = len(trainer._starts) - 1  # its batch is odd
        trainer.state.step, trainer.state.is_calibrated = last, float_fraction == 0
        trainer._train_step(trainer._batch(order, 0, last))
        state = {name: tensor.contiguous().clone() for name, tensor in trainer.network.state_dict().items()}
        save_file(
            {**state, "loss": torch.tensor(trainer.state.loss_sum)},
            tmp_path / f"{joined.size}-{joined.rank}.safetensors",
        )

    step(world.World(device=torch.device("cpu")))
    _together(2, step)
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    start = train.Trainer(setup.genotype, setup.settings, setup.inputs, tmp_path / "run").network.state_dict()
    changed = 0
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
        changed += name in start and not torch.equal(tensor, start[name])
    assert changed > 20


def test_torchrun_trains_one_network(tmp_path: Path, nash_path: Path) -> None:
    plan = {**TINY_RECIPE, "ema_decay": 0.8, "distill_weight": 0.5, "mixup": 0.2, "accumulation": 2}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    executable = shutil.which("nash-qat", path=str(Path(sys.executable).parent))
    assert executable
    arguments = [str(nash_path), "--recipe", str(tmp_path / "plan.json"), "--out", str(tmp_path / "run"), "--json"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*launcher, executable, "train", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 2/2 quantized") == 1
    assert json.loads(done.stdout)["accuracy"]["top1"] > 30  # one object from one process
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert history[1]["loss"] < history[0]["loss"]
    model = manifest.load(tmp_path / "run" / "model.json", "model")
    assert model["training"]["num_processes"] == 2


def test_device_must_be_there(run: Callable[..., Outcome], nash_path: Path, tmp_path: Path) -> None:
    common = ("train", nash_path, "--out", tmp_path / "run")
    assert "--device: got 'tpu', expected cpu, cuda or auto" in run(*common, "--device", "tpu").err
    if not torch.cuda.is_available():
        refused = run(*common, "--device", "cuda")
        assert refused.code == 2
        assert "this torch sees no GPU" in refused.err
    assert not (tmp_path / "run").exists()


def _flags() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def _fast_flags() -> Iterator[None]:
    """Give the flags the values that make a difference, torch's own after the test."""
    before = _flags()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


@pytest.mark.usefixtures("_fast_flags")
def test_gpus_compute_float32_in_full_and_alike_within_a_block() -> None:
    before = _flags()
    assert before == (True, True, False, True)
    with world.exact_kernels():
        assert _flags() == (False, False, True, False)
    assert _flags() == before
    with world.joined("cpu") as joined:
        assert _flags() == (False, False, True, False)
        assert joined.steps_between_readings == 1
    assert _flags() == before
    assert world.World(device=torch.device("cuda", 0)).steps_between_readings > 1
