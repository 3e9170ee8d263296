"""Sweeps on a real Slurm of one node, which the tests configure and start; skipped where that is not possible."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome
from stages import calls, kinds, wait_for

from nash_bench.sweep.slurm import status_options

Run = Callable[..., Outcome]
_DAEMONS = ("munged", "slurmctld", "slurmd")
_SECONDS_TO_START = 60
_OPTIONS = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Slurm's daemons with a configuration of their own; the configuration is in SLURM_CONF then."""
    paths = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in _DAEMONS}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        pytest.skip(f"needs Slurm (Debian: slurmctld, slurmd, slurm-client, munge); not there: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    said = subprocess.run([paths["slurmd"], "-C"], capture_output=True, text=True, check=False).stdout
    memory = re.search(r"RealMemory=(\d+)", said)
    config = _CONFIG.format(
        host=host,
        user=os.environ.get("USER") or "root",
        folder=folder,
        ports=[_free_port(), _free_port()],
        cpus=os.cpu_count() or 1,
        memory=memory[1] if memory else 8000,
    )
    (folder / "slurm.conf").write_text(config)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid",
             "seed-file": folder / "munge.seed", "log-file": folder / "munge.log"}  # fmt: skip
    commands = [
        [paths["munged"], "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items())],
        [paths["slurmctld"], "-D", "-i", "-f", folder / "slurm.conf"],
        [paths["slurmd"], "-D", "-f", folder / "slurm.conf"],
    ]
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    daemons = []
    try:
        for command in commands:
            with (folder / "daemons.log").open("a") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        for _ in range(_SECONDS_TO_START):
            said = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
            )
            if said.stdout.strip() == "idle":
                break
            time.sleep(1)
        else:
            logs = "".join(path.read_text(errors="replace")[-500:] for path in sorted(folder.glob("*.log")))
            pytest.skip(f"Slurm is there, but did not start: {said.stdout.strip() or said.stderr.strip()}; {logs}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            patch.setenv("PATH", f"{_srun_of(folder)}{os.pathsep}{os.environ['PATH']}")
            yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)


def _srun_of(folder: Path) -> Path:
    """Return a folder with an srun that knows the configuration: Snakemake's jobs get no SLURM_CONF."""
    program = folder / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexport SLURM_CONF={folder}/slurm.conf\nexec {shutil.which("srun")} "$@"\n')
    program.chmod(0o755)
    return program.parent


def _queue() -> str:
    return subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("slurm")
def test_sweep_runs_to_its_end(run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path) -> None:
    """There is no accounting: that a job failed is known all the same, while the others still run."""
    (stages / "fail").write_text("--preset w4a4")
    axes = {"variant": "none", "resources": {name: {"mem_mb": 100} for name in ("train", "build", "evaluate")}}
    outcome = run_cli("sweep", grid(**axes), "--out", tmp_path / "out", "--executor", "slurm", "--", *_OPTIONS)
    assert kinds(calls(stages)) == {"search zoo": 1, "qat train": 2, "hw build": 1, "bench evaluate": 1}
    assert (outcome.exit_code, outcome.stdout.splitlines()[0]) == (9, "1 of 2 cells done")
    assert "w4a4-seed0/model/model.json (train, exit code 9, 1 cell): error: the board is too small" in outcome.stderr
    (stages / "fail").unlink()
    assert (
        run_cli("sweep", grid(**axes), "--out", tmp_path / "out", "--executor", "slurm", "--", *_OPTIONS).exit_code == 0
    )
    assert _queue() == ""


@pytest.mark.usefixtures("slurm")
def test_interrupted_sweep_leaves_no_job_in_the_queue(stages: Path, grid: Callable[..., Path], tmp_path: Path) -> None:
    (stages / "block").write_text("qat")
    axes = {"variant": "none", "preset": "w2a2", "resources": {"train": {"mem_mb": 100}}}
    options = ["--executor", "slurm", "--", *_OPTIONS]
    command = [sys.executable, "-m", "nash_bench.cli", "sweep", grid(**axes), "--out", tmp_path / "out", *options]
    sweep = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE)
    wait_for(stages / "is_blocked")
    assert _queue()
    sweep.send_signal(signal.SIGINT)
    sweep.communicate()
    assert sweep.returncode == 130
    for _ in range(_SECONDS_TO_START):
        if not _queue():
            return
        time.sleep(1)
    raise AssertionError(_queue())


@pytest.mark.parametrize(
    ("sacct", "options", "expected"),
    [
        ("exit 0", [], []),
        ("echo Slurm accounting storage is disabled >&2; exit 1", [], ["--slurm-status-command", "squeue"]),
        ("exit 1", ["--slurm-status-command=sacct"], []),
        ("exit 1", ["--slurm-status-command", "sacct"], []),
        (None, [], ["--slurm-status-command", "squeue"]),
    ],
)
def test_accounting_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sacct: str | None, options: list[str], expected: list[str]
) -> None:
    if sacct is not None:
        (tmp_path / "sacct").write_text(f"#!/bin/sh\n{sacct}\n")
        (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if sacct else str(tmp_path))
    assert status_options(options) == expected
