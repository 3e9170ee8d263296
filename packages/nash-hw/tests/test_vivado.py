"""What runs only where Vivado is: `pytest -m vivado` on such a machine."""

from __future__ import annotations

import shutil

import pytest
from test_build import build

from nash_hw.errors import UnsupportedError

pytestmark = [
    pytest.mark.vivado,
    pytest.mark.skipif(shutil.which("vivado") is None, reason="needs Vivado on the PATH (source settings64.sh)"),
]


def test_vivado_is_recorded(model_json, tmp_path):
    result = build(model_json, tmp_path / "hw")
    assert result["toolchain"]["vivado"]


@pytest.mark.parametrize("until", ["hdl", "bitfile"])
def test_stages_of_a_later_release_are_refused_at_the_door(model_json, tmp_path, until):
    with pytest.raises(UnsupportedError, match="this release ends at estimates"):
        build(model_json, tmp_path / "hw", until=until)
    assert not (tmp_path / "hw").exists()


def test_written_dataflow_generates_hdl(model_json, tmp_path, finn):
    """FINN's RTL code generation accepts the folded graph."""
    import onnx
    from finn.transformation.fpgadataflow.prepare_ip import PrepareIP

    from nash_hw.model import Model

    result = build(model_json, tmp_path / "hw")
    model = Model(onnx.load(str(tmp_path / "hw" / "dataflow.onnx")))
    model = model.transform(PrepareIP(result["fpga_part"], 1000 / result["clock_mhz"]))
    assert all(any(attribute.name == "code_gen_dir_ipgen" for attribute in node.attribute) for node in model.graph.node)
