"""A sweep over the four real command lines, killed in the middle and taken up again."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from conftest import Nash

SWEEP = """
backbone: resnet8
variant: [none, v3]
width: 2
baseline_width: [2, 3]
preset: [w2a2]
board: Pynq-Z1
input_size: 8
search_epochs: 1
qat_epochs: 2
target_fps: 1000
"""


def test_sweep_survives_sigkill(nash: Nash, tmp_path: Path) -> None:
    plan, out = tmp_path / "sweep.yaml", tmp_path / "out"
    plan.write_text(SWEEP)
    jobs = nash("bench", "sweep", plan, "--out", out, "--dry-run", "--json").result["jobs"]
    assert {stage: count["left"] for stage, count in jobs.items()} == {
        "search": 1, "plain": 2, "train": 3, "build": 3, "evaluate": 3,
    }  # fmt: skip
    command = [os.environ["NASH_BENCH"], "sweep", str(plan), "--out", str(out), "--jobs", "2"]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sweep.poll() is None and len(_finished(out)) < 6:
        time.sleep(0.1)
    sweep.kill()
    sweep.wait()
    before = _finished(out)
    assert 6 <= len(before) < 12

    result = nash("bench", "sweep", plan, "--out", out, "--jobs", "2", "--json").result
    assert (result["num_cells"], result["num_done"], result["failed"], result["errors"]) == (3, 3, [], [])
    after = _finished(out)
    assert len(after) == 12
    repeated = [path for path, written in before.items() if after[path] != written]
    assert len(repeated) <= 2, "more was done again than the two jobs that the kill cut short"
    results = json.loads((out / "report" / "results.json").read_text())
    assert {(row["variant"], row["width"]) for row in results["rows"]} == {("v3", 2), (None, 2), (None, 3)}
    assert [pair["figures"]["LUT"]["delta"] is not None for pair in results["pairs"]] == [True]
    logs = [path.read_text() for path in (out / "logs").glob("*/**/*.log")]
    assert len(logs) == 12
    assert not any("error: " in log for log in logs)


def _finished(out: Path) -> dict[Path, int]:
    """Return the manifest of each job that has made one, and when it was written."""
    patterns = ("*/genotype.json", "*/*/model/model.json", "*/*/hardware/*/hardware.json", "*/*/benchmark.json")
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in (out / "runs").glob(pattern)}
