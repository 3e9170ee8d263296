"""The folder that is handed to FINN+, FINN+ at work in it (a stand-in), and what is read back from it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import onnx
import pytest
from conftest import DATA
from test_build import build
from test_cli import run  # noqa: F401 - a fixture

from nash_hw.base import manifest
from nash_hw.base.errors import CapacityError, IntegrityError, Interrupted, ToolchainError, UsageError
from nash_hw.finn import finn_env
from nash_hw.graph.model import Model, custom_op
from nash_hw.handover import finn_build
from nash_hw.handover.collect import collect

_MODEL = DATA / "every-operation-v3" / "model.json"
_UTILIZATION = """
+----------------------------+-------+-------+------------+-----------+-------+
|          Site Type         |  Used | Fixed | Prohibited | Available | Util% |
+----------------------------+-------+-------+------------+-----------+-------+
| CLB LUTs                   | 21034 |     0 |          0 |    230400 |  9.13 |
|   LUT as Logic             | 19000 |     0 |          0 |    230400 |  8.25 |
|   LUT as Memory            |  2034 |     0 |          0 |    101760 |  2.00 |
|     LUT as Shift Register  |   512 |     0 |            |           |       |
| CLB Registers              | 30210 |     0 |          0 |    460800 |  6.56 |
+----------------------------+-------+-------+------------+-----------+-------+
| Block RAM Tile    |  7.5 |     0 |          0 |       312 |  2.40 |
|   RAMB36/FIFO*    |    5 |     0 |          0 |       312 |  1.60 |
|   RAMB18          |    5 |     0 |          0 |       624 |  0.80 |
| URAM              |    2 |     0 |          0 |        96 |  2.08 |
| DSPs           |   61 |     0 |          0 |      1728 |  3.53 |
"""
_TIMING = """
| Design Timing Summary
| ---------------------

    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)      THS(ns)
    -------      -------  ---------------------  -------------------      -------      -------
     {wns}        0.000                      0               123456        0.010        0.000
"""
_POWER = "| Total On-Chip Power (W)  | 3.217        |"
_HEADINGS = [
    "Instance",
    "Module",
    "TotalxLUTs",
    "LogicxLUTs",
    "LUTRAMs",
    "SRLs",
    "FFs",
    "RAMB36",
    "RAMB18",
    "URAM",
    "DSPxBlocks",
]


@pytest.fixture(autouse=True, scope="module")
def no_vivado():
    """Hide a Vivado that this machine may have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nash_hw.build.build.vivado_version", lambda: None)
        yield


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory, no_vivado):
    out = tmp_path_factory.mktemp("built") / "hw"
    build(_MODEL, out, target_fps=5000, until="bitfile")
    return out


@pytest.fixture
def built(handed_over, tmp_path):
    return shutil.copytree(handed_over, tmp_path / "hw")


def write_results(out: Path, *, wns: str = "0.812", status: str = "ok", alveo: bool = False) -> None:
    """Write what FINN+ writes after a build, its reports by FINN's own code from texts in Vivado's format."""
    from finn.analysis.fpgadataflow.post_synth_res import post_synth_res
    from finn.util.vivado import parse_ooc_synth_results

    output = out / "finn" / "output"
    reports, project = output / "report", output / "vivado_stitch_proj"
    for folder in (reports, project, output / "bitfile", output / "driver" / "runtime_weights"):
        folder.mkdir(parents=True, exist_ok=True)
    (project / "ooc_utilization.rpt").write_text(_UTILIZATION)
    (project / "ooc_timing.rpt").write_text(_TIMING.format(wns=wns))
    (project / "ooc_power.rpt").write_text(_POWER)
    (project / "ooc_metadata.txt").write_text("clk_period_ns=10.0\nvivado_version=2024.2\n")
    write_json(reports / "ooc_synth_and_timing.json", parse_ooc_synth_results(project))
    model = Model(onnx.load(str(out / "dataflow.onnx")))
    (project / "synth.xml").write_text(utilization_table(model))
    resources = post_synth_res(model, override_synth_report_filename=project / "synth.xml")[0]
    write_json(reports / f"post_synth_resources{'_0' * alveo}.json", resources)
    if not alveo:
        (reports / "post_route_timing.rpt").write_text(_TIMING.format(wns=wns))
    simulated = {"cycles": 60000, "samples": 4, "intervals": [20000, 20000], "latency_cycles": [30000]}
    write_json(reports / "rtlsim_performance.json", [simulated | {"throughput_fps": 5000.0}])
    write_json(reports / "metadata_builder.json", {"status": status, "tool_version": "2024.2"})
    write_json(reports / "time_per_step.json", {"step_synthesize_bitfile": 3600, "total_build_time": 3600})
    for name in ("finn-accel-0.xclbin",) if alveo else ("finn-accel.bit", "finn-accel.hwh"):
        (output / "bitfile" / name).write_text(name)
    (output / "driver" / "settings.json").write_text("{}")
    (output / "driver" / "runtime_weights" / "0_0_MVAU_rtl_0.dat").write_text("00")


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=2))


