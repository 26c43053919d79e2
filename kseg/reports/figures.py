"""Draws the charts of the pages with matplotlib, without pyplot and its global state."""

import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kseg.data.palette import palette
from kseg.metrics.scores import Scores

DPI = 144
"""Pixels per inch: 1.5 for each CSS pixel, so that charts are sharp on dense screens."""

_NAME_LENGTH = 26  # characters of a class name in a chart; the table beside it has the whole name
_STYLE = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "savefig.dpi": DPI, "figure.constrained_layout.use": True,
}  # fmt: skip
_TRAIN, _VAL, _BEST = "#7f8ea3", "#0072b2", "#d55e00"


def as_png(draw: Callable[..., Figure]) -> Callable[..., bytes]:
    """Decorates a function that draws a figure: it returns the figure as PNG, independent of the user's matplotlibrc."""

    @functools.wraps(draw)
    def drawn(*arguments):
        buffer = io.BytesIO()
        with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box; the table has the name
            draw(*arguments).savefig(buffer, format="png")
        return buffer.getvalue()

    return drawn


@as_png
def curves_chart(metrics: Sequence[Mapping[str, float]], best_epoch: int) -> Figure:
    """Draws loss, mean IoU and learning rate over the epochs, one above the other.

    metrics: one mapping an epoch with the columns of metrics.csv, "epoch" from 1; columns may be missing or nan. best_epoch:
    marked by a line.
    """
    epochs = [row["epoch"] for row in metrics]
    panels = {"Loss": ("loss", "val_loss"), "mIoU": ("mean_iou", "val_mean_iou"), "Learning rate": ("learning_rate",)}
    figure = Figure(figsize=(7, 7.2))
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    for ax, (title, columns) in zip(axes, panels.items(), strict=True):
        for column, color, label in zip(columns, (_TRAIN, _VAL), ("train", "val"), strict=False):
            values = np.array([row.get(column, np.nan) for row in metrics])
            if np.isfinite(values).any():
                ax.plot(epochs, values, color=color, label=label, marker="o", markersize=3.5 if len(epochs) <= 60 else 0)
        ax.set_title(title)
        ax.grid(alpha=0.25)
        if best_epoch in epochs:
            ax.axvline(best_epoch, color=_BEST, linestyle="--", linewidth=1, zorder=1, label=f"best epoch ({best_epoch})")
        if ax is not axes[2] and ax.get_legend_handles_labels()[0]:
            ax.legend()
    axes[1].set_ylim(bottom=0)
    axes[2].set_ylim(bottom=0)
    axes[2].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes[2].set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes[2].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[2].set_xlabel("epoch")
    return figure


@as_png
def iou_chart(class_names: Sequence[str], scores: Scores) -> Figure:
    """Draws the IoU of each class as a bar, best first and absent ones last, with its labelled pixels and their share."""
    share = scores.pixels / max(scores.pixels.sum(), 1)
    order = np.argsort(-np.nan_to_num(scores.iou, nan=-1.0), kind="stable")
    figure = Figure(figsize=(7, 1.1 + 0.26 * len(order)))
    ax = figure.subplots()
    rows = np.arange(len(order))
    ax.barh(rows, np.nan_to_num(scores.iou[order]), color=palette(len(order))[order] / 255, height=0.72)
    for row, index in enumerate(order):
        iou = f"{scores.iou[index]:.4f}" if np.isfinite(scores.iou[index]) else "absent"
        _beside(ax, row, iou, short_count(scores.pixels[index]), f"{share[index]:.1%}")
    _beside(ax, -0.85, "IoU", "pixels", "share", weight="bold")
    if np.isfinite(scores.mean_iou):
        ax.axvline(scores.mean_iou, color=_BEST, linestyle="--", linewidth=1, label=f"mean {scores.mean_iou:.4f}")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    _name_ticks(ax.yaxis, [class_names[index] for index in order])
    ax.set_xlim(0, 1)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    return figure


