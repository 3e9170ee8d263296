"""What an exploration is asked, and the commands and sweep files that follow from it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from .candidates import Candidate
from .networks import is_file

_WEIGHT_ACT = re.compile(r"w[1-8]a[1-8]")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: for which network, data, board and rate, and how much may be tried.

    widths: of the plain backbone. points: searched networks. rungs: short trainings before the last. epochs: of the
    last. hours: of the whole; what is left of it behind the rungs bounds the last epochs.
    """

    backbone: str
    variant: str
    board: str
    target_fps: float
    clock_mhz: float
    preset: str
    dataset: str
    data: str | None
    num_classes: int | None
    input_size: int
    width: int
    widths: tuple[int, ...]
    points: int
    random: int
    seeds: tuple[int, ...]
    search_recipe: str
    search_epochs: int | None
    qat_recipe: str
    epochs: int
    rungs: int
    hours: float | None

    def __post_init__(self) -> None:
        if _WEIGHT_ACT.fullmatch(self.preset) is None:
            raise UsageError(f"--preset: got '{self.preset}', expected wNaM, whose bits operations are priced at")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command: its name, its arguments behind the package's own command, and the file it makes."""

    name: str
    package: str
    arguments: tuple[str, ...]
    target: Path

    @property
    def typed(self) -> str:
        """Return it as one would type it."""
        return shlex.join([f"nash-{self.package}", *self.arguments])


def parse_widths(text: str | None, width: int) -> tuple[int, ...]:
    """Return the widths of a list such as '8,10,12', or by default four from a width to twice that.

    Raises:
        UsageError: they are no different positive numbers.
    """
    if text is None:
        return tuple(dict.fromkeys(width * times // 4 for times in (4, 5, 6, 8)))
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1 or len(set(found)) < len(found):
        raise UsageError(f"--widths: got '{text}', expected different numbers from 1 on: 8,10,12")
    return found


def first_steps(asked: Question, out: Path) -> list[Step]:
    """Return the commands from the backbone to the candidates."""
    space, costs, front = out / "space.json", out / "costs.json", out / "pareto" / "pareto.json"
    network = ["--backbone", asked.backbone, "--variant", asked.variant]
    classes = [] if asked.num_classes is None else ["--num-classes", str(asked.num_classes)]
    if not is_file(asked.backbone):
        network += ["--width", str(asked.width), "--input-size", str(asked.input_size)]
    data = ["--dataset", asked.dataset, *([] if asked.data is None else ["--data", asked.data])]
    weight_bits, act_bits = asked.preset[1], asked.preset[3]
    place = ["--board", asked.board, "--clock-mhz", f"{asked.clock_mhz:g}", "--target-fps", f"{asked.target_fps:g}"]
    bits = ["--weight-bits", weight_bits, "--act-bits", act_bits]
    widths = [] if is_file(asked.backbone) else ["--widths", ",".join(map(str, asked.widths))]
    recipe = ["--recipe", asked.search_recipe]
    recipe += [] if asked.search_epochs is None else ["--epochs", str(asked.search_epochs)]
    search = [*network, *data, *recipe, "--seed", str(asked.seeds[0]), "--costs", str(costs)]
    return [
        Step(
            name="space", package="search", arguments=("space", *network, *classes, "--out", str(space)), target=space
        ),
        Step(
            name="costs",
            package="hw",
            arguments=("costs", str(space), *place, *bits, *widths, "--out", str(costs)),
            target=costs,
        ),
        Step(
            name="pareto",
            package="search",
            arguments=("pareto", *search, "--points", str(asked.points), "--out", str(front.parent), "--resume"),
            target=front,
        ),
    ]


def sweep_file(
    asked: Question, candidates: Sequence[Candidate], *, seeds: Sequence[int], epochs: int
) -> dict[str, Any]:
    """Return the sweep of some candidates, as `nash-bench sweep` reads it."""
    plan: dict[str, Any] = {
        "genotype": [one.genotype for one in candidates],
        "seed": list(seeds),
        "preset": asked.preset,
        "board": asked.board,
        "dataset": asked.dataset,
        "input_size": asked.input_size,
        "qat_recipe": asked.qat_recipe,
        "qat_epochs": epochs,
        "clock_mhz": asked.clock_mhz,
        "target_fps": asked.target_fps,
    }
    plan |= {} if asked.data is None else {"data": str(Path(asked.data).resolve())}
    return plan | ({} if asked.num_classes is None else {"num_classes": asked.num_classes})


def dry_run(asked: Question, out: Path) -> dict[str, Any]:
    """Return the commands that are known before anything has run, and what follows from what they find."""
    rungs = [f"rung-{number}" for number in range(1, asked.rungs + 1)]
    sweeps = [
        shlex.join(["nash-bench", "sweep", str(out / f"{name}.yaml"), "--out", str(out / name)])
        for name in [*rungs, "final"]
    ]
    return {"steps": [*(step.typed for step in first_steps(asked, out)), *sweeps]}
