"""Compare nash-hw's folding with FINN's SetFolding: the same graph, the same frame rate, the same estimate.

    python benchmarks/folding.py RUN/model.json... [--board U250] [--fps 500 2000]

SetFolding folds for each frame rate; the rate it reaches is asked of nash-hw twice. "No more of any": on a board that
has of each resource what SetFolding's design takes, rounded up, so nash-hw's may be larger in none. "Cheapest": on the
board itself, where it may trade one resource for another. The price is the sum of the parts of the board taken, that of
LUTs counted twice. Quantizers stay thresholds, since SetFolding leaves a Requant at one value a cycle.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nash_hw.base import manifest
from nash_hw.base.errors import CapacityError
from nash_hw.boards.board import RESOURCES, Board
from nash_hw.boards.boards import find_board
from nash_hw.fold.options import price_of

CLOCK_MHZ = 200.0


def specialized(model_path: Path, board: Board) -> Any:
    """Return the specialized layers of a model, not folded yet."""
    from nash_hw.graph import steps
    from nash_hw.graph.lower import lower
    from nash_hw.graph.qonnx_graph import load_onnx
    from nash_hw.graph.streamline import streamline

    entry = manifest.load(model_path, "model")["onnx"]
    model, _ = streamline(load_onnx(manifest.resolve(model_path, entry["path"], entry["sha256"])))
    model = steps.minimize_bit_widths(steps.partition(steps.to_hardware(lower(model))))
    return steps.specialize(model, board.fpga_part)


def copied(model: Any) -> Any:
    """Return a model of its own."""
    return type(model)(type(model.model).FromString(model.model.SerializeToString()))


def finn_folding(model: Any, fps: float, board: Board) -> Any:
    """Return the estimate of FINN's folding for a frame rate, which it may miss."""
    from finn.transformation.fpgadataflow.set_folding import SetFolding
    from qonnx.core.modelwrapper import ModelWrapper

    from nash_hw.estimate.estimate import estimate

    folded = ModelWrapper(copied(model).model).transform(SetFolding(int(CLOCK_MHZ * 1e6 / fps)))
    return estimate(type(model)(folded.model), board)


def our_folding(model: Any, fps: float, board: Board) -> Any:
    """Return the estimate of nash-hw's cheapest folding for a frame rate."""
    from nash_hw.estimate.estimate import estimate
    from nash_hw.fold.folding import FoldingSpace, fold

    return estimate(fold(copied(model), FoldingSpace(model, board).for_fps(fps, CLOCK_MHZ).settings)[0], board)


def compare(name: str, model: Any, fps: float, board: Board) -> Iterator[str]:
    """Yield one row for FINN's folding and one for each of ours."""
    theirs = finn_folding(model, fps, board)
    reached = CLOCK_MHZ * 1e6 / theirs.ii_cycles
    yield f"| {name} | SetFolding for {fps:,g} fps | {_row(theirs, board)} | |"
    as_large = replace(board, resources={key: math.ceil(theirs.resources[key] or 0) for key in RESOURCES})
    for title, room in (("no more of any", as_large), ("cheapest", board)):
        start = time.perf_counter()
        try:
            ours = our_folding(model, reached, room)
        except CapacityError:
            yield f"| | nash-hw, {title} | none found |{' |' * (len(RESOURCES) + 2)}"
        else:
            yield f"| | nash-hw, {title} | {_row(ours, board)} | {time.perf_counter() - start:.1f} s |"


def _row(estimate: Any, board: Board) -> str:
    used = estimate.resources
    cells = ["unknown" if used[key] is None else f"{used[key]:,.0f}" for key in RESOURCES]
    return " | ".join([f"{CLOCK_MHZ * 1e6 / estimate.ii_cycles:,.0f}", *cells, f"{price_of(used, board):.3f}"])


def main() -> None:
    from nash_hw.finn.finn_env import contained_finn

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="model.json")
    parser.add_argument("--board", default="U250")
    parser.add_argument("--fps", type=float, nargs="+", default=[500.0, 2000.0])
    options = parser.parse_args()
    print(f"| network | folding | fps | {' | '.join(RESOURCES)} | price | folded in |")
    print("|" + "---|" * (len(RESOURCES) + 5))
    for path in options.models:
        name = manifest.load(path, "model")["name"]
        with contained_finn():
            board = find_board(options.board)
            model = specialized(path, board)
        for fps in options.fps:
            with contained_finn():
                rows = list(compare(name, model, fps, board))
            print(*rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
