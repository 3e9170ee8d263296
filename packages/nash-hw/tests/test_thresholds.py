"""Thresholds against rational arithmetic, for every input of every quantizer drawn."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("finn")
LAWS = settings(max_examples=50, deadline=None, derandomize=True)
# numbers whose multiples meet in ties, exactly or but for rounding, and any others
SCALES = st.one_of(st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.7, 1.0, 1.5]), st.floats(1e-3, 8.0))
LEAKS = st.one_of(st.none(), st.just(0.0), st.sampled_from([0.1, 0.125, 0.25]))


@st.composite
def cases(draw):
    """An integer tensor of one channel (`leak` None: no ReLU, 0: a ReLU) and a quantizer that reads it."""
    from nash_hw.graph.activations import Quantizer
    from nash_hw.graph.integers import Integers
    from nash_hw.graph.model import range_datatype

    scale, leak = draw(SCALES), draw(LEAKS)
    low = draw(st.integers(-40, 0))
    high = draw(st.integers(low, 40))
    step = draw(st.one_of(SCALES, st.sampled_from([2.0, 4.0, 3.0]).map(lambda factor: factor * scale)))
    bias = draw(st.one_of(st.just(0.0), st.integers(-8, 8).map(lambda count: count * step / 2), st.floats(-8.0, 8.0)))
    lowest = draw(st.integers(-8, 0))
    highest = draw(st.integers(lowest + 1, 15))
    x = Integers(
        name="x",
        shape=(1, 1, 1, 1),
        datatype=range_datatype(low, high),
        scale=np.array([scale]),
        bias=np.array([bias]),
        low=np.array([float(low)]),
        high=np.array([float(high)]),
        relu=leak is not None,
        leak=leak or 0.0,
    )
    datatype = range_datatype(lowest, highest)
    zero_point = draw(st.integers(-3, 3))
    return x, Quantizer(scale=step, zero_point=zero_point, low=lowest, high=highest, datatype=datatype)


def expected(x, quantizer, value: int) -> int:
    """What QONNX's Quant gives for an input, without a rounding but its own."""
    real = Fraction(float(x.scale[0])) * value + Fraction(float(x.bias[0]))
    if x.relu and real < 0:
        real *= Fraction(x.leak)
    rounded = round(real / Fraction(quantizer.scale) + quantizer.zero_point)  # half to even
    return min(max(rounded, quantizer.low), quantizer.high)


@LAWS
@given(cases())
def test_thresholds_count_what_rational_arithmetic_rounds(case):
    from nash_hw.graph.integers import exact_thresholds, within_reach

    x, quantizer = case
    thresholds = exact_thresholds(x, quantizer)
    reached, kept = within_reach(x, quantizer, thresholds)
    for value in range(int(x.low[0]), int(x.high[0]) + 1):
        should = expected(x, quantizer, value)
        assert quantizer.low + int((value >= thresholds).sum()) == should
        assert reached.low + int((value >= kept).sum()) == should
    assert (np.diff(thresholds) >= 0).all()
