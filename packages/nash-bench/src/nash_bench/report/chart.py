"""The geometry of an accuracy / cost plot, shared by figure files and page: ranges, ticks, fronts, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..compare.families import front, points
from ..records.collect import Row
from ..records.figures import AT_LEAST, BY_KEY
from ..records.record import Record

Point = tuple[float, float]
_LOG_FROM = 30  # largest over smallest value from which an axis is logarithmic
_PADDING = 0.09
MAX_POINTS_LABELLED = 40
AXIS_TITLES = {
    "LUT": "LUT",
    "BRAM_18K": "BRAM (18 Kbit blocks)",
    "DSP": "DSP",
    "throughput_fps": "Throughput (frames/s)",
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one kind of network looks: told apart by marker as well as by colour (Okabe and Ito's palette)."""

    key: str
    label: str
    color: str
    color_on_dark: str
    marker: str
    outline: tuple[Point, ...] = ()  # of the marker in units of its radius; empty for a circle


_SQUARE = ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85))
_UP = ((0.0, -1.15), (1.05, 0.8), (-1.05, 0.8))
_DOWN = tuple((x, -y) for x, y in _UP)
_DIAMOND = ((0.0, -1.25), (1.0, 0.0), (0.0, 1.25), (-1.0, 0.0))
_PENTAGON = tuple((1.1 * math.sin(k * math.tau / 5), -1.1 * math.cos(k * math.tau / 5)) for k in range(5))
_CROSS = tuple(
    (1.2 * math.cos(turn) * radius, 1.2 * math.sin(turn) * radius)
    for k in range(4)
    for turn, radius in ((k * math.tau / 4 + math.tau / 8 - 0.35, 1.0), (k * math.tau / 4 + math.tau / 8 + 0.35, 1.0),
                         ((k + 1) * math.tau / 4, 0.45))
)  # fmt: skip
STYLES: dict[str, Style] = {
    style.key: style
    for style in (
        Style(key="baseline", label="Baseline", color="#4b5563", color_on_dark="#aab4c3", marker="o"),
        Style(key="v1", label="NASH v1", color="#d18f00", color_on_dark="#e69f00", marker="s", outline=_SQUARE),
        Style(key="v2", label="NASH v2", color="#2f8fcb", color_on_dark="#56b4e9", marker="^", outline=_UP),
        Style(key="v3", label="NASH v3", color="#d55e00", color_on_dark="#f07f2e", marker="D", outline=_DIAMOND),
        Style(key="v4", label="NASH v4", color="#009e73", color_on_dark="#1fc698", marker="v", outline=_DOWN),
        Style(
            key="other", label="NASH, other", color="#b8609a", color_on_dark="#d98fbf", marker="p", outline=_PENTAGON
        ),
        Style(key="published", label="Published", color="#7a4fb5", color_on_dark="#b794f0", marker="o"),
        Style(key="random", label="Random", color="#8d7a5b", color_on_dark="#b9a47f", marker="X", outline=_CROSS),
    )
}


def style_of(record: Record) -> Style:
    """Return the look of a network."""
    identity = record.identity
    key = (identity.variant or "other") if identity.kind == "nash" else identity.kind
    return STYLES.get(key, STYLES["other"])


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear or logarithmic axis from `low` to `high` with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value, 0 at the low end and 1 at the high one."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def scale_of(values: Sequence[float], *, may_be_log: bool, at_most: float | None = None) -> Scale:
    """Return an axis that holds the values with some room around them."""
    low, high = min(values), max(values)
    if may_be_log and low > 0 and high / low >= _LOG_FROM:
        room = (high / low) ** _PADDING
        low, high = low / room, high * room
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 3) if len(decades) <= 5 else (1,)
        rounded = [float(f"{step}e{decade}") for decade in decades for step in steps]
        ticks = tuple(tick for tick in rounded if low <= tick <= high)
        return Scale(low=low, high=high, ticks=ticks, is_log=True)
    room = (high - low) * _PADDING or max(abs(high) * _PADDING, 1.0)
    is_positive = low >= 0
    low, high = low - room, high + room
    low = max(low, 0.0) if is_positive and low < 0 and max(values) > 0 else low
    high = high if at_most is None else min(high, at_most + room / 2)
    step = _tick_step(high - low)
    first = math.ceil(low / step)
    ticks = tuple(step * k for k in range(first, math.floor(high / step) + 1) if step * k >= 0 or not is_positive)
    return Scale(low=low, high=high, ticks=ticks)


