"""Plots with matplotlib, each onto axes of one's own or new ones."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 4.2, 3.2  # inches of one plot
MOST_BARS = 40


def axes(ax: Any) -> Any:
    """Return axes, new ones if none are given."""
    return pyplot().subplots(figsize=SIZE, layout="constrained")[1] if ax is None else ax


def pyplot() -> Any:
    """Return matplotlib's way to make figures.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'daskxent[plots]'") from error
    return plt


def figure(report: Any) -> Any:
    """Draw everything that a report has a plot for, side by side; at least its metrics with their intervals."""
    drawn: list[Callable[[Any], Any]] = [lambda ax: metrics(report, ax)]
    drawn += [partial(each.plot, None) for each in report.slices if each.metrics]
    drawn += [partial(histogram, report, name) for name in report.question.histograms]
    if "reliability" in report.question.reliabilities:
        drawn.append(lambda ax: reliability(report, ax))
    if report.question.ranks:
        drawn.append(lambda ax: top_k(report, ax))
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    size = SIZE[0] * columns, SIZE[1] * rows
    whole, places = pyplot().subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for place, draw in zip(places.flat, drawn, strict=False):
        draw(place)
    for place in places.flat[len(drawn) :]:
        place.set_axis_off()
    return whole


def metrics(report: Any, ax: Any = None) -> Any:
    """Write down the metrics with their intervals: they have scales of their own."""
    ax = axes(ax)
    lines = [f"{name}  {value:.4g}{_ends(report.interval(name))}" for name, value in report.items()]
    ax.set_axis_off()
    ax.text(0, 1, "\n".join(lines), va="top", transform=ax.transAxes)
    ax.set_title(f"{report.rows:,} rows", loc="left")
    return ax


def _ends(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"  [{low:.4g}, {high:.4g}]" if math.isfinite(low) and math.isfinite(high) else ""


def reliability(report: Any, ax: Any = None) -> Any:
    """Draw the accuracy of bins of confidence; the area of a dot is its share of the weight."""
    ax, lines = axes(ax), list(report.reliability())
    most = max((line["weight"] for line in lines), default=1) or 1
    ax.plot([0, 1], [0, 1], linestyle=":", color="0.5")
    ax.bar([line["low"] for line in lines], [line["accuracy"] for line in lines],
           [line["high"] - line["low"] for line in lines], align="edge", alpha=0.3)  # fmt: skip
    ax.scatter([line["confidence"] for line in lines], [line["accuracy"] for line in lines],
               [max(4, 120 * line["weight"] / most) for line in lines])  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title="Calibration")
    return ax


def histogram(report: Any, name: str, ax: Any = None) -> Any:
    """Draw how the weight of the rows is distributed over a metric."""
    ax = axes(ax)
    lines = [line for line in report.histogram(name) if math.isfinite(line["low"]) and math.isfinite(line["high"])]
    ax.bar([line["low"] for line in lines], [line["weight"] for line in lines],
           [line["high"] - line["low"] for line in lines], align="edge")  # fmt: skip
    ax.set(xlabel=name, ylabel="weight of the rows")
    return ax


def top_k(report: Any, ax: Any = None) -> Any:
    """Draw the share of rows whose label is among the k largest predictions."""
    ax, lines = axes(ax), report.top_k_curve()
    ax.plot([line["k"] for line in lines], [line["accuracy"] for line in lines])
    ax.set(xscale="log", xlabel="k", ylabel="accuracy", title="Label among the k largest")
    return ax


def sliced(slices: Any, name: str, ax: Any = None) -> Any:
    """Draw a metric of each group with its interval: a curve over many numbers, else bars."""
    ax, rows = axes(ax), list(slices.rows)
    keys: Sequence[Any] = [row[slices.names[0]] for row in rows]
    values = [row[name] for row in rows]
    ends = [(row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
    ordered = len(slices.names) == 1 and all(type(key) is int for key in keys)
    if ordered and len(rows) > MOST_BARS:
        (line,) = ax.plot(keys, values)
        ax.fill_between(keys, *zip(*ends, strict=True), alpha=0.25, color=line.get_color())
    else:
        some = slice(0, MOST_BARS)
        texts = [", ".join(str(row[each]) for each in slices.names) for row in rows[some]]
        errors = [[max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)][some],
                  [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)][some]]  # fmt: skip
        ax.barh(texts, values[some], xerr=errors)
        ax.invert_yaxis()
    ax.set_title(f"{name} by {', '.join(slices.names)}", loc="left")
    return ax
