"""Plots as SVG inside HTML: no scripts, colours from the page, names of the data escaped."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 40  # margins
TICKS = 5
LEAST_STEP = 1e-300  # powers of 10 below lose their digits


class Scale(NamedTuple):
    """From numbers to places on the page.

    Attributes
    ----------
    low, high : float
        The numbers at both ends.
    begin, end : float
        The places of both ends.
    logarithmic : bool
    """

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def __call__(self, number: float) -> float:
        """Return the place of a number."""
        low, high, x = map(math.log10, (self.low, self.high, number)) if self.logarithmic else (*self[:2], number)
        share = (x - low) / (high - low) if high > low else 0.5
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return round numbers from end to end.

        Examples
        --------
        >>> Scale(0.0, 0.9, 0, 100).ticks(), Scale(1, 500, 0, 100, True).ticks()
        ([0.0, 0.2, 0.4, 0.6, 0.8], [1.0, 10.0, 100.0])
        """
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**k for k in range(first, last + 1)]
        between = (self.high - self.low) / TICKS
        if not LEAST_STEP < between < math.inf:
            return [self.low]
        step = 10.0 ** math.floor(math.log10(between))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(k * step, 12) for k in range(first, last + 1)]


def across(low: float, high: float, *, logarithmic: bool = False) -> Scale:
    """Return a scale from left to right."""
    return Scale(low, high, LEFT, WIDTH - RIGHT, logarithmic)


def up(low: float, high: float) -> Scale:
    """Return a scale from bottom to top."""
    return Scale(low, high, HEIGHT - BOTTOM, TOP)


def frame(title: str, x: Scale, y: Scale, names: tuple[str, str], inside: str) -> str:
    """Return a plot: its axes with ticks and names, and what is inside."""
    show: Callable[[float], str] = lambda number: f"{number:.6g}"  # noqa: E731
    base = HEIGHT - BOTTOM
    parts = [f'<text x="{x(at):.1f}" y="{base + 16}" text-anchor="middle">{show(at)}</text>' for at in x.ticks()]
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{show(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(names[0])}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 2}" text-anchor="start" class="name">{escape(names[1])}</text>')
    box = f'viewBox="0 -6 {WIDTH} {HEIGHT + 6}" role="img" aria-label="{escape(title)}"'
    return f"<svg {box}>{''.join(parts)}{inside}</svg>"


def bars(title: str, edges: Sequence[tuple[float, float]], heights: Sequence[float], names: tuple[str, str]) -> str:
    """Return a histogram.

    Examples
    --------
    >>> bars("losses", [(0.0, 1.0), (1.0, 2.0)], [3, 1], ("nats", "rows")).count("<rect")
    2
    """
    x, y = across(edges[0][0], edges[-1][1]), up(0, max(heights, default=0) or 1)
    inside = "".join(
        f'<rect class="bar" x="{x(low):.1f}" y="{y(n):.1f}" width="{max(0.5, x(high) - x(low) - 0.5):.1f}" '
        f'height="{max(0.0, y(0) - y(n)):.1f}"><title>{low:.5g} to {high:.5g}: {n:,.6g}</title></rect>'
        for (low, high), n in zip(edges, heights, strict=True)
    )
    return frame(title, x, y, names, inside)


def curve(
    title: str,
    points: Sequence[tuple[float, float]],
    names: tuple[str, str],
    band: Sequence[tuple[float, float]] = (),
    *,
    logarithmic: bool = False,
) -> str:
    """Return a line through points, with a band around it if there is one.

    Examples
    --------
    >>> "<polygon" in curve("loss", [(0, 1.0), (1, 2.0)], ("position", "nats"), [(0.5, 1.5), (1.5, 2.5)])
    True
    """
    ends = [edge for pair in band for edge in pair if math.isfinite(edge)] or [value for _, value in points]
    low, high = min([*ends, *(v for _, v in points)]), max([*ends, *(v for _, v in points)])
    x, y = across(points[0][0], points[-1][0], logarithmic=logarithmic), up(low, high if high > low else low + 1)
    inside = ""
    if len(band) == len(points) and all(math.isfinite(edge) for pair in band for edge in pair):
        there = [(x(at), y(edge[1])) for (at, _), edge in zip(points, band, strict=True)]
        back = [(x(at), y(edge[0])) for (at, _), edge in zip(points, band, strict=True)]
        inside = f'<polygon class="band" points="{_joined([*there, *reversed(back)])}"/>'
    inside += f'<polyline class="line" points="{_joined([(x(a), y(b)) for a, b in points])}"/>'
    return frame(title, x, y, names, inside)


def reliability(lines: Sequence[dict[str, float]]) -> str:
    """Return a reliability diagram: of each bin the accuracy over the confidence, as large as its weight."""
    x, y = across(0, 1), up(0, 1)
    inside = f'<line class="even" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>'
    most = max((line["weight"] for line in lines), default=1) or 1
    for line in lines:
        low, high, share = line["low"], line["high"], line["accuracy"]
        inside += f'<rect class="bar faint" x="{x(low):.1f}" y="{y(share):.1f}" width="{x(high) - x(low) - 1:.1f}" '
        inside += f'height="{y(0) - y(share):.1f}"/>'
        size = 2 + 7 * math.sqrt(max(0.0, line["weight"]) / most)
        inside += f'<circle class="dot" cx="{x(line["confidence"]):.1f}" cy="{y(share):.1f}" r="{size:.1f}">'
        inside += (
            f"<title>confidence {line['confidence']:.4f}, accuracy {share:.4f}, {line['rows']:,} rows</title></circle>"
        )
    return frame("Reliability diagram", x, y, ("confidence", "accuracy"), inside)


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
