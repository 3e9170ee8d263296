"""Run the kernel on a design: depths of FIFOs, pace and back-pressure in, what happened out.

A run is a function of its inputs, so its result is kept under their hash: a search that was stopped takes the runs it
has done from there, and ends as it would have.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..base import json_file
from ..base.errors import OutputError, ToolchainError
from ..base.manifest import atomic_path
from .design import Design, copy_memories
from .frames import from_words, to_words
from .modules import padded, stored_bytes

_QUIET_CYCLES = 2000  # beyond the slowest layer's
_UNWRITTEN = 3  # the exit code of a kernel whose disk is full


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How frames are sent and taken.

    `frames` are sent at least, and more until the steady state is found, up to `max_frames`. A frame begins `every`
    cycles after the one before it or later; 0: back to back. `bubble` and `stall` are the percent of cycles in which
    nothing is sent or taken.
    """

    frames: int = 3
    max_frames: int = 40
    every: int = 0
    bubble: int = 0
    stall: int = 0
    seed: int = 1
    is_careful: bool = False  # no short cuts in the kernel: to test it

    def lines(self) -> list[str]:
        values = {"frames": self.frames, "max_frames": max(self.frames, self.max_frames), "every": self.every}
        values |= {"bubble": self.bubble, "stall": self.stall, "seed": self.seed, "careful": int(self.is_careful)}
        return [f"{key} {value}" for key, value in values.items()]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run gave. Cycles count from the end of the reset."""

    is_exact: bool
    num_frames: int  # that came out, and were compared
    is_stuck: bool
    begins: tuple[int, ...]  # when each frame's first word entered
    ends: tuple[int, ...]  # when each frame's last word left
    period: int  # frames after which the steady state repeats; 0: it was not found
    period_cycles: int
    raw: dict[str, Any] = field(repr=False)  # all the kernel tells: hops, layers, timeline

    @property
    def interval(self) -> float | None:
        """The cycles between frames in the steady state, or between the last frames where it was not found."""
        if self.is_stuck:
            return None
        if self.period:
            return self.period_cycles / self.period
        half = len(self.ends) // 2
        return (self.ends[-1] - self.ends[half]) / (len(self.ends) - 1 - half) if len(self.ends) > 2 else None

    @property
    def latency(self) -> int | None:
        """The cycles from the first frame's first word in to its last word out, both included."""
        return self.ends[0] - self.begins[0] + 1 if self.ends else None


