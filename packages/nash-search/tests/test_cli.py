from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from conftest import Outcome, run_command

from nash_search.base import manifest
from nash_search.cli import app
from nash_search.genotype import genotype, zoo

pytestmark = pytest.mark.usefixtures("handlers_as_before")


def _run(*arguments: str | Path, code: int = 0) -> Outcome:
    """Run the command line and hold its exit code against the expected one."""
    outcome = run_command(*arguments)
    assert outcome.code == code, outcome.stderr
    return outcome


NOT_OF_PARETO = ("--sweep-cost", "--finish", "--finish-epochs", "--finish-random", "--json")


def test_options_are_frozen() -> None:
    import typer

    commands = typer.main.get_command(app).commands
    found = {
        name: [option for parameter in command.params for option in parameter.opts if option != "--help"]
        for name, command in commands.items()
    }
    run = [
        *("--backbone", "--variant", "--out", "--dataset", "--data", "--preset", "--recipe", "--epochs"),
        *(
            "--num-images",
            "--val-fraction",
            "--width",
            "--input-size",
            "--relaxation",
            "--gradient",
            "--primitives",
            "--costs",
            "--cost-weight",
        ),
        *("--cost-resource", "--budget", "--total-budget", "--sweep-cost", "--init-weights"),
        *("--discard-below", "--discard-after", "--finish", "--finish-epochs", "--finish-random"),
        *("--seed", "--threads", "--precision", "--device", "--resume", "--tensorboard", "--json"),
    ]
    assert found == {
        "run": run,
        "pareto": [name for name in run if name not in NOT_OF_PARETO] + ["--along", "--points", "--json"],
        "zoo": ["name", "--width", "--input-size", "--num-classes", "--channels", "--out", "--json"],
        "show": ["path", "--svg", "--heatmap", "--json"],
        "space": [
            *("--backbone", "--variant", "--out", "--width", "--input-size", "--num-classes", "--primitives", "--json"),
        ],
        "random": ["--like", "--costs", "--out", "--cost-resource", "--seed", "--json"],
        "export": ["path", "--out", "--seed", "--json"],
        "import": [
            *("source", "--out", "--weights", "--state", "--input-size", "--mean", "--std", "--dataset", "--data"),
            *("--seed", "--json"),
        ],
        "schema": ["kind", "--json"],
    }


