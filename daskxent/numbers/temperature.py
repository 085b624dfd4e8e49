"""The temperature that logits should be divided by: that of the least crossentropy.

The crossentropy is known at some inverse temperatures. A polynomial through all of them has its minimum where that of
the crossentropy is: with the 13 of `softmax_sums.BETAS` the difference was below 1e-4, for logits whose standard
deviations were 0.7 to 15.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from daskxent.numbers import statistics
from daskxent.numbers.calibration import Bin, expected_error
from daskxent.numbers.exact import added, nearest
from daskxent.numbers.softmax_sums import BETAS, BETWEEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daskxent.numbers.estimates import Estimates


class Temperature(NamedTuple):
    """The temperature of the least crossentropy.

    Attributes
    ----------
    value : float
        Logits divided by it have the least crossentropy; NaN where that lies beyond the grid, or where none differs.
    error : float
        Its standard error.
    crossentropy, ece : (float, float)
        Before and after, in nats, and of the confidence. Of the error after, the sums of each bin are interpolated
        between two temperatures.
    beyond : str
        "above 2" or "below 0.5" where the least crossentropy lies there.
    """

    value: float
    error: float
    crossentropy: tuple[float, float]
    ece: tuple[float, float]
    beyond: str = ""

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"{self.beyond}, where it was not looked for" if self.beyond else "nan"
        after = f"crossentropy {self.crossentropy[0]:.5g} -> {self.crossentropy[1]:.5g} nats"
        return f"{self.value:.5g} ± {self.error:.2g}: {after}, ece {self.ece[0]:.4g} -> {self.ece[1]:.4g}"


def least(found: Estimates, bins: Callable[[str], list[Bin] | None]) -> Temperature:
    """Find the temperature of the least crossentropy.

    Parameters
    ----------
    found : Estimates
        With the statistics at the temperatures.
    bins : callable
        From what a grouping of `Question.reliabilities` is called to its bins.
    """
    losses = [found.value(statistics.at("loss", beta)) for beta in BETAS]
    before = losses[BETAS.index(1.0)], _expected(bins("reliability"))
    if not all(map(math.isfinite, losses)) or min(losses) == max(losses):
        return Temperature(math.nan, math.nan, (before[0], math.nan), (before[1], math.nan))
    curve = _divided(losses)
    (_, falling, _), (_, rising, _) = (_derivatives(curve, beta) for beta in (BETAS[0], BETAS[-1]))
    if rising < 0 or falling > 0:
        where = "below 0.5" if rising < 0 else "above 2"
        return Temperature(math.nan, math.nan, (before[0], math.nan), (before[1], math.nan), where)
    low, high = BETAS[0], BETAS[-1]
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if _derivatives(curve, middle)[1] > 0 else (middle, high)
    loss, _, bend = _derivatives(curve, high)
    slopes = [found.standard_error(statistics.at("slope", beta)) for beta in BETWEEN]
    error = _between(BETWEEN, slopes, high) / bend / (high * high) if bend > 0 else math.nan
    return Temperature(1 / high, error, (before[0], loss), (before[1], _interpolated(bins, high)))


def _divided(values: Sequence[float]) -> list[float]:
    """Return the divided differences of the polynomial through values at `BETAS` (Newton)."""
    found = list(values)
    for order in range(1, len(found)):
        for at in range(len(found) - 1, order - 1, -1):
            found[at] = (found[at] - found[at - 1]) / (BETAS[at] - BETAS[at - order])
    return found


def _derivatives(curve: Sequence[float], beta: float) -> tuple[float, float, float]:
    """Return the polynomial and its first two derivatives, by Horner's rule."""
    value, slope, bend = 0.0, 0.0, 0.0
    for at in reversed(range(len(curve))):
        step = beta - BETAS[at]
        value, slope, bend = value * step + curve[at], slope * step + value, bend * step + 2 * slope
    return value, slope, bend


def _between(places: Sequence[float], values: Sequence[float], beta: float) -> float:
    """Interpolate between two neighbouring values."""
    at = min(max(sum(place <= beta for place in places) - 1, 0), len(places) - 2)
    part = (beta - places[at]) / (places[at + 1] - places[at])
    return values[at] + part * (values[at + 1] - values[at])


def _expected(bins: list[Bin] | None) -> float:
    return math.nan if bins is None else expected_error(bins)


def _interpolated(bins: Callable[[str], list[Bin] | None], beta: float) -> float:
    """Return the expected calibration error of bins whose sums are interpolated between two temperatures."""
    at = min(max(sum(place <= beta for place in BETAS) - 1, 0), len(BETAS) - 2)
    below, above = (bins(f"{BETAS[k]:g}") for k in (at, at + 1))
    if below is None or above is None:
        return math.nan
    part, gaps = (beta - BETAS[at]) / (BETAS[at + 1] - BETAS[at]), dict[float, float]()
    for share, several in ((1 - part, below), (part, above)):
        for each in several:
            gaps[each.low] = gaps.get(each.low, 0.0) + share * nearest(each.gap)
    weight = added(nearest(each.weight) for each in below)
    return added(map(abs, gaps.values())) / weight if weight else math.nan