def utilization_table(model: Model) -> str:
    """Return Vivado's hierarchical utilization report: the top, and one layer."""
    rows = [
        _HEADINGS,
        ["(top)", "top", *["25000", "22000", "3000", "700", "41000", "9", "6", "2", "61"]],
        [model.graph.node[0].name, "x", *["120", "100", "20", "8", "90", "1", "1", "0", "4"]],
    ]
    cells = ["".join(f'<tablecell contents="{cell.replace("x", " ")} "/>' for cell in row) for row in rows]
    return f"<table>{''.join(f'<tablerow>{row}</tablerow>' for row in cells)}</table>"


class TestFolder:
    @pytest.mark.parametrize("board", ["ZCU104", "U250", "VCK190"])
    def test_finn_takes_the_configuration(self, tmp_path, finn, board):
        from finn.builder.build_dataflow_config import DataflowBuildConfig

        build(_MODEL, tmp_path / "hw", board=board, target_fps=5000, until="bitfile")
        folder = tmp_path / "hw" / "finn"
        config = DataflowBuildConfig.construct_from(folder / "build.yaml")
        assert config.synth_clk_period_ns == 10.0
        assert config.folding_config_file.samefile(folder / "folding.json")
        flows = {"ZCU104": "vivado_zynq", "U250": "vitis_alveo", "VCK190": None}
        assert (config.shell_flow_type and config.shell_flow_type.value) == flows[board]
        assert config._resolve_fpga_part() == manifest.load(tmp_path / "hw" / "hardware.json", "hardware")["fpga_part"]
        has_bitfile = "bitfile" in {output.value for output in config.generate_outputs}
        assert has_bitfile == ("step_synthesize_bitfile" in config.steps) == (board != "VCK190")

    def test_finn_inserts_fifos_as_deep_as_the_manifest_says(self, built, finn):
        """FINN's own passes, and the depths it reads from the file: those of the layers, which the manifest has."""
        from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
        from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
        from finn.transformation.fpgadataflow.set_fifo_depths import ApplyFIFODepthsFromFile
        from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
        from qonnx.transformation.general import GiveUniqueNodeNames

        result = manifest.load(built / "hardware.json", "hardware")
        model = Model(onnx.load(str(built / "finn" / "dataflow.onnx")))
        for step in (InsertDWC(), InsertFIFO(create_shallow_fifos=True), SpecializeLayers(result["fpga_part"])):
            model = model.transform(step)
        model = model.transform(GiveUniqueNodeNames())
        fifos = {node.name: custom_op(node) for node in model.get_nodes_by_op_type("StreamingFIFO_rtl")}
        depths = {name: fifo.get_nodeattr("depth") for name, fifo in fifos.items()}
        assert json.loads((built / "finn" / "fifos.json").read_text())["fifo_depths"] == depths
        model = model.transform(ApplyFIFODepthsFromFile(built / "finn" / "fifos.json"))
        assert {name: fifo.get_nodeattr("depth") for name, fifo in fifos.items()} == depths
        streams = [stream for stream in result["streams"] if stream["kind"] != "converter"]
        assert len(fifos) == len(streams)
        wanted = {
            (stream["consumer"], stream["out_width_bits"], stream["depth"])
            for stream in streams
            if stream["kind"] == "fifo"
        }
        found = {
            (reader.name, fifo.get_instream_width(), fifo.get_nodeattr("depth"))
            for name, fifo in fifos.items()
            if (reader := model.find_consumer(fifo.onnx_node.output[0])) is not None
        }
        assert wanted <= found

    def test_finn_runs_its_first_step_in_it(self, built, finn, monkeypatch):
        """FINN's own estimate step reads the graph as it is handed over."""
        import finn.xsi

        monkeypatch.setitem(vars(finn.xsi), "SimEngine", object)  # the simulator that comes with Vivado
        from finn.builder.build_dataflow import resolve_build_steps
        from finn.builder.build_dataflow_config import DataflowBuildConfig
        from qonnx.core.modelwrapper import ModelWrapper

        config = DataflowBuildConfig.construct_from(built / "finn" / "build.yaml")
        config.output_dir = str(built / "finn" / "output")
        steps = resolve_build_steps(config)
        assert [step.__name__ for step in steps] == config.steps
        steps[0](ModelWrapper(str(built / "finn" / "dataflow.onnx")), config)
        report = json.loads((built / "finn/output/report/estimate_network_performance.json").read_text())
        result = manifest.load(built / "hardware.json", "hardware")
        assert report["max_cycles"] == result["estimated"]["ii_cycles"]
        assert report["estimated_throughput_fps"] == pytest.approx(result["estimated"]["throughput_fps"])

    def test_without_vivado_it_is_handed_over(self, run, model_json, tmp_path):  # noqa: F811
        out = tmp_path / "hw"
        code, stdout, _ = run("build", model_json, "--board", "ZCU104", "--until", "bitfile", "--out", out)
        assert code == 0
        assert f"cd {out} && finn build finn/build.yaml finn/dataflow.onnx\nthen: nash-hw collect {out}\n" in stdout
        result = manifest.load(out / "hardware.json", "hardware")
        assert result["measured"] is None
        assert result["finn"]["command"] == "finn build finn/build.yaml finn/dataflow.onnx"
        assert sorted(os.listdir(out / "finn")) == ["build.yaml", "dataflow.onnx", "fifos.json", "folding.json"]