@pytest.mark.parametrize(
    "command", [[], ["run"], ["pareto"], ["zoo"], ["show"], ["space"], ["random"], ["export"], ["import"], ["schema"]]
)
def test_help_answers_without_heavy_imports(command: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        "heavy = ['torch', 'numpy', 'onnx', 'sklearn', 'jsonschema', 'safetensors', 'PIL']\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['nash-search', *{command!r}, '--help']\n"
        "from nash_search.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("Usage:")


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert _run("--version").stdout.strip() == f"nash-search {version('nash-search')}"


def test_zoo_lists_and_writes(tmp_path: Path) -> None:
    assert "resnet34-v3" in _run("zoo").stdout
    listed = json.loads(_run("zoo", "--json").stdout)["zoo"]
    assert len(listed) == 16
    assert listed[-1] == {
        "name": "mobilenetv1",
        "backbone": "mobilenetv1",
        "variant": None,
        "num_layers": 26,
        "width": 32,
    }
    out = tmp_path / "new" / "g.json"
    written = json.loads(_run("zoo", "resnet18-v3", "--width", "8", "--out", out, "--json").stdout)
    assert written == {"genotype": str(out), "name": "resnet18-v3"}
    assert genotype.load(out) == zoo.build("resnet18-v3", width=8)


def test_zoo_prints_the_manifest_without_out(tmp_path: Path) -> None:
    for arguments in (["zoo", "resnet8"], ["zoo", "resnet8", "--json"]):
        (tmp_path / "g.json").write_text(_run(*arguments).stdout)
        assert genotype.load(tmp_path / "g.json") == zoo.build("resnet8")


def test_show_prints_and_draws(tmp_path: Path) -> None:
    genotype.save(zoo.build("resnet18-v1", width=8), tmp_path / "g.json")
    shown = _run("show", tmp_path / "g.json", "--svg", tmp_path / "g.svg")
    assert "max_pool_3x3 of state 0" in shown.stdout
    assert (tmp_path / "g.svg").read_text().startswith("<svg")
    result = json.loads(_run("show", tmp_path / "g.json", "--json").stdout)
    assert result["nas_ops"][0][0] == {"op": "max_pool_3x3", "input": 0, "probability": None}
    assert result["svg"] is None


def test_space_writes_a_manifest(tmp_path: Path) -> None:
    out = tmp_path / "new" / "space.json"
    done = _run(
        *("space", "--backbone", "mobilenetv1", "--variant", "v4", "--width", "4", "--input-size", "16"),
        *("--num-classes", "5", "--out", out, "--json"),
    )
    content = manifest.load(out, "space")
    assert json.loads(done.stdout) == {"space": str(out), "num_candidates": len(content["candidates"])}
    assert (content["name"], content["num_classes"]) == ("mobilenetv1-v4", 5)
    assert content["input"] == {"channels": 3, "height": 16, "width": 16}
    assert content["inputs"] == []


def test_space_of_a_file_names_it(tmp_path: Path) -> None:
    genotype.save(zoo.build("resnet18-v1", width=4), tmp_path / "mine.json")
    _run("space", "--backbone", tmp_path / "mine.json", "--variant", "v2", "--out", tmp_path / "space.json")
    content = manifest.load(tmp_path / "space.json", "space")
    assert [record["path"] for record in content["inputs"]] == ["mine.json"]
    assert content["name"] == "resnet18-v2"


def test_export_writes_the_network(tmp_path: Path) -> None:
    genotype.save(zoo.build("resnet8", width=2, input_size=8), tmp_path / "g.json")
    shown = _run("export", tmp_path / "g.json", "--out", tmp_path / "a.onnx", "--seed", "3")
    assert "resnet8, 1,410 parameters" in shown.stdout
    result = json.loads(
        _run("export", tmp_path / "g.json", "--out", tmp_path / "b.onnx", "--seed", "3", "--json").stdout
    )
    assert result["input"] == ["batch", 3, 8, 8]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_random_writes_a_genotype_of_the_same_cost(tmp_path: Path, priced: Callable[..., Path]) -> None:
    like = zoo.build("resnet18-v3", width=4)
    genotype.save(like, tmp_path / "g.json")
    command = ["random", "--like", tmp_path / "g.json", "--costs", priced(like), "--cost-resource", "lut"]
    done = _run(*command, "--seed", "3", "--out", tmp_path / "r.json", "--json")
    result = json.loads(done.stdout)
    assert (result["name"], result["resource"]) == ("resnet18-v3-random3", "lut")
    assert 0.95 <= result["cost"] / result["cost_of_like"] <= 1.05
    assert result["costs"]["lut"] == result["cost"]
    shown = _run(*command, "--seed", "3", "--out", tmp_path / "again.json").stdout
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "r.json").read_bytes()
    assert "resnet18-v3-random3" in shown
    genotype.save(zoo.build("resnet18", width=4), tmp_path / "g.json")
    assert "is of no variant" in _run(*command, "--out", tmp_path / "no.json", code=2).stderr


@pytest.mark.parametrize("kind", ["genotype", "recipe", "space"])
def test_schema_prints_what_is_held(kind: str) -> None:
    for arguments in (["schema", kind], ["schema", kind, "--json"]):
        assert json.loads(_run(*arguments).stdout) == manifest.schema(kind)
    assert json.loads(_run("schema").stdout) == manifest.schema("genotype")


RUN = ("run", "--backbone", "resnet8", "--variant", "v3", "--width", "2", "--input-size", "8", "--epochs", "1")


@pytest.mark.parametrize("preset", [(), ("--preset", "w4a4")])
def test_run_prints_the_finish(preset: tuple[str, ...], tmp_path: Path) -> None:
    command = [*RUN, *preset, "--threads", "1", "--num-images", "64", "--finish", "2", "--finish-epochs", "1"]
    done = _run(*command, "--out", tmp_path / "run", "--json")
    summary = json.loads(done.stdout)["search"]["finish"]
    assert (summary["networks"], summary["random"], summary["epochs"]) == (2, 2, [1])
    assert summary["kept"] in (1, 2)
    assert "finish: network 4/4 (random), 1 epoch: loss" in done.stderr
    shown = _run(*command, "--finish-random", "0", "--out", tmp_path / "alone").stdout
    assert f"* {summary['kept']}        alphas" in shown
    assert "random" not in shown


