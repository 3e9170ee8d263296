"""Write the tables of READMEs anew from what was measured, or with --check name those that are stale.

    python tools/readme.py [--check]

A table stands between two comments, `<!-- table: NAME -->` and `<!-- end -->`; TABLES has its source. Nothing but the
standard library is needed.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ERRORS = ROOT / "packages/nash-search/src/nash_search/base/errors.py"
JOINS = ROOT / "packages/nash-qat/benchmarks/measured/joins/results.jsonl"
SYNTHESIZED = ROOT / "packages/nash-hw/tests/data/synthesized.json"
ESTIMATED = ROOT / "packages/nash-hw/benchmarks/measured/synthesized.json"

_MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_EXIT_CODE = re.compile(r"(\d+)\s+(?:`\w+`\s+)?(\S.*)")
_REFERENCE = "quantized"
# Student's t, two-sided 95 %, of 1, 2, ... degrees of freedom
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)

Rows = list[list[str]]  # the first one is the head


def exit_codes() -> Rows:
    """Return the exit codes that all packages share, in two columns."""
    text = ast.get_docstring(ast.parse(ERRORS.read_text("utf-8"))) or ""
    codes = [list(match.groups()) for line in text.splitlines() if (match := _EXIT_CODE.fullmatch(line))]
    half = (len(codes) + 1) // 2
    right = codes[half:] + [["", ""]] * (2 * half - len(codes))
    pairs = zip(codes[:half], right, strict=True)
    return [["code", "meaning", "", "code", "meaning"], *([*first, "", *second] for first, second in pairs)]


def joins() -> Rows:
    """Return top-1 of every network and kind of addition, and the seeds' paired differences."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for line in JOINS.read_text("utf-8").splitlines():
        run = json.loads(line)
        network = re.sub(r"-w\d+$", "", run["network"])
        found.setdefault(network, {}).setdefault(run["kind"], {})[run["seed"]] = run["top1"]
    kinds = list(dict.fromkeys(kind for by_kind in found.values() for kind in by_kind))
    repeated = {kind for by_kind in found.values() for kind, by_seed in by_kind.items() if len(by_seed) > 1}
    head = ["network"]
    for kind in kinds:
        head += [_kind_title(kind, [by_kind.get(kind, {}) for by_kind in found.values()])]
        head += ["difference"] if kind in repeated - {_REFERENCE} else []
    rows = [head]
    for network, by_kind in found.items():
        rows.append([network])
        for kind in kinds:
            rows[-1] += [_mean(list(by_kind.get(kind, {}).values()))]
            if kind in repeated - {_REFERENCE}:
                rows[-1] += [_difference(by_kind.get(kind, {}), by_kind.get(_REFERENCE, {}))]
    return rows


def _kind_title(kind: str, runs: Sequence[dict[int, float]]) -> str:
    word, _, shift = kind.partition(":")
    seeds = {seed for by_seed in runs for seed in by_seed}
    alone = f" (seed {seeds.pop()} alone)" if len(seeds) == 1 else ""
    return f"`{word}`" + (f", `join_shift` {shift}" if shift else "") + alone


def _mean(values: Sequence[float]) -> str:
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}" if values else ""


def _difference(ours: dict[int, float], reference: dict[int, float]) -> str:
    gains = [ours[seed] - reference[seed] for seed in sorted(ours.keys() & reference.keys())]
    if len(gains) < 2:
        return ""
    half = _STUDENT[len(gains) - 2] * statistics.stdev(gains) / len(gains) ** 0.5
    return f"{statistics.mean(gains):+.2f} +- {half:.2f}"


def _compared() -> list[tuple[str, dict[str, int], dict[str, int], dict[str, int]]]:
    """Return name, estimate, truth and FINN's estimate of every published design, the farthest LUTs first."""
    stored = json.loads(ESTIMATED.read_text("utf-8"))
    found = []
    for design in json.loads(SYNTHESIZED.read_text("utf-8"))["designs"]:
        true = design["synthesized"] | {"cycles": design["measured"]["interval_cycles"]}
        finn = design["finn_estimate"] | {"cycles": design["finn_estimate"]["max_cycles"]}
        found.append((design["name"], stored[design["name"]], true, finn))
    return sorted(found, key=lambda row: -abs(row[1]["LUT"] / row[2]["LUT"] - 1))


