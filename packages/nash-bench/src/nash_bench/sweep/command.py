"""The sweep command: run or plan a sweep file, report what came of it, and say it for people and machines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base import lock
from ..base.errors import NashError
from ..base.progress import reporting
from ..report.files import write_report
from . import engine
from .plan import Plan, read_plan

_WHAT = {
    "space": "spaces written",
    "costs": "spaces priced",
    "search": "networks searched",
    "plain": "networks of the zoo written",
    "random": "random networks drawn",
    "train": "networks trained",
    "build": "accelerators built",
    "evaluate": "networks evaluated",
}


def dry_run(plan_file: Path, out: Path) -> dict[str, Any]:
    """Return the size of a sweep and what of it is still to be done, without doing it."""
    engine.require_engine("local")
    plan = read_plan(plan_file)
    left = engine.dry_run(plan, out)
    return {
        "num_cells": len(plan.cells),
        "jobs": {stage: {"total": total, "left": left.get(stage, 0)} for stage, total in plan.num_jobs().items()},
    }


def plan_text(result: dict[str, Any]) -> str:
    """Return a plan to read."""
    jobs = result["jobs"]
    num_left = sum(count["left"] for count in jobs.values())
    lines = [f"{result['num_cells']:,} cells; {num_left:,} of {sum(c['total'] for c in jobs.values()):,} jobs to run"]
    lines += [f"  {stage:9}{count['left']:7,} of {count['total']:,} {_WHAT[stage]}" for stage, count in jobs.items()]
    return "\n".join(lines)


def sweep(
    plan_file: Path, out: Path, *, executor: str, num_jobs: int | None, engine_options: Sequence[str]
) -> dict[str, Any]:
    """Run a sweep to its end or take it up again, and report all networks in its folder, whatever failed."""
    engine.require_engine(executor)
    plan = read_plan(plan_file)
    with lock.held(out), reporting("sweeping") as progress:
        failed = engine.run(
            plan,
            out,
            executor=executor,
            num_jobs=num_jobs,
            engine_options=engine_options,
            progress=progress,
            on_failure=lambda job: print(failure_line(asdict(job)), file=sys.stderr, flush=True),
        )
    report, problems = _report(out, plan)
    codes = [job.exit_code for job in failed] + [error.exit_code for error in problems]
    return {
        "num_cells": len(plan.cells),
        "num_done": sum(all((out / job.target).exists() for job in cell.jobs) for cell in plan.cells),
        "failed": [asdict(job) for job in failed],
        "report": report,
        "errors": [str(error) for error in problems],
        "exit_code": codes[0] if codes else 0,
    }


def _report(out: Path, plan: Plan) -> tuple[str | None, list[NashError]]:
    if not any((out / job.target).exists() for job in plan.jobs if job.stage == "train"):
        return None, []
    try:
        collection, results = write_report([out / "runs"], out / "report", title=f"Sweep of {out.resolve().name}")
    except NashError as error:
        return None, [error]
    return results["page"], list(collection.errors)


def result_text(result: dict[str, Any]) -> str:
    """Return what a sweep has done, to read."""
    lines = [f"{result['num_done']:,} of {result['num_cells']:,} cells done"]
    return "\n".join(lines + ([f"page: {result['report']}"] if result["report"] else []))


def problem_lines(result: dict[str, Any]) -> list[str]:
    """Return a line for each failed job, with its log, and for each manifest that could not be reported."""
    return [*map(failure_line, result["failed"]), *(f"error: {error}" for error in result["errors"])]


def failure_line(job: Mapping[str, Any]) -> str:
    """Return a failed job on one line."""
    cells = "1 cell" if job["num_cells"] == 1 else f"{job['num_cells']} cells"
    where = f"{job['stage']}, exit code {job['exit_code']}, {cells}"
    return f"failed: {job['target']} ({where}): {job['message']}; log: {job['log']}"