def _tick_step(span: float) -> float:
    rough = span / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)


def tick_text(value: float) -> str:
    """Return a tick's value in short: 120k for 120,000."""
    if abs(value) >= 10_000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def staircase(known: Sequence[tuple[Row, float, float]], axis: str, end: float) -> list[Point]:
    """Return the line below which nothing is gained: the best top-1 for at most that cost (at least that throughput).

    The points are a front in the order of their figure; `end` is where the axis ends on the side that costs more.
    """
    line: list[Point] = []
    ordered = list(known) if not BY_KEY[axis].is_high_good else list(reversed(known))
    for _, x, y in ordered:  # from cheap to dear: top-1 rises
        if line:
            line.append((x, line[-1][1]))
        line.append((x, y))
    return [*line, (end, line[-1][1])] if line else []


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot: its points, and the fronts of the baselines and of the NASH networks."""

    axis: str
    title: str
    x: Scale
    y: Scale
    known: tuple[tuple[Row, float, float], ...]
    fronts: dict[str, list[Point]]
    num_left_out: int
    is_of_bounds: bool  # some figures are lower bounds


def make_plot(rows: Sequence[Row], axis: str) -> Plot | None:
    """Return the plot of top-1 over a figure, None if no row has both."""
    known = points(rows, axis)
    if not known:
        return None
    is_of_bounds = any(BY_KEY[axis].is_lower_bound(row.record) for row, _, _ in known)
    x = scale_of([value for _, value, _ in known], may_be_log=True)
    y = scale_of([value for _, _, value in known], may_be_log=False, at_most=100)
    end = x.low if BY_KEY[axis].is_high_good else x.high
    members = {kind: [p for p in known if p[0].record.identity.kind == kind] for kind in ("baseline", "nash")}
    return Plot(
        axis=axis,
        title=AXIS_TITLES[axis] + (f", lower bounds ({AT_LEAST})" if is_of_bounds else ""),
        x=x,
        y=y,
        known=tuple(known),
        fronts={kind: staircase(front(own, axis), axis, end) for kind, own in members.items() if own},
        num_left_out=len(rows) - len(known),
        is_of_bounds=is_of_bounds,
    )


def short_labels(rows: Sequence[Row]) -> list[str]:
    """Return a few letters for each row that tell it from the others, the marker's meaning left out."""
    identities = [row.record.identity for row in rows]
    has_widths = len({identity.width for identity in identities}) > 1
    has_backbones = len({identity.backbone for identity in identities}) > 1
    labels = []
    for identity in identities:
        parts = [identity.backbone or identity.name] if has_backbones else []
        bits = identity.preset or identity.bits or ""
        parts += [bits.removeprefix(f"{identity.backbone}-") if has_backbones else bits]
        parts += [f"width {identity.width}"] if has_widths and identity.width else []
        labels.append(" ".join(filter(None, parts)))
    return labels


def place_labels(
    anchors: Sequence[Point],
    texts: Sequence[str],
    *,
    char_width: float,
    height: float,
    box: tuple[float, float],
    lines: Sequence[Sequence[Point]] = (),
) -> list[Point | None]:
    """Return for each text the lower left corner of a free place beside its point, None where there is none.

    Coordinates grow to the right and downwards; `box` is the (width, height) that the texts stay in, `lines` are
    upright and level ones that they keep clear of.
    """
    gap = height * 0.62
    taken = [(x - gap, y - gap, x + gap, y + gap) for x, y in anchors]
    for line in lines:
        for (x0, y0), (x1, y1) in pairwise(line):
            taken.append((min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    places: list[Point | None] = []
    for (x, y), text in zip(anchors, texts, strict=True):
        width = char_width * len(text)
        right, left, middle = x + gap, x - gap - width, x - width / 2
        level, above, below = y + height * 0.35, y - gap, y + gap + height * 0.8
        corners = [(right, level), (left, level), (middle, above), (middle, below)]
        corners += [(right, above), (right, below), (left, above), (left, below)]
        chosen = None
        for corner in corners:
            area = (corner[0], corner[1] - height, corner[0] + width, corner[1])
            is_inside = area[0] >= 0 and area[1] >= 0 and area[2] <= box[0] and area[3] <= box[1]
            if is_inside and not any(_overlap(area, other) for other in taken):
                chosen = corner
                taken.append(area)
                break
        places.append(chosen)
    return places


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