def synthesized() -> Rows:
    """Return the estimates of published designs beside what synthesis and the board said."""
    head = ["design", "LUT: estimated / synthesized", "ratio", "FINN's", "FF ratio", "BRAM_18K", "ratio", "FINN's"]
    rows = [[*head, "DSP", "cycles a frame: estimated / measured", "ratio"]]
    for name, ours, true, finn in _compared():
        both = {key: f"{ours[key]:,} / {true[key]:,}" for key in ("LUT", "BRAM_18K", "DSP", "cycles")}
        ratio = {key: f"{ours[key] / true[key]:.2f}" for key in ("LUT", "FF", "BRAM_18K", "cycles")}
        theirs = {key: f"{finn[key] / true[key]:.2f}" for key in ("LUT", "BRAM_18K")}
        luts = [both["LUT"], ratio["LUT"], theirs["LUT"], ratio["FF"]]
        rest = [both["BRAM_18K"], ratio["BRAM_18K"], theirs["BRAM_18K"], both["DSP"], both["cycles"], ratio["cycles"]]
        rows.append([name, *luts, *rest])
    return rows


def synthesized_ratios() -> Rows:
    """Return median and range of the ratios of published designs."""
    names = ("LUT", "FF", "BRAM_18K", "DSP", "cycles")
    rows = _compared()
    ours = {name: [own[name] / true[name] for _, own, true, _ in rows if true[name]] for name in names}
    theirs = {
        name: [finn[name] / true[name] for _, _, true, finn in rows if true[name] and name in finn] for name in names
    }
    middle = [f"{statistics.median(ours[name]):.2f}" for name in names]
    ends = [f"{min(ours[name]):.2f}, {max(ours[name]):.2f}" for name in names]
    finns = [_middle(found) for found in theirs.values()]
    return [
        ["", *names],
        ["median of estimated / synthesized, or measured", *middle],
        ["from, to", *ends],
        ["FINN's own estimate, which has neither shell nor FIFOs", *finns],
    ]


def _middle(ratios: Sequence[float]) -> str:
    if not ratios:
        return "none"
    middle, low, high = (f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios)))
    return middle if low == high else f"{middle} ({low} to {high})"


TABLES: dict[str, Callable[[], Rows]] = {
    "exit-codes": exit_codes,
    "joins": joins,
    "synthesized": synthesized,
    "synthesized-ratios": synthesized_ratios,
}


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Return a table, its first row the head.

    >>> print(markdown([["a", ""], ["1", "2"]]), end="")
    | a | |
    |---|---|
    | 1 | 2 |
    """
    head, *body = (("| " + " | ".join(row) + " |").replace("|  |", "| |").replace("|  |", "| |") for row in rows)
    rule = "|---" * (head.count("|") - 1) + "|"
    return "".join(f"{line}\n" for line in (head, rule, *body))


def renewed(text: str, tables: dict[str, Callable[[], Rows]] | None = None) -> tuple[str, list[str]]:
    """Return a README with its tables as their sources have them today, and the names of those that were stale.

    Raises:
        KeyError: a table has no source.
    """
    stale = []

    def table(match: re.Match[str]) -> str:
        new = markdown((TABLES if tables is None else tables)[match[2]]())
        stale.extend([match[2]] if new != match[3] else [])
        return match[1] + new + match[4]

    return _MARKED.sub(table, text), stale


def main(arguments: Sequence[str]) -> Any:
    """Renew or check the tables of all READMEs; return what to leave with."""
    if set(arguments) - {"--check"}:
        return __doc__
    problems = []
    for path in (ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md"))):
        text, stale = renewed(path.read_text("utf-8"))
        where = path.relative_to(ROOT)
        if stale and "--check" in arguments:
            problems += [f"{where}: table {name}: stale; run `python3 noxfile.py -s readme`" for name in stale]
        elif stale:
            path.write_text(text, "utf-8")
            print(f"{where}: renewed {', '.join(stale)}")
    return "\n".join(problems) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