@pytest.mark.parametrize("option", ["--finish-epochs", "--finish-random"])
def test_option_of_a_finish_without_one_is_refused(option: str, tmp_path: Path) -> None:
    done = _run(*RUN, option, "3", "--out", tmp_path / "run", code=2)
    assert f"{option}: got 3 without --finish; pass how many networks to score" in done.stderr
    assert not (tmp_path / "run").exists()


def test_run_prints_one_json_object(tmp_path: Path) -> None:
    done = _run(*RUN, "--threads", "1", "--num-images", "256", "--out", tmp_path / "run", "--json")
    result = json.loads(done.stdout)
    assert result["name"] == "resnet8-v3"
    assert result["search"]["num_images"] == 256
    assert result["search"]["epochs"] == 1
    assert "epoch 1/1: loss" in done.stderr
    assert "left" in done.stderr


@pytest.mark.parametrize(
    ("options", "relaxation", "gradient"),
    [
        ([], "layer", "swap"),
        (["--relaxation", "edge"], "edge", "two-path"),
        (["--gradient", "full"], "layer", "full"),
        (["--relaxation", "edge", "--gradient", "swap"], "edge", "swap"),
    ],
)
def test_relaxation_and_gradient_are_in_the_genotype(
    options: list[str], relaxation: str, gradient: str, tmp_path: Path
) -> None:
    short = [*RUN, "--threads", "1", "--num-images", "64", *options, "--out", tmp_path / "run", "--json"]
    found = json.loads(_run(*short).stdout)["search"]
    assert (found["relaxation"], found["gradient"]) == (relaxation, gradient)
    assert json.loads((tmp_path / "run/alphas.json").read_text())["relaxation"] == relaxation
    shown = _run("show", tmp_path / "run/genotype.json", "--heatmap", tmp_path / "a.svg")
    assert "resnet8-v3" in shown.stdout
    assert ("of all of its layer" in (tmp_path / "a.svg").read_text()) == (relaxation == "layer")


@pytest.mark.parametrize("preset", ["w4a4", "v2"])
def test_preset_is_in_the_genotype_and_brings_its_recipe(preset: str, tmp_path: Path) -> None:
    options = ["--preset", preset, "--epochs", "4", "--threads", "1", "--num-images", "32"]
    found = json.loads(_run(*RUN[:-2], *options, "--out", tmp_path / "run", "--json").stdout)["search"]
    assert (found["preset"], found["recipe"]) == (preset, "quick-quantized")
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").open()]
    assert ["alpha_loss" in record for record in history] == [False, True, True, True]  # one of four warms up


def test_sweep_writes_ever_cheaper_genotypes(tmp_path: Path, priced: Callable[..., Path]) -> None:
    costs = priced(zoo.build("resnet8", width=2, input_size=8))
    sweep = [*RUN[:-1], "8", "--threads", "1", "--costs", costs, "--sweep-cost", "0,0.3,3", "--cost-resource", "lut"]
    found = json.loads(_run(*sweep, "--out", tmp_path / "run", "--json").stdout)["sweep"]
    assert [entry["weight"] for entry in found] == [0.0, 0.3, 3.0]
    expected = [entry["expected_cost"] for entry in found]
    assert expected == sorted(expected, reverse=True)
    assert expected[2] < 0.8 * expected[0]
    assert found[2]["costs"]["lut"] < found[0]["costs"]["lut"]
    for entry, name in zip(found, ("cost-0", "cost-0.3", "cost-3"), strict=True):
        assert entry["genotype"] == str(tmp_path / "run" / name / "genotype.json")
        written = json.loads(Path(entry["genotype"]).read_text())
        assert written["search"]["costs"]["genotype"] == entry["costs"]
        assert [record["schema"] for record in written["inputs"]] == ["nash.costs/1.0"]
    again = _run(*sweep, "--out", tmp_path / "run", "--resume")
    assert "cost-0.3/genotype.json" in again.stdout
    assert "epoch" not in again.stderr  # all of it lies there


