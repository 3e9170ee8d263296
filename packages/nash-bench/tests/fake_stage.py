"""Stands in for the four command lines in tests of the sweep: keeps a list of its calls and writes small manifests.

    python -S fake_stage.py PACKAGE COMMAND ARGUMENT...

In the folder FAKE_FOLDER: `calls` grows by a line a call; a call that contains the text of the file `fail` leaves with
exit code 9; one that contains the text of `block` waits until that file is gone.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["FAKE_FOLDER"])


def main(package, arguments):
    if arguments == ["--version"]:
        return
    call = " ".join([package, *arguments])
    with (FOLDER / "calls").open("a") as calls:
        calls.write(call + "\n")
    if _is_told("fail", call):
        print("error: the board is too small")
        sys.exit(9)
    while _is_told("block", call):
        (FOLDER / "is_blocked").touch()
        time.sleep(0.02)
    out = Path(arguments[arguments.index("--out") + 1])
    if arguments[0] in ("space", "costs"):
        _write(out, {"call": call})
        return
    {"search": write_genotype, "qat": write_model, "hw": write_hardware, "bench": write_benchmark}[package](
        out, arguments
    )


def _is_told(name, call):
    try:
        return (FOLDER / name).read_text() in call
    except FileNotFoundError:
        return False


def write_genotype(out, arguments):
    path = out if out.suffix == ".json" else out / "genotype.json"
    if arguments[0] == "pareto":
        write_front(out, int(_value(arguments, "--points")))
        return
    if arguments[0] == "random":
        found = json.loads(Path(_value(arguments, "--like")).read_text())
        _write(path, found | {"name": path.parent.name, "search": {"random": {"seed": 0}}})
        return
    width = int(_value(arguments, "--width"))
    variant = _value(arguments, "--variant") if "--variant" in arguments else None
    template = json.loads((FOLDER / "model.json").read_text())["genotype"]["copy"]
    layers = [layer for cell in template["cells"] for layer in cell["layers"]]
    for layer in layers:
        layer["channels"] = width
        layer["nas_op"] = {"op": "conv_3x3", "input": 0, "probability": None} if variant else None
    _write(path, template | {"name": path.parent.name, "variant": variant})


def write_front(out, num_points):
    """Write as many searched networks as plain ones, each wider than the one before."""
    template = json.loads((FOLDER / "model.json").read_text())["genotype"]["copy"]
    points = []
    for number in range(2 * num_points):
        kind = "plain" if number % 2 else "found"
        copy = json.loads(json.dumps(template))
        for layer in (layer for cell in copy["cells"] for layer in cell["layers"]):
            layer["channels"] = number + 1
            layer["nas_op"] = {"op": "conv_3x3", "input": 0, "probability": None} if kind == "found" else None
        name = f"points/{kind}-{number}.json"
        variant = "v3" if kind == "found" else None
        _write(out / name, copy | {"name": f"resnet8-{number}", "variant": variant, "search": {"seed": 0}})
        points.append({"kind": kind, "genotype": name})
    _write(out / "pareto.json", {"schema": "nash.pareto/1.0", "points": points})


def write_model(out, arguments):
    genotype = json.loads(Path(arguments[1]).read_text())
    template = json.loads((FOLDER / "model.json").read_text())
    preset = _value(arguments, "--preset")
    quantization = template["quantization"] | {"preset": preset, "weight_bits": int(preset[1])}
    if "--join" in arguments:
        quantization["join"] = _value(arguments, "--join")
    changes = {"name": f"{genotype['name']}-{preset}", "genotype": {"sha256": "0" * 64, "copy": genotype}}
    training = template["training"] | {"seed": int(_value(arguments, "--seed"))}
    out.mkdir(parents=True, exist_ok=True)
    (out / "history.jsonl").write_text(json.dumps({"split": "validation", "top1": 50.0}) + "\n")
    _write(out / "model.json", template | changes | {"quantization": quantization, "training": training})


def write_hardware(out, arguments):
    template = json.loads((FOLDER / "hardware.json").read_text())
    changes = {"board": _value(arguments, "--board"), "model": {"sha256": _sha256(arguments[1])}}
    _write(out / "hardware.json", template | changes)


def write_benchmark(out, arguments):
    template = json.loads((FOLDER / "benchmark.json").read_text())
    model = json.loads(Path(arguments[1]).read_text())
    identity = template["identity"] | {"preset": model["quantization"]["preset"], "seed": model["training"]["seed"]}
    changes = {"name": model["name"], "variant": model["genotype"]["copy"]["variant"], "identity": identity}
    _write(out, template | changes | {"model": {"sha256": _sha256(arguments[1])}})


def _value(arguments, option):
    return arguments[arguments.index(option) + 1]


def _sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


main(sys.argv[1], sys.argv[2:])
