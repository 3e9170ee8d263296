from __future__ import annotations

import numpy as np
import pytest
from networks import pictures, residual_network, run

from nash_hw.base.errors import IntegrityError, ManifestError, VerificationError

pytestmark = pytest.mark.usefixtures("finn")


@pytest.fixture
def network():
    """A streamlined model, its dequantization, and exact golden logits."""
    from nash_hw.graph.streamline import streamline
    from nash_hw.verify.verify import Golden

    source = residual_network()
    model, dequantization = streamline(source)
    images = pictures(source, 8)
    logits = run(model, images) * dequantization.scale + dequantization.bias
    return model, dequantization, Golden(pictures=images, logits=logits.astype(np.float32).astype(np.float64))


def test_equal_stage_is_recorded(network):
    from nash_hw.verify.verify import Verifier

    model, dequantization, golden = network
    record = Verifier(golden, dequantization, act_bits=4).check("streamlined", model)
    assert (record.num_samples, record.num_flips) == (8, 0)
    assert record.max_abs_error < 1e-5


def flipped(golden, dequantization, samples, steps=1):
    from nash_hw.verify.verify import Golden

    logits = golden.logits.copy()
    logits[:samples, 0] += steps * dequantization.scale[0]
    return Golden(pictures=golden.pictures, logits=logits)


def test_one_step_is_an_error_at_four_bits_and_counted_at_eight(network):
    from nash_hw.verify.verify import Verifier

    model, dequantization, golden = network
    off = flipped(golden, dequantization, samples=2)
    with pytest.raises(VerificationError, match="2 of 8 samples"):
        Verifier(off, dequantization, act_bits=4).check("streamlined", model)
    record = Verifier(off, dequantization, act_bits=8).check("streamlined", model)
    assert record.num_flips == 2
    assert record.max_abs_error == pytest.approx(dequantization.scale[0], rel=1e-3)


@pytest.mark.parametrize(("samples", "steps"), [(5, 1), (1, 10_000)])
def test_flips_are_bounded(network, samples, steps):
    from nash_hw.verify.verify import Verifier

    model, dequantization, golden = network
    with pytest.raises(VerificationError, match=r"at most 0\.25 of the largest in at most half"):
        Verifier(flipped(golden, dequantization, samples, steps), dequantization, act_bits=8).check("s", model)


def test_stages_must_agree_in_every_integer(network):
    from nash_hw.verify.verify import Verifier

    model, dequantization, golden = network
    verifier = Verifier(golden, dequantization, act_bits=8)
    verifier.check("streamlined", model)
    weights = model.get_nodes_by_op_type("MatMul")[0].input[1]
    model.set_initializer(weights, -model.get_initializer(weights))
    with pytest.raises(VerificationError, match="stage 'broken': sample"):
        verifier.check("broken", model, num_samples=1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_damaged_golden_file(tmp_path, content):
    from nash_hw.verify.verify import load_golden

    path = tmp_path / "golden.npz"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"not a whole golden\.npz"):
        load_golden(path, (1, 3, 8, 8))


@pytest.mark.parametrize(
    ("images", "logits", "message"),
    [
        (np.zeros((8, 3, 9, 9), np.uint8), np.zeros((8, 3)), "input: got uint8"),
        (np.zeros((8, 3, 8, 8), np.float32), np.zeros((8, 3)), "input: got float32"),
        (np.zeros((8, 3, 8, 8), np.uint8), np.zeros((7, 3)), "output: got shape"),
        (np.zeros((8, 3, 8, 8), np.uint8), np.full((8, 3), np.nan), "output: got shape"),
    ],
)
def test_golden_of_another_network(tmp_path, images, logits, message):
    from nash_hw.verify.verify import load_golden

    path = tmp_path / "golden.npz"
    np.savez(path, input=images, output=logits)
    with pytest.raises(ManifestError, match=message):
        load_golden(path, (1, 3, 8, 8))
