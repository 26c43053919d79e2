"""Charts of the benchmarks, in the style of kseg's reports."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from kseg.reports.figures import _png

_COLORS = {"kseg": "#0072b2", "eager": "#d55e00", "compile": "#7f8ea3"}


@_png
def ratios_chart(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws bars of kseg's time and memory over the baseline's; error bars are the lowest and highest round.

    rows: {name: {"time": ratios of the rounds, "memory": ratio or None}}. Left of the line at 1 kseg takes less.
    """
    figure = Figure(figsize=(8, 1.2 + 0.62 * len(rows)))
    ax = figure.subplots()
    places = np.arange(len(rows))
    middle = np.array([median(row["time"]) for row in rows.values()])
    spread = [middle - [min(row["time"]) for row in rows.values()], [max(row["time"]) for row in rows.values()] - middle]
    ax.barh(places - 0.2, middle, 0.38, xerr=spread, color=_COLORS["kseg"], ecolor="#333", capsize=3, label="time")
    shares = [(place, row["memory"]) for place, row in zip(places, rows.values(), strict=True) if row["memory"] is not None]
    if shares:
        ax.barh([place + 0.2 for place, _ in shares], [share for _, share in shares], 0.38, color="#9ecae1", label="peak memory")
    ax.axvline(1, color="#333", linewidth=1)
    ax.set_yticks(places, [*rows], parse_math=False)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("kseg / baseline (less is better)")
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    figure.legend(loc="outside right upper")
    return figure


@_png
def growth_chart(
    axes: Mapping[str, Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]], labels: Mapping[str, str]
) -> Figure:
    """Draws time above memory, a column for each thing that grows; both scales are logarithmic.

    axes: {what grows: {"time" or "memory": {worker: [(value, ms or MB)]}}}. labels: a worker's name in the legend.
    """
    figure = Figure(figsize=(3.4 * len(axes), 5.6))
    panels = figure.subplots(2, len(axes), squeeze=False, sharex="col", sharey="row")
    for column, (axis, measures) in zip(panels.T, axes.items(), strict=True):
        for ax, (title, workers) in zip(column, (("time", measures["time"]), ("memory", measures["memory"])), strict=True):
            for name, points in workers.items():
                x, y = np.array(points).T
                ax.plot(x, y, "-o", color=_COLORS[name], markersize=3.5, label=labels[name])
            values = sorted({value for points in workers.values() for value, _ in points})
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.xaxis.set_minor_locator(NullLocator())
            for axis_formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
                axis_formatter(FuncFormatter(_plain))
            ax.tick_params(axis="x", labelsize=8)
            ax.tick_params(axis="y", which="both", labelsize=8)
            ax.grid(alpha=0.25, which="both")
            ax.set_title({"time": "Step, ms", "memory": "Peak memory, MB"}[title])
        column[1].set_xlabel(axis)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _plain(value: float, _: Any) -> str:
    """Labels ticks at 1, 2, 3, 5 and 7 times a power of ten, no others."""
    digit = round(value / 10 ** np.floor(np.log10(value)), 6)
    return f"{value:g}" if digit in (1, 2, 3, 5, 7) else ""
