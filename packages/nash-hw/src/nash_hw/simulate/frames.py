"""Pictures as the words that enter an accelerator, and the words that leave it as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..graph.model import custom_op
from ..verify.execute import Executor
from ..verify.verify import load_golden
from .design import Design
from .modules import stored_bytes

_NUM_RANDOM = 4


def random_pictures(design: Design, seed: int = 0) -> np.ndarray:
    """Return pictures (N, H, W, C) uint8 to simulate with where there are no golden ones."""
    _, *shape = design.model.get_tensor_shape(design.model.graph.input[0].name)
    return np.random.default_rng(seed).integers(0, 256, (_NUM_RANDOM, *shape), dtype=np.uint8)


def golden_pictures(design: Design, path: Path) -> np.ndarray:
    """Return the pictures (N, H, W, C) uint8 of a golden.npz.

    Raises:
        IntegrityError: it is damaged.
        ManifestError: it is of another network.
    """
    batch, height, width, channels = design.model.get_tensor_shape(design.model.graph.input[0].name)
    return load_golden(path, (batch, channels, height, width)).pictures.transpose(0, 2, 3, 1)


def expected_integers(design: Design, pictures: np.ndarray) -> np.ndarray:
    """Return the output integers (N, K) of the Python execution of the dataflow graph."""
    executor = Executor(design.model)
    return np.stack([executor.run(picture[None]).reshape(-1) for picture in pictures]).astype(np.int64)


def to_words(design: Design, pictures: np.ndarray) -> bytes:
    """Return pictures (N, H, W, C) as the words of the input stream, each in the bytes Verilator stores it in."""
    first = custom_op(design.model.graph.node[0])
    lanes, bits = first.get_folded_input_shape()[-1], first.get_input_datatype().bitwidth()
    values = pictures.reshape(-1, lanes).astype(np.int64) & ((1 << bits) - 1)
    planes = (values[:, :, None] >> np.arange(bits)) & 1
    width = 8 * stored_bytes(design.input_hop.bits)
    padded = np.zeros((len(values), width), np.uint8)
    padded[:, : lanes * bits] = planes.reshape(len(values), -1)
    return np.packbits(padded, axis=1, bitorder="little").tobytes()


def from_words(design: Design, content: bytes) -> np.ndarray:
    """Return the integers (N, K) of the frames that came out whole."""
    last = custom_op(design.model.find_producer(design.model.graph.output[0].name))
    lanes, kind = last.get_folded_output_shape()[-1], last.get_output_datatype()
    bits, size = kind.bitwidth(), stored_bytes(design.output_hop.bits)
    words = np.frombuffer(content[: len(content) // size * size], np.uint8).reshape(-1, size)
    planes = np.unpackbits(words, axis=1, bitorder="little")[:, : lanes * bits].reshape(len(words), lanes, bits)
    values = (planes.astype(np.int64) << np.arange(bits)).sum(axis=-1)
    if kind.signed():
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    whole = len(words) // design.output_hop.words * design.output_hop.words
    return values[:whole].reshape(-1, design.output_hop.words * lanes)
