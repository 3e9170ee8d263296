"""Let FINN cut accelerators into kernels, as its builds for Zynq and Alveo boards do, hours of synthesis later.

    python benchmarks/partitions.py [--networks 40] [hw/dataflow.onnx:ZCU104 ...]

Random small networks of tests/genotypes.py for Zynq and Alveo boards with UltraRAM, half of whose matrix-vector units
have their weights there, go through FINN's own passes: converters, FIFOs, transfers to and from memory, Floorplan,
CreateDataflowPartition; before additions are ordered (partitions.py), where FINN may refuse them, and after. So do
graphs that `nash-hw build` wrote, each with its board, as they are. The exit code is 1 if one of those is refused, or
if FINN's partitions are others than ours.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def _drawn(number: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield the title, folded graph and board of so many networks."""
    from accelerators import case_model
    from genotypes import draw_case
    from test_partitions import in_ultraram

    cases = (draw_case(seed) for seed in itertools.count())
    with_ultraram = (case for case in cases if case.board != "Pynq-Z1")
    for case in itertools.islice(with_ultraram, number):
        model, board = case_model(case)
        yield f"{case.seed}: {case.title}", in_ultraram(model, 0.5, case.seed), board


def _verdict(model: Any, board: Any) -> tuple[str, bool]:
    """Return what FINN makes of a graph, and whether it is what we foresee."""
    from finn_passes import is_crossed, kernels, shared

    from nash_hw.base.errors import UnsupportedError
    from nash_hw.fold.partitions import check_partitions, partitions

    try:
        check_partitions(model)
        ours = partitions(model)
    except UnsupportedError:
        ours = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            theirs, graph = kernels(model, board, Path(folder))
        except AssertionError:
            return "refused", ours is None
    same = ours is not None and theirs == shared(ours)
    crossed = sum(is_crossed(graph, kernel) for kernel in graph.graph.node)
    return f"{len(graph.graph.node)} kernels" + (f", {crossed} crossed" if crossed else ""), same


def main() -> int:
    import onnx
    from test_partitions import ordered

    from nash_hw.boards.boards import find_board
    from nash_hw.finn.finn_env import contained_finn
    from nash_hw.graph.model import Model

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("graphs", nargs="*", metavar="GRAPH:BOARD")
    parser.add_argument("--networks", type=int, default=40)
    options = parser.parse_args()
    num_refused = num_wrong = num_mended = 0
    print("| network | layers | before | now | processor time |", "|---|---|---|---|---|", sep="\n", flush=True)

    def row(title: str, model: Any, board: Any, *, is_drawn: bool) -> None:
        nonlocal num_refused, num_wrong, num_mended
        start = time.process_time()
        with contained_finn():
            before, foreseen = _verdict(model, board) if is_drawn else ("", True)
            now, is_same = _verdict(ordered(model)[0] if is_drawn else model, board)
        num_mended += before == "refused" and now != "refused"
        num_refused += now == "refused"
        num_wrong += not (foreseen and is_same)
        seconds = time.process_time() - start
        print(f"| {title} | {len(model.graph.node)} | {before} | {now} | {seconds:.1f} s |", flush=True)

    for title, model, board in _contained(_drawn(options.networks)):
        row(title, model, board, is_drawn=True)
    for graph in options.graphs:
        path, _, name = graph.rpartition(":")
        with contained_finn():
            model, board = Model(onnx.load(path)), find_board(name)
        row(f"{path} on {name}", model, board, is_drawn=False)
    print("crossed: kernels whose inputs FINN's link for Vitis takes in another order than theirs (Alveo boards)")
    print(f"{num_mended} refused before and not now, {num_refused} refused now, {num_wrong} other than foreseen")
    return int(num_refused + num_wrong > 0)


def _contained(drawn: Iterator[tuple[str, Any, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the same, drawn where what FINN prints is contained."""
    from nash_hw.finn.finn_env import contained_finn

    while True:
        with contained_finn():
            found = next(drawn, None)
        if found is None:
            return
        yield found


if __name__ == "__main__":
    sys.exit(main())
