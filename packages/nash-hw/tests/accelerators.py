"""Small accelerators to simulate: networks of every kind, folded, with their RTL."""

from __future__ import annotations

from pathlib import Path

import onnx
from genotypes import Case
from networks import Network, aligned_network, residual_network
from test_steps import specialized

BOARD, CLOCK_MHZ = "ZCU104", 100.0


def vgg() -> onnx.ModelProto:
    """Convolutions in a row, max-pools between them, 1-bit weights in one."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4), 2)
    x = net.pool(net.relu(net.norm(net.conv(x, (4, 4, 3, 3), 1), 4), 2), kernel=2, stride=2, pad=0)
    x = net.relu(net.norm(net.conv(x, (8, 4, 3, 3), 2), 8), 2)
    return net.finish(net.head(x, 8), (1, 3))


def bottleneck() -> onnx.ModelProto:
    """1x1, 3x3 with stride, 1x1, and a projection beside them."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    y = net.relu(net.norm(net.conv(x, (2, 4, 1, 1)), 2))
    y = net.relu(net.norm(net.conv(y, (2, 2, 3, 3), stride=2), 2))
    y = net.quantize(net.norm(net.conv(y, (8, 2, 1, 1)), 8), 0.05, 8)
    short = net.quantize(net.norm(net.conv(x, (8, 4, 1, 1), stride=2), 8), 0.05, 8)
    return net.finish(net.head(net.relu(net.node("Add", [y, short])), 8), (1, 3))


def depthwise() -> onnx.ModelProto:
    """A depthwise and a pointwise convolution."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    x = net.relu(net.norm(net.conv(x, (4, 1, 3, 3), group=4), 4))
    x = net.relu(net.norm(net.conv(x, (8, 4, 1, 1)), 8))
    return net.finish(net.head(x, 8), (1, 3))


def residual() -> onnx.ModelProto:
    """A residual, a NAS operation and a strided layer, with pictures large enough for FIFOs to matter."""
    return residual_network(size=12)


def aligned() -> onnx.ModelProto:
    """Joins that add up integers of two scales, at both strides."""
    return aligned_network(size=6)


def pooled() -> onnx.ModelProto:
    """Max-pools whose windows overlap, at both strides; at `FPS["pooled"]` one window after another is too slow."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    x = net.relu(net.norm(net.conv(net.pool(x), (4, 4, 1, 1)), 4))
    return net.finish(net.head(net.pool(x, stride=2), 4), (1, 3))


NETWORKS = {kind.__name__: kind for kind in (vgg, bottleneck, depthwise, residual, aligned, pooled)}
FPS = dict.fromkeys(NETWORKS, 20_000) | {"pooled": 190_000}


def make_accelerator(source: onnx.ModelProto, folder: Path, fps: float):
    """Return the design of a network, folded to a frame rate, whose RTL is written to a folder."""
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.folding import FoldingSpace

    board = find_board(BOARD)
    space = FoldingSpace(specialized(source, board.fpga_part), board)
    return make_design(folded(space, fps, CLOCK_MHZ), board, folder)


def case_model(case: Case):
    """Return the folded model of a case with the FIFO depths of `build`, and its board."""
    from nash_hw.boards.boards import find_board
    from nash_hw.costs.specialized import specialized
    from nash_hw.fold.folding import FoldingSpace

    board, size = find_board(case.board), case.genotype["input"]
    space = FoldingSpace(specialized(case.network(), board, size["height"] * size["width"]), board)
    cycles = case.cycles or case.slowdown * space.fastest_cycles
    return folded(space, CLOCK_MHZ * 1e6 / (cycles + 0.5), CLOCK_MHZ), board


def folded(space, fps: float, clock_mhz: float):
    """Return the model of a folding space, folded to a frame rate."""
    from nash_hw.fold.finn_config import set_fifo_depths
    from nash_hw.fold.folding import fold
    from nash_hw.graph.steps import name_tensors

    folding = space.for_fps(fps, clock_mhz)
    model, config = fold(space._model, folding.settings)
    model = name_tensors(model)
    set_fifo_depths(model, config, folding.fifo_depths)
    return model


def make_design(model, board, folder: Path):
    """Return the design of a folded model, as `build --until hdl` writes it."""
    from nash_hw.estimate import describe
    from nash_hw.estimate.estimate import estimate
    from nash_hw.handover.hdl import write_hdl
    from nash_hw.simulate import design

    hdl, result = write_hdl(model, folder / "hdl", board.fpga_part, CLOCK_MHZ), estimate(model, board)
    content = {
        "name": folder.name,
        "hdl": hdl.as_json(),
        "estimated": {"ii_cycles": result.ii_cycles, "latency_us": result.latency_cycles / CLOCK_MHZ},
        "streams": [describe.stream(stream) for stream in result.streams],
        "clock_mhz": CLOCK_MHZ,
    }
    return design.make_design(content, model, folder / "hdl")


def make_simulation(design, folder: Path, cache: Path):
    """Return a compiled simulation of a design with random pictures."""
    from nash_hw.simulate.compiler import Compiler
    from nash_hw.simulate.frames import expected_integers, random_pictures
    from nash_hw.simulate.run import Simulation
    from nash_hw.simulate.tools import find_tools

    with Compiler(find_tools(), cache) as compiler:
        libraries = compiler.libraries(design.modules, lambda *_: None)
        kernel = compiler.kernel()
    images = random_pictures(design)
    return Simulation(design, libraries, kernel, folder, pictures=images, expected=expected_integers(design, images))
