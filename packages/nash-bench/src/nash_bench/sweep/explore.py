"""From a backbone, a board and a frame rate to the accelerators worth building: `nash-bench explore`.

Steps, each a command that could be typed by hand, on files that it would find as well:

    nash-search space     -> space.json           what could stand beside the backbone
    nash-hw costs         -> costs.json           what each of it costs there, and the plain backbone at other widths
    nash-search pareto    -> pareto/              one search, and its genotypes from the cheapest to the dearest
    nash-bench sweep      -> rung-1/, ...         a short training of all candidates; the better half goes on
    nash-search random    -> random/              networks that cost what those do which are left
    nash-bench sweep      -> final/               all that is left, with every seed, and the report

A candidate's rung is decided by fronts: accuracy on the pictures held out of the training split over the share of the
scarcest resource. Plain and searched networks are sorted apart, so neither pushes the other out before its training
is over. No choice reads the test split.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base import json_file, lock, manifest
from ..base.errors import DataError, NashError, OutputError, UsageError
from . import command, engine
from .candidates import Candidate, better_half, measured
from .plan import read_plan
from .question import Question, Step, first_steps, sweep_file

STATE = "explore.json"
_SECONDS_TO_STOP = 30
_NO_OTHER_OF_THAT_COST = 9  # exit code of `nash-search random`


class Exploration:
    """One exploration in its folder; what it has decided is kept in explore.json, so that it goes on as it began."""

    def __init__(self, asked: Question, out: Path, *, num_jobs: int | None = None) -> None:
        self._asked, self._out, self._num_jobs = asked, out, num_jobs
        self._state = self._read_state()
        self._commands = engine.find_commands()

    def run(self) -> dict[str, Any]:
        """Take every step that is not done yet, and return what came of it; `exit_code` is that of what failed."""
        with lock.held(self._out):
            return self._run()

    def _run(self) -> dict[str, Any]:
        for step in first_steps(self._asked, self._out):
            code = self._take(step)
            if code:
                return self._result(failed=step.typed, exit_code=code)
        candidates = self._candidates()
        for number in range(1, self._asked.rungs + 1):
            epochs = max(1, self._asked.epochs // 2 ** (self._asked.rungs - number + 2))
            candidates = self._rung(f"rung-{number}", candidates, epochs)
            if not candidates:
                raise DataError(f"{self._out}/rung-{number}: no candidate could be trained and built; see its logs")
        final = self._final(candidates)
        return self._result(report=final["report"], exit_code=final["exit_code"], final=final)

    def _read_state(self) -> dict[str, Any]:
        asked = json.loads(json.dumps(asdict(self._asked)))
        path = self._out / STATE
        if not path.exists():
            return {"asked": asked, "steps": [], "rungs": {}, "seconds": {}}
        try:
            state = json_file.read(path)
            begun = state["asked"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: not an exploration ({error}); choose another --out") from error
        different = [
            f"{key}: got {asked[key]!r}, expected {begun.get(key)!r}" for key in asked if asked[key] != begun.get(key)
        ]
        if different:
            raise UsageError(
                f"{' | '.join(different)} as the exploration in {self._out} was begun with; choose another --out"
            )
        return state

    def _save(self) -> None:
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            with manifest.atomic_path(self._out / STATE) as temporary:
                temporary.write_text(json.dumps(self._state, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise OutputError(f"{self._out}: cannot be written ({error.strerror}); choose another --out") from error

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _note(self, typed: str) -> None:
        if typed not in self._state["steps"]:
            self._state["steps"].append(typed)
        self._save()

    def _take(self, step: Step) -> int:
        """Run a step unless its file is there, and return its exit code."""
        self._note(step.typed)
        if step.target.exists():
            return 0
        self._say(f"$ {step.typed}")
        log = self._out / "logs" / f"{step.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._timed(step.name), log.open("w") as output:
            child = subprocess.Popen([*self._commands[step.package], *step.arguments], stdout=output)
            try:
                return child.wait()
            except NashError:
                child.terminate()  # it saves what it has, and goes on from there
                child.wait(_SECONDS_TO_STOP)
                raise

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to that of a step, interrupted or not."""
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = self._state["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begun, 1)
            self._save()

    def _candidates(self) -> list[Candidate]:
        """Return what the first rung begins with: the networks of the front, searched and plain."""
        path = self._out / "pareto" / "pareto.json"
        front = manifest.load(path, "pareto")
        return [
            Candidate(genotype=str((path.parent / one["genotype"]).resolve()), is_plain=one["kind"] == "plain")
            for one in front["points"]
        ]

    def _rung(self, name: str, candidates: Sequence[Candidate], epochs: int) -> list[Candidate]:
        """Train the candidates shortly and return those that go on; decided once, and kept."""
        rungs = self._state["rungs"]
        if name not in rungs:
            result = self._sweep(name, candidates, seeds=self._asked.seeds[:1], epochs=epochs)
            found = list(measured(read_plan(self._out / f"{name}.yaml"), self._out / name))
            kept = better_half(found)
            rungs[name] = {
                "epochs": epochs,
                "candidates": [asdict(one) for one in found],
                "kept": [asdict(one) for one in kept],
                "failed": [job["target"] for job in result["failed"]],
            }
            self._save()
            self._say(f"{name}: {len(kept)} of {len(candidates)} go on: {', '.join(one.name for one in kept)}")
        return [Candidate(**one) for one in rungs[name]["kept"]]

    def _final(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """Train what is left, and random networks of the same cost, with all seeds, and report them."""
        controls = list(self._controls(candidates))
        if "epochs" not in self._state:
            self._state["epochs"] = self._affordable([*candidates, *controls])
            self._save()
        return self._sweep("final", [*candidates, *controls], seeds=self._asked.seeds, epochs=self._state["epochs"])

    def _controls(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """Yield random networks that cost what the searched ones do; some have no other of their cost."""
        for found in candidates:
            for number in range(0 if found.is_plain else self._asked.random):
                name = f"{found.name}-random{number}"
                target = self._out / "random" / f"{name}.json"
                costs = ("--costs", str(self._out / "costs.json"), "--seed", str(number))
                arguments = ("random", "--like", found.genotype, *costs, "--out", str(target))
                code = self._take(Step(name=name, package="search", arguments=arguments, target=target))
                if code and code != _NO_OTHER_OF_THAT_COST:
                    raise DataError(f"nash-search random: left with {code}; see what it says above")
                if not code:
                    yield Candidate(
                        genotype=str(target.resolve()), is_plain=False, seconds_per_epoch=found.seconds_per_epoch
                    )

    def _affordable(self, candidates: Sequence[Candidate]) -> int:
        """Return how many epochs the last trainings may have: those asked for, or fewer in the time that is left."""
        if self._asked.hours is None:
            return self._asked.epochs
        left = 3600 * self._asked.hours - sum(self._state["seconds"].values())
        an_epoch = sum(one.seconds_per_epoch or 0.0 for one in candidates) * len(self._asked.seeds)
        fewest = max((rung["epochs"] for rung in self._state["rungs"].values()), default=1)
        parallel = self._num_jobs or os.cpu_count() or 1
        return max(fewest, min(self._asked.epochs, int(left * parallel / an_epoch) if an_epoch else self._asked.epochs))

    def _sweep(
        self, name: str, candidates: Sequence[Candidate], *, seeds: Sequence[int], epochs: int
    ) -> dict[str, Any]:
        path = self._out / f"{name}.yaml"
        plan = sweep_file(self._asked, candidates, seeds=seeds, epochs=epochs)
        with manifest.atomic_path(path) as temporary:
            temporary.write_text(json.dumps(plan, indent=1) + "\n", "utf-8")  # JSON is YAML
        typed = shlex.join(["nash-bench", "sweep", str(path), "--out", str(self._out / name)])
        self._note(typed)
        self._say(f"$ {typed}")
        with self._timed(name):
            return command.sweep(path, self._out / name, executor="local", num_jobs=self._num_jobs, engine_options=())

    def _result(
        self, *, exit_code: int, report: str | None = None, failed: str | None = None, **more: Any
    ) -> dict[str, Any]:
        return {
            "steps": self._state["steps"],
            "rungs": self._state["rungs"],
            "epochs": self._state.get("epochs"),
            "seconds": self._state["seconds"],
            "report": report,
            "failed": failed,
            "exit_code": exit_code,
        } | more


def result_text(result: dict[str, Any]) -> str:
    """Return what an exploration has found, to read."""
    lines = [
        f"{name}: {len(rung['kept'])} of {len(rung['candidates'])} went on" for name, rung in result["rungs"].items()
    ]
    if result["report"]:
        lines += [f"page: {result['report']}"]
    if result["failed"]:
        lines += [f"failed: {result['failed']}"]
    return "\n".join(lines)
