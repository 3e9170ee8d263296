"""What runs only where Vivado is: `pytest -m vivado` on such a machine."""

from __future__ import annotations

import shutil

import pytest
from test_build import build

pytestmark = [
    pytest.mark.vivado,
    pytest.mark.skipif(shutil.which("vivado") is None, reason="needs Vivado on the PATH (source settings64.sh)"),
]


def test_vivado_is_recorded(model_json, tmp_path):
    result = build(model_json, tmp_path / "hw")
    assert result["toolchain"]["vivado"]


def test_written_dataflow_generates_hdl(model_json, tmp_path, finn):
    """FINN's RTL code generation accepts the folded graph."""
    import onnx
    from finn.transformation.fpgadataflow.prepare_ip import PrepareIP

    from nash_hw.graph.model import Model

    result = build(model_json, tmp_path / "hw")
    model = Model(onnx.load(str(tmp_path / "hw" / "dataflow.onnx")))
    model = model.transform(PrepareIP(result["fpga_part"], 1000 / result["clock_mhz"]))
    assert all(any(attribute.name == "code_gen_dir_ipgen" for attribute in node.attribute) for node in model.graph.node)
