"""The figures a comparison knows: where each stands in a record, its unit, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .facts import RESOURCES
from .record import Record

NOT_KNOWN = "n/a"
AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"
OF_BOUNDS = "\N{DAGGER}"
BOUNDS_LEGEND = (
    f"{AT_LEAST}: a lower bound, the sum over the layers whose figure is known; "
    f"{OF_BOUNDS}: a difference that involves such a sum compares known parts only, and may point the other way."
)
OF_TEST = "\N{DOUBLE DAGGER}"
SELECTION_LEGEND = (
    f"{OF_TEST}: the epoch was chosen by its accuracy on the test split, which flatters it there; choose on pictures "
    "held out of the training split (nash-qat train --val-fraction)."
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a record."""

    key: str
    label: str
    unit: str
    is_high_good: bool
    value: Callable[[Record], float | None]
    num_decimals: int = 0
    is_percentage: bool = False
    resources: tuple[str, ...] = ()  # that it is made of

    def text(self, value: float | None, *, is_lower_bound: bool = False) -> str:
        """Return a value to read, 'n/a' for one that is not known."""
        sign = AT_LEAST if is_lower_bound else ""
        return NOT_KNOWN if value is None else f"{sign}{value:,.{self.num_decimals}f}"

    def is_lower_bound(self, record: Record) -> bool:
        """Return whether the record's value is a sum that leaves out layers of which nobody knows a figure."""
        return record.hardware is not None and any(record.hardware.is_lower_bound(key) for key in self.resources)

    def text_of(self, record: Record) -> str:
        """Return a record's value to read, marked if it is a lower bound, or of a network chosen on the test split."""
        text = self.text(self.value(record), is_lower_bound=self.is_lower_bound(record))
        return f"{text}{OF_TEST}" if self.is_selected(record) else text

    def is_selected(self, record: Record) -> bool:
        """Return whether the record's value is an accuracy that its network was chosen by."""
        return self.is_percentage and record.identity.is_selected_on_test and self.value(record) is not None

    def delta_text(self, delta: float | None) -> str:
        """Return a difference with its sign."""
        return NOT_KNOWN if delta is None else f"{delta:+,.{self.num_decimals}f}".replace("-", "\N{MINUS SIGN}")


def _of_accuracy(key: str) -> Callable[[Record], float | None]:
    return lambda record: None if record.accuracy is None else getattr(record.accuracy, key)


def _of_hardware(key: str) -> Callable[[Record], float | None]:
    return lambda record: None if record.hardware is None else getattr(record.hardware, key)


def _share_of_board(key: str, label: str, combine: Callable[[list[float]], float]) -> Figure:
    """Return the shares of the board's resources as one figure, not known if one share is not."""

    def value(record: Record) -> float | None:
        hardware = record.hardware
        if hardware is None:
            return None
        shares = [0.0 if getattr(hardware, name) == 0 else (hardware.utilization or {}).get(name) for name in RESOURCES]
        return None if None in shares else 100 * combine(shares)

    return Figure(
        key=key,
        label=label,
        unit="% of the board",
        is_high_good=False,
        value=value,
        num_decimals=1,
        resources=RESOURCES,
    )


def _weight_memory(record: Record) -> float | None:
    return record.identity.weight_memory_bits


def _cpu_throughput(record: Record) -> float | None:
    return None if record.cpu is None else record.cpu.throughput_fps


def _percentage(key: str, label: str) -> Figure:
    return Figure(
        key=key,
        label=label,
        unit="%",
        is_high_good=True,
        value=_of_accuracy(key),
        num_decimals=2,
        is_percentage=True,
    )


