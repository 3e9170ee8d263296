"""Simulate what `nash-hw build --until hdl` wrote, size its FIFOs, and write the figures into hardware.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ..base import atomic, json_file, lock, manifest
from ..base.errors import OutputError, UsageError, VerificationError
from ..base.output import WORK as STEPS
from ..base.progress import Steps
from ..finn.finn_env import contained_finn
from ..graph.model import Model
from ..handover.finn_build import FIFOS
from ..simulate import FILES
from . import describe
from .compiler import Compiler, default_cache
from .deadlock import told
from .design import Design, read_design
from .finn_fifos import finn_fifo_config, with_depths, with_resources
from .frames import expected_integers, golden_pictures, random_pictures
from .run import Pace, Result, Simulation
from .sizing import Sizer, Sizes
from .timeline import timeline
from .tools import Tools, find_tools

WORK = ".simulate"
_STALL, _BUBBLE = 30, 30  # percent of cycles
_MAX_FRAMES = 40
_TRACED_FRAMES = 2
_AT_WORK = shutil.ignore_patterns(WORK, STEPS, ".ready", ".*.writing-*")  # what a finished build has not


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """How to simulate; `folder` is the --out of a build, which is changed, or copied to `out` if that is given."""

    folder: Path
    out: Path | None = None
    frames: int = 8
    golden: Path | None = None
    size_fifos: bool = True
    trials: int = 40
    trace: bool = False
    cache: Path = field(default_factory=default_cache)
    jobs: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.frames < 1:
            problems.append(f"--frames: got {self.frames}, expected at least 1")
        if self.trials < 0:
            problems.append(f"--trials: got {self.trials}, expected at least 0")
        if self.jobs is not None and self.jobs < 1:
            problems.append(f"--jobs: got {self.jobs}, expected at least 1")
        if problems:
            raise UsageError("; ".join(problems))


def simulate(config: SimulateConfig) -> dict[str, Any]:
    """Simulate an accelerator and return its hardware manifest with `simulated` filled in.

    Raises:
        NashError: of the kind that tells what is wrong; then hardware.json is as it was.
    """
    with lock.held(config.folder) if config.folder.is_dir() else nullcontext():
        return simulate_alone(config)


def simulate_alone(config: SimulateConfig) -> dict[str, Any]:
    """Do what `simulate` does, in a folder that the caller holds."""
    tools = find_tools()
    if config.out is not None and config.out.exists():
        raise OutputError(f"{config.out}: is there already; choose another --out")
    names = ["start FINN", "read", "execute in Python", "compile", "as written"]
    names += ["size FIFOs"] if config.size_fifos else []
    names += ["back to back", "under back-pressure", "write"]
    with ExitStack() as stack:
        steps = stack.enter_context(Steps(len(names), quiet=config.quiet))
        with steps.step("start FINN"):
            stack.enter_context(contained_finn())
        return _Simulate(config, tools, steps).run()


class _Simulate:
    def __init__(self, config: SimulateConfig, tools: Tools, steps: Steps) -> None:
        self._config, self._tools, self._steps = config, tools, steps

    def run(self) -> dict[str, Any]:
        steps, config = self._steps, self._config
        with steps.step("read"):
            design = read_design(config.folder)
            is_golden = config.golden is not None
            pictures = golden_pictures(design, config.golden) if is_golden else random_pictures(design)
        with steps.step("execute in Python"):
            expected = expected_integers(design, pictures[: max(config.frames, 1)])
        with steps.step("compile"):
            libraries, kernel, tracer = self._compile(design)
        work = config.folder / WORK
        try:
            simulation = Simulation(
                design, libraries, kernel, work, pictures=pictures[: len(expected)], expected=expected
            )
        except OSError as error:
            raise OutputError(f"{work}: cannot be written ({error.strerror}); free some space") from error
        depths, kept = [stream.depth for stream in design.streams], describe.simulated_depths(design)
        with steps.step("as written"):
            written = self._try(simulation, "as written", depths, Pace(frames=3, max_frames=_MAX_FRAMES))
        sizes = None
        if config.size_fifos:
            with steps.step("size FIFOs"):
                sizes = self._size(simulation)
            depths = list(sizes.depths)
        elif kept is not None:
            depths = list(kept)
        elif written.is_stuck:
            raise VerificationError(f"{config.folder}: {told(design, written, depths)}; simulate with --size-fifos")
        checks = self._checks(simulation, depths)
        with steps.step("write"):
            return self._write(
                describe.Simulated(
                    design=design,
                    tools=self._tools,
                    written=written,
                    sizes=sizes,
                    depths=tuple(depths),
                    are_depths_simulated=sizes is not None or kept is not None,
                    checks=checks,
                    pictures="golden" if is_golden else "random",
                ),
                simulation,
                tracer,
            )

    def _compile(self, design: Design) -> tuple[dict[str, Path], Path, Path | None]:
        def tell(done: int, total: int) -> None:
            self._steps.tell(f"compiled: {done} of {total} distinct layers")

        with Compiler(self._tools, self._config.cache, jobs=self._config.jobs) as compiler:
            kernel = compiler.kernel()
            tracer = compiler.kernel(trace=True) if self._config.trace else None
            return compiler.libraries(design.modules, tell), kernel, tracer

    def _size(self, simulation: Simulation) -> Sizes:
        sizer = Sizer(simulation, max_trials=self._config.trials, tell=self._steps.tell)
        return sizer.size(simulation.design.manifest["estimated"]["ii_cycles"])

    def _checks(self, simulation: Simulation, depths: Sequence[int]) -> dict[str, Result]:
        """Return what holds: frames back to back, and with gaps and waits where they come and go."""
        frames = self._config.frames
        paces = {
            "back to back": Pace(frames=frames, max_frames=_MAX_FRAMES),
            "under back-pressure": Pace(frames=min(frames, 3), max_frames=min(frames, 3), stall=_STALL, bubble=_BUBBLE),
        }
        results = {}
        for name, pace in paces.items():
            with self._steps.step(name):
                results[name] = self._try(simulation, name, depths, pace)
                if results[name].is_stuck:
                    raise VerificationError(
                        f"{self._config.folder}: {name}: {told(simulation.design, results[name], depths)}; "
                        "simulate with --size-fifos"
                    )
        return results

    def _try(self, simulation: Simulation, name: str, depths: Sequence[int], pace: Pace) -> Result:
        """Run and compare every integer.

        Raises:
            VerificationError: one is not that of the Python execution.
        """
        result = simulation.run(depths, pace, lambda count: self._steps.tell(f"{name}: frame {count}"))
        if result.num_frames and not result.is_exact:
            raise VerificationError(
                f"{self._config.folder}: {name}: the integers of {result.num_frames} simulated frames are not those of "
                "dataflow.onnx; build it anew, and if that does not help report this as a bug of nash-hw"
            )
        return result

    def _write(self, simulated: describe.Simulated, simulation: Simulation, tracer: Path | None) -> dict[str, Any]:
        """Write into the build's folder, or into a copy of it that is there only if it could be finished."""
        folder, out = self._config.folder, self._config.out
        try:
            if out is None:
                return self._written_into(folder, simulated, simulation, tracer)
            with atomic.whole_folder(out) as copy:
                shutil.copytree(folder, copy, ignore=_AT_WORK, dirs_exist_ok=True)
                content = self._written_into(copy, simulated, simulation, tracer)
                shutil.rmtree(copy / WORK)
            return content
        except OSError as error:
            place, reason = out or folder, error.strerror or error
            raise OutputError(f"{place}: cannot be written ({reason}); {folder} is as it was") from error

    def _written_into(
        self, folder: Path, simulated: describe.Simulated, simulation: Simulation, tracer: Path | None
    ) -> dict[str, Any]:
        staged = folder / WORK / "new"
        try:
            shutil.rmtree(staged, ignore_errors=True)
            (staged / FILES).mkdir(parents=True)
            content, names = self._write_files(staged, simulated, simulation, tracer)
            atomic.move_in(staged, folder, names)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return content

    def _write_files(
        self, staged: Path, simulated: describe.Simulated, simulation: Simulation, tracer: Path | None
    ) -> tuple[dict[str, Any], list[str]]:
        """Write all files to a folder; return the manifest and what to move, in this order."""
        describe.write_streams(staged / FILES / "streams.csv", simulated)
        (staged / FILES / "timeline.svg").write_text(timeline(simulated), "utf-8")
        if tracer is not None:
            pace = Pace(frames=_TRACED_FRAMES, max_frames=_TRACED_FRAMES)
            simulation.trace(simulated.depths, pace, tracer, staged / FILES / "trace.fst")
        content = {**simulated.design.manifest, "simulated": describe.manifest_entry(simulated)}
        roles = {f"{FILES}/{path.name}": "simulation" for path in sorted((staged / FILES).iterdir())}
        if simulated.are_depths_simulated:
            roles |= self._write_depths(staged, content)
            content = with_resources(content, content["simulated"]["fifos"])
        kept = [one for one in content["artifacts"] if one["role"] not in ("simulation", *roles.values())]
        made = [manifest.artifact_record(staged / name, staged, role) for name, role in roles.items()]
        content["artifacts"] = kept + made
        manifest.save(staged / "hardware.json", content, "hardware")
        return content, [*dict.fromkeys(Path(name).parts[0] for name in roles), "hardware.json"]

    def _write_depths(self, staged: Path, content: dict[str, Any]) -> dict[str, str]:
        """Write the FIFO depths where FINN reads them; return the role of each file."""
        path = self._config.folder / "hardware.json"
        record = next(one for one in content["artifacts"] if one["role"] == "folding")
        folding = json_file.read(manifest.resolve(path, record["path"], record["sha256"]))
        fifos = content["simulated"]["fifos"]
        model = Model(onnx.load(str(self._config.folder / "dataflow.onnx")))
        for name, values in (
            ("folding.json", with_depths(folding, fifos)),
            (FIFOS, finn_fifo_config(model, fifos, content["fpga_part"])),
        ):
            (staged / name).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        return {"folding.json": "folding", FIFOS: "fifos"}
