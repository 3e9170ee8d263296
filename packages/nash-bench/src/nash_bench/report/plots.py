"""Accuracy / cost plots as files for a paper: SVG and PNG, one column wide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.manifest import atomic_path
from ..compare.families import AXES, PanelKey, panels
from ..records.collect import Row
from .chart import MAX_POINTS_LABELLED, STYLES, Plot, make_plot, place_labels, short_labels, style_of, tick_text

_SIZE_INCHES = (3.5, 2.9)
_DPI = 300
_FRONTS = {"nash": ("#111827", "-", "NASH front"), "baseline": ("#6b7280", (0, (4, 2.5)), "Baseline front")}
_LEGEND = [
    text
    for style in STYLES.values()
    for text in ([style.label, "Baseline front", "NASH front"] if style.key == "baseline" else [style.label])
]
_SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "nash-bench",
}


def panel_name(key: PanelKey) -> str:
    """Return a panel's key as part of a file name."""
    dataset, split, num_samples, board, origin = key
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{dataset}-{split}-{num_samples}_{board}_{origin}")


def write_plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write a plot for each panel and cost axis that has figures; return the files.

    Raises:
        OutputError: a file cannot be written.
    """
    written = []
    for key, members in panels(rows).items():
        for axis in AXES:
            plot = make_plot(members, axis)
            if plot is not None:
                written += _write_plot(plot, key, folder / f"pareto_{axis}_{panel_name(key)}")
    return written


def _write_plot(plot: Plot, key: PanelKey, stem: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_SETTINGS):
        figure, axes = pyplot.subplots(figsize=_SIZE_INCHES, layout="constrained")
        try:
            _draw(axes, plot, key)
            figure.canvas.draw()
            _draw_labels(axes, plot)
            paths = []
            for suffix in (".svg", ".png"):
                path = stem.with_name(stem.name + suffix)
                with atomic_path(path) as temporary:
                    metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
                    figure.savefig(temporary, format=suffix[1:], dpi=_DPI, metadata=metadata)
                paths.append(path)
        finally:
            pyplot.close(figure)
    return paths


def _draw(axes: Any, plot: Plot, key: PanelKey) -> None:
    dataset, split, _, board, origin = key
    if plot.x.is_log:
        axes.set_xscale("log")
    axes.set_xlim(plot.x.low, plot.x.high)
    axes.set_ylim(plot.y.low, plot.y.high)
    axes.set_xticks(plot.x.ticks, [tick_text(tick) for tick in plot.x.ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(plot.y.ticks, [tick_text(tick) for tick in plot.y.ticks])
    end = "\n" if plot.is_of_bounds else " "  # with that in its title, a line is too long for the column
    axes.set_xlabel(f"{plot.title},{end}{origin}, {board}")
    axes.set_ylabel(f"Top-1 accuracy (%), {dataset} {split}")
    axes.grid(color="#e5e7eb", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for kind, line in plot.fronts.items():
        color, dashes, label = _FRONTS[kind]
        axes.plot(*zip(*line, strict=True), color=color, linestyle=dashes, linewidth=0.9, label=label, zorder=2)
    for style in STYLES.values():
        places = [(x, y) for row, x, y in plot.known if style_of(row.record) is style]
        if places:
            is_hollow = style.key == "baseline"
            axes.plot(
                *zip(*places, strict=True), style.marker, color="white" if is_hollow else style.color,
                markeredgecolor=style.color if is_hollow else "white", markeredgewidth=1.1 if is_hollow else 0.5,
                markersize=5.2, label=style.label, zorder=3, linestyle="none",
            )  # fmt: skip
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: _LEGEND.index(labels[index]))
    axes.figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside upper center",
        ncols=4,
        fontsize=6.2,
        frameon=False,
        handlelength=1.8,
        columnspacing=1.1,
        handletextpad=0.5,
    )


def _draw_labels(axes: Any, plot: Plot) -> None:
    """Write the bits beside each point, where there is room at print size; among many points there is none."""
    if len(plot.known) > MAX_POINTS_LABELLED:
        return
    points_of_display = 72 / axes.figure.dpi
    width, height = axes.bbox.width * points_of_display, axes.bbox.height * points_of_display
    anchors = [(plot.x(x) * width, (1 - plot.y(y)) * height) for _, x, y in plot.known]
    texts = short_labels([row for row, _, _ in plot.known])
    lines = [[(plot.x(x) * width, (1 - plot.y(y)) * height) for x, y in line] for line in plot.fronts.values()]
    places = place_labels(anchors, texts, char_width=3.7, height=6.6, box=(width, height), lines=lines)
    for text, place in zip(texts, places, strict=True):
        if place is not None:
            corner = (place[0] / width, 1 - place[1] / height)
            axes.annotate(text, corner, xycoords="axes fraction", fontsize=5.8, color="#374151", va="bottom")
