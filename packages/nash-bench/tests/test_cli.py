from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from builders import ACCURACY, Network, change_json, digits_network, write_hardware, write_model
from conftest import Outcome

from nash_bench import cli
from nash_bench.base import manifest
from nash_bench.measure.execute import Reference

Run = Callable[..., Outcome]
COMMON = {"--help"}
OPTIONS = {
    "evaluate": {
        "model", "--dataset", "--out", "--data", "--hardware", "--batch-size", "--threads", "--repeats",
        "--mean", "--std", "--json",
    },
    "import": {"hardware", "files", "--out", "--power-w", "--json"},
    "compare": {"baseline", "candidates", "--baseline-seed", "--json"},
    "report": {"run_dirs", "--out", "--title", "--json"},
    "sweep": {"plan_file", "engine_options", "--out", "--executor", "--jobs", "--dry-run", "--json"},
    "explore": {
        "backbone", "--out", "--board", "--target-fps", "--clock-mhz", "--preset", "--variant", "--dataset", "--data",
        "--num-classes", "--input-size", "--width", "--widths", "--points", "--random", "--seeds", "--search-recipe",
        "--search-epochs", "--qat-recipe", "--epochs", "--rungs", "--hours", "--jobs", "--dry-run", "--json",
    },
    "schema": {"kind", "--json"},
}  # fmt: skip


def test_options_are_frozen() -> None:
    found = {
        name: {option for parameter in command.params for option in parameter.opts} - COMMON
        for name, command in typer.main.get_command(cli.app).commands.items()
    }
    assert found == OPTIONS


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in OPTIONS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = ["numpy", "onnx", "onnxruntime", "qonnx", "matplotlib", "jinja2", "jsonschema", "sklearn", "rich", "yaml"]
    program = (
        "import sys\nfrom nash_bench import cli\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n cli.main()\nexcept SystemExit: pass\n"
        f"print('LOADED', sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")


def test_version_is_the_packages(run_cli: Run) -> None:
    assert run_cli("--version").stdout == "nash-bench 0.1.0\n"


@pytest.mark.parametrize("kind", ["benchmark", "hardware", "model", "sweep"])
def test_schema_is_printed(run_cli: Run, kind: str) -> None:
    outcome = run_cli("schema", kind, "--json")
    assert json.loads(outcome.stdout) == manifest.schema(kind)
    assert json.loads(run_cli("schema", kind).stdout) == manifest.schema(kind)


