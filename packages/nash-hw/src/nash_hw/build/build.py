"""Build an accelerator: from model.json to hardware.json, step by step, each step verified."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..base import lock, manifest
from ..base.atomic import move_in
from ..base.checkpoint import STATE_FILE, Checkpoint
from ..base.errors import UsageError
from ..base.output import staging
from ..base.progress import Steps
from ..boards.board import DEFAULT_PRICE
from ..boards.boards import find_board
from ..boards.clocks import check_clock, clock_ceiling_mhz, usual_clock_mhz
from ..boards.prices import BALANCE, parse_price
from ..boards.shells import room_beside_shell, shell_flow
from ..estimate import describe
from ..estimate.estimate import Estimate, estimate
from ..finn.finn_env import contained_finn, finn_version, vivado_version
from ..fold.devices import assign_devices, device_resources, partitioning
from ..fold.partitions import check_partitions, crossed_kernels, partitions
from ..fold.slrs import SlrPlan, plan_slrs, write_floorplan
from ..handover import finn_build
from ..handover.collect import collect, is_finished
from ..handover.hdl import FOLDER as HDL_FOLDER
from ..handover.hdl import HASHES, write_hdl
from ..simulate import FILES as SIMULATION_FILES
from ..simulate.finn_fifos import with_depths, with_resources
from .draw import svg
from .flow import Flow, Source, State, Target

DEFAULT_MAX_UTILIZATION = 0.7
_WITH_HDL = ("hdl", "simulate")
STAGES = ("estimate", "hdl", "simulate", "bitfile")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What to build; give `target_fps` or `max_utilization`, or neither for the default utilization."""

    board: str
    clock_mhz: float
    out: Path
    target_fps: float | None = None
    max_utilization: float | None = None
    price: str | None = None  # LUT=2,DSP=0.1 or balance
    until: str = "estimate"
    num_fpgas: int = 1
    resume: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not 10 <= self.clock_mhz <= 1000:
            problems.append(f"--clock-mhz: got {self.clock_mhz:g}, expected 10..1000")
        if self.target_fps is not None and self.max_utilization is not None:
            problems.append("--target-fps and --max-utilization: got both, expected one")
        if self.target_fps is not None and not self.target_fps > 0:
            problems.append(f"--target-fps: got {self.target_fps:g}, expected more than 0")
        if self.max_utilization is not None and not 0 < self.max_utilization <= 1:
            problems.append(f"--max-utilization: got {self.max_utilization:g}, expected more than 0, at most 1")
        if self.price == BALANCE and self.target_fps is None:
            problems.append(
                "--price: got balance without --target-fps, where there is no frame rate to reach; give both"
            )
        try:
            _ = self.prices
        except UsageError as error:
            problems.append(str(error))
        if self.num_fpgas < 1:
            problems.append(f"--num-fpgas: got {self.num_fpgas}, expected at least 1")
        if self.until not in STAGES:
            problems.append(f"--until: got '{self.until}', expected one of {', '.join(STAGES)}")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def prices(self) -> dict[str, float] | None:
        """The price of all of each resource, None for a balance between them."""
        return dict(DEFAULT_PRICE) if self.price is None else parse_price(self.price)

    @property
    def utilization_limit(self) -> float | None:
        """The part of the board to fill, None if a frame rate is asked for instead."""
        if self.target_fps is not None:
            return None
        return DEFAULT_MAX_UTILIZATION if self.max_utilization is None else self.max_utilization


def build(model_path: Path, config: BuildConfig) -> dict[str, Any]:
    """Build the accelerator of a model and return its hardware manifest.

    Raises:
        NashError: of the kind that tells what is wrong; then nothing is written, unless FINN's own build fails: the
            folder it failed in stays.
    """
    finn_version()
    if config.until == "simulate":
        from ..simulate.tools import find_tools

        find_tools()
    source = Source.read(model_path)
    with lock.held(config.out):
        return _built(source, config)


def _built(source: Source, config: BuildConfig) -> dict[str, Any]:
    with staging(config.out, STATE_FILE) as folder, ExitStack() as stack:
        steps = stack.enter_context(Steps(len(_step_names(config)), quiet=config.quiet))
        with steps.step("start FINN"):
            version = stack.enter_context(contained_finn())
        result = _Build(source, config, steps, version).run(folder)
    if config.until == "simulate":
        from ..simulate.command import SimulateConfig, simulate_alone

        return simulate_alone(SimulateConfig(folder=config.out, golden=source.golden, quiet=config.quiet))
    if config.until != "bitfile":
        return result
    if vivado_version() is not None:
        with Steps(1, quiet=config.quiet) as steps, steps.step("FINN's build"):
            finn_build.run_finn(config.out, steps.tell)
        return collect(config.out)
    return collect(config.out) if is_finished(config.out) else result


def _step_names(config: BuildConfig) -> list[str]:
    hdl = ["generate RTL"] if config.until in _WITH_HDL else []
    return ["start FINN", *Flow.NAMES, "estimate", *hdl, "write"]


