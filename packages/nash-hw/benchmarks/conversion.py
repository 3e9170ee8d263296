"""Time nash-hw's conversion of a model against the step list FINN+ ships for its ResNet18, on the same file.

    python benchmarks/conversion.py RUN/model.json [--finn-timeout 600] [--larger OTHER/model.json]

With `--larger` a second network is converted by nash-hw alone, to see how its time grows with the layers. FINN+'s list
runs in a process of its own, which is stopped after the given time: on the networks of this family it
takes minutes and then fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from nash_hw.base import manifest

BOARD = "U250"
FRAME_CYCLES = 200_000  # 1,000 fps at 200 MHz


def ours(onnx_path: Path, queue: Any) -> None:
    """Convert up to specialized layers, as FINN+'s list is asked to."""
    from nash_hw.boards.boards import find_board
    from nash_hw.finn.finn_env import contained_finn
    from nash_hw.fold.quantizers import infer_requants
    from nash_hw.graph import steps
    from nash_hw.graph.lower import lower
    from nash_hw.graph.qonnx_graph import load_onnx
    from nash_hw.graph.streamline import streamline

    with contained_finn():
        board = find_board(BOARD)
        start, cpu_start = time.perf_counter(), time.process_time()
        model, _ = streamline(load_onnx(onnx_path))
        model = steps.partition(steps.to_hardware(infer_requants(lower(model), board, FRAME_CYCLES)))
        model = steps.specialize(steps.minimize_bit_widths(model), board.fpga_part)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        layers = len(model.graph.node)
        queue.put({"step": "done", "seconds": seconds, "cpu_seconds": cpu_seconds, "layers": layers})


def theirs(onnx_path: Path, queue: Any) -> None:
    """Run FINN+'s own ResNet18 steps, with qonnx's own wrapper, and report each."""
    from nash_hw.finn.finn_env import contained_finn

    with contained_finn(), tempfile.TemporaryDirectory() as folder:
        import finn.xsi
        from finn.util.settings import initialize_dummy_settings

        initialize_dummy_settings()
        finn.xsi.SimEngine = None  # finn.builder looks it up when it is imported; there is no simulator here
        import finn.builder.build_dataflow_config as configuration
        import finn.builder.build_dataflow_steps as shipped
        from qonnx.core.modelwrapper import ModelWrapper

        config = configuration.DataflowBuildConfig(
            output_dir=folder,
            synth_clk_period_ns=5.0,
            board=BOARD,
            shell_flow_type=configuration.ShellFlowType.VITIS_ALVEO,
            generate_outputs=[],
            standalone_thresholds=True,
        )
        start = time.perf_counter()
        model = ModelWrapper(str(onnx_path))
        for name in shipped_steps():
            module, _, function = name.rpartition(".")
            step = getattr(importlib.import_module(module) if module else shipped, function)
            try:
                model = step(model, config)
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                queue.put({"step": function, "seconds": time.perf_counter() - start, "failed": reason})
                return
            queue.put({"step": function, "seconds": time.perf_counter() - start, "layers": len(model.graph.node)})
        queue.put({"step": "done", "seconds": time.perf_counter() - start, "layers": len(model.graph.node)})


def shipped_steps() -> list[str]:
    """Return the steps FINN+ lists for its ResNet18, up to specialized layers."""
    import finn.benchmarking
    import yaml

    path = Path(next(iter(finn.benchmarking.__path__))) / "dut" / "resnet18.yml"
    steps = yaml.safe_load(path.read_text("utf-8"))["steps"]
    return steps[: steps.index("step_specialize_layers") + 1]


def run(target: Any, onnx_path: Path, timeout: float) -> list[dict[str, Any]]:
    """Return what a run reports until it is done, fails or its time is over."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=target, args=(onnx_path, queue))
    process.start()
    reports: list[dict[str, Any]] = []
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and (process.is_alive() or not queue.empty()):
        while not queue.empty():
            reports.append(queue.get())
        time.sleep(0.2)
    if process.is_alive():
        process.terminate()
        reports.append({"step": "stopped", "seconds": timeout, "failed": f"not done after {timeout:g} s"})
    process.join()
    return reports


def onnx_of(path: Path) -> Path:
    """Return the ONNX file of a model.json."""
    entry = manifest.load(path, "model")["onnx"]
    return manifest.resolve(path, entry["path"], entry["sha256"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="model.json")
    parser.add_argument("--finn-timeout", type=float, default=600.0, help="seconds to give FINN+'s own list")
    parser.add_argument("--larger", type=Path, help="model.json of a network with more layers")
    options = parser.parse_args()
    onnx_path = onnx_of(options.model)
    result = {"nash-hw": run(ours, onnx_path, 600.0), "finn-plus": run(theirs, onnx_path, options.finn_timeout)}
    if options.larger is not None:
        result["larger"] = run(ours, onnx_of(options.larger), 600.0)
    for name, reports in result.items():
        for report in reports:
            outcome = report.get("failed") or f"{report['layers']} nodes"
            print(f"{name:10} {report['step']:32} {report['seconds']:8.1f} s  {outcome}")
    ratio = result["finn-plus"][-1]["seconds"] / result["nash-hw"][-1]["seconds"]
    print(f"ratio: at least {ratio:.0f}" if "failed" in result["finn-plus"][-1] else f"ratio: {ratio:.0f}")
    if options.larger is not None:
        smaller, larger = result["nash-hw"][-1], result["larger"][-1]
        ratios = [larger[key] / smaller[key] for key in ("cpu_seconds", "layers")]
        print(f"larger: {ratios[0]:.2f} times the processor time for {ratios[1]:.2f} times the layers")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
