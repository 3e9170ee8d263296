"""Run the jobs of a plan on Snakemake, go on where an earlier run of the same sweep ended, and tell what failed.

Snakemake runs as a child process in the sweep's folder; which jobs are done is seen from the files they make.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources, util
from pathlib import Path
from typing import Any

from ..base import json_file
from ..base.errors import NashError, OutputError, ToolchainError, UsageError
from ..base.manifest import atomic_path
from .failures import ENGINE_LOG, SILENT, FailedJob, failed_job, failed_jobs, last_line
from .plan import STAGES, Plan, bound_settings, engine_config
from .slurm import status_options

CONFIG, LOCK = "sweep.json", ".sweep.lock"
_PROGRAMS = ("search", "qat", "hw", "bench")
_SECONDS_BETWEEN_LOOKS = 0.5
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_SECONDS_TO_STOP = 30
_PR_SET_PDEATHSIG = 1
_JOB_COUNT = re.compile(rf"^({'|'.join(STAGES)})\s+(\d+)\s*$", re.MULTILINE)
Progress = Callable[[int, int], None]
Failure = Callable[[FailedJob], None]


def require_engine(executor: str) -> None:
    """Check that Snakemake and its plugin for an executor are installed.

    Raises:
        ToolchainError: one of them is not.
    """
    if util.find_spec("snakemake") is None or util.find_spec("yaml") is None:
        raise ToolchainError("snakemake: not installed, and a sweep runs on it; pip install 'nash-bench[sweep]'")
    plugin = f"snakemake-executor-plugin-{executor}"
    if executor != "local" and util.find_spec(plugin.replace("-", "_")) is None:
        raise ToolchainError(f"--executor {executor}: {plugin} is not installed; pip install {plugin}")


def find_commands() -> dict[str, list[str]]:
    """Return the command of each package, from NASH_SEARCH, NASH_QAT, NASH_HW, NASH_BENCH or the PATH, each tried once.

    Raises:
        ToolchainError: some cannot be started; all of them are named.
    """
    found, problems = {}, []
    for program in _PROGRAMS:
        name, variable = f"nash-{program}", f"NASH_{program.upper()}"
        stated = os.environ.get(variable)
        command = shlex.split(stated) if stated else [name]
        if program == "bench" and not stated:
            command = [sys.executable, "-m", "nash_bench.cli"]
        place = shutil.which(command[0])
        if place is None:
            problems.append(f"{variable}: '{command[0]}' is not there")
            continue
        found[program] = [os.path.abspath(place), *command[1:]]  # jobs run in the sweep's folder
        try:
            subprocess.run([*found[program], "--version"], capture_output=True, check=True)
        except OSError as error:
            problems.append(f"{variable}: '{shlex.join(command)}' cannot be started ({error.strerror})")
        except subprocess.CalledProcessError as error:
            problems.append(f"{variable}: '{shlex.join(command)} --version' left with {error.returncode}")
    if problems:
        raise ToolchainError(
            f"{' | '.join(problems)}; install each package in its own environment, and put its command on the PATH "
            "or name it in the variable"
        )
    return found


def dry_run(plan: Plan, out: Path) -> dict[str, int]:
    """Return how many jobs of each stage are still to be run, as Snakemake plans them; nothing is written.

    Raises:
        ToolchainError: Snakemake cannot plan.
    """
    _require_same_settings(plan, out)
    with tempfile.TemporaryDirectory(prefix="nash-sweep-") as scratch:
        config = Path(scratch, CONFIG)
        config.write_text(json.dumps(engine_config(plan, {name: [f"nash-{name}"] for name in _PROGRAMS})), "utf-8")
        place = out.resolve() if out.is_dir() else Path(scratch)
        command = [
            *_engine(config, place),
            "--cores",
            "1",
            "--rerun-incomplete",
            "--dry-run",
            "--quiet",
            "rules",
            "host",
            "reason",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolchainError(f"snakemake: cannot plan the sweep ({last_line(done.stdout + done.stderr)})")
    said = _JOB_COUNT.findall(done.stdout + done.stderr)
    return {stage: int(count) for stage, count in said}  # Snakemake says it twice


def run(
    plan: Plan,
    out: Path,
    *,
    executor: str = "local",
    num_jobs: int | None = None,
    engine_options: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    on_failure: Failure = lambda job: None,
) -> list[FailedJob]:
    """Run all jobs of a plan that are not done yet in the folder `out`, and return those that failed.

    A job that fails takes only those along that need its file; `on_failure` hears of it at once. Snakemake dies with
    this process; jobs that outlive both are waited for by the next run.

    Raises:
        UsageError: the folder holds a sweep with other settings.
        ToolchainError: Snakemake, its plugin or a command is missing, or Snakemake itself failed.
        OutputError: the folder cannot be written.
    """
    require_engine(executor)
    commands = find_commands()
    _require_same_settings(plan, out)
    with _locked(out) as lock:
        _write_config(out / CONFIG, engine_config(plan, commands))
        limit = ["--cores", str(num_jobs or "all")]
        if executor != "local":
            limit = ["--executor", executor, "--jobs", str(num_jobs or "unlimited")]
        if executor == "slurm":
            limit += status_options(engine_options)
        command = [*_engine((out / CONFIG).resolve(), out.resolve()), *limit, *_GOING_ON, *engine_options]
        watch = _Watch(plan, out, progress, on_failure)
        exit_code = _run_engine(command, out, lock, watch, is_local=executor == "local")
    said = _said(out)
    failed = failed_jobs(plan, out) if exit_code and "Error in rule" in said else []
    if exit_code and not any(job.message != SILENT for job in failed) and (reason := _unwritable(said)):
        raise OutputError(f"{out}: cannot be written ({reason}); free some space, and run the same command to go on")
    if exit_code and not failed:
        raise ToolchainError(f"snakemake: left with {exit_code} ({last_line(said)}); see {out / ENGINE_LOG}")
    return failed


def _said(out: Path) -> str:
    try:
        return (out / ENGINE_LOG).read_text("utf-8", errors="replace")
    except FileNotFoundError as error:
        raise OutputError(f"{out}: was removed while this command worked in it; start it anew") from error


def _unwritable(said: str) -> str | None:
    """Return why files could not be written, where what was said tells it."""
    return next((reason for reason in map(os.strerror, _UNWRITABLE) if reason in said), None)


_GOING_ON = ("--keep-going", "--rerun-incomplete", "--nolock", "--scheduler", "greedy")  # the lock is our own


def _engine(config: Path, place: Path) -> list[str]:
    snakefile = str(resources.files(__package__).joinpath("Snakefile"))
    options = ["--snakefile", snakefile, "--configfile", str(config), "--directory", str(place)]
    return [sys.executable, "-m", "snakemake", *options, "--rerun-triggers", "mtime"]


def _require_same_settings(plan: Plan, out: Path) -> None:
    """Axes may grow and resources change from run to run; anything else would mix two sweeps in one folder."""
    if not (out / CONFIG).exists():
        return
    try:
        begun = json_file.read(out / CONFIG)["bound"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{out / CONFIG}: not the settings of a sweep ({error}); choose another --out") from error
    asked = bound_settings(plan)
    known = {key: begun[key] for key in asked if key in begun}  # an earlier release had fewer settings
    different = [
        f"{key}: got {asked[key]!r}, expected {value!r}" for key, value in known.items() if asked[key] != value
    ]
    if different:
        raise UsageError(f"{' | '.join(different)} as the sweep in {out} was begun with; choose another --out")


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(config, indent=1) + "\n", "utf-8")


@contextmanager
def _locked(out: Path) -> Iterator[int]:
    """Hold the folder's lock; while another sweep, or a job that a killed one left behind, has it, wait."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("a+")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another sweep, or a job that one left behind, still works in {out}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