class TestCollect:
    def test_figures_are_those_of_the_reports(self, built):
        write_results(built)
        result = collect(built)
        measured = result["measured"]
        assert manifest.load(built / "hardware.json", "hardware") == result
        assert measured["origin"] == "synthesized"
        assert measured["resources"] == {"LUT": 21034, "FF": 30210, "BRAM_18K": 15, "URAM": 2, "DSP": 61}
        assert measured["utilization"]["DSP"] == pytest.approx(61 / 1728)
        with_shell = {"LUT": 25000, "FF": 41000, "BRAM_18K": 24, "URAM": 2, "DSP": 61}
        assert measured["resources_with_shell"] == [with_shell]
        assert measured["wns_ns"] == 0.812
        assert measured["fmax_mhz"] == pytest.approx(1000 / (10 - 0.812))
        assert (measured["ii_cycles"], measured["throughput_fps"], measured["latency_us"]) == (20000, 5000.0, 300.0)
        assert measured["power_w"] == 3.217
        assert measured["layers"] == [
            {
                "name": result["layers"][0]["name"],
                "resources": {"LUT": 120, "FF": 90, "BRAM_18K": 3, "URAM": 0, "DSP": 4},
            }
        ]
        assert result["toolchain"]["vivado"] == "2024.2"

    def test_bitfile_and_driver_are_artifacts(self, built):
        write_results(built)
        collect(built)
        result = collect(built)  # once more changes nothing
        roles = {artifact["path"].removeprefix("finn/output/"): artifact["role"] for artifact in result["artifacts"]}
        assert {name: role for name, role in roles.items() if role in ("bitfile", "driver")} == {
            "bitfile/finn-accel.bit": "bitfile",
            "bitfile/finn-accel.hwh": "bitfile",
            "driver/settings.json": "driver",
            "driver/runtime_weights/0_0_MVAU_rtl_0.dat": "driver",
        }
        for artifact in result["artifacts"]:
            manifest.resolve(built / "hardware.json", artifact["path"], artifact["sha256"])

    def test_missed_timing_slows_the_frames(self, built):
        write_results(built, wns="-2.500")
        measured = collect(built)["measured"]
        assert measured["fmax_mhz"] == pytest.approx(80)
        assert measured["throughput_fps"] == pytest.approx(80e6 / 20000)

    def test_alveo_reports(self, built):
        write_results(built, alveo=True)
        measured = collect(built)["measured"]
        assert measured["resources_with_shell"][0]["LUT"] == 25000
        assert measured["wns_ns"] == 0.812

    def test_command_prints_what_was_measured(self, run, built):  # noqa: F811
        write_results(built)
        code, stdout, _ = run("collect", built)
        assert code == 0
        assert "synthesized: 5,000 fps, at most 108.8 MHz" in stdout
        assert "finn/output/bitfile/finn-accel.bit" in stdout

    def test_resumed_build_collects(self, built):
        write_results(built)
        result = build(_MODEL, built, target_fps=5000, until="bitfile", resume=True)
        assert result["measured"]["resources"]["LUT"] == 21034

    def test_new_build_forgets_the_old_results(self, built):
        write_results(built)
        result = build(_MODEL, built, target_fps=4000, until="bitfile")
        assert result["measured"] is None
        assert not (built / "finn" / "output").exists()

    def test_nothing_to_collect_is_2(self, run, built, tmp_path):  # noqa: F811
        code, _, stderr = run("collect", built)
        assert code == 2
        assert "FINN has not finished there" in stderr
        build(_MODEL, tmp_path / "plain", target_fps=5000)
        with pytest.raises(UsageError, match="has no build folder; build it with --until bitfile"):
            collect(tmp_path / "plain")

    def test_failed_build_is_8(self, built):
        write_results(built, status="failed")
        with pytest.raises(ToolchainError, match=r"FINN's build failed; read .*build_dataflow\.log"):
            collect(built)

    @pytest.mark.parametrize("name", ["ooc_synth_and_timing.json", "post_synth_resources.json"])
    def test_damaged_report_is_4(self, built, name):
        write_results(built)
        path = built / "finn" / "output" / "report" / name
        path.write_text(path.read_text()[:-20])
        with pytest.raises(IntegrityError, match=name):
            collect(built)
        assert manifest.load(built / "hardware.json", "hardware")["measured"] is None

    def test_folder_of_another_design_is_4(self, built):
        write_results(built)
        with (built / "finn" / "dataflow.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(IntegrityError, match="has changed since"):
            collect(built)


class TestRun:
    """A stand-in for FINN that reads the configuration and saves a graph after each step, as FINN does."""

    SCRIPT = """#!{python}
import json, pathlib, sys, yaml
steps = yaml.safe_load(open(sys.argv[2]))["steps"]
first = steps.index(sys.argv[sys.argv.index("--start") + 1]) if "--start" in sys.argv else 0
models = pathlib.Path("output/intermediate_models")
models.mkdir(parents=True, exist_ok=True)
with open("calls.json", "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
for number, step in enumerate(steps[first:], 1):
    print(f"[2026-01-01 00:00:00] Running step: {{step}} [{{number}}/{{len(steps) - first}}]", flush=True)
    if step == {fails!r} and "--start" not in sys.argv:
        print("ERROR: no licence")
        sys.exit(0)
    {hook}
    (models / f"{{step}}.onnx").write_text("")
"""

    @pytest.fixture
    def tools(self, tmp_path, monkeypatch):
        """Put a `vivado` on the PATH, and a FINN that fails in a step or does something in each."""
        folder = tmp_path / "tools" / "Vivado" / "2024.2" / "bin"
        folder.mkdir(parents=True)

        def install(fails: str = "", hook: str = "pass") -> None:
            for name, text in (
                ("vivado", "#!/bin/sh\n"),
                ("finn", self.SCRIPT.format(python=sys.executable, fails=fails, hook=hook)),
            ):
                (folder / name).write_text(text)
                (folder / name).chmod(stat.S_IRWXU)
            monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
            monkeypatch.setattr("nash_hw.build.build.vivado_version", finn_env.vivado_version)
            monkeypatch.setattr(finn_build, "_finn_program", lambda: str(folder / "finn"))

        return install

    def test_finn_runs_and_its_results_are_collected(self, built, tools, capfd):
        write_results(built)
        tools()
        capfd.readouterr()
        result = build(_MODEL, built, target_fps=5000, until="bitfile", resume=True, quiet=False)
        told = capfd.readouterr().err
        assert result["measured"]["resources"]["LUT"] == 21034
        assert "FINN: step_generate_hardware [2/9]" in told
        assert "Running step: step_deployment_package" in (built / "finn" / "finn.log").read_text()
        call = json.loads((built / "finn" / "calls.json").read_text())
        assert call == ["build", "build.yaml", "dataflow.onnx", "--batch", "--build-path", "build"]

    def test_failed_step_is_named_and_resumed(self, built, tools):
        tools(fails="step_create_stitched_ip")
        with pytest.raises(ToolchainError, match=r"failed in step_create_stitched_ip; read .*finn\.log.*--resume"):
            build(_MODEL, built, target_fps=5000, until="bitfile", resume=True)
        assert manifest.load(built / "hardware.json", "hardware")["measured"] is None
        assert "ERROR: no licence" in (built / "finn" / "finn.log").read_text()
        write_results(built)
        build(_MODEL, built, target_fps=5000, until="bitfile", resume=True)
        calls = [json.loads(line) for line in (built / "finn" / "calls.json").read_text().splitlines()]
        assert calls[1][-2:] == ["--start", "step_create_stitched_ip"]

    def test_finished_steps_are_not_run_again(self, built, tools):
        tools()
        write_results(built)
        for _ in range(2):
            build(_MODEL, built, target_fps=5000, until="bitfile", resume=True)
        assert len((built / "finn" / "calls.json").read_text().splitlines()) == 1

    def test_interruption_stops_finn_and_its_tools(self, built, tools):
        tools(hook="import os, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)")

        def interrupt(_: str) -> None:
            while not (built / "finn" / "pid").exists():
                pass
            raise Interrupted("stopped by SIGTERM")

        with pytest.raises(Interrupted):
            finn_build.run_finn(built, interrupt)
        with pytest.raises(ProcessLookupError):
            os.kill(int((built / "finn" / "pid").read_text()), 0)


class TestSeveralBoards:
    def test_layers_are_shared_out_and_finn_is_told(self, tmp_path, finn):
        from finn.builder.build_dataflow_config import DataflowBuildConfig, MFTopology

        options = {"board": "U250", "max_utilization": 0.5, "until": "bitfile"}
        one = build(_MODEL, tmp_path / "one", **options)
        two = build(_MODEL, tmp_path / "two", **options, num_fpgas=2)
        assert "devices" not in one
        devices = two["devices"]["layers"]
        assert list(devices) == [layer["name"] for layer in two["layers"]]
        assert set(devices.values()) == {0, 1}
        for device, resources in enumerate(two["devices"]["resources"]):
            for name in ("LUT", "DSP"):
                on_it = [layer["resources"][name] or 0 for layer in two["layers"] if devices[layer["name"]] == device]
                assert resources[name] == pytest.approx(sum(on_it))
                assert resources[name] <= 0.5 * two["board_resources"][name]
        lut = two["estimated"]["resources"]["LUT"]
        assert two["estimated"]["utilization"]["LUT"] == pytest.approx(lut / two["board_resources"]["LUT"] / 2)
        config = DataflowBuildConfig.construct_from(tmp_path / "two" / "finn" / "build.yaml").partitioning_configuration
        assert (config.num_fpgas, config.topology, config.single_stream_network) == (2, MFTopology.CHAIN, True)
        assert config.custom_partitioning_constraints == devices

    def test_one_stream_alone_goes_from_board_to_board(self, tmp_path):
        result = build(_MODEL, tmp_path / "hw", board="U250", target_fps=5000, num_fpgas=3)
        devices = result["devices"]["layers"]
        graph = onnx.load(str(tmp_path / "hw" / "dataflow.onnx")).graph
        producers = {name: node.name for node in graph.node for name in node.output}
        crossing = {
            (devices[producers[name]], devices[node.name], name)
            for node in graph.node
            for name in node.input
            if name in producers and devices[producers[name]] != devices[node.name]
        }
        assert sorted((source, reader) for source, reader, _ in crossing) == [(0, 1), (1, 2)]

    def test_no_better_cut_exists(self, tmp_path):
        """Held against all pairs of positions at which a cut leaves one stream, found by counting paths anew."""
        result = build(_MODEL, tmp_path / "hw", board="U250", target_fps=5000, num_fpgas=2)
        graph = onnx.load(str(tmp_path / "hw" / "dataflow.onnx")).graph
        layers, room = result["layers"], result["board_resources"]

        def fullest(cut: int) -> float:
            parts = (layers[:cut], layers[cut:])
            return max(
                sum(layer["resources"][name] or 0 for layer in part) / max(room[name], 1)
                for part in parts
                for name in room
            )

        def crossing(cut: int) -> set[str]:
            before = {name for node in graph.node[:cut] for name in node.output}
            return before & {name for node in graph.node[cut:] for name in node.input}

        best = min(fullest(cut) for cut in range(1, len(layers)) if len(crossing(cut)) == 1)
        chosen = [result["devices"]["layers"][layer["name"]] for layer in layers].index(1)
        assert fullest(chosen) == pytest.approx(best)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_fpgas": 0}, "--num-fpgas: got 0, expected at least 1"),
            ({"num_fpgas": 2}, "--num-fpgas: got 2 of ZCU104, FINN links Alveo boards only"),
        ],
    )
    def test_refused(self, tmp_path, changes, message):
        with pytest.raises(UsageError, match=message):
            build(_MODEL, tmp_path / "hw", **changes)

    def test_too_many_boards_is_9(self, tmp_path):
        with pytest.raises(CapacityError, match=r"--num-fpgas: got 99, expected at most \d+"):
            build(_MODEL, tmp_path / "hw", board="U250", target_fps=5000, num_fpgas=99)
