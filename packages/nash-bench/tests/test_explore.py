"""An exploration: which candidates go on, what it asks of the command lines, and that it goes on as it began."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from stages import calls, kinds

from nash_bench.sweep.candidates import Candidate, better_half

Run = Callable[..., Outcome]
ASKED = ["resnet8", "--board", "U250", "--target-fps", "1000", "--width", "4", "--widths", "4,6,8,10", "--points", "4"]
SHORT = [*ASKED, "--seeds", "2", "--epochs", "8", "--jobs", "4"]


def searched(name: str, top1: float, share: float) -> Candidate:
    return Candidate(genotype=f"{name}.json", is_plain=False, top1=top1, share=share)


def plain(width: int, top1: float, share: float) -> Candidate:
    return Candidate(genotype=f"width{width}.json", is_plain=True, top1=top1, share=share)


def test_better_half_is_of_the_front_and_of_each_kind() -> None:
    """A plain network that every searched one dominates goes on all the same."""
    found = [
        searched("dear", 90.0, 0.5),
        searched("dominated", 80.0, 0.4),
        searched("cheap", 81.0, 0.1),
        searched("worst", 70.0, 0.6),
        plain(4, 60.0, 0.6),
        plain(6, 61.0, 0.7),
        plain(8, 50.0, 0.8),
    ]
    assert [one.name for one in better_half(found)] == ["dear", "cheap", "width4", "width6"]


def test_second_front_fills_up_the_half() -> None:
    found = [searched("a", 90.0, 0.1), searched("b", 85.0, 0.2), searched("c", 88.0, 0.3), searched("d", 80.0, 0.4)]
    assert [one.name for one in better_half(found)] == ["a", "c"]


def test_two_or_fewer_all_go_on() -> None:
    found = [searched("a", 90.0, 0.1), searched("b", 80.0, 0.2)]
    assert better_half(found) == found
    assert better_half([]) == []


def test_dry_run_prints_the_commands_and_writes_nothing(run_cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = run_cli("explore", *ASKED, "--rungs", "2", "--out", out, "--dry-run").stdout.splitlines()
    assert [" ".join(line.split()[:2]) for line in lines] == [
        "nash-search space", "nash-hw costs", "nash-search pareto", *["nash-bench sweep"] * 3,
    ]  # fmt: skip
    assert f"--widths 4,6,8,10 --out {out}/costs.json" in lines[1]
    assert [Path(line.split()[2]).name for line in lines[3:]] == ["rung-1.yaml", "rung-2.yaml", "final.yaml"]
    assert not out.exists()


def test_exploration_ends_with_a_report(run_cli: Run, stages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run_cli("explore", *SHORT, "--out", out, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert Path(result["report"]).is_file()
    rung = result["rungs"]["rung-1"]
    assert (rung["epochs"], len(rung["candidates"]), len(rung["kept"])) == (2, 8, 4)
    final = json.loads((out / "final.yaml").read_text())
    assert (final["qat_epochs"], final["seed"]) == (8, [0, 1])
    kept = [Candidate(**one) for one in rung["kept"]]
    assert sum(one.is_plain for one in kept) == 2
    drawn = [str(out / "random" / f"{one.name}-random0.json") for one in kept if not one.is_plain]
    assert final["genotype"] == [one.genotype for one in kept] + drawn
    said = kinds(calls(stages))
    assert (said["search space"], said["hw costs"], said["search pareto"], said["search random"]) == (1, 1, 1, 2)
    assert said["qat train"] == said["bench evaluate"] == 8 + 2 * (4 + 2)
    for typed in result["steps"][:3]:
        assert typed.removeprefix("nash-") in "\n".join(calls(stages))


def test_exploration_goes_on_where_it_was_stopped(run_cli: Run, stages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (stages / "fail").write_text("search random")
    assert run_cli("explore", *SHORT, "--out", out).exit_code == 0  # without a control: nothing else costs that
    before = calls(stages)
    (stages / "fail").unlink()
    assert run_cli("explore", *SHORT, "--out", out).exit_code == 0
    new = kinds(calls(stages)[len(before) :])
    assert set(new) == {"search random", "qat train", "hw build", "bench evaluate"}
    assert new["qat train"] == 2 * 2, "only the controls are new"
    outcome = run_cli("explore", *SHORT, "--out", out, "--preset", "w2a2")
    assert outcome.exit_code == 2
    assert "preset: got 'w2a2', expected 'w4a4'" in outcome.stderr


def test_failed_step_is_named_with_its_exit_code(run_cli: Run, stages: Path, tmp_path: Path) -> None:
    (stages / "fail").write_text("hw costs")
    outcome = run_cli("explore", *SHORT, "--out", tmp_path / "out")
    assert outcome.exit_code == 9
    assert "failed: nash-hw costs" in outcome.stdout


def test_time_allowed_bounds_the_last_epochs(run_cli: Run, stages: Path, tmp_path: Path) -> None:
    """The stand-ins say that an epoch took 4 seconds: 6 networks with 2 seeds on 4 cores are 12 s an epoch."""
    out = tmp_path / "out"
    outcome = run_cli("explore", *SHORT, "--hours", 0.0001, "--out", out, "--json")
    assert json.loads(outcome.stdout)["epochs"] == 2  # not fewer than in the rung before
    more = run_cli("explore", *SHORT, "--hours", 100, "--out", tmp_path / "more", "--json")
    assert json.loads(more.stdout)["epochs"] == 8


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--widths", "4,4"], "--widths: got '4,4'"),
        (["--widths", "x"], "--widths: got 'x'"),
        (["--preset", "v3"], "--preset: got 'v3', expected wNaM"),
    ],
)
def test_bad_options_are_refused(run_cli: Run, tmp_path: Path, options: list[str], part: str) -> None:
    outcome = run_cli("explore", *ASKED, *options, "--out", tmp_path / "out", "--dry-run")
    assert outcome.exit_code == 2
    assert part in outcome.stderr
