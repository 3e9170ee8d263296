from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import DATA
from onnx import helper, numpy_helper

from nash_hw import cli
from nash_hw.base import manifest
from nash_hw.base.errors import Interrupted

BOARD = ("--board", "ZCU104")


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command line in this process: (exit code, stdout, stderr)."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    show = warnings.showwarning

    def run(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["nash-hw", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    yield run
    warnings.showwarning = show
    for number, handler in handlers.items():
        signal.signal(number, handler)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rehash(model_json: Path, key: str) -> None:
    """Let the manifest name the file as it is now."""

    def change(content):
        content[key]["sha256"] = manifest.file_sha256(model_json.parent / content[key]["path"])

    edit(model_json, change)


@contextmanager
def edited_onnx(model_json: Path):
    """Yield the graph of a model to change, and let the manifest name what it becomes."""
    path = model_json.parent / "model.onnx"
    model = onnx.load(str(path))
    yield model.graph
    onnx.save(model, str(path))
    rehash(model_json, "onnx")


def refuses(run, code: int, message: str, *arguments: object) -> None:
    """Assert that a command fails with one line, and leaves nothing behind."""
    out = Path(arguments[-1])
    before = sorted(path.name for path in out.parent.iterdir()) if out.parent.is_dir() else None
    got, stdout, stderr = run(*arguments)
    errors = [line for line in stderr.splitlines() if not line.startswith("[")]
    assert (got, stdout) == (code, "")
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert re.search(message, errors[0])
    if before is not None:
        assert sorted(path.name for path in out.parent.iterdir()) == before


def test_build_prints_a_summary(run, model_json, tmp_path):
    code, stdout, _ = run("build", model_json, *BOARD, "--target-fps", 1000, "--out", tmp_path / "hw")
    assert code == 0
    assert "every-operation-v3 on ZCU104 at 200 MHz" in stdout
    assert re.search(r"FF +[\d,]+ +\d+\.\d% +0 of \d+", stdout)
    assert (tmp_path / "hw" / "hardware.json").exists()


def test_build_json_is_the_manifest(run, model_json, tmp_path):
    code, stdout, _ = run("build", model_json, *BOARD, "--out", tmp_path / "hw", "--json")
    assert code == 0
    result = json.loads(stdout)
    assert result == json.loads((tmp_path / "hw" / "hardware.json").read_text())
    assert result["target"] == {
        "target_fps": None,
        "max_utilization": 0.7,
        "price": {"LUT": 2, "FF": 1, "BRAM_18K": 1, "URAM": 1, "DSP": 1},
        "limit": 0.7,
        "gap": result["target"]["gap"],
        "price_gap": result["target"]["price_gap"],
        "depth_price": result["target"]["depth_price"],
    }  # the default


def test_boards(run, tmp_path, finn):
    from nash_hw.boards.board import DEFAULT_PRICE
    from nash_hw.boards.boards import find_board

    code, stdout, _ = run("boards", "--json")
    assert code == 0
    boards = {board["name"]: board for board in json.loads(stdout)["boards"]}
    assert boards["U250"]["resources"]["DSP"] == 11_520
    for row in boards.values():
        path = tmp_path / "board.json"
        path.write_text(json.dumps(row))
        assert dataclasses.asdict(find_board(str(path))) == row | {"price": DEFAULT_PRICE}
    code, stdout, _ = run("boards")
    assert re.search(r"U250 +xcu250-figd2104-2L-e +4 +1,500,000", stdout)


@pytest.mark.parametrize("kind", ["hardware", "costs", "bitcosts", "model", "space", "board"])
def test_schema(run, kind):
    code, stdout, _ = run("schema", kind)
    assert (code, json.loads(stdout)) == (0, manifest.schema(kind))


def write_space(path: Path) -> Path:
    shape = {"in_channels": 4, "out_channels": 8, "stride": 2, "input_height": 6, "input_width": 6}
    candidates = [{"cell": 0, "layer": 1, "input": 0, "op": op} | shape for op in ("skip_connect", "conv_3x3")]
    content = {"schema": "nash.space/1.0", "inputs": [], "name": "tiny-v3", "candidates": candidates}
    path.write_text(json.dumps(content))
    return path


COSTS = ("--weight-bits", 4, "--act-bits", 2, "--clock-mhz", 100)


def test_costs_prices_a_space(run, tmp_path):
    arguments = ("costs", write_space(tmp_path / "space.json"), *BOARD, *COSTS, "--target-fps", 1000)
    code, stdout, _ = run(*arguments, "--out", tmp_path / "costs.json")
    assert code == 0
    assert re.search(r"conv_3x3 +1 +[\d.,]+ +[\d.,]+ ", stdout)
    code, stdout, _ = run(*arguments, "--out", tmp_path / "again.json", "--json")
    result = json.loads(stdout)
    assert result == json.loads((tmp_path / "costs.json").read_text())
    assert [result[key] for key in ("board", "clock_mhz", "weight_bits", "act_bits")] == ["ZCU104", 100, 4, 2]


def test_error_in_json(run, model_json, tmp_path):
    code, stdout, stderr = run("build", model_json, "--board", "U251", "--out", tmp_path / "hw", "--json")
    error = json.loads(stdout)["error"]
    assert (code, error["kind"], error["exit_code"]) == (2, "usage", 2)
    assert "did you mean U250" in error["message"]
    assert "did you mean U250" in stderr


class TestErrors:
    def test_unknown_board_is_2(self, run, model_json, tmp_path):
        refuses(run, 2, "did you mean ZCU104", "build", model_json, "--board", "ZCU14", "--out", tmp_path / "hw")

    def test_both_targets_is_2(self, run, model_json, tmp_path):
        targets = ("--target-fps", 10, "--max-utilization", 0.5)
        refuses(run, 2, "got both, expected one", "build", model_json, *BOARD, *targets, "--out", tmp_path / "hw")

    def test_bits_out_of_range_are_2(self, run, tmp_path):
        space = write_space(tmp_path / "space.json")
        bits = ("--weight-bits", 9, "--act-bits", 0, "--target-fps", 10)
        message = "--weight-bits: got 9, expected 1..8; --act-bits: got 0"
        refuses(run, 2, message, "costs", space, *BOARD, *bits, "--out", tmp_path / "costs.json")

    def test_candidate_out_of_reach_is_9(self, run, tmp_path):
        arguments = ("costs", write_space(tmp_path / "space.json"), *BOARD, *COSTS, "--target-fps", 1e7)
        refuses(run, 9, r"candidates\[0\] .*op skip_connect", *arguments, "--out", tmp_path / "costs.json")

    def test_space_of_another_kind_is_3(self, run, model_json, tmp_path):
        arguments = ("costs", model_json, *BOARD, *COSTS, "--target-fps", 10)
        refuses(run, 2, "are for a space.json", *arguments, "--out", tmp_path / "costs.json")
        hardware = tmp_path / "hardware.json"
        hardware.write_text('{"schema": "nash.hardware/1.0"}')
        arguments = ("costs", hardware, *BOARD, *COSTS, "--target-fps", 10)
        refuses(run, 3, "expected a space manifest", *arguments, "--out", tmp_path / "costs.json")

    def test_bits_of_a_model_that_does_not_say_its_own_are_3(self, run, model_json, tmp_path):
        arguments = ("costs", model_json, *BOARD, "--bits", 2, 4, "--target-fps", 10, "--out", tmp_path / "costs.json")
        refuses(run, 3, "misses the key 'resolved'", *arguments)
        wrong = ("costs", model_json, *BOARD, "--target-fps", 10, "--bits", 2, 9, "--out", tmp_path / "costs.json")
        refuses(run, 2, "--bits: got 9, expected 1..8", *wrong)

    def test_unknown_schema_is_2(self, run, tmp_path):
        code, _, stderr = run("schema", "genotype")
        assert (code, stderr) == (
            2,
            "error: KIND: got 'genotype', expected hardware, costs, bitcosts, model, space or board\n",
        )

    def test_malformed_json_is_3(self, run, model_json, tmp_path):
        model_json.write_text('{"schema": ')
        refuses(run, 3, "not valid JSON at line 1", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_missing_key_is_3(self, run, model_json, tmp_path):
        edit(model_json, lambda content: content.pop("golden"))
        refuses(run, 3, "misses the key 'golden'", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_unknown_major_version_is_3(self, run, model_json, tmp_path):
        edit(model_json, lambda content: content.update(schema="nash.model/2.0"))
        refuses(run, 3, r"got version 2\.0, expected 1\.x", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_newer_minor_version_is_read(self, run, model_json, tmp_path):
        edit(model_json, lambda content: content.update(schema="nash.model/1.9", extra={"kept": True}))
        code, _, stderr = run("build", model_json, *BOARD, "--out", tmp_path / "hw")
        assert code == 0
        assert "warning: " in stderr

    def test_wrong_hash_is_4(self, run, model_json, tmp_path):
        with (model_json.parent / "model.onnx").open("ab") as file:
            file.write(b"\0")
        refuses(run, 4, "it has changed since", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_path_that_leaves_its_folder_is_4(self, run, model_json, tmp_path):
        edit(model_json, lambda content: content["onnx"].update(path="../model/model.onnx/../../../etc/passwd"))
        refuses(run, 4, "leaves the manifest's folder", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_missing_file_is_4(self, run, model_json, tmp_path):
        (model_json.parent / "golden.npz").unlink()
        refuses(run, 4, "cannot be read", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    @pytest.mark.parametrize("kept", [0, 1, 1000, 40_000])
    def test_truncated_onnx_is_4(self, run, model_json, tmp_path, kept):
        path = model_json.parent / "model.onnx"
        path.write_bytes(path.read_bytes()[:kept])
        rehash(model_json, "onnx")
        refuses(run, 4, r"model\.onnx: .*export the model anew", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_operation_without_hardware_is_6(self, run, model_json, tmp_path):
        with edited_onnx(model_json) as graph:
            next(node for node in graph.node if node.op_type == "Relu").op_type = "Sigmoid"
        refuses(run, 6, "Sigmoid 'stem_act.*no such operation", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_join_of_two_scales_is_6(self, run, model_json, tmp_path):
        with edited_onnx(model_json) as graph:
            quantizers = {node.output[0]: node for node in graph.node if node.op_type == "Quant"}
            join = next(node for node in graph.node if node.op_type == "Add" and node.input[1] in quantizers)
            graph.initializer.append(numpy_helper.from_array(np.float32(0.3), "another_scale"))
            quantizers[join.input[1]].input[1] = "another_scale"
        message = r"Add 'cells\.0/layers\.\d/join': .*scales [\d.]+ and 0\.3; let the inputs .* share one quantizer"
        refuses(run, 6, message, "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_padded_pool_of_signed_values_is_6(self, run, model_json, tmp_path):
        with edited_onnx(model_json) as graph:
            position, pool = next((i, node) for i, node in enumerate(graph.node) if node.op_type == "MaxPool")
            for name, value in (("one", 1.0), ("step", 0.05), ("zero", 0.0), ("eight", 8.0)):
                graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
            minus = helper.make_node("Sub", [pool.input[0], "one"], ["below"])
            signed = helper.make_node(
                "Quant", ["below", "step", "zero", "eight"], ["signed"], domain="qonnx.custom_op.general", signed=1
            )
            pool.input[0] = "signed"
            graph.node.insert(position, signed)
            graph.node.insert(position, minus)
        message = r"MaxPool 'cells\.\d/layers\.\d/nas_op/pool': pads a signed tensor.*pool an unsigned one"
        refuses(run, 6, message, "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_other_logits_is_7(self, run, model_json, tmp_path):
        path = model_json.parent / "golden.npz"
        with np.load(path) as arrays:
            pictures, logits = arrays["input"], arrays["output"]
        np.savez(path, input=pictures, output=logits[:, ::-1])
        rehash(model_json, "golden")
        refuses(run, 7, "stage 'streamlined': logits differ", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_missing_finn_is_8(self, run, model_json, tmp_path, monkeypatch):
        find = metadata.version

        def version(name):
            if name == "finn-plus":
                raise metadata.PackageNotFoundError(name)
            return find(name)

        monkeypatch.setattr("nash_hw.finn.finn_env.metadata.version", version)
        refuses(run, 8, "finn-plus: not installed", "build", model_json, *BOARD, "--out", tmp_path / "hw")

    def test_broken_board_file_is_3(self, run, model_json, tmp_path):
        (tmp_path / "mine.json").write_text('{"name": "mine"}')
        arguments = ("build", model_json, "--board", tmp_path / "mine.json", "--out", tmp_path / "hw")
        refuses(run, 3, r"mine\.json: fpga_part: got nothing, expected it to be there", *arguments)

    def test_too_small_a_board_is_9(self, run, model_json, tmp_path):
        resources = {"LUT": 900, "FF": 9000, "BRAM_18K": 9, "URAM": 0, "DSP": 9}
        board = {"name": "mine", "fpga_part": "xc7z020clg400-1", "resources": resources}
        (tmp_path / "mine.json").write_text(json.dumps(board))
        arguments = ("build", model_json, "--board", tmp_path / "mine.json", "--out", tmp_path / "hw")
        refuses(run, 9, r"--board mine: too small.* [\d,]+ LUT of .*choose a larger --board", *arguments)

    def test_unreachable_rate_is_9(self, run, model_json, tmp_path):
        arguments = ("build", model_json, *BOARD, "--target-fps", "1e9", "--out", tmp_path / "hw")
        refuses(run, 9, r"--target-fps: got 1e\+09, expected at most [\d,.]+ at 200 MHz", *arguments)

    def test_out_that_is_a_file_is_10(self, run, model_json, tmp_path):
        (tmp_path / "hw").write_text("mine")
        refuses(run, 10, "is a file, expected a folder", "build", model_json, *BOARD, "--out", tmp_path / "hw")
        assert (tmp_path / "hw").read_text() == "mine"

    def test_out_below_a_file_is_10(self, run, model_json, tmp_path):
        (tmp_path / "file").write_text("mine")
        refuses(run, 10, "cannot be written", "build", model_json, *BOARD, "--out", tmp_path / "file" / "hw")

    def test_interruption_is_130(self, run, model_json, tmp_path, monkeypatch):
        def interrupt(*_, **__):
            raise Interrupted("stopped by SIGINT")

        monkeypatch.setattr("nash_hw.graph.streamline.streamline", interrupt)
        refuses(run, 130, "stopped by SIGINT", "build", model_json, *BOARD, "--out", tmp_path / "hw")


def test_options_are_frozen():
    """A change here is a change of the interface: it belongs in the CHANGELOG."""
    import typer.main

    group = typer.main.get_command(cli.app)
    options = {
        name: sorted(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
        for name, command in group.commands.items()
    }
    assert options == {
        "build": [
            "--board",
            "--clock-mhz",
            "--json",
            "--max-utilization",
            "--num-fpgas",
            "--out",
            "--price",
            "--resume",
            "--target-fps",
            "--until",
            "model",
        ],
        "boards": ["--json"],
        "costs": [
            "--act-bits",
            "--bits",
            "--board",
            "--clock-mhz",
            "--joins",
            "--json",
            "--out",
            "--target-fps",
            "--weight-bits",
            "--widths",
            "source",
        ],
        "collect": ["--json", "out"],
        "import": ["--golden", "--input-scale", "--json", "--layout", "--name", "--out", "model"],
        "schema": ["--json", "kind"],
        "simulate": [
            "--cache",
            "--frames",
            "--golden",
            "--jobs",
            "--json",
            "--no-size-fifos",
            "--out",
            "--size-fifos",
            "--trace",
            "--trials",
            "hw_dir",
        ],
    }


@pytest.mark.parametrize(
    "arguments", [("--help",), *((name, "--help") for name in ("build", "boards", "costs", "schema"))]
)
def test_help_imports_nothing_heavy(arguments):
    script = (
        "import sys\nfrom nash_hw import cli\nsys.argv = ['nash-hw', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nfinally:\n"
        "    heavy = {'torch', 'numpy', 'onnx', 'qonnx', 'finn', 'jsonschema', 'rich'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


def test_installed_program_reports_its_version():
    program = Path(sys.executable).with_name("nash-hw")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"nash-hw {metadata.version('nash-hw')}"


def test_shipped_data_is_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < 200_000
