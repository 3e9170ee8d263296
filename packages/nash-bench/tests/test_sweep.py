from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest
from conftest import Outcome
from stages import calls, kinds, wait_for

Run = Callable[..., Outcome]
JOBS = {"search run": 1, "search zoo": 1, "qat train": 4, "hw build": 4, "bench evaluate": 4}


def test_sweep_runs_each_job_once_and_reports(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = run_cli("sweep", grid(), "--out", out, "--jobs", 4)
    assert (outcome.exit_code, outcome.stdout) == (0, f"4 of 4 cells done\npage: {out / 'report' / 'index.html'}\n")
    assert kinds(calls(stages)) == JOBS
    assert len(set(calls(stages))) == len(calls(stages))
    rows = json.loads((out / "report" / "results.json").read_text())["rows"]
    assert {(row["variant"], row["preset"], row["board"]) for row in rows} == {
        (variant, preset, "U250") for variant in (None, "v3") for preset in ("w2a2", "w4a4")
    }
    search = next(call for call in calls(stages) if call.startswith("search run"))
    assert "--backbone resnet8 --variant v3 --width 4 --input-size 32 --seed 0 --dataset digits" in search

    assert run_cli("sweep", grid(), "--out", out, "--jobs", 4).exit_code == 0
    assert sum(JOBS.values()) == len(calls(stages)), "a finished sweep was run again"

    more = json.loads(run_cli("sweep", grid(board=["U250", "U280"]), "--out", out, "--jobs", 4, "--json").stdout)
    assert (more["num_cells"], more["num_done"]) == (8, 8)
    assert kinds(calls(stages)[sum(JOBS.values()) :]) == {"hw build": 4}


def test_prices_are_shared_by_cost_weights(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path
) -> None:
    axes = {"preset": "w4a4", "cost_weight": [0, 0.1, 2], "join": ["quantized", "aligned"], "target_fps": 1000}
    outcome = run_cli("sweep", grid(**axes), "--out", tmp_path / "out", "--jobs", 4)
    assert outcome.exit_code == 0, outcome.stderr
    assert kinds(calls(stages)) == {
        "search space": 1, "hw costs": 1, "search run": 3, "search zoo": 1, "qat train": 8, "hw build": 8,
        "bench evaluate": 8,
    }  # fmt: skip
    said = "\n".join(calls(stages))
    assert "search space --backbone resnet8 --variant v3 --width 4 --input-size 32 --num-classes 10" in said
    assert "hw costs costs/resnet8-v3-width4/space.json --board U250 --weight-bits 4 --act-bits 4" in said
    assert (
        "--cost-weight 0.1 --costs costs/resnet8-v3-width4/w4a4_U250.json --cost-resource sum --dataset digits" in said
    )
    assert said.count("--preset w4a4 --join aligned") == 4
    assert run_cli("sweep", grid(**axes), "--out", tmp_path / "out", "--dry-run").stdout.startswith("8 cells; 0 of 30")


def test_rivals_of_a_search_are_drawn_and_trained(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path
) -> None:
    given = tmp_path / "given.json"
    given.write_text(json.dumps(json.loads((stages / "model.json").read_text())["genotype"]["copy"]))
    axes = {
        "preset": "w4a4",
        "target_fps": 1000,
        "random": 2,
        "genotype": ["resnet8-v3", "given.json"],
        "variant": "v3",
    }
    outcome = run_cli("sweep", grid(**axes), "--out", tmp_path / "out", "--jobs", 4)
    assert outcome.exit_code == 0, outcome.stderr
    assert kinds(calls(stages)) == {
        "search space": 1, "hw costs": 1, "search run": 1, "search random": 2, "search zoo": 1, "qat train": 5,
        "hw build": 5, "bench evaluate": 5,
    }  # fmt: skip
    said = "\n".join(calls(stages))
    found = "runs/resnet8-v3-width4-seed0/genotype.json"
    assert f"search random --like {found} --costs costs/resnet8-v3-width4/w4a4_U250.json --cost-resource sum" in said
    assert f"qat train {given} --preset w4a4" in said


def test_other_settings_are_refused_in_a_begun_folder(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path
) -> None:
    run_cli("sweep", grid(), "--out", tmp_path / "out", "--jobs", 4)
    outcome = run_cli("sweep", grid(target_fps=500), "--out", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "target_fps: got 500, expected None" in outcome.stderr
    assert "max_utilization: got None, expected 0.7" in outcome.stderr


def test_failed_cell_is_listed_and_others_are_done(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    target = "runs/resnet8-v3-width4-seed0/w2a2-seed0/hardware/U250"
    (stages / "fail").write_text(target)
    outcome = run_cli("sweep", grid(), "--out", out, "--jobs", 4)
    assert outcome.exit_code == 9
    assert outcome.stdout.startswith("3 of 4 cells done\npage: ")
    log = out / "logs/build/resnet8-v3-width4-seed0/w2a2-seed0/hardware/U250.log"
    assert outcome.stderr.splitlines()[-1] == (
        f"failed: {target}/hardware.json (build, exit code 9, 1 cell): error: the board is too small; log: {log}"
    )
    assert log.read_text() == "error: the board is too small\nexit code: 9\n"
    assert kinds(calls(stages)) == JOBS

    (stages / "fail").unlink()
    assert run_cli("sweep", grid(), "--out", out, "--jobs", 4).exit_code == 0
    assert calls(stages)[sum(JOBS.values()) :] == [call for call in calls(stages)[:-1] if f"--out {target}" in call]


def test_sweep_goes_on_after_sigkill(run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path) -> None:
    out, blocked = tmp_path / "out", "--preset w4a4"
    (stages / "block").write_text(blocked)
    command = [sys.executable, "-m", "nash_bench.cli", "sweep", str(grid()), "--out", str(out), "--jobs", "1"]
    sweep = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(stages / "is_blocked")
    sweep.kill()
    sweep.wait()
    before = calls(stages)
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert second.stderr.readline().startswith("waiting: another sweep, or a job that one left behind")
    assert calls(stages) == before
    (stages / "block").unlink()
    _, rest = second.communicate()
    assert second.returncode == 0, rest
    after = calls(stages)[len(before) :]
    assert set(before) & set(after) <= {before[-1]}, "what was finished before the kill was done again"
    assert kinds(list({*before, *after})) == JOBS


def test_sigterm_stops_the_jobs_too(stages: Path, grid: Callable[..., Path], tmp_path: Path) -> None:
    (stages / "block").write_text("qat")
    command = [sys.executable, "-m", "nash_bench.cli", "sweep", str(grid()), "--out", str(tmp_path / "out"), "--json"]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(stages / "is_blocked")
    sweep.send_signal(signal.SIGTERM)
    stdout, stderr = sweep.communicate()
    assert (sweep.returncode, json.loads(stdout)["error"]["kind"]) == (130, "interrupted"), stderr
    with (tmp_path / "out" / ".sweep.lock").open() as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no job is left to hold it


def test_dry_run_counts_a_thousand_cells_and_writes_nothing(
    run_cli: Run, grid: Callable[..., Path], tmp_path: Path
) -> None:
    axes = {
        "variant": ["none", "v1", "v2", "v3", "v4"],
        "width": [4, 6, 8, 10],
        "seed": list(range(5)),
        "preset": ["w1a2", "w2a2", "w3a3", "w4a4", "w8a8"],
        "board": ["U250", "Pynq-Z1"],
    }
    counts = {"search": 4 * 4 * 5, "plain": 4, "train": 500, "build": 1000, "evaluate": 500}
    _assert_plans_a_thousand(run_cli, grid(**axes), tmp_path, counts)


def test_dry_run_counts_a_thousand_cells_with_costs(run_cli: Run, grid: Callable[..., Path], tmp_path: Path) -> None:
    axes = {
        "variant": ["v3", "v4"],
        "width": [4, 6, 8, 10, 12],
        "cost_weight": [0, 0.1, 0.3, 1, 3],
        "seed": list(range(5)),
        "preset": ["w2a2", "w4a4"],
        "board": ["U250", "Pynq-Z1"],
        "target_fps": 1000,
    }
    of_costs = 10 * 4 * 5 * 2 * 2
    counts = {"space": 10, "costs": 40, "search": 50 + of_costs, "train": 100 + of_costs, "build": 1000,
              "evaluate": 100 + of_costs}  # fmt: skip
    _assert_plans_a_thousand(run_cli, grid(**axes), tmp_path, counts)


def _assert_plans_a_thousand(run_cli: Run, sweep_file: Path, tmp_path: Path, counts: dict[str, int]) -> None:
    outcome = run_cli("sweep", sweep_file, "--out", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(outcome.stdout) == {
        "num_cells": 1000,
        "jobs": {stage: {"total": count, "left": count} for stage, count in counts.items()},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_dry_run_says_what_is_left(run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path) -> None:
    run_cli("sweep", grid(preset="w2a2"), "--out", tmp_path / "out", "--jobs", 4)
    text = run_cli("sweep", grid(), "--out", tmp_path / "out", "--dry-run").stdout
    assert text.splitlines() == [
        "4 cells; 6 of 14 jobs to run",
        "  search         0 of 1 networks searched",
        "  plain          0 of 1 networks of the zoo written",
        "  train          2 of 4 networks trained",
        "  build          2 of 4 accelerators built",
        "  evaluate       2 of 4 networks evaluated",
    ]


def test_missing_commands_are_all_named(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASH_QAT", "no-such-command")
    monkeypatch.setenv("NASH_HW", "false")
    outcome = run_cli("sweep", grid(), "--out", tmp_path / "out")
    assert outcome.exit_code == 8
    assert "NASH_QAT: 'no-such-command' is not there" in outcome.stderr
    assert "NASH_HW: 'false --version' left with 1" in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("missing", "executor", "part"),
    [
        ("snakemake", "local", "pip install 'nash-bench[sweep]'"),
        ("snakemake_executor_plugin_kubernetes", "kubernetes", "snakemake-executor-plugin-kubernetes is not installed"),
    ],
)
def test_missing_engine_is_named(
    run_cli: Run, grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    missing: str, executor: str, part: str,
) -> None:  # fmt: skip
    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == missing else find_spec(name))
    outcome = run_cli("sweep", grid(), "--out", tmp_path / "out", "--executor", executor)
    assert outcome.exit_code == 8
    assert part in outcome.stderr


def test_unknown_option_of_the_engine_is_named(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path
) -> None:
    outcome = run_cli("sweep", grid(), "--out", tmp_path / "out", "--", "--no-such-option")
    assert outcome.exit_code == 8
    assert "unrecognized arguments: --no-such-option" in outcome.stderr


def test_slurm_gets_each_job_with_its_resources(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    programs = {
        "sbatch": f'printf "%s\\n" "$*" >> {tmp_path}/submitted; echo "sbatch: error: no such account" >&2; exit 1',
        **dict.fromkeys(("sinfo", "sacct", "squeue", "scontrol", "scancel", "sacctmgr"), "exit 0"),
    }
    for name, body in programs.items():
        (bin_dir / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_dir / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    train = {"gpu": 2, "threads": 8, "mem_mb": 16000, "slurm_partition": "long", "runtime": 240}
    waits = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
    options = ["--executor", "slurm", "--jobs", 5, "--", *waits]
    outcome = run_cli("sweep", grid(resources={"train": train}), "--out", tmp_path / "out", *options)

    submitted = (tmp_path / "submitted").read_text()
    jobs = {line.split("--target-jobs '")[1].split("'")[0]: line for line in submitted.splitlines()}
    search = jobs["search:network=resnet8-v3-width4-seed0"]
    assert "--mem 4000 " in search
    assert "--cpus-per-task=1 " in search
    assert "--gpus" not in search
    for preset in ("w2a2", "w4a4"):  # the plain network needs no job: it is written here
        line = jobs[f"train:network=resnet8-width4,bits={preset},seed=0"]
        for option in ("-p long ", "-t 240 ", "--mem 16000 ", "--cpus-per-task=8 ", "--gpus=2 ", f"-D {tmp_path}/out "):
            assert option in line
    assert kinds(calls(stages)) == {"search zoo": 1}
    assert outcome.exit_code == 8
    refused = [line for line in outcome.stderr.splitlines() if line.startswith("failed: ")]
    assert len(refused) == len(jobs) == 3
    assert all(line.endswith(f"log: {tmp_path}/out/logs/snakemake.log") for line in refused)