@as_png
def confusion_chart(class_names: Sequence[str], matrix: np.ndarray) -> Figure:
    """Draws the confusion matrix (counts [C, C]) with each row divided by its sum; rows without labelled pixels are grey."""
    count = len(class_names)
    sums = matrix.sum(1, keepdims=True)
    rows = np.where(sums > 0, matrix / np.maximum(sums, 1), np.nan)
    side = 2.6 + max(0.46 if count <= 15 else 0.26, 1.2 / count) * count
    figure = Figure(figsize=(side + 0.8 * (count > 15), side))
    percent = 15 < count <= 40  # small cells show per cents without decimals
    ax = figure.subplots()
    ax.set_facecolor("#d9d9d9")
    shown = ax.imshow(rows, cmap="Blues", vmin=0, vmax=1)
    if count <= 15:
        for true, predicted in np.argwhere(np.isfinite(rows)):
            value = rows[true, predicted]
            text = "1" if value == 1 else "0" if value == 0 else f"{value:.2f}"[1:] if value < 0.995 else "1.0"
            color = "white" if value > 0.55 else "#222" if value >= 0.005 else "#999"
            ax.text(predicted, true, text, ha="center", va="center", fontsize=9, color=color)
    if percent:
        for true, predicted in np.argwhere(np.nan_to_num(rows) >= 0.005):
            value = rows[true, predicted]
            text = f"{value:.0%}"[:-1]
            ax.text(predicted, true, text, ha="center", va="center", fontsize=7, color="white" if value > 0.55 else "#222")
    if count > 15:
        label = "share of the true class's pixels" + ("; numbers in per cent" if percent else "")
        figure.colorbar(shown, ax=ax, shrink=0.7, pad=0.02, label=label)
    _name_ticks(ax.yaxis, class_names)
    _name_ticks(ax.xaxis, class_names, rotation=90)
    ax.set_ylabel("true class")
    ax.set_xlabel("predicted class")
    ax.spines[:].set_visible(False)
    return figure


@as_png
def rate_chart(rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, suggestion: float | None) -> Figure:
    """Draws the losses of a learning-rate range test, raw and smoothed, over the rates (arrays [N], log scale)."""
    figure = Figure(figsize=(7, 4))
    ax = figure.subplots()
    ax.plot(rates, losses, color=_TRAIN, alpha=0.5, linewidth=1, label="loss of a step")
    ax.plot(rates, smooth, color=_VAL, linewidth=2, label="smoothed")
    if suggestion is not None:
        ax.axvline(suggestion, color=_BEST, linestyle="--", linewidth=1, label=f"suggestion ({suggestion:.2g})")
    ax.set_xscale("log")
    low, high = float(np.min([losses.min(), smooth.min()])), float(smooth[: max(len(smooth) // 10, 1)].max())
    ax.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low) if high > low else None)  # a diverging loss is cut off
    ax.set_title("Loss")
    ax.set_xlabel("learning rate")
    ax.grid(alpha=0.25)
    ax.legend(loc="lower left")
    return figure


@as_png
def share_chart(class_names: Sequence[str], shares: Mapping[str, np.ndarray]) -> Figure:
    """Draws each class's share of the labelled pixels (0..1, [C]) as bars, one for each split, on a log scale."""
    figure = Figure(figsize=(7, 1.2 + (0.14 + 0.16 * len(shares)) * len(class_names)))
    ax = figure.subplots()
    rows, height = np.arange(len(class_names)), 0.8 / len(shares)
    for number, (split, share) in enumerate(shares.items()):
        color = (_VAL, _BEST, _TRAIN)[number % 3]
        ax.barh(rows + (number - (len(shares) - 1) / 2) * height, share, height=height * 0.9, color=color, label=split)
    positive = np.concatenate([share[share > 0] for share in shares.values()])
    if len(positive):
        ax.set_xscale("log")
        ax.set_xlim(positive.min() / 2, 1)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.6%}".rstrip("%").rstrip("0").rstrip(".") + "%")
    _name_ticks(ax.yaxis, class_names)
    ax.set_ylim(len(class_names) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    ax.set_xlabel("share of the labelled pixels")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=len(shares))
    return figure


