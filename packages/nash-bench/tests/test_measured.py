from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import write_hardware, write_json, write_model
from conftest import Outcome

from nash_bench.base import manifest
from nash_bench.base.errors import DataError, ManifestError, OutputError, UsageError
from nash_bench.measure.measured import import_measurements, read_measurement
from nash_bench.records.collect import collect
from nash_bench.records.facts import Hardware

Run = Callable[..., Outcome]
TOP = {"LUT": 61_000, "SRL": 900, "FF": 70_000, "BRAM_36K": 30, "BRAM_18K": 5, "DSP": 64}
SYNTHESIZED = {"(top)": TOP, "StreamingDataflowPartition_1": {"LUT": 1}}
METRICS = (
    "{'runtime[ms]': 10.0, 'throughput[images/s]': np.float64(950.5), 'DRAM_in_bandwidth[MB/s]': 2.9, "
    "'fclk[mhz]': 187.5, 'batch_size': 1000}"
)


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    return write_hardware(tmp_path / "hw", write_model(tmp_path / "qat", has_files=False))


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "nw_metrics.txt"
    path.write_text(METRICS)
    return path


@pytest.fixture
def synthesized(tmp_path: Path) -> Path:
    return write_json(tmp_path / "post_synth_resources.json", SYNTHESIZED)


def test_synthesis_alone_is_synthesized(hardware: Path, synthesized: Path, tmp_path: Path) -> None:
    out = tmp_path / "measured" / "hardware.json"
    found = Hardware.from_manifest(import_measurements(hardware, [synthesized], out))
    assert (found.origin, found.throughput_fps, found.latency_us) == ("synthesized", None, None)
    assert (found.LUT, found.FF, found.BRAM_18K, found.URAM, found.DSP) == (61_000, 70_000, 65, None, 64)
    assert found.utilization["LUT"] == pytest.approx(61_000 / 1_728_000)
    assert found.utilization["URAM"] is None
    assert not found.is_lower_bound("LUT")


def test_board_and_synthesis_are_measured(hardware: Path, metrics: Path, synthesized: Path, tmp_path: Path) -> None:
    out = tmp_path / "measured" / "hardware.json"
    import_measurements(hardware, [metrics, synthesized], out, power_w=4.25)
    content = manifest.load(out, "hardware")
    found = Hardware.from_manifest(content)
    assert (found.origin, found.throughput_fps, found.power_w, found.LUT) == ("measured", 950.5, 4.25, 61_000)
    assert found.clock_mhz == 187.5
    assert found.latency_us is None  # a batch of 1000 says nothing of one picture
    assert {entry["path"] for entry in content["inputs"]} == {hardware.name, metrics.name, synthesized.name}
    assert content["estimated"] == json.loads(hardware.read_text())["estimated"]


def test_estimates_do_not_fill_in(hardware: Path, metrics: Path, tmp_path: Path) -> None:
    found = Hardware.from_manifest(import_measurements(hardware, [metrics], tmp_path / "m" / "hardware.json"))
    assert (found.LUT, found.DSP, found.throughput_fps) == (None, None, 950.5)


def test_one_picture_has_a_latency(tmp_path: Path) -> None:
    path = tmp_path / "nw_metrics.txt"
    path.write_text("{'runtime[ms]': 2.5, 'throughput[images/s]': 400.0, 'N': 1}")
    assert read_measurement(path).figures == {"throughput_fps": 400, "latency_us": 2500}


def test_out_of_context_synthesis_is_read(tmp_path: Path) -> None:
    path = write_json(tmp_path / "ooc.json", {**TOP, "fmax_mhz": 250.1, "estimated_throughput_fps": 9e9})
    found = read_measurement(path)
    assert (found.is_of_board, found.figures) == (False, {})
    assert found.resources["BRAM_18K"] == 65


def test_report_keeps_estimate_and_measurement_apart(hardware: Path, metrics: Path, tmp_path: Path) -> None:
    import_measurements(hardware, [metrics], tmp_path / "measured" / "hardware.json")
    origins = {row.record.hardware.origin: row.panel for row in collect([tmp_path]).rows}
    assert set(origins) == {"estimated", "measured"}
    assert origins["estimated"] != origins["measured"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{'throughput[images/s]': 'fast'}", "throughput[images/s]: got 'fast'"),
        ("{'throughput[images/s]': -1}", "throughput[images/s]: got -1"),
        ('{"(top)": {"SRL": 1}}', "got no resources"),
        ("__import__('os').getcwd()", "none of the files known"),
        ("{}", "none of the files known"),
        ("", "none of the files known"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "result.txt"
    path.write_text(text)
    with pytest.raises(ManifestError) as error:
        read_measurement(path)
    assert str(error.value).startswith(f"{path}: ")
    assert part in str(error.value)


def test_disagreeing_files_are_refused(hardware: Path, synthesized: Path, tmp_path: Path) -> None:
    other = write_json(tmp_path / "other.json", {"(top)": TOP | {"LUT": 1}})
    with pytest.raises(DataError, match="LUT: got 1, expected 61000"):
        import_measurements(hardware, [synthesized, other], tmp_path / "m" / "hardware.json")


def test_records_are_not_overwritten(hardware: Path, synthesized: Path) -> None:
    with pytest.raises(OutputError, match="records do not change"):
        import_measurements(hardware, [synthesized], hardware)


def test_nothing_to_import_is_refused(hardware: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got none"):
        import_measurements(hardware, [], tmp_path / "m" / "hardware.json")


def test_command_says_what_was_imported(run_cli: Run, hardware: Path, metrics: Path, tmp_path: Path) -> None:
    out = tmp_path / "measured" / "hardware.json"
    outcome = run_cli("import", hardware, metrics, "--power-w", 4.25, "--out", out)
    assert outcome.stdout == f"accelerator, measured on U250: 950.5 frames/s, 4.25 W\nwritten: {out}\n"
    assert json.loads(run_cli("import", hardware, metrics, "--out", tmp_path / "b.json", "--json").stdout)["path"]
    assert run_cli("import", hardware, tmp_path / "none", "--out", tmp_path / "c.json").exit_code == 3