FIGURES: tuple[Figure, ...] = (
    _percentage("top1", "top-1"),
    _percentage("top5", "top-5"),
    Figure(key="throughput_fps", label="fps", unit="frames/s", is_high_good=True, value=_of_hardware("throughput_fps")),
    Figure(
        key="latency_us",
        label="latency",
        unit="\N{MICRO SIGN}s",
        is_high_good=False,
        value=_of_hardware("latency_us"),
        num_decimals=1,
    ),
    *(
        Figure(key=key, label=key, unit="", is_high_good=False, value=_of_hardware(key), resources=(key,))
        for key in RESOURCES
    ),
    Figure(key="power_w", label="power", unit="W", is_high_good=False, value=_of_hardware("power_w"), num_decimals=2),
    Figure(key="weight_memory_bits", label="weights", unit="bit", is_high_good=False, value=_weight_memory),
    Figure(key="cpu_fps", label="CPU fps", unit="frames/s", is_high_good=True, value=_cpu_throughput),
)
COSTS_OF_BOARD: tuple[Figure, ...] = (
    _share_of_board("scarcest", "scarcest resource", max),
    _share_of_board("price", "sum of shares", sum),
)
BY_KEY = {figure.key: figure for figure in (*FIGURES, *COSTS_OF_BOARD)}
COMPARED = ("top1", "top5", "throughput_fps", "latency_us", "LUT", "BRAM_18K", "URAM", "DSP", "weight_memory_bits")


@dataclass(frozen=True, kw_only=True)
class Delta:
    """How one figure of a candidate differs from the baseline's."""

    key: str
    baseline: float | None
    candidate: float | None
    is_baseline_bound: bool = False
    is_candidate_bound: bool = False
    is_baseline_selected: bool = False
    is_candidate_selected: bool = False

    @property
    def is_of_bounds(self) -> bool:
        """Return whether one of the two is a lower bound, so that nobody knows the difference of the totals."""
        return self.difference is not None and (self.is_baseline_bound or self.is_candidate_bound)

    @property
    def is_of_selected(self) -> bool:
        """Return whether one of the two is an accuracy that its network was chosen by."""
        return self.difference is not None and (self.is_baseline_selected or self.is_candidate_selected)

    @property
    def difference(self) -> float | None:
        """Return candidate minus baseline; percentage points for percentages."""
        return None if self.baseline is None or self.candidate is None else self.candidate - self.baseline

    @property
    def relative(self) -> float | None:
        """Return the difference as a fraction of the baseline; not for percentages or a baseline of 0."""
        if self.difference is None or not self.baseline or BY_KEY[self.key].is_percentage:
            return None
        return self.difference / self.baseline

    @property
    def is_better(self) -> bool | None:
        """Return whether the candidate is better; None if it is equal or unknown."""
        if not self.difference or self.is_of_bounds:
            return None
        return (self.difference > 0) == BY_KEY[self.key].is_high_good


def deltas(baseline: Record, candidate: Record, keys: tuple[str, ...] = COMPARED) -> tuple[Delta, ...]:
    """Return the differences of two comparable records."""
    return tuple(
        Delta(
            key=key,
            baseline=BY_KEY[key].value(baseline),
            candidate=BY_KEY[key].value(candidate),
            is_baseline_bound=BY_KEY[key].is_lower_bound(baseline),
            is_candidate_bound=BY_KEY[key].is_lower_bound(candidate),
            is_baseline_selected=BY_KEY[key].is_selected(baseline),
            is_candidate_selected=BY_KEY[key].is_selected(candidate),
        )
        for key in keys
    )


def lower_bounds(record: Record) -> list[str]:
    """Return the figures of a record that are lower bounds."""
    return [figure.key for figure in FIGURES if figure.is_lower_bound(record)]


def legends(records: Sequence[Record]) -> list[str]:
    """Return what explains the marks on the figures of records."""
    found = [BOUNDS_LEGEND] if any(lower_bounds(record) for record in records) else []
    return [*found, SELECTION_LEGEND] if any(record.identity.is_selected_on_test for record in records) else found


def delta_json(delta: Delta) -> dict[str, float | None]:
    """Return a difference for a machine."""
    return {
        "baseline": delta.baseline,
        "candidate": delta.candidate,
        "delta": delta.difference,
        "relative": delta.relative,
    }