class _Watch:
    """Sees from the files of a sweep how far it is, and which jobs have failed since it began."""

    def __init__(self, plan: Plan, out: Path, progress: Progress, on_failure: Failure) -> None:
        self._plan, self._out, self._progress, self._on_failure = plan, out, progress, on_failure
        self._waiting = list(plan.jobs)
        self._begun = time.time()
        self._told: set[str] = set()

    def look(self) -> None:
        """Tell what has changed."""
        self._waiting = [job for job in self._waiting if not (self._out / job.target).exists()]
        self._progress(len(self._plan.jobs) - len(self._waiting), len(self._plan.jobs))
        for job in self._waiting:
            if job.target not in self._told and self._is_of_this_run(self._out / job.log):
                failed = failed_job(job, self._plan, self._out)
                if failed is not None:
                    self._told.add(job.target)
                    self._on_failure(failed)

    def _is_of_this_run(self, log: Path) -> bool:
        try:
            return log.stat().st_mtime >= self._begun
        except OSError:
            return False


def _run_engine(command: Sequence[str], out: Path, lock: int, watch: _Watch, *, is_local: bool) -> int:
    """Run Snakemake to its end and return its exit code; if we are stopped, so are it and its jobs."""
    log = out / ENGINE_LOG
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as output:
        engine = subprocess.Popen(
            command,
            stdin=lock,  # its jobs inherit it, and so the lock is free only when the last of them is gone
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            while engine.poll() is None:
                watch.look()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except NashError:
            if is_local:
                os.killpg(engine.pid, signal.SIGTERM)  # the command lines save what they have and leave
            else:
                engine.send_signal(signal.SIGINT)  # SIGTERM would leave its jobs in the cluster's queue
            _wait(engine)
            raise
    watch.look()
    return engine.returncode


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(engine: subprocess.Popen[bytes]) -> None:
    try:
        engine.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
