"""The metrics by name: each is a total that the state keeps, and a function of its weighted mean.

A state holds one exact total per *statistic* of a row: its loss, whether its label is the best class, whether its
label is among the best k. Several metrics may be made of one statistic.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LOSS, HIT, HIT_IN_TOP = "loss", "hit", "hit_in_top_"


class Score(NamedTuple):
    """One metric.

    Attributes
    ----------
    name : str
        What users call it.
    statistic : str
        The value per row it is the weighted mean of.
    finish : callable
        From that mean to the metric.
    unit : str
        Unit of the metric; "" for a share or a plain number.
    """

    name: str
    statistic: str
    finish: Callable[[float], float]
    unit: str


def find(name: str) -> Score:
    """Return the metric called `name`.

    Raises
    ------
    ValueError
        There is no such metric.

    Examples
    --------
    >>> find("top_5_accuracy").statistic
    'hit_in_top_5'
    >>> find("bits").finish(math.log(2))
    1.0
    """
    top = re.fullmatch(r"top_([1-9]\d*)_accuracy", name) if isinstance(name, str) else None
    if top:
        return Score(name, f"{HIT_IN_TOP}{top[1]}", _same, "")
    if name not in _SCORES:
        known = ", ".join(repr(known) for known in _SCORES)
        raise ValueError(f"metrics: {name!r} is unknown; known are {known} and 'top_K_accuracy' for any K >= 1")
    return _SCORES[name]


def depth(statistic: str) -> int:
    """Return k for the statistic "among the best k", 0 for the others."""
    return int(statistic.removeprefix(HIT_IN_TOP)) if statistic.startswith(HIT_IN_TOP) else 0


def _same(mean: float) -> float:
    return mean


def _bits(mean: float) -> float:
    return mean / math.log(2)


def _perplexity(mean: float) -> float:
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


_SCORES = {
    score.name: score
    for score in (
        Score("crossentropy", LOSS, _same, "nats"),
        Score("accuracy", HIT, _same, ""),
        Score("perplexity", LOSS, _perplexity, ""),
        Score("bits", LOSS, _bits, "bits"),
    )
}
