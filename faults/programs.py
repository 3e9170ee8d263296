"""The four command lines as children of nurseries, the faults they are given, and the folders they leave."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = ("search", "qat", "hw", "bench")
_CONTROL = struct.Struct("4q")
_TIMES = ("seconds", "steps", "done")  # keys of JSON that tell how long something took


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended: its exit code (negative: the signal), what it printed, what its disk has seen."""

    code: int
    stdout: str
    stderr: str
    written: int
    operations: int
    seconds: float

    @property
    def is_clear(self) -> bool:
        """Say whether an error was told in one line, without a traceback."""
        told = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        return len(told) == 1 and "Traceback" not in self.stderr and all(len(line) <= 500 for line in told)


@dataclass(kw_only=True)
class Running:
    """A command that runs."""

    nursery: Nursery
    pid: int
    control: Path
    place: Path
    begun: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        """Kill the process group."""
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> Outcome:
        """Wait for its end."""
        return self.outcome(self.nursery.ask({"wait": self.pid}))

    def outcome(self, code: int) -> Outcome:
        """Return what there is to tell of a command that has ended."""
        _, written, operations, _ = _CONTROL.unpack(self.control.read_bytes())
        stdout, stderr = ((self.place / name).read_text("utf-8", "replace") for name in ("stdout", "stderr"))
        return Outcome(
            code=code,
            stdout=stdout,
            stderr=stderr,
            written=written,
            operations=operations,
            seconds=time.monotonic() - self.begun,
        )


class Nursery:
    """A process of one package's environment from which its commands come."""

    def __init__(self, package: str, python: Path, shim: Path) -> None:
        self.package = package
        env = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self._process = subprocess.Popen(
            [str(python), str(HERE / "nursery.py"), package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Return the answer to a request."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Let it end."""
        self._process.stdin.close()
        self._process.wait()


class Programs:
    """The four packages' nurseries, each started when it is first needed."""

    def __init__(self, place: Path, env: Mapping[str, str] | None = None) -> None:
        """`place`: a folder for the library of faults and for what commands print."""
        self._place, self._env = place, dict(env or {})
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self._shim = place / "shim.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", str(HERE / "shim.c"), "-o", str(self._shim), "-ldl"], check=True
        )
        self._nurseries: dict[str, Nursery] = {}
        self._number = 0

    def start(
        self,
        arguments: Iterable[str | Path],
        *,
        watched: Path,
        left: int = -1,
        kill_at: int = -1,
        user: int | None = None,
        is_series: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Start a command, the package first.

        watched: the folder whose operations count; left: bytes that its disk still takes; kill_at: the operation before
        which the process group is killed; user: the number of another user.
        """
        package, *rest = map(str, arguments)
        if package not in self._nurseries:
            self._nurseries[package] = Nursery(package, python_of(package), self._shim)
        self._number += 1
        place = self._place / f"{self._number}"
        scratch = place / "tmp"
        scratch.mkdir(parents=True)
        scratch.chmod(0o777)
        control = place / "control"
        control.write_bytes(_CONTROL.pack(left, 0, 0, kill_at))
        control.chmod(0o666)
        env = {
            **self._env,
            **(env or {}),
            "FAULT_CONTROL": str(control),
            "FAULT_FOLDER": str(watched),
            "TMPDIR": str(scratch),
        }
        request = {"start": rest, "cwd": str(watched.parent), "env": env, "user": user}
        request |= {name: str(place / name) for name in ("stdout", "stderr")}
        for name in ("answers", "questions") if is_series else ():
            os.mkfifo(place / name)
            request[name] = str(place / name)
        pid = self._nurseries[package].ask(request)
        return Running(nursery=self._nurseries[package], pid=pid, control=control, place=place)

    def series(self, arguments: Iterable[str | Path], *, lefts: Iterable[int], **faults: Any) -> Iterator[Outcome]:
        """Run a command once for each number of bytes that its disk still takes, in one process after each other."""
        with ExitStack() as stack:
            running = None
            for left in lefts:
                if running is None:
                    running = self.start(arguments, left=left, is_series=True, **faults)
                    answers, questions = (
                        stack.enter_context((running.place / name).open(mode))
                        for name, mode in (("answers", "r"), ("questions", "w"))
                    )
                else:
                    running.control.write_bytes(_CONTROL.pack(left, 0, 0, -1))
                    running.begun = time.monotonic()
                    print(file=questions, flush=True)
                line = answers.readline()
                yield running.outcome(int(line)) if line else running.wait()
                running = running if line else None  # it has died
            stack.close()
            if running is not None:
                running.wait()

    def run(self, arguments: Iterable[str | Path], **faults: Any) -> Outcome:
        """Run a command to its end."""
        return self.start(arguments, **faults).wait()

    def close(self) -> None:
        """End all nurseries."""
        for nursery in self._nurseries.values():
            nursery.close()


def python_of(package: str) -> Path:
    """Return the interpreter beside the command that NASH_SEARCH, ... names."""
    return Path(os.environ[f"NASH_{package.upper()}"]).with_name("python")


@contextmanager
def programs(place: Path, env: Mapping[str, str] | None = None) -> Iterator[Programs]:
    """Yield the four packages for a block."""
    found = Programs(place, env)
    try:
        yield found
    finally:
        found.close()


def tree(folder: Path, *, without: Iterable[str] = ()) -> dict[str, str]:
    """Return the hash of each file below a folder, and that a folder is there, by relative path."""
    left_out = tuple(without)
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = path.relative_to(folder).as_posix()
        if not any(re.fullmatch(pattern, name) for pattern in left_out):
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def fingerprints(folder: Path, *, without: Iterable[str] = ()) -> dict[str, str]:
    """Return what `tree` does, of files as they would be if everything took no time."""
    found = tree(folder, without=without)
    for name in found:
        path = folder / name
        if path.suffix in (".json", ".jsonl", ".safetensors") and path.is_file():
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        return "\n".join(json.dumps(_without_times(json.loads(line))) for line in lines).encode()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    state = json.loads(header.get("__metadata__", {}).get("state", "null"))
    header["__metadata__"] = _without_times(state)
    return json.dumps(header).encode() + content[8 + size :]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in _TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the paths that differ, with + for new ones and - for missing ones."""
    names = sorted({*before, *after})
    return [
        ("+" if name not in before else "-" if name not in after else "!") + name
        for name in names
        if before.get(name) != after.get(name)
    ]