@as_png
def size_chart(sizes: Mapping[str, Mapping[tuple[int, int], int]]) -> Figure:
    """Draws histograms of image widths and heights. sizes: {split: {(height, width): number of images}}."""
    figure = Figure(figsize=(7, 2.6))
    axes = figure.subplots(1, 2)
    counted = [np.array([*split.keys()]).reshape(-1, 2) for split in sizes.values()]
    for ax, side, title in zip(axes, (1, 0), ("Width", "Height"), strict=True):
        values = [sides[:, side] for sides in counted]
        together = np.concatenate(values)
        low, high = (together.min(), together.max()) if len(together) else (0, 1)
        edges = np.linspace(low - 0.5, high + 0.5, min(24, int(high - low) + 1) + 1) if high > low else [low - 0.5, low + 0.5]
        weights = [np.array([*split.values()], float) for split in sizes.values()]
        colors = [(_VAL, _BEST, _TRAIN)[number % 3] for number in range(len(sizes))]
        ax.hist(values, edges, weights=weights, stacked=True, color=colors, label=[*sizes])
        ax.set_title(title)
        ax.set_xlabel("pixels")
        if high > low:
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:  # one bar, in the middle
            ax.set_xticks([low])
            ax.set_xlim(low - 3, low + 3)
    axes[0].set_ylabel("images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def short_count(count: int) -> str:
    """Formats a number of pixels in at most five characters: 999, 12.3k, 4.56M, 123G."""
    value = float(count)
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{unit}"


def _beside(ax, row, *texts, **options):
    """Writes three texts as columns to the right of a row of the axes."""
    for text, offset in zip(texts, (46, 94, 138), strict=True):
        place = {"xy": (1, row), "xycoords": ax.get_yaxis_transform(), "xytext": (offset, 0), "textcoords": "offset points"}
        ax.annotate(text, **place, ha="right", va="center", **options)


def _short(name: str, length: int = _NAME_LENGTH) -> str:
    name = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(name.split()))
    half = length // 2
    return name if len(name) <= length else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[1 - half :]}"


def _name_ticks(axis, names, **options):
    """Sets one tick for each class. Names are shortened and never read as formulas."""
    labels = [_short(name) for name in names]
    axis.set_ticks(range(len(labels)), labels, parse_math=False, **options)
    axis.set_tick_params(length=0)


@as_png
def compared_chart(runs: Mapping[str, Sequence[Mapping[str, float]]], best_epochs: Mapping[str, int]) -> Figure:
    """Draws the validation mIoU and loss of several runs over the epochs. runs: {name: metrics as for curves_chart}."""
    figure = Figure(figsize=(7, 6 + 0.24 * len(runs)))
    above, below = figure.subplots(2, 1, sharex=True)
    colors = palette(len(runs) + 1)[1:] / 255
    for number, (name, rows) in enumerate(runs.items()):
        epochs = np.array([row["epoch"] for row in rows])
        label = f" {_short(name, 60)}"  # matplotlib hides labels that begin with _
        look = {"color": colors[number], "linestyle": ("-", "--", ":")[number % 3], "linewidth": 1.8, "label": label}
        for ax, column in ((above, "val_mean_iou"), (below, "val_loss")):
            values = np.array([row.get(column, np.nan) for row in rows])
            ax.plot(epochs, values, marker="o", markersize=3 if len(rows) <= 60 else 0, **look)
            chosen = epochs == best_epochs[name]
            ax.plot(epochs[chosen], values[chosen], "o", color=colors[number], markersize=8)
    above.set_title("Validation mIoU")
    above.set_ylim(bottom=0)
    below.set_title("Validation loss")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for ax in (above, below):
        ax.grid(alpha=0.25)
    legend = figure.legend(*above.get_legend_handles_labels(), loc="outside lower left")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