def test_run_keeps_to_a_budget(tmp_path: Path, priced: Callable[..., Path]) -> None:
    costs = priced(zoo.build("resnet8", width=2, input_size=8))
    limits, always = {}, "max_pool_3x3,skip_connect,conv_1x1,conv_3x3,conv_5x5"  # an operation beside every layer
    for budget in ("lut=100%", "lut=1500,bram=2%"):
        options = ["--threads", "1", "--primitives", always, "--costs", costs, "--budget", budget]
        _run(*RUN[:-1], "4", *options, "--out", tmp_path / budget)
        limits[budget] = json.loads((tmp_path / budget / "genotype.json").read_text())["search"]["costs"]["genotype"]
    assert limits["lut=100%"]["lut"] > 1500  # the budget binds
    assert limits["lut=1500,bram=2%"]["lut"] <= 1500
    assert limits["lut=1500,bram=2%"]["bram"] <= 20
    records = [json.loads(line) for line in (tmp_path / "lut=1500,bram=2%/history.jsonl").read_text().splitlines()]
    assert records[-1]["multiplier_lut"] > records[0]["multiplier_lut"] > 0
    assert {"expected_cost", "expected_lut", "expected_bram", "multiplier_bram"} <= records[0].keys()


def test_run_keeps_to_a_budget_of_the_whole_accelerator(tmp_path: Path, priced: Callable[..., Path]) -> None:
    costs = priced(zoo.build("resnet8", width=2, input_size=8), has_backbone=True)  # 1,000 LUT without operations
    options = ["--costs", costs, "--total-budget", "lut=1600,dsp=3%", "--cost-weight", "0.1"]
    options += ["--cost-resource", "scarcest"]
    _run(*RUN[:-1], "2", "--threads", "1", *options, "--out", tmp_path / "run")
    found = json.loads((tmp_path / "run/genotype.json").read_text())["search"]["costs"]
    assert found["total"]["lut"] == 1000 + found["operations"]["lut"] <= 1600
    assert found["total"]["dsp"] <= 15
    assert found["total"]["cycles"] == max(100, found["operations"]["cycles"])
    assert found["total_budget"] == {"lut": "1600", "dsp": "3%"}
    records = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert {"expected_total_lut", "multiplier_total_lut", "expected_total_dsp"} <= records[0].keys()
    options[3] = "lut=1700"
    refused = _run(*RUN[:-1], "2", "--threads", "1", *options, "--out", tmp_path / "run", "--resume", code=2)
    assert "total_budget: got 'lut=1700', expected 'lut=1600,dsp=3%'" in refused.stderr


def test_pareto_prints_and_writes_its_points(tmp_path: Path, priced: Callable[..., Path]) -> None:
    costs = priced(zoo.build("resnet8", width=2, input_size=8), has_backbone=True)
    command = ["pareto", *RUN[1:-1], "2", "--threads", "1", "--costs", costs, "--along", "lut", "--points", "3"]
    done = _run(*command, "--out", tmp_path / "run", "--json")
    content = json.loads(done.stdout)
    assert content == json.loads((tmp_path / "run/pareto.json").read_text())
    assert content["schema"] == "nash.pareto/1.0"
    assert "point 1/4: loss" in done.stderr
    again = _run(*command, "--out", tmp_path / "run", "--resume")
    assert "epoch" not in again.stderr
    assert [line.split()[-1] for line in again.stdout.splitlines()[1:]] == [
        point["genotype"] for point in content["points"]
    ]
    refused = _run(*command, "--out", tmp_path / "run", code=10)
    assert "a search lies here already" in refused.stderr


def test_random_refuses_what_is_no_cost_of_operations(tmp_path: Path, priced: Callable[..., Path]) -> None:
    like = zoo.build("resnet18-v3", width=2)
    genotype.save(like, tmp_path / "g.json")
    command = [
        "random",
        "--like",
        tmp_path / "g.json",
        "--costs",
        priced(like, has_backbone=True),
        "--out",
        tmp_path / "r",
    ]
    refused = _run(*command, "--cost-resource", "scarcest", code=2)
    assert "--cost-resource: got scarcest, which is no cost of operations" in refused.stderr


def test_primitives_narrow_and_reorder_the_space(tmp_path: Path) -> None:
    _run(*RUN, "--threads", "1", "--primitives", "conv_3x3,none,skip_connect", "--out", tmp_path / "run")
    alphas = json.loads((tmp_path / "run/alphas.json").read_text())
    assert alphas["primitives"] == ["conv_3x3", "none", "skip_connect"]
    assert {len(edge["alphas"]) for edge in alphas["edges"]} == {3}
    found = json.loads((tmp_path / "run/genotype.json").read_text())
    ops = {layer["nas_op"]["op"] for cell in found["cells"] for layer in cell["layers"] if layer["nas_op"]}
    assert ops <= {"conv_3x3", "skip_connect"}
    assert found["search"]["primitives"] == alphas["primitives"]


