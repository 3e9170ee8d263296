from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import networks
import pytest
import typer
from conftest import TINY_RECIPE

from nash_qat import cli
from nash_qat.base import manifest
from nash_qat.data import pictures
from nash_qat.export import execute

OPTIONS = {
    "train": {
        "genotype",
        "--out",
        "--dataset",
        "--data",
        "--preset",
        "--quantization",
        "--weight-scale",
        "--join",
        "--join-shift",
        "--recipe",
        "--epochs",
        "--float-epochs",
        "--distill",
        "--teacher",
        "--teacher-genotype",
        "--init-weights",
        "--init-mean",
        "--init-std",
        "--bfloat16",
        "--compile",
        "--val-fraction",
        "--skip-broken",
        "--device",
        "--tensorboard",
        "--qcdq",
        "--seed",
        "--resume",
        "--json",
    },
    "export": {
        "source",
        "--out",
        "--preset",
        "--quantization",
        "--weight-scale",
        "--join",
        "--join-shift",
        "--seed",
        "--best",
        "--qcdq",
        "--json",
    },
    "evaluate": {"model", "--dataset", "--data", "--confusion", "--skip-broken", "--json"},
    "sensitivity": {
        "run",
        "--out",
        "--dataset",
        "--data",
        "--bits",
        "--pictures",
        "--skip-broken",
        "--device",
        "--seed",
        "--resume",
        "--json",
    },
    "assign": {"sensitivity", "bitcosts", "--out", "--budget", "--json"},
    "schema": {"kind", "--json"},
}
Run = Callable[..., object]


