from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from nash_bench.base.errors import ManifestError, UsageError
from nash_bench.sweep.plan import Plan, engine_config, read_plan

GRID = """
backbone: resnet8
variant: [none, v1, v3]
width: 4
baseline_width: [4, 6, 8]
preset: [w2a2, w4a4]
seed: [0, 1]
board: [U250, Pynq-Z1]
"""


def plan_of(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return read_plan(path)


def test_backbone_alone_is_enough(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "backbone: resnet18")
    assert [(cell.network.name, cell.seed, cell.preset, cell.board) for cell in plan.cells] == [
        ("resnet18-width16", 0, "w4a4", "U250"),
        ("resnet18-v3-width16-seed0", 0, "w4a4", "U250"),
    ]
    assert plan.settings["dataset"] == "digits"
    assert plan.settings["max_utilization"] == 0.7


def test_jobs_are_shared_by_cells(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    networks = [*product(["none"], [4, 6, 8]), *product(["v1", "v3"], [4])]
    cells = set(product(networks, [0, 1], ["w2a2", "w4a4"], ["U250", "Pynq-Z1"]))
    trained = {(network, seed, preset) for network, seed, preset, _ in cells}
    searched = {(network, seed) for network, seed, _, _ in cells if network[0] != "none"}
    assert len(plan.cells) == len(cells)
    assert plan.num_jobs() == {
        "search": len(searched),
        "plain": 3,
        "train": len(trained),
        "build": len(cells),
        "evaluate": len(trained),
    }
    assert len({job.target for job in plan.jobs}) == len({job.log for job in plan.jobs}) == len(plan.jobs)


def test_each_job_reads_what_another_makes(tmp_path: Path) -> None:
    jobs = plan_of(tmp_path, GRID).jobs
    made_by = {job.target: job.stage for job in jobs}
    assert {(job.stage, *(made_by[source] for source in job.sources)) for job in jobs} == {
        ("search",), ("plain",), ("train", "search"), ("train", "plain"), ("build", "train"), ("evaluate", "train"),
    }  # fmt: skip


def test_searches_that_heed_costs_share_their_prices(tmp_path: Path) -> None:
    text = GRID + "target_fps: 1000\ncost_weight: [0, 0.1, 2]\njoin: [quantized, aligned]\n"
    plan = plan_of(tmp_path, text)
    jobs = plan.num_jobs()
    variants, seeds, weights, presets, boards, joins = 2, 2, 2, 2, 2, 2
    assert jobs["space"] == variants
    assert jobs["costs"] == variants * presets * boards
    assert jobs["search"] == variants * seeds * (1 + weights * presets * boards)
    assert jobs["plain"] == 3
    assert jobs["build"] == len(plan.cells) == (3 + variants * 3) * seeds * presets * joins * boards
    by_target = {job.target: job for job in plan.jobs}
    search = by_target["runs/resnet8-v3-width4-cost0.1_w4a4_Pynq-Z1-seed1/genotype.json"]
    assert search.sources == ("costs/resnet8-v3-width4/w4a4_Pynq-Z1.json",)
    assert by_target[search.sources[0]].sources == ("costs/resnet8-v3-width4/space.json",)
    model = "runs/resnet8-v3-width4-cost0.1_w4a4_Pynq-Z1-seed1/w4a4_aligned-seed1/model/model.json"
    assert by_target[model].sources == (search.target,)
    assert len({job.log for job in plan.jobs}) == len(plan.jobs)


def test_settings_reach_their_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    text = (
        "backbone: resnet8\ndataset: cifar100\ndata: pictures\ninput_size: 16\nsearch_recipe: mine.json\n"
        "search_epochs: 2\nqat_recipe: paper\nqat_epochs: 3\nclock_mhz: 150\ntarget_fps: 1000\n"
        "resources: {train: {gpu: 1, threads: 4}}\nsearch_images: 50\nval_fraction: 0.2\nfinish: 3"
    )
    config = engine_config(plan_of(tmp_path, text), {})
    data = ["--dataset", "cifar100", "--data", str(tmp_path / "pictures")]
    recipe = ["--recipe", str(tmp_path / "mine.json"), "--epochs", "2"]
    assert config["options"] == {
        "search": [*data, *recipe, "--val-fraction", "0.2", "--num-images", "50", "--finish", "3"],
        "costs": ["--clock-mhz", "150", "--target-fps", "1000"],
        "train": [*data, "--val-fraction", "0.2", "--recipe", "paper", "--epochs", "3"],
        "build": ["--clock-mhz", "150", "--target-fps", "1000"],
        "evaluate": data,
    }
    assert config["resources"]["train"] == {"threads": 4, "mem_mb": 4000, "gpu": 1}
    assert config["resources"]["search"] == {"threads": 1, "mem_mb": 4000}


def test_each_axis_of_a_search_has_networks_of_its_own(tmp_path: Path) -> None:
    text = (
        "backbone: resnet8\nvariant: v3\nwidth: 4\ntarget_fps: 1000\npreset: [w2a2, w4a4]\n"
        "relaxation: [layer, edge]\ncost_weight: [0, 0.5]\nbudget: [null, 'lut=2000,bram=5%']\n"
        "total_budget: [null, dsp=20]\nquantized_search: true\n"
    )
    plan = plan_of(tmp_path, text)
    config = engine_config(plan, {})
    assert len(plan.cells) == len(config["networks"]) == 2 * 2 * 2 * 2 * 2
    name = "resnet8-v3-width4-edge-cost0.5-budgetlut2000bram5pct-totaldsp20-quantized_w2a2_U250-seed0"
    assert config["networks"][name] == {
        "stage": "search",
        "genotype": f"runs/{name}/genotype.json",
        "sources": ["costs/resnet8-v3-width4/w2a2_U250.json"],
        "options": [
            "--backbone", "resnet8", "--variant", "v3", "--width", "4", "--input-size", "32", "--seed", "0",
            "--relaxation", "edge", "--cost-weight", "0.5", "--budget", "lut=2000,bram=5%", "--total-budget", "dsp=20",
            "--preset", "w2a2", "--costs", "costs/resnet8-v3-width4/w2a2_U250.json", "--cost-resource", "sum",
        ],
    }  # fmt: skip
    assert config["networks"]["resnet8-v3-width4-quantized_w4a4-seed0"]["sources"] == []
    assert config["spaces"]["resnet8-v3-width4"][-2:] == ["--num-classes", "10"]


def test_random_networks_are_of_each_search(tmp_path: Path) -> None:
    text = "backbone: resnet8\nwidth: 4\ntarget_fps: 9\ncost_weight: [0, 1]\nseed: [3, 4]\nrandom: 2\n"
    plan = plan_of(tmp_path, text)
    jobs = {job.target: job for job in plan.jobs}
    costs = "costs/resnet8-v3-width4/w4a4_U250.json"
    for found, drawn in [
        ("resnet8-v3-width4-seed3", "resnet8-v3-width4-seed3-random1_w4a4_U250"),
        ("resnet8-v3-width4-cost1_w4a4_U250-seed4", "resnet8-v3-width4-cost1_w4a4_U250-seed4-random0"),
    ]:
        job = jobs[f"runs/{drawn}/genotype.json"]
        assert (job.stage, job.sources) == ("random", (f"runs/{found}/genotype.json", costs))
    trained = [cell for cell in plan.cells if "-random" in cell.network.name]
    assert len(trained) == 2 * 2 * 2
    assert all(f"-seed{cell.seed}-random" in cell.network.name for cell in trained)


def test_networks_of_files_are_trained_where_they_lie(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / f"{name}.json").write_text(f'{{"name": "my net {name}"}}')
    plan = plan_of(
        tmp_path, "backbone: mine.json\nvariant: [none, v3]\nwidth: [4, 8]\ngenotype: [other.json, resnet18-v3]"
    )
    config = engine_config(plan, {})
    by_stage = {name: network["stage"] for name, network in config["networks"].items()}
    assert Counter(by_stage.values()) == {"given": 2, "search": 1, "plain": 2}
    other = next(name for name in by_stage if name.startswith("my-net-other-"))
    assert config["networks"][other]["genotype"] == str(tmp_path / "other.json")
    searched = next(name for name, stage in by_stage.items() if stage == "search")
    assert "--width" not in config["networks"][searched]["options"]
    assert config["networks"]["resnet18-v3-width8"]["options"][:3] == ["resnet18-v3", "--width", "8"]


def test_backbone_with_operations_is_no_plain_network(tmp_path: Path) -> None:
    layers = [{"nas_op": None}, {"nas_op": {"op": "conv_3x3", "input": 0}}]
    (tmp_path / "mine.json").write_text(json.dumps({"name": "mine", "cells": [{"layers": layers}]}))
    with pytest.raises(UsageError, match=r"variant: got none beside backbone .*mine\.json, which has NAS operations"):
        plan_of(tmp_path, "backbone: mine.json")
    assert len(plan_of(tmp_path, "backbone: mine.json\nvariant: v3").cells) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("variant: v3", ["backbone: got none, expected one to search around, or a genotype"]),
        ("backbone: []", ["backbone: got none"]),
        ("backbone: resnet8\nboards: U250", ["boards: unknown key, did you mean 'board'?"]),
        ("backbone: resnet8\nresources: {tran: {}}", ["resources.tran: unknown key, did you mean 'resources.train'?"]),
        (
            "backbone: resnet8\nwidth: [4, 0]\nvariant: v5",
            ["width[1]: 0 is less than", "variant[0]: 'v5' is not one of"],
        ),
        ("backbone: ../x", ["backbone[0]: '../x' does not match"]),
        ("backbone: resnet8\nseed: []", ["seed: [] should be non-empty"]),
        ("backbone: resnet8\ntarget_fps: 9\nmax_utilization: 0.5", ["target_fps, max_utilization: got both"]),
        ("- resnet8", ["got a YAML list"]),
        ("backbone: [", ["not valid YAML"]),
    ],
)
def test_bad_file_is_refused_by_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ManifestError) as error:
        plan_of(tmp_path, text)
    assert all(part in str(error.value) for part in ["sweep.yaml: ", *parts]), error.value


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("backbone: resnet8\ndataset: imagefolder", "num_classes: missing"),
        ("backbone: resnet8\nqat_recipe: none.json", "qat_recipe: "),
        ("backbone: resnet8\ncost_weight: 0.1", "cost_weight: got no target_fps"),
        ("backbone: resnet8\ntotal_budget: lut=9", "total_budget: got no target_fps"),
        ("backbone: resnet8\nrandom: 2", "random: got no target_fps"),
        ("backbone: mine.json", "mine.json is not there"),
        ("genotype: [resnet18-v3, mine.json]", "mine.json is not there"),
        ("backbone: resnet8\ncost_weight: 0.1\ntarget_fps: 9\npreset: v3", "cost_weight: got the preset 'v3'"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, part: Any) -> None:
    with pytest.raises(UsageError, match=part):
        plan_of(tmp_path, text)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.yaml: cannot be read"):
        read_plan(tmp_path / "none.yaml")
