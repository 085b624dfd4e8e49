"""The statistics and the metrics by name.

A *statistic* is one value per row, made of the columns of `Scores`. A state keeps the exact total of each; its weighted
mean is the metric of the same name. Other metrics are functions of such a mean.
"""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from daskxent.numbers.classes import CLASS_METRICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from daskxent.numbers.scores import Scores

LOSS, HIT = "crossentropy", "accuracy"
LN2 = 0.6931471805599453
_DIGITS = Context(prec=40, traps=[])  # more than twice those of a float64


class Statistic(NamedTuple):
    """One value per row.

    Attributes
    ----------
    name : str
        What it and its weighted mean are called.
    needs : frozenset of str
        Columns of `Scores` it is made of.
    value : callable
        From ``(scores, labels)`` to (n,) bool or float64: the value of every row. Float columns are NaN in rows
        without a value, and so is what is made of them.
    unit : str
        Unit of the value; "" for a share or a plain number.
    depth : int
        How many of the largest values `above` has to tell apart; 0 if `above` is not needed.
    share : bool
        Whether each value is 0 or 1, and the mean a share of the rows.
    """

    name: str
    needs: frozenset[str]
    value: Callable[[Scores, NDArray[Any]], NDArray[Any]]
    unit: str = ""
    depth: int = 0
    share: bool = False


class Metric(NamedTuple):
    """A function of the weighted mean of a statistic.

    Attributes
    ----------
    name : str
        What users call it.
    statistic : str
        The statistic it is made of.
    finish : callable
        From the mean to the metric, which increases with it.
    slope : callable
        From the mean to the derivative of `finish` there.
    unit : str
        Unit of the metric; "" for a share or a plain number.
    """

    name: str
    statistic: str
    finish: Callable[[float], float]
    slope: Callable[[float], float]
    unit: str


def statistic(name: str) -> Statistic:
    """Return the statistic called `name`.

    Raises
    ------
    ValueError
        There is no such statistic.

    Examples
    --------
    >>> sorted(statistic("top_5_accuracy").needs), statistic("top_5_accuracy").depth
    (['above'], 5)
    """
    top = re.fullmatch(r"top_([1-9]\d*)_accuracy", name) if isinstance(name, str) else None
    if top:
        return _in_top(name, int(top[1]))
    if name not in STATISTICS:
        known = ", ".join(map(repr, [*STATISTICS, *METRICS, *CLASS_METRICS]))
        raise ValueError(f"metrics: {name!r} is unknown; known are {known} and 'top_K_accuracy' for any K >= 1")
    return STATISTICS[name]


def metric(name: str) -> Metric:
    """Return the metric called `name`.

    Raises
    ------
    ValueError
        There is no such metric.

    Examples
    --------
    >>> metric("bits").statistic, metric("bits").finish(LN2)
    ('crossentropy', 1.0)
    """
    if isinstance(name, str) and name in METRICS:
        return METRICS[name]
    if isinstance(name, str) and name in CLASS_METRICS:
        return Metric(name, HIT, lambda mean: math.nan, lambda mean: math.nan, "")
    return Metric(name, name, _mean, lambda mean: 1.0, statistic(name).unit)


def _in_top(name: str, k: int) -> Statistic:
    return Statistic(name, frozenset({"above"}), lambda scores, labels: scores.above < k, depth=k, share=True)


def _mean(mean: float) -> float:
    return mean


def _bits(mean: float) -> float:
    return mean / LN2


def _perplexity(mean: float) -> float:
    """Return e**mean, rounded correctly: the last bit of math.exp depends on the processor."""
    return float(Decimal(mean).exp(_DIGITS))


STATISTICS = {
    each.name: each
    for each in (
        Statistic(LOSS, frozenset({"loss"}), lambda scores, labels: scores.loss, "nats"),
        Statistic(HIT, frozenset({"hit"}), lambda scores, labels: scores.hit, share=True),
    )
}
METRICS = {
    each.name: each
    for each in (
        Metric("perplexity", LOSS, _perplexity, _perplexity, ""),
        Metric("bits", LOSS, _bits, lambda mean: 1 / LN2, "bits"),
    )
}
