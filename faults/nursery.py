"""Runs in a package's environment: has imported the package, and makes a child of itself for each command.

A command that starts this way needs no seconds to import torch, so that hundreds can be tried. Requests are JSON, a
line each, on stdin; so are the answers on stdout: {"start": ARGUMENTS, ...} is answered with the child's number, and
{"wait": NUMBER} with its exit code, negative for a signal.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import traceback

HEAVY = {
    "search": ("torch", "onnx", "safetensors.torch", "sklearn.datasets", "nash_search.search.pareto"),
    "qat": ("torch", "onnxruntime", "nash_qat.commands", "nash_qat.export.files", "nash_qat.bits.sensitivity"),
    "hw": ("onnx", "nash_hw.build.build", "nash_hw.costs.costs", "nash_hw.simulate.command"),
    "bench": ("onnxruntime", "matplotlib.pyplot", "nash_bench.report.files", "nash_bench.measure.evaluate"),
}


def main(package: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(child(package, request))
        print(json.dumps(answer), file=answers, flush=True)


def child(package: str, request: dict) -> int:
    """Become a command line, and return its exit code."""
    os.setsid()
    for number, (path, flags) in enumerate(
        [(os.devnull, os.O_RDONLY)] + [(request[name], os.O_WRONLY | os.O_CREAT) for name in ("stdout", "stderr")]
    ):
        handle = os.open(path, flags, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    if request.get("user"):
        os.setresgid(*[request["user"]] * 3)
        os.setresuid(*[request["user"]] * 3)
    sys.argv = [f"nash-{package}", *request["start"]]
    if "FAULT_CONTROL" in request["env"]:
        folder, control = (request["env"][name].encode() for name in ("FAULT_FOLDER", "FAULT_CONTROL"))
        ctypes.CDLL(None).fault_arm(control, folder)
    if "answers" not in request:
        return run(package)
    with open(request["answers"], "w") as answers, open(request["questions"]) as questions:
        while True:
            print(run(package), file=answers, flush=True)
            if not questions.readline():
                return 0
            for number in (1, 2):
                os.ftruncate(number, 0)
                os.lseek(number, 0, os.SEEK_SET)


def run(package: str) -> int:
    """Run the command line once, and return its exit code."""
    try:
        importlib.import_module(f"nash_{package}.cli").main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # what the interpreter would print, and its exit code
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 120
    return code


if __name__ == "__main__":
    main(sys.argv[1])
