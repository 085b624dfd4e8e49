"""Calibration: how often predictions of some confidence are right.

Bins of confidence hold exact sums, so that what is made of them is the same for any chunks. The definitions: Guo,
Pleiss, Sun and Weinberger (2017) for the expected calibration error; Kumar, Liang and Ma (2019) for the debiased one,
of squares; Murphy (1973) and Stephenson, Coelho and Jolliffe (2008) for the decomposition of the Brier score of the
prediction, (confidence - hit)**2.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from daskxent.numbers.exact import UNIT_BITS, nearest
from daskxent.numbers.statistics import HIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daskxent.numbers.keys import Reliability
    from daskxent.numbers.sums import Sums
    from daskxent.numbers.tables import Table

ONE = Fraction(1, 1 << UNIT_BITS)  # of exact sums
EQUAL_MASS = 15  # bins of about equal weight


class Bin(NamedTuple):
    """The rows whose confidence is in a bin; sums are weighted.

    Attributes
    ----------
    low, high : float
        ``low < confidence <= high``; the first bin also holds 0.
    rows : int
    weight, hits, confidence : Fraction
        Sums of the weights, of those of rows that are right, and of the confidences.
    squares, of_hits : Fraction
        Sums of the squared confidences, and of the confidences of rows that are right.
    """

    low: float
    high: float
    rows: int
    weight: Fraction
    hits: Fraction
    confidence: Fraction
    squares: Fraction = Fraction(0)
    of_hits: Fraction = Fraction(0)

    @property
    def gap(self) -> Fraction:
        """By how much the confidences of the bin exceed its hits, in all."""
        return self.confidence - self.hits


def bins_of(table: Table | None, by: Reliability, of: str = "confidence") -> list[Bin] | None:
    """Return the bins with rows, in order; None if a confidence is not a number, or the weight of a bin not above 0.

    Parameters
    ----------
    table : Table or None
        Of a slicing by confidence; None where no row counts.
    by : Reliability
    of : str
        The statistic that is the confidence.
    """
    edges, found = by.edges.tolist(), []
    for (key,) in table or ():
        assert table is not None
        sums = table.sums((key,))
        if key == by.bins or sums.weight.units <= 0:  # negative weights may leave nothing of others
            return None
        found.append(_bin(edges[key], edges[key + 1], sums, of))
    return found


def _bin(low: float, high: float, sums: Sums, of: str) -> Bin:
    def exact(name: str) -> Fraction:
        return sums.totals[name].units * ONE if name in sums.totals else Fraction(0)

    squares, of_hits = exact("_confidence_squared"), exact("_confidence_of_hits")
    return Bin(low, high, sums.counted, sums.weight.units * ONE, exact(HIT), exact(of), squares, of_hits)


def equal_mass(bins: Sequence[Bin], count: int = EQUAL_MASS) -> list[Bin]:
    """Join fine bins, in order, into some of about equal weight; what would be cut stays in one of them."""
    total, found, below = sum((each.weight for each in bins), Fraction(0)), list[Bin](), Fraction(0)
    parts: dict[int, list[Bin]] = {}
    for each in bins:
        middle = below + each.weight / 2
        parts.setdefault(int(middle * count / total), []).append(each)
        below += each.weight
    for several in parts.values():
        names = "weight", "hits", "confidence", "squares", "of_hits"
        sums = {name: sum((getattr(b, name) for b in several), Fraction(0)) for name in names}
        found.append(Bin(several[0].low, several[-1].high, sum(b.rows for b in several), **sums))
    return found


def expected_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error, sum |confidence - hits| / weight.

    Examples
    --------
    >>> half, one = Fraction(1, 2), Fraction(1)
    >>> expected_error([Bin(0.0, 0.5, 1, one, one, half), Bin(0.5, 1.0, 1, one, one, one)])
    0.25
    """
    return _quotient(sum((abs(each.gap) for each in bins), Fraction(0)), _weight(bins))


def largest_error(bins: Sequence[Bin]) -> float:
    """Return the maximum calibration error: the largest gap between the means of a bin."""
    return nearest(max(abs(each.gap) / each.weight for each in bins)) if bins else math.nan


def squared_error(bins: Sequence[Bin]) -> float:
    """Return the root mean squared calibration error."""
    return math.sqrt(_quotient(sum((each.gap**2 / each.weight for each in bins), Fraction(0)), _weight(bins)))


def debiased_error(bins: Sequence[Bin]) -> float:
    """Return the same without the bias that the noise of each bin adds; 0 where that is all.

    Kumar, Liang and Ma (2019): what a share of n rows varies by, share * (1 - share) / (n - 1), is taken away. Bins of
    a single row are left out.
    """
    found = Fraction(0)
    for each in bins:
        if each.rows > 1:
            share = each.hits / each.weight
            found += each.weight * ((each.gap / each.weight) ** 2 - share * (1 - share) / (each.rows - 1))
    return math.sqrt(_quotient(max(found, Fraction(0)), _weight(bins)))


def overconfidence(bins: Sequence[Bin]) -> float:
    """Return by how much the mean confidence exceeds the accuracy."""
    return _quotient(sum((each.gap for each in bins), Fraction(0)), _weight(bins))


def decomposition(bins: Sequence[Bin]) -> dict[str, float]:
    """Return the terms of the Brier score of the prediction, (confidence - hit)**2, and the score.

    "brier" = "reliability" - "resolution" + "uncertainty" + "within_bin_variance" - "within_bin_covariance", exactly.
    """
    weight = _weight(bins)
    share = sum((each.hits for each in bins), Fraction(0)) / weight if weight else Fraction(0)
    found = dict.fromkeys(
        ("brier", "reliability", "resolution", "uncertainty", "within_bin_variance", "within_bin_covariance"),
        Fraction(0),
    )
    for each in bins:
        hits, mean = each.hits / each.weight, each.confidence / each.weight
        found["brier"] += each.squares - 2 * each.of_hits + each.hits
        found["reliability"] += each.weight * (mean - hits) ** 2
        found["resolution"] += each.weight * (hits - share) ** 2
        found["within_bin_variance"] += each.squares - each.weight * mean**2
        found["within_bin_covariance"] += 2 * (each.of_hits - each.weight * mean * hits)
    found["uncertainty"] = weight * share * (1 - share)
    return {name: _quotient(value, weight) for name, value in found.items()}


def _weight(bins: Sequence[Bin]) -> Fraction:
    return sum((each.weight for each in bins), Fraction(0))


def _quotient(part: Fraction, whole: Fraction) -> float:
    return nearest(part / whole) if whole else math.nan


CALIBRATIONS = {
    "ece": expected_error,
    "mce": largest_error,
    "rmsce": squared_error,
    "ece_debiased": debiased_error,
    "overconfidence": overconfidence,
}