class Simulation:
    """A compiled design with pictures to send."""

    def __init__(
        self,
        design: Design,
        libraries: Mapping[str, Path],
        kernel: Path,
        folder: Path,
        *,
        pictures: np.ndarray,
        expected: np.ndarray,
    ) -> None:
        """`pictures`: (N, H, W, C) uint8; `expected`: (N, K) integers; `folder` is for files of the runs."""
        self.design = design
        self.num_runs = 0  # that were not kept from before
        self._kernel, self._libraries = kernel, libraries
        self._folder = folder.resolve()
        self._expected = expected
        (self._folder / "runs").mkdir(parents=True, exist_ok=True)
        for path in (*(self._folder / "runs").iterdir(), *self._folder.glob("trace.*")):
            if path.suffix != ".json" or path.name.startswith((".", "trace.")):  # of a run that was killed
                path.unlink()
        (self._folder / "inputs").write_bytes(to_words(design, pictures))
        (self._folder / "netlist").write_text(self._netlist(), "utf-8")

    def run(self, depths: Sequence[int | None], pace: Pace, tell: Callable[[int], None] = lambda _: None) -> Result:
        """Simulate with a FIFO of so many words in each stream, at least 2; None: without bound.

        `tell` hears how many frames have come out.

        Raises:
            ToolchainError: the simulation does not run.
        """
        lines = self._lines(depths, pace)
        kept = self._folder / "runs" / f"{self._key(lines)}.json"
        if kept.exists():
            return self._result(json_file.read(kept))
        self.num_runs += 1
        with atomic_path(kept) as path:
            raw = self._simulated(self._kernel, lines, path, tell)
            path.write_text(json.dumps(raw), "utf-8")
        return self._result(raw)

    def trace(self, depths: Sequence[int | None], pace: Pace, kernel: Path, path: Path) -> None:
        """Simulate with the kernel that writes waveforms, and write them.

        Raises:
            ToolchainError: the simulation does not run.
        """
        lines = [*self._lines(depths, pace), f"trace {path.resolve()}"]
        self._simulated(kernel, lines, self._folder / "trace.json", lambda _: None)
        (self._folder / "trace.json").unlink()

    def _lines(self, depths: Sequence[int | None], pace: Pace) -> list[str]:
        return [*pace.lines(), f"inputs {self._folder / 'inputs'}", f"patience {self._patience}", *self._fifos(depths)]

    def _simulated(self, kernel: Path, lines: list[str], path: Path, tell: Callable[[int], None]) -> dict[str, Any]:
        """Run a kernel, which writes to `path`; return what it tells, with the integers compared."""
        description, outputs = path.with_suffix(".run"), path.with_suffix(".out")
        description.write_text("\n".join(lines) + "\n", "utf-8")
        try:
            self._call([str(kernel), str(self._folder / "netlist"), *map(str, (description, outputs, path))], tell)
            return json_file.read(path) | self._compared(outputs.read_bytes())
        finally:
            for file in (description, outputs):
                file.unlink(missing_ok=True)

    @cached_property
    def _patience(self) -> int:
        return max(layer.cycles for layer in self.design.layers) + _QUIET_CYCLES

    def _result(self, raw: dict[str, Any]) -> Result:
        return Result(
            is_exact=raw["is_exact"],
            num_frames=raw["num_frames"],
            is_stuck=raw["is_stuck"],
            begins=tuple(raw["begins"]),
            ends=tuple(raw["ends"]),
            period=raw["period"],
            period_cycles=raw["period_cycles"],
            raw=raw,
        )

    def _compared(self, content: bytes) -> dict[str, Any]:
        got = from_words(self.design, content)
        wanted = self._expected[np.arange(len(got)) % len(self._expected)]
        return {"is_exact": bool(len(got)) and bool(np.array_equal(got, wanted)), "num_frames": len(got)}

    def _key(self, lines: list[str]) -> str:
        digest = hashlib.sha256(self._kernel.name.encode())
        for part in (*lines, self._netlist(), (self._folder / "inputs").read_bytes(), self._expected.tobytes()):
            digest.update(part.encode() if isinstance(part, str) else part)
            digest.update(b"\0")
        return digest.hexdigest()[:24]

    @cached_property
    def _description(self) -> str:
        design = self.design
        folders = copy_memories(design, self._folder / "memories")
        numbers = {key: i for i, key in enumerate(self._libraries)}
        lines = [f"module {path}" for path in self._libraries.values()]
        for layer in design.layers:
            number = -1 if layer.module is None else numbers[layer.module.key]
            lines.append(f"layer {layer.name} {number} {folders[layer.name]}")
        for hop in design.hops:
            ends = f"{hop.source} {hop.source_port} {hop.target} {hop.target_port}"
            lines.append(f"stream {ends} {stored_bytes(hop.bits)} {hop.words}")
        return "\n".join(lines) + "\n"

    def _netlist(self) -> str:
        return self._description

    def _fifos(self, depths: Sequence[int | None]) -> list[str]:
        pairs = zip(self.design.streams, depths, strict=True)
        return [f"fifo {stream.hop} {fifo_style(depth, stream.bits)} {depth or 0}" for stream, depth in pairs]

    def _call(self, command: list[str], tell: Callable[[int], None]) -> None:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                for line in process.stdout:
                    if line.startswith("frame "):
                        tell(int(line.split()[1]))
                error = process.stderr.read()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode == _UNWRITTEN:
            raise OutputError(f"{error.strip()[:300]}; free some space, and run the same command to go on")
        if process.returncode:
            raise ToolchainError(
                f"simulation: its kernel ended with code {process.returncode}: {error.strip()[:300] or 'no message'}; "
                "report this as a bug"
            )


def fifo_style(depth: int | None, bits: int) -> str:
    """Return the form that FINN's FIFO takes at a depth and width (finn-rtllib/fifo/hdl/fifo.sv), for the kernel."""
    from finn.util.resource_models import _resolve

    if depth is None:
        return "deep"
    style = _resolve(depth, padded(bits), "auto")
    return "shift" if style == "srl" else style