def test_evaluate_compare_report(run_cli: Run, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    benchmarks = []
    for variant in (None, "v3"):
        name = variant or "baseline"
        model = write_model(runs / name / "qat", name=name, variant=variant, seed=len(name))
        hardware = write_hardware(runs / name / "hw", model)
        out = runs / name / "benchmark.json"
        arguments = ["evaluate", model, "--dataset", "digits", "--hardware", hardware, "--out", out, "--repeats", 2]
        if variant is None:
            text = run_cli(*arguments).stdout
            assert "baseline on digits/test (360 pictures)" in text
            assert "8 of 8 equal to golden; 4 of 4 equal to qonnx" in text
        else:
            assert json.loads(run_cli(*arguments, "--json").stdout)["path"] == str(out)
        benchmarks.append(out)

    text = run_cli("compare", *benchmarks).stdout
    assert "digits/test, 360 samples; U250, estimated" in text
    result = json.loads(run_cli("compare", *benchmarks, "--json").stdout)
    assert result["candidates"][0]["figures"]["LUT"]["delta"] == 0

    outcome = run_cli("report", runs, "--out", tmp_path / "out", "--title", "Digits")
    assert outcome.exit_code == 0
    assert outcome.stderr == ""
    assert outcome.stdout.rstrip().endswith(f"page: {tmp_path / 'out' / 'index.html'}")
    assert "v3 over baseline: top-1" in outcome.stdout
    assert "<title>Digits</title>" in (tmp_path / "out" / "index.html").read_text()
    results = json.loads(run_cli("report", runs, "--out", tmp_path / "out", "--json").stdout)
    assert [row["accuracy_source"] for row in results["rows"]] == ["benchmark", "benchmark"]
    assert all(Path(path).is_file() for path in results["files"])


def assert_one_line(outcome: Outcome, exit_code: int, *parts: str) -> None:
    assert outcome.exit_code == exit_code
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in outcome.stderr
    for part in parts:
        assert part in line


def breaks_manifest(folder: Path, model: Path) -> None:
    model.write_text(model.read_text()[:-20])


def breaks_hash(folder: Path, model: Path) -> None:
    (folder / "golden.npz").write_bytes(b"")


def changes_classes(folder: Path, model: Path) -> None:
    write_model(folder, network=digits_network(num_classes=4), num_classes=4)


def uses_unknown_operator(folder: Path, model: Path) -> None:
    net = Network((1, 1, 8, 8))
    write_model(folder)
    onnx.save(net.model(net.node("Mystery", "x"), 10), folder / "model.onnx")
    content = json.loads(model.read_text())
    change_json(model, onnx=content["onnx"] | {"sha256": manifest.file_sha256(folder / "model.onnx")})


@pytest.mark.parametrize(
    ("break_it", "exit_code", "part"),
    [
        (breaks_manifest, 3, "model.json: not valid JSON"),
        (breaks_hash, 4, "golden.npz: sha256: got"),
        (changes_classes, 5, "num_classes: got 4"),
        (uses_unknown_operator, 6, "model.json: onnxruntime refuses the network"),
    ],
)
def test_error_kind_has_its_exit_code(
    run_cli: Run, tmp_path: Path, break_it: Callable[[Path, Path], None], exit_code: int, part: str
) -> None:
    model = write_model(tmp_path / "model")
    break_it(model.parent, model)
    out = tmp_path / "out" / "benchmark.json"
    outcome = run_cli("evaluate", model, "--dataset", "digits", "--out", out)
    assert_one_line(outcome, exit_code, part)
    assert outcome.stdout == ""
    assert not out.parent.exists()


def test_verification_error_exits_7(run_cli: Run, shared_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Reference, "__call__", lambda self, pixels: np.zeros((len(pixels), 10), dtype=np.float32))
    outcome = run_cli("evaluate", shared_model, "--dataset", "digits", "--out", tmp_path / "b.json")
    assert_one_line(outcome, 7, "model.json: onnxruntime: got logits")
    assert not (tmp_path / "b.json").exists()


def test_output_error_exits_10(run_cli: Run, shared_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["evaluate", shared_model, "--dataset", "digits", "--repeats", 1]
    assert_one_line(run_cli(*arguments, "--out", tmp_path / "file" / "b.json"), 10, "cannot be written")


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "MODEL", "--dataset", "mnist", "--out", "OUT"],
        ["evaluate", "MODEL", "--dataset", "cifar10", "--out", "OUT"],
        ["report", "nowhere", "--out", "OUT"],
        ["schema", "genotype"],
    ],
)
def test_wrong_arguments_exit_2(run_cli: Run, shared_model: Path, tmp_path: Path, arguments: list[str]) -> None:
    places = {"MODEL": shared_model, "OUT": tmp_path / "out"}
    assert_one_line(run_cli(*(places.get(argument, argument) for argument in arguments)), 2)


@pytest.mark.parametrize("arguments", [["evaluate"], ["compare", "a.json"], ["sweep"], ["report", ".", "--unknown"]])
def test_typer_refuses_with_2(run_cli: Run, arguments: list[str]) -> None:
    assert run_cli(*arguments).exit_code == 2


def test_mismatch_exits_5(run_cli: Run, tmp_path: Path) -> None:
    paths = [
        write_model(tmp_path / split, has_files=False, accuracy=ACCURACY | {"split": split})
        for split in ("test", "val")
    ]
    assert_one_line(run_cli("compare", *paths), 5, "accuracy.split: got 'val', expected 'test'")


def test_error_with_json_is_one_object(run_cli: Run, tmp_path: Path) -> None:
    outcome = run_cli("compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    error: dict[str, Any] = json.loads(outcome.stdout)["error"]
    assert (error["kind"], error["exit_code"], outcome.exit_code) == ("manifest", 3, 3)


@pytest.mark.parametrize("as_json", [False, True])
def test_broken_manifest_ends_the_report_with_its_code(
    run_cli: Run, run_folder: Path, tmp_path: Path, as_json: bool
) -> None:
    (run_folder / "resnet18-w2a2" / "qat" / "model.json").write_text("{")
    outcome = run_cli("report", run_folder, "--out", tmp_path / "out", *(["--json"] if as_json else []))
    assert outcome.exit_code == 3
    assert "resnet18-w2a2/qat/model.json: not valid JSON" in outcome.stderr
    assert "warning: " in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert (tmp_path / "out" / "index.html").is_file()
    if as_json:
        assert len(json.loads(outcome.stdout)["rows"]) == 3
    else:
        assert "resnet18-v3-w2a2" in outcome.stdout


def test_interrupt_leaves_nothing_half_written(shared_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "benchmark.json"
    arguments = ["evaluate", shared_model, "--dataset", "digits", "--out", out, "--repeats", 100_000]
    program = (
        "from nash_bench import cli\nfrom nash_bench.measure import evaluate\n"
        "measure = evaluate.measure_throughput\n"
        "def announced(*arguments, **options):\n"
        "    print('measuring', flush=True)\n"
        "    return measure(*arguments, **options)\n"
        "evaluate.measure_throughput = announced\n"
        "cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "measuring\n"
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "error: stopped by SIGTERM"
    assert "Traceback" not in stderr
    assert not out.exists()