class _Build:
    def __init__(self, source: Source, config: BuildConfig, steps: Steps, version: str) -> None:
        self._source = source
        self._config = config
        self._steps = steps
        self._version = version
        self._board = replace(find_board(config.board), price=config.prices or DEFAULT_PRICE)
        check_clock(self._board, config.clock_mhz)
        if config.num_fpgas > 1 and shell_flow(self._board) != "vitis_alveo":
            raise UsageError(f"--num-fpgas: got {config.num_fpgas} of {self._board.name}, FINN links Alveo boards only")
        totals = {name: amount * config.num_fpgas for name, amount in self._board.resources.items()}
        self._all_boards = replace(self._board, resources=totals)
        self._checkpoint = Checkpoint(config.out, self._key())
        self._crossed: list[str] = []  # kernels that FINN would link wrongly

    def _key(self) -> dict[str, Any]:
        """Return all that the result of a step depends on."""
        return {
            "model": manifest.file_sha256(self._source.path),
            "nash-hw": metadata.version(manifest.PACKAGE),
            "finn-plus": self._version,
            "board": {name: value for name, value in asdict(self._board).items() if name != "price"},
            "clock_mhz": self._config.clock_mhz,
            "target_fps": self._config.target_fps,
            "max_utilization": self._config.utilization_limit,
            "price": self._config.prices or BALANCE,
            "num_fpgas": self._config.num_fpgas,
        }

    def run(self, folder: Path) -> dict[str, Any]:
        state = self._convert()
        with self._steps.step("estimate"):
            result = estimate(state.model, self._all_boards)
            devices = self._assign(state, result)
            slrs = self._plan_slrs(state, result)
        hdl = None
        if self._config.until in _WITH_HDL:
            with self._steps.step("generate RTL"):
                hdl = write_hdl(state.model, folder / HDL_FOLDER, self._board.fpga_part, self._config.clock_mhz)
        with self._steps.step("write"):
            roles = self._write_files(folder, state, result)
            simulated = self._kept_simulation(folder, state)
            if simulated is not None and finn_build.FIFOS in simulated["files"]:
                roles[finn_build.FIFOS] = "fifos"
            if self._config.until == "bitfile":
                roles |= self._write_finn(folder, state, devices, slrs)
        if hdl is not None:
            roles[f"{HDL_FOLDER}/{HASHES}"] = "hdl"
        written = manifest.header(
            "hardware",
            inputs=[manifest.input_record(self._source.path, self._source.manifest)],
            artifacts=[manifest.artifact_record(folder / name, folder, role) for name, role in roles.items()],
        ) | self._describe(state, result, devices)
        if slrs is not None:
            written["slrs"] = slrs.as_json()
        if hdl is not None:
            written["hdl"] = hdl.as_json()
        if simulated is not None:
            written["simulated"] = simulated["entry"]
            if simulated["files"]:
                written = with_resources(written, simulated["entry"]["fifos"])
            written["artifacts"] += simulated["artifacts"]
        manifest.save(folder / "hardware.json", written, "hardware")
        move_in(folder, self._config.out, [*self._changed(folder, roles), "hardware.json"])
        if simulated is None:
            self._forget_simulation()
        self._checkpoint.finish(state.as_json(), self._config.out / "dataflow.onnx")
        return written

    def _forget_simulation(self) -> None:
        """Remove what a simulation of an earlier build wrote."""
        (self._config.out / finn_build.FIFOS).unlink(missing_ok=True)
        shutil.rmtree(self._config.out / SIMULATION_FILES, ignore_errors=True)

    def _changed(self, folder: Path, roles: dict[str, str]) -> list[str]:
        """Return what to move: all, but what FINN has done so far stays if going on asks it for the same."""
        names = list(dict.fromkeys(Path(name).parts[0] for name in roles))
        finn, before = finn_build.FOLDER, self._config.out / finn_build.FOLDER
        if self._config.resume and finn in names and finn_build.is_same(before, folder / finn):
            names.remove(finn)
        return names

    def _kept_simulation(self, folder: Path, state: State) -> dict[str, Any] | None:
        """Return what going on keeps of a simulation of the same graph; its FIFO depths go into the new folder.

        Of the manifest that was: `entry`, `artifacts`, and the `files` that were written anew.
        """
        path = self._config.out / "hardware.json"
        if not self._config.resume or not path.exists():
            return None
        before = manifest.load(path, "hardware")
        hashes = {one["role"]: one["sha256"] for one in before["artifacts"]}
        if "simulated" not in before or hashes["dataflow"] != manifest.file_sha256(folder / "dataflow.onnx"):
            return None
        files = []
        if "fifos" in hashes:
            fifos = before["simulated"]["fifos"]
            shutil.copyfile(manifest.resolve(path, finn_build.FIFOS, hashes["fifos"]), folder / finn_build.FIFOS)
            folding = json.dumps(with_depths(state.folding, fifos), indent=2) + "\n"
            (folder / "folding.json").write_text(folding, "utf-8")
            files.append(finn_build.FIFOS)
        artifacts = [one for one in before["artifacts"] if one["role"] == "simulation"]
        return {"entry": before["simulated"], "artifacts": artifacts, "files": files}

    def _assign(self, state: State, result: Estimate) -> dict[str, int] | None:
        if self._config.num_fpgas == 1:
            return None
        limit = self._config.utilization_limit or 1.0
        return assign_devices(state.model, result, self._board, self._config.num_fpgas, limit)

    def _plan_slrs(self, state: State, result: Estimate) -> SlrPlan | None:
        """Return what lies on which SLR of a single board, and check that FINN can build its parts."""
        if self._config.num_fpgas > 1 or self._board.num_slrs == 1:
            return None
        plan = plan_slrs(state.model, result, self._board)
        if plan is not None:
            check_partitions(state.model, plan.slr_of)
        return plan

    def _write_finn(
        self, folder: Path, state: State, devices: dict[str, int] | None, slrs: SlrPlan | None
    ) -> dict[str, str]:
        several = None if devices is None else partitioning(devices, self._config.num_fpgas)
        config = finn_build.build_config(self._board, self._config.clock_mhz, several)
        is_linked = config.get("shell_flow_type") == "vitis_alveo" and devices is None
        if slrs is not None and is_linked:
            config["vitis_floorplan_file"] = finn_build.FLOORPLAN
        finn_build.write_folder(folder / finn_build.FOLDER, config, folder, self._board.fpga_part)
        if is_linked:
            inserted = finn_build.with_transfers(folder / "dataflow.onnx", self._board.fpga_part)
            slr_of = {} if slrs is None else slrs.slr_of
            self._crossed = crossed_kernels(inserted, partitions(state.model, slr_of))
            if slrs is not None:
                write_floorplan(folder / finn_build.FOLDER / finn_build.FLOORPLAN, inserted, slr_of)
        return {f"{finn_build.FOLDER}/{name}": "finn" for name in finn_build.FILES}

    def _convert(self) -> State:
        """Return the folded, verified graph: step by step, from the checkpoint on where one is asked for."""
        flow = Flow(
            self._source,
            Target(
                board=room_beside_shell(self._all_boards),
                clock_mhz=self._config.clock_mhz,
                fps=self._config.target_fps,
                utilization=self._config.utilization_limit,
                is_balanced=self._config.price == BALANCE,
            ),
        )
        kept = self._checkpoint.load() if self._config.resume else None
        state = None if kept is None else State.load(*kept)
        if state is not None:
            self._steps.keep(state.done)
        for name in Flow.NAMES[0 if state is None else len(state.done) :]:
            with self._steps.step(name):
                state = flow.run(name, state)
            state.done.append(self._steps.seconds[-1])
            self._checkpoint.save(state.as_json(), None if name.startswith("verify") else state.model)
        return state

    def _write_files(self, folder: Path, state: State, result: Estimate) -> dict[str, str]:
        """Write the files of every build; return the role of each."""
        (folder / "folding.json").write_text(json.dumps(state.folding, indent=2) + "\n", "utf-8")
        describe.write_layers(folder / "layers.csv", result)
        state.model.save(str(folder / "dataflow.onnx"))
        title = f"{self._source.manifest['name']} on {self._board.name}"
        (folder / "dataflow.svg").write_text(svg(title, state.model, result), "utf-8")
        return {
            "folding.json": "folding",
            "layers.csv": "layers",
            "dataflow.onnx": "dataflow",
            "dataflow.svg": "drawing",
        }

    def _describe(self, state: State, result: Estimate, devices: dict[str, int] | None) -> dict[str, Any]:
        config, board = self._config, self._board
        described = {
            "name": self._source.manifest["name"],
            "model": {"sha256": manifest.file_sha256(self._source.path)},
            "toolchain": {"finn_plus": self._version, "vivado": vivado_version()},
            "board": board.name,
            "fpga_part": board.fpga_part,
            "board_resources": dict(board.resources),
            "clock_mhz": config.clock_mhz,
            "clock": {
                "ceiling_mhz": clock_ceiling_mhz(board.fpga_part),
                "usual_mhz": usual_clock_mhz(board.fpga_part),
            },
            "target": {
                "target_fps": config.target_fps,
                "max_utilization": config.utilization_limit,
                "price": config.prices or BALANCE,
                "limit": state.limit,
                "gap": state.gap,
                "price_gap": state.price_gap,
                "depth_price": state.depth_price,
            },
            "folding": "folding.json",
            "interface": describe.interface(state.model, state.dequantization),
            "estimated": describe.estimated(result, self._all_boards, config.clock_mhz),
            "measured": None,
            "layers": [describe.layer(layer) for layer in result.layers],
            "streams": [describe.stream(stream) for stream in result.streams],
            "verification": state.verification,
            "steps": self._steps.seconds,
        }
        if devices is not None:
            sums = device_resources(result, devices, config.num_fpgas)
            described["devices"] = {"num_fpgas": config.num_fpgas, "layers": devices, "resources": sums}
        if config.until == "bitfile":
            described["finn"] = {"folder": finn_build.FOLDER, "command": finn_build.COMMAND}
            described["finn"] |= {"crossed_kernels": self._crossed} if self._crossed else {}
        return described