def test_tensorboard_shows_the_history(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    short = [*RUN[:-1], "2", "--threads", "1", "--num-images", "256", "--out", tmp_path / "run", "--tensorboard"]
    _run(*short, "--discard-below", "0.01", "--discard-after", "2")
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    records = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert set(events.Tags()["scalars"]) == records[0].keys() - {"epoch", "step"}
    for key in ("accuracy", "alpha_entropy", "num_operations"):
        shown = [(event.step, event.value) for event in events.Scalars(key)]
        assert shown == [(record["step"], pytest.approx(record[key], rel=1e-6)) for record in records]


def test_error_leaves_the_process_with_its_code(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from nash_search.cli import main; main()", "show", str(tmp_path / "absent.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


def _wrong_backbone(folder: Path) -> str:
    genotype.save(zoo.build("resnet8", width=2, input_size=8, num_classes=7), folder / "seven.json")
    return str(folder / "seven.json")


def _diverging(folder: Path) -> str:
    content = json.loads((resources.files("nash_search").joinpath("recipes/quick.json")).read_text())
    content["weights"]["lr"] = 1e30
    (folder / "diverging.json").write_text(json.dumps(content))
    return str(folder / "diverging.json")


def _arguments(kind: str, folder: Path, priced: Callable[..., Path]) -> list[str | Path]:
    """Return a command that must fail in this way."""
    out = folder / "out"
    run = [*RUN, "--threads", "1", "--out", out]
    match kind:
        case "usage":
            return ["zoo", "resnet19"]
        case "manifest":
            (folder / "broken.json").write_text("{")
            return ["show", folder / "broken.json"]
        case "integrity":
            out.mkdir()
            (out / "checkpoint.json").write_text("{}")
            return [*run, "--resume"]
        case "data":
            return ["run", "--backbone", _wrong_backbone(folder), "--variant", "v1", "--out", out]
        case "capacity":
            costs = priced(zoo.build("resnet8", width=2, input_size=8))
            return [*run, "--primitives", "conv_1x1,conv_3x3", "--costs", costs, "--budget", "lut=10"]
        case "output":
            (folder / "file").write_text("")
            return ["zoo", "resnet8", "--out", folder / "file" / "g.json"]
        case "toolchain":
            genotype.save(zoo.build("resnet8", width=2, input_size=8), folder / "g.json")
            return ["export", folder / "g.json", "--out", out]
        case _:
            return [*run, "--recipe", _diverging(folder)]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *(("usage", 2), ("manifest", 3), ("integrity", 4), ("data", 5), ("toolchain", 8), ("capacity", 9)),
        *(("output", 10), ("diverged", 11)),
    ],
)
def test_each_kind_of_error_has_its_code(
    kind: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, priced: Callable[..., Path]
) -> None:
    if kind == "toolchain":
        monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    done = _run(*_arguments(kind, tmp_path, priced), "--json", code=code)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert json.loads(done.stdout)["error"] == {
        "kind": kind,
        "message": errors[0].removeprefix("error: "),
        "exit_code": code,
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "--backbone", "resnet81", "--variant", "v3"], "did you mean resnet8?"),
        (["run", "--backbone", "resnet8", "--variant", "v5"], "v5"),
        ([*RUN, "--dataset", "mnist"], "expected one of digits"),
        ([*RUN, "--dataset", "cifar10"], "needs --data"),
        ([*RUN, "--recipe", "quik"], "did you mean quick?"),
        (["run", "--backbone", "g.json", "--variant", "v3", "--width", "8"], "leave it out"),
        (["space", "--backbone", "g.json", "--variant", "v3", "--num-classes", "8"], "leave it out"),
        (["space", "--backbone", "mobilenet", "--variant", "v3"], "did you mean mobilenetv1?"),
        (["schema", "model"], "model"),
        ([*RUN, "--cost-weight", "1"], "without --costs"),
        ([*RUN, "--budget", "lut=3"], "without --costs"),
        ([*RUN, "--costs", "c.json", "--budget", "luts=3"], "did you mean lut?"),
        (["pareto", *RUN[1:]], "pareto: got no --costs"),
        (["pareto", *RUN[1:], "--along", "luts"], "luts"),
        ([*RUN, "--total-budget", "lut=3"], "--total-budget: got lut=3 without --costs"),
        ([*RUN, "--costs", "c.json", "--total-budget", "luts=3"], "--total-budget: got 'luts'"),
        ([*RUN, "--costs", "c.json", "--sweep-cost", "0,0"], "different numbers"),
        ([*RUN, "--costs", "c.json", "--sweep-cost", "0,1", "--cost-weight", "1"], "leave that out"),
        ([*RUN, "--primitives", "none,conv_7x7"], "--primitives: got 'conv_7x7'"),
        ([*RUN, "--primitives", "none,none"], "each once"),
        ([*RUN, "--preset", "w9a4"], "expected wNaM with N, M in 1..8, or one of v1, v2, v3, v4, resnet34-v3"),
        (
            [*RUN, "--primitives", "max_pool_3x3,skip_connect"],
            "v3 can keep none at cells[1].layers[0]; add a convolution",
        ),
    ],
)
def test_wrong_argument_is_a_usage_error(arguments: list[str], text: str, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"] if arguments[0] in ("run", "pareto", "space") else []
    done = _run(*arguments, *out, code=2)
    assert text in done.stderr
    assert not (tmp_path / "out").exists()


def _pictures(folder: Path, *, count: int = 4) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no train", "holds no folder train"),
        ("no classes", "got 0 class folders, expected at least 2"),
        ("one class", "got 1 class folders, expected at least 2"),
        ("empty class", "b: holds no picture"),
        ("broken picture", "1.png: not a readable picture"),
    ],
)
def test_folder_without_usable_pictures_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if kind == "no classes":
        (folder / "train").mkdir()
    elif kind != "no train":
        _pictures(folder / "train/a")
    if kind in ("empty class", "broken picture"):
        _pictures(folder / "train/b", count=0 if kind == "empty class" else 4)
    if kind == "broken picture":
        (folder / "train/b/1.png").write_bytes(b"no picture")
    done = _run(*RUN, "--dataset", "imagefolder", "--data", folder, "--out", tmp_path / "out", code=5)
    assert message in done.stderr
    assert not (tmp_path / "out/genotype.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "conv_3x3", "input": 1}, "cells[0].layers[0].nas_op.input: got 1, expected an earlier state (0..0)"),
        ({"op": "conv_3x3", "input": 2}, "cells[0].layers[0].nas_op.input: got 2, expected an earlier state (0..0)"),
        ({"op": "conv_7x7", "input": 0}, "cells[0].layers[0].nas_op.op: got 'conv_7x7', expected one of"),
    ],
)
def test_cycle_or_unknown_primitive_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    genotype.save(zoo.build("resnet8", width=2, input_size=8), path)
    content = json.loads(path.read_text())
    content["cells"][0]["layers"][0]["nas_op"] = change
    path.write_text(json.dumps(content))
    for command in (["show", path], ["run", "--backbone", path, "--variant", "v3", "--out", tmp_path / "out"]):
        assert message in _run(*command, code=3).stderr
    assert not (tmp_path / "out").exists()


def test_channels_that_do_not_match_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    genotype.save(zoo.build("resnet8", width=2, input_size=8), path)
    content = json.loads(path.read_text())
    content["cells"][1]["in_channels"] = 3
    path.write_text(json.dumps(content))
    done = _run("run", "--backbone", path, "--variant", "v3", "--out", tmp_path / "out", code=3)
    assert "cells[1].in_channels: got 3, expected 2 as before it" in done.stderr


def test_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = _run(*RUN, "--threads", "1", "--out", tmp_path / "run", "--tensorboard", code=8)
    assert "pip install 'nash-search[tensorboard]'" in done.stderr


def test_contradicting_genotype_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    genotype.save(zoo.build("resnet8", width=2, input_size=8), path)
    path.write_text(path.read_text().replace('"residual_from": 0', '"residual_from": 5'))
    done = _run("run", "--backbone", path, "--variant", "v3", "--out", tmp_path / "out", code=3)
    assert done.stderr.startswith(f"error: {path}: cells[0].layers[1].residual_from: got 5")
    assert not (tmp_path / "out").exists()