def test_options_are_frozen() -> None:
    group = typer.main.get_command(cli.app)
    found = {
        name: {option for parameter in command.params for option in parameter.opts} - {"--help"}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    assert found == OPTIONS


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib\n"
        "from nash_qat import cli\n"
        "sys.argv = ['nash-qat', 'train', '--help']\n"
        "with contextlib.suppress(SystemExit): cli.main()\n"
        "assert not {'torch', 'numpy', 'brevitas', 'onnx', 'jsonschema'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--preset" in done.stdout


def test_version(run: Run) -> None:
    outcome = run("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("nash-qat 0.")


def test_schema_is_printed(run: Run) -> None:
    assert run("schema").json == manifest.schema("model")
    assert run("schema", "genotype", "--json").json == manifest.schema("genotype")
    assert run("schema", "hardware").code == 2


def test_export_and_evaluate(run: Run, nash_path: Path, tmp_path: Path) -> None:
    exported = run("export", nash_path, "--preset", "w2a2", "--out", tmp_path / "m", "--json")
    assert exported.code == 0
    assert exported.err == ""
    assert exported.json["model"] == str(tmp_path / "m" / "model.json")
    evaluated = run("evaluate", tmp_path / "m" / "model.json", "--json")
    assert evaluated.json["accuracy"]["num_samples"] == 360
    text = run("evaluate", tmp_path / "m" / "model.json")
    assert "top1" in text.out


def test_train_export_and_resume(run: Run, nash_path: Path, tmp_path: Path, recipe_path: Path) -> None:
    common = ("--recipe", recipe_path, "--epochs", 1, "--out", tmp_path / "run")
    trained = run("train", nash_path, *common, "--json")
    assert trained.code == 0, trained.err
    assert "epoch 1/1 quantized" in trained.err
    assert trained.json["accuracy"]["dataset"] == "digits"
    model = manifest.load(tmp_path / "run" / "model.json", "model")
    assert model["training"]["epochs"] == 1
    again = run("export", tmp_path / "run", "--out", tmp_path / "copy", "--json")
    assert again.code == 0
    copied = manifest.load(tmp_path / "copy" / "model.json", "model")
    assert copied["onnx"]["sha256"] == model["onnx"]["sha256"]
    assert copied["accuracy"] == model["accuracy"]
    assert run("export", nash_path, "--best", "--out", tmp_path / "x").code == 2
    best = run("export", tmp_path / "run", "--best", "--out", tmp_path / "best", "--json")
    assert best.code == 0
    (epoch,) = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert epoch["split"] == "validation"
    chosen = manifest.load(tmp_path / "best" / "model.json", "model")
    assert chosen["training"]["selection"] == {
        "rule": "best", "split": "validation", "epoch": 1, "top1": epoch["top1"],
    }  # fmt: skip
    assert chosen["onnx"]["sha256"] == model["onnx"]["sha256"]  # of one epoch the best is the last
    evaluated = run("evaluate", tmp_path / "best" / "model.json", "--json")
    assert best.json["accuracy"] == evaluated.json["accuracy"]
    assert run("train", nash_path, *common).code == 10
    assert run("train", nash_path, *common, "--resume").code == 0
    refused = run("train", nash_path, *common, "--resume", "--seed", 3)
    assert refused.code == 2
    assert "seed: got 3, expected 0" in refused.err
    assert run("export", tmp_path / "run", "--out", tmp_path / "x", "--preset", "w4a4").code == 2


def test_own_bits(run: Run, nash_path: Path, tmp_path: Path) -> None:
    bits = tmp_path / "bits.json"
    own = {"weight_bits": 3, "nas_weight_bits": 2, "act_bits": 5, "state_bits": 6, "overrides": {"stem": 2}}
    bits.write_text(json.dumps(own))
    assert run("export", nash_path, "--quantization", bits, "--out", tmp_path / "m").code == 0
    model = manifest.load(tmp_path / "m" / "model.json", "model")
    assert model["quantization"]["state_bits"] == 6
    assert model["quantization"]["overrides"] == {"stem": 2}
    assert model["name"] == "nash-custom"
    scaled = run("export", nash_path, "--preset", "w2a2", "--weight-scale", "learned", "--out", tmp_path / "s")
    assert scaled.code == 0
    assert manifest.load(tmp_path / "s" / "model.json", "model")["quantization"]["weight_scale"] == "learned"
    joined = ("--join", "aligned", "--join-shift", 3)
    assert run("export", nash_path, *joined, "--out", tmp_path / "j").code == 0
    model = manifest.load(tmp_path / "j" / "model.json", "model")
    assert (model["quantization"]["join"], model["quantization"]["join_shift"]) == ("aligned", 3)
    assert model["name"] == "nash-w4a4-shift3"
    both = run("export", nash_path, "--quantization", bits, "--preset", "w4a4", "--out", tmp_path / "m")
    assert both.code == 2
    bits.write_text(json.dumps({"weight_bits": 3, "nas_weight_bits": 2, "act_bits": 12, "state_bits": 6}))
    wrong = run("export", nash_path, "--quantization", bits, "--out", tmp_path / "m")
    assert wrong.code == 3
    assert "quantization.act_bits: got 12, expected 1..8" in wrong.err


def _one_line(outcome: object, code: int, *parts: str) -> None:
    assert outcome.code == code, outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


def test_usage_errors(run: Run, nash_path: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "m")
    _one_line(run("export", nash_path, "--preset", "w99", *out), 2, "--preset")
    _one_line(run("export", nash_path, "--weight-scale", "max", *out), 2, '--weight-scale: got "max"')
    _one_line(run("export", nash_path, "--join", "fuzed", *out), 2, '--join: got "fuzed", expected quantized or al')
    _one_line(run("train", nash_path, "--recipe", "papr", *out), 2, "did you mean 'paper'")
    _one_line(run("train", nash_path, "--dataset", "mnist", *out), 2, "--dataset")
    assert run("train", nash_path).code == 2  # --out is missing
    assert not (tmp_path / "m").exists()


def test_manifest_errors(run: Run, nash_path: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "m")
    _one_line(run("export", tmp_path / "none.json", *out), 3, "cannot be read")
    tree = json.loads(nash_path.read_text())
    tree["cells"][1]["layers"][0]["nas_op"]["input"] = 3
    nash_path.write_text(json.dumps(tree))
    _one_line(run("export", nash_path, *out), 3, "cells[1].layers[0].nas_op.input: got 3")
    nash_path.write_text("{")
    _one_line(run("train", nash_path, *out), 3, "not valid JSON")
    assert not (tmp_path / "m").exists()


def test_integrity_errors(run: Run, nash_path: Path, tmp_path: Path) -> None:
    assert run("export", nash_path, "--out", tmp_path / "m").code == 0
    model_path, onnx_path = tmp_path / "m" / "model.json", tmp_path / "m" / "model.onnx"
    tree = json.loads(model_path.read_text())
    onnx_path.write_bytes(onnx_path.read_bytes()[:1000])
    _one_line(run("evaluate", model_path), 4, "sha256")
    tree["onnx"]["sha256"] = manifest.file_sha256(onnx_path)
    model_path.write_text(json.dumps(tree))
    _one_line(run("evaluate", model_path), 4, "not a readable QONNX file")
    tree["onnx"]["path"] = "../elsewhere.onnx"
    model_path.write_text(json.dumps(tree))
    _one_line(run("evaluate", model_path), 4, "leaves the manifest's folder")
    (tmp_path / "empty").mkdir()
    _one_line(run("export", tmp_path / "empty", "--out", tmp_path / "x"), 4, "no such checkpoint")


def test_data_errors(run: Run, tmp_path: Path) -> None:
    path = networks.written({**networks.NASH, "num_classes": 7}, tmp_path)
    outcome = run("train", path, "--out", tmp_path / "m", "--json")
    _one_line(outcome, 5, "got 10 classes, expected 7")
    assert outcome.json["error"]["exit_code"] == 5
    missing = run("train", path, "--dataset", "imagefolder", "--data", tmp_path / "none", "--out", tmp_path / "m")
    _one_line(missing, 5, "train")
    assert not (tmp_path / "m").exists()


def test_verification_error(run: Run, nash_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nash_qat.export import exact

    right = exact.execute
    monkeypatch.setattr(exact, "execute", lambda path, pictures: right(path, pictures) * 1.01)
    _one_line(run("export", nash_path, "--out", tmp_path / "m"), 7, "model.onnx")
    assert not (tmp_path / "m" / "model.json").exists()


def test_output_error(run: Run, nash_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _one_line(run("export", nash_path, "--out", tmp_path / "file"), 10, "--out")


def test_diverged_error(run: Run, nash_path: Path, tmp_path: Path) -> None:
    wild = {**TINY_RECIPE, "learning_rate": 1e30, "gradient_clip": None, "float_fraction": 0.0}
    (tmp_path / "wild.json").write_text(json.dumps(wild))
    outcome = run("train", nash_path, "--recipe", tmp_path / "wild.json", "--out", tmp_path / "m")
    _one_line(outcome, 11, "loss: got", "epoch 1")


def test_signal_saves_and_resume_finishes(run: Run, nash_path: Path, tmp_path: Path) -> None:
    (tmp_path / "long.json").write_text(json.dumps({**TINY_RECIPE, "epochs": 500}))
    arguments = ["train", str(nash_path), "--recipe", str(tmp_path / "long.json"), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", "from nash_qat.cli import main; main()", *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        history = tmp_path / "run" / "history.jsonl"
        deadline = time.monotonic() + 600  # reached only where nothing runs
        while not (history.exists() and history.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "stopped by SIGTERM" in err.splitlines()[-1]
    assert "--resume" in err.splitlines()[-1]
    assert not (tmp_path / "run" / "model.json").exists()
    assert [entry.name for entry in (tmp_path / "run").iterdir() if entry.name.startswith(".")] == []


def test_evaluation_runs_in_batches(run: Run, nash_path: Path, tmp_path: Path) -> None:
    run("export", nash_path, "--out", tmp_path / "m")
    path = tmp_path / "m" / "model.onnx"
    split = pictures.load("digits", "test", (1, 8, 8), 10, None)
    one, many = execute.Runner(path), execute.Runner(path, batch_size=7)
    ranked = [runner(split.images[:20]).argmax(axis=1).tolist() for runner in (one, many)]
    assert ranked[0] == ranked[1]
