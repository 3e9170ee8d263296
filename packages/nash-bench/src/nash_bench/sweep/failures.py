"""Which jobs of a sweep failed, and what they say of it: in their logs, the exit code behind what they wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import ToolchainError
from .networks import Job
from .plan import Plan

ENGINE_LOG = "logs/snakemake.log"
SILENT = "ended from outside, or was not started"
_EXIT_CODE = re.compile(r"^exit code: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class FailedJob:
    """A job that left with an error: its exit code, the line that says why, its log and the cells it takes with it."""

    stage: str
    target: str
    log: str
    exit_code: int
    message: str
    num_cells: int


def failed_jobs(plan: Plan, out: Path) -> list[FailedJob]:
    """Return the jobs that had what they need and yet made nothing: those that say why, and those that never could."""
    failed = []
    for job in plan.jobs:
        if (out / job.target).exists() or not all((out / source).exists() for source in job.sources):
            continue
        failed.append(failed_job(job, plan, out) or _silent_job(job, plan, out))
    return failed


def failed_job(job: Job, plan: Plan, out: Path) -> FailedJob | None:
    """Return what a job's log says of its failure, None if it says nothing."""
    log = out / job.log
    text = log.read_text("utf-8", errors="replace") if log.exists() else ""
    codes = _EXIT_CODE.findall(text)
    if not codes:
        return None
    return FailedJob(
        stage=job.stage,
        target=job.target,
        log=str(log),
        exit_code=int(codes[-1]),
        message=last_line(_EXIT_CODE.sub("", text)),
        num_cells=_num_cells(job, plan),
    )


def _silent_job(job: Job, plan: Plan, out: Path) -> FailedJob:
    return FailedJob(
        stage=job.stage,
        target=job.target,
        log=str(out / ENGINE_LOG),
        exit_code=ToolchainError.exit_code,
        message=SILENT,
        num_cells=_num_cells(job, plan),
    )


def _num_cells(job: Job, plan: Plan) -> int:
    return sum(job in cell.jobs for cell in plan.cells)


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
