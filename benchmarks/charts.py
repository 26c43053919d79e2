"""Charts of the benchmarks and experiments, in the style of kseg's reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from kseg.data.palette import palette
from kseg.reports.figures import as_png

_COLORS = {"kseg": "#0072b2", "eager": "#d55e00", "compile": "#7f8ea3"}


@as_png
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


@as_png
def losses_chart(losses: Mapping[str, Sequence[float]], window: int) -> Figure:
    """Draws losses of runs on the same batches, averaged over `window` steps, and below their difference from the first run."""
    figure = Figure(figsize=(7, 5.4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    colors, styles = ("#0072b2", "#d55e00", "#7f8ea3"), ("-", "--", ":")
    first = np.asarray(next(iter(losses.values())))
    for number, (name, values) in enumerate(losses.items()):
        steps = np.arange(window, window + len(values))
        look = {"color": colors[number % 3], "linestyle": styles[number % 3], "linewidth": 1.8}
        above.plot(steps, values, label=name, **look)
        if number:
            below.plot(steps, 100 * (np.asarray(values) / first - 1), **look)
    above.set_title("Loss" if window == 1 else f"Loss, mean of {window} steps")
    below.set_title(f"Difference from {next(iter(losses))}, per cent")
    above.legend()
    for ax in (above, below):
        ax.grid(alpha=0.25)
    below.set_xlabel("step")
    return figure


@as_png
def runs_chart(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the validation mIoU of several runs over the epochs. curves: {name: one value for each epoch}."""
    figure = Figure(figsize=(8, 5))
    ax = figure.subplots()
    colors = palette(len(curves)) / 255
    for number, (name, values) in enumerate(curves.items()):
        epochs = np.arange(1, len(values) + 1)
        ax.plot(epochs, values, "-o" if number % 2 else "--s", color=colors[number], markersize=3.5, label=name)
    ax.set_title("Validation mIoU at input size")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlabel("epoch")
    ax.grid(alpha=0.25)
    figure.legend(loc="outside right upper")
    return figure


@as_png
def points_chart(points: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> Figure:
    """Draws a line with a dot at each point for each name. x, y: names of the axes."""
    figure = Figure(figsize=(5.6, 3.6))
    ax = figure.subplots()
    for name, color in zip(points, ("#0072b2", "#d55e00"), strict=False):
        ax.plot(*np.array(points[name]).T, "-o", color=color, label=name)
    ax.set_xticks(sorted({value for line in points.values() for value, _ in line}))
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    ax.legend(loc="lower right")
    return figure


@as_png
def sizes_chart(families: Mapping[str, Sequence[tuple[float, ...]]], titles: Sequence[str]) -> Figure:
    """Draws times against size, both logarithmic: a line for each family, and grey dots for the family "other".

    families: {name: [(million parameters, time of the first panel, ...)]}, smallest first. titles: of the panels.
    """
    figure = Figure(figsize=(5 * len(titles), 5.4))
    panels = figure.subplots(1, len(titles))
    named = [name for name in families if name != "other"]
    colors = dict(zip(named, palette(len(named)) / 255, strict=True))
    for ax, title, column in zip(panels, titles, range(1, len(titles) + 1), strict=True):
        for number, (name, points) in enumerate(families.items()):
            x, y = np.array(points).T[[0, column]]
            if name == "other":
                ax.plot(x, y, ".", color="#b4bac2", markersize=6, label=name, zorder=1)
            else:
                look = {"color": colors[name], "marker": "os^Dv"[number % 5], "markersize": 5, "linewidth": 1.5}
                ax.plot(x, y, label=name, **look)
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(_plain))
            axis.set_minor_formatter(FuncFormatter(_plain))
        ax.tick_params(which="both", labelsize=8)
        ax.grid(alpha=0.25, which="both")
        ax.set_title(title)
        ax.set_xlabel("million parameters")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6)
    return figure
