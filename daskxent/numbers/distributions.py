"""What counts in cells say of all rows: quantiles, histograms, and the accuracy of the k largest classes."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate, pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers.exact import ExactSum, ratio
from daskxent.numbers.keys import Cells, Ranks
from daskxent.numbers.sums import WEIGHT, WEIGHT_SQUARES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daskxent.numbers.statistics import Statistic
    from daskxent.numbers.tables import Table


class Cell(NamedTuple):
    """The rows whose value is in a cell.

    Attributes
    ----------
    value : float
        The middle of the cell, or the only value that can be in it.
    rows : int
    weight : ExactSum
    weighted : bool
        Whether rows have weights.
    """

    value: float
    rows: int
    weight: ExactSum
    weighted: bool


def cells_of(table: Table | None, of: Statistic) -> list[Cell]:
    """Return the cells of a table by `Cells` of a statistic, in order of their values."""
    if table is None:
        return []
    edges = [Cells.edges(key) for (key,) in table]
    columns = table.counted.tolist(), table.exact_weights()
    # Weights of 1 alone, as a mask makes them, are none: their sum and that of their squares are the number of rows.
    weighted = WEIGHT in table.columns and any(
        (table.values(name) != table.counted).any() for name in (WEIGHT, WEIGHT_SQUARES)
    )
    return [
        Cell(_value(low, high, of), rows, weight, weighted)
        for (low, high), rows, weight in zip(edges, *columns, strict=True)
    ]


def _value(low: float, high: float, of: Statistic) -> float:
    """Return what stands for the values in a cell of a statistic: its middle, or the only value that can be in it."""
    if low in (0, high) or (of.whole and high - low <= 1):
        return float(math.ceil(low)) if math.isfinite(low) else low
    return min(low + (high - low) / 2, of.most)


def quantile(cells: Sequence[Cell], share: float) -> float:
    """Return a quantile of the values in cells; NaN over none, where one is not a number, or a weight negative.

    Examples
    --------
    >>> quantile([Cell(1.0, 2, ExactSum.whole(2), False), Cell(4.0, 1, ExactSum.whole(1), False)], 0.75)
    2.5
    """
    if not isinstance(share, Real) or not 0 <= share <= 1:
        raise ValueError(f"quantile: expected shares from 0 to 1, got {share!r}")
    if not cells or math.isnan(cells[-1].value) or any(cell.weight.units < 0 for cell in cells):
        return math.nan
    if cells[0].weighted:
        return _weighted_quantile(cells, float(share))
    ends = list(accumulate(cell.rows for cell in cells))
    place = share * (ends[-1] - 1)
    low, high = (cells[int(np.searchsorted(ends, row, side="right"))].value for row in (int(place), math.ceil(place)))
    return low if low == high else low + (place - int(place)) * (high - low)


def _weighted_quantile(cells: Sequence[Cell], share: float) -> float:
    """Return the smallest value at or below which there is a share of the weight, which is rounded only once."""
    below = list(accumulate(cell.weight.units for cell in cells))
    whole = below[-1]
    return cells[bisect_left(below, share, key=lambda units: units / whole)].value if whole else math.nan


def histogram(cells: Sequence[Cell], bins: int) -> list[dict[str, Any]]:
    """Return how many rows, and what weight, lie in bins of equal width; values that are not finite come last."""
    if isinstance(bins, bool) or not isinstance(bins, Integral) or bins < 1:
        raise ValueError(f"histogram: expected at least one bin, got {bins!r}")
    finite = [cell for cell in cells if math.isfinite(cell.value)]
    lines = []
    if finite:
        edges = _spaced(finite[0].value, finite[-1].value, bins)
        starts = [*np.searchsorted([cell.value for cell in finite], edges[:-1]).tolist(), len(finite)]
        within = (finite[start:stop] for start, stop in pairwise(starts))
        lines = [_line(low, high, some) for (low, high), some in zip(pairwise(edges.tolist()), within, strict=True)]
    others = [cell for cell in cells if not math.isfinite(cell.value)]
    return lines + [_line(cell.value, cell.value, [cell]) for cell in others]


def _spaced(low: float, high: float, bins: int) -> NDArray[np.float64]:
    """Return the edges of bins of equal width, which may together be wider than the largest float64."""
    if math.isinf(high - low):
        return 2 * np.linspace(low / 2, high / 2, bins + 1)
    return np.linspace(low, high, bins + 1)


def _line(low: float, high: float, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return how many rows some cells have, and what weight, rounded once."""
    weight = ExactSum(sum(cell.weight.units for cell in cells))
    return {"low": low, "high": high, "rows": sum(cell.rows for cell in cells), "weight": float(weight)}


def top_k(table: Table | None, weight: ExactSum) -> list[dict[str, Any]]:
    """Return the share of the weight of rows of which fewer than k classes are larger than the label's, for each k."""
    lines, below = [], ExactSum()
    for key in table or ():
        assert table is not None
        if key[0] >= 0:
            below = below + table.sums(key).weight
            lines.append({"k": Ranks.least(key[0] + 1), "accuracy": ratio(below, weight)})
    return lines
