"""Standard errors of means, and the intervals that follow.

A mean is a ratio R of two totals, of weight times value and of weights. Over G clusters, with A and B these totals of
one, its variance is G / (G - 1) * sum (A - R B)**2 / (sum B)**2: the linearised ratio, which is the cluster-robust
"CR1" of a weighted regression on a constant. Rows are clusters of their own where none are named, and then it is "HC1";
without weights that is s / sqrt(n). It does not change when all weights are scaled.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from daskxent.numbers.exact import nearest

if TYPE_CHECKING:
    from daskxent.numbers.exact import ExactSum
    from daskxent.numbers.sums import Moments

# A variance below this share of the mean square is nothing but the rounding of single squares, 2**-53 each.
NOTHING = Fraction(1, 2**51)
UNIT = Fraction(1, 2**1074)  # of exact sums
EXPANDED = 1000  # degrees of freedom; what is left out of the expansion is below 1e-11 of the quantile


def standard_error(total: ExactSum, weight: ExactSum, moments: Moments, name: str) -> float:
    """Return the standard error of a mean.

    Parameters
    ----------
    total, weight : ExactSum
        Of weight times value, and of weights.
    moments : Moments
        Of the clusters.
    name : str
        The statistic.

    Returns
    -------
    float
        In the unit of the statistic; NaN over fewer than two clusters, without weight, where the mean is not finite.

    Examples
    --------
    >>> from daskxent.numbers.exact import ExactSum
    >>> from daskxent.numbers.sums import Moments
    >>> x, one = [1.0, 2.0, 4.0], ExactSum.whole(3)
    >>> moments = Moments(3, {"x": ExactSum.of([1.0, 4.0, 16.0])}, {"x": ExactSum.of(x)}, one)
    >>> round(3 * standard_error(ExactSum.of(x), one, moments, "x") ** 2, 12)  # the variance
    2.333333333333
    """
    squares, products = moments.squares.get(name), moments.products.get(name)
    if moments.count < 2 or squares is None or products is None or not weight.units:
        return math.nan
    if any(each.special is not None for each in (total, weight, squares, products, moments.weights)):
        return math.nan
    a, b, aa, ab, bb = (each.units for each in (total, weight, squares, products, moments.weights))
    ratio = Fraction(a, b)
    residual = aa - 2 * ratio * ab + ratio * ratio * bb  # in units
    if residual <= NOTHING * aa:
        return 0.0
    return _root(Fraction(moments.count, moments.count - 1) * residual / (b * b * UNIT))


def _root(number: Fraction) -> float:
    """Return the square root of a fraction, which may be beyond float64 where its root is not."""
    shift = (number.denominator.bit_length() - number.numerator.bit_length()) // 2
    try:
        return math.ldexp(math.sqrt(float(number * Fraction(4) ** shift)), -shift)
    except OverflowError:
        return math.inf


def effective_count(weight: ExactSum, squares: ExactSum) -> float:
    """Return Kish's effective number of rows, (sum w)**2 / sum w**2; NaN over no rows.

    Examples
    --------
    >>> from daskxent.numbers.exact import ExactSum
    >>> effective_count(ExactSum.of([3.0, 1.0]), ExactSum.of([9.0, 1.0]))
    1.6
    """
    if not squares.units or squares.special is not None or weight.special is not None:
        return math.nan
    return nearest(weight.units**2 * UNIT / squares.units)


def symmetric(mean: float, error: float, degrees: float, level: float) -> tuple[float, float]:
    """Return the interval of a mean by Student's t.

    Examples
    --------
    >>> [round(edge, 4) for edge in symmetric(1.0, 0.5, 4, 0.95)]
    [-0.3882, 2.3882]
    """
    half = t_quantile((1 - level) / 2, degrees) * error
    return mean - half, mean + half


def wilson(share: float, count: float, level: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share of this many rows, a number that need not be whole.

    Examples
    --------
    >>> [round(edge, 4) for edge in wilson(1.0, 10, 0.95)]
    [0.7225, 1.0]
    """
    if not count > 0:
        return math.nan, math.nan
    z = -NormalDist().inv_cdf((1 - level) / 2)
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(max(0.0, share * (1 - share)) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


@lru_cache(maxsize=1024)
def t_quantile(share: float, degrees: float) -> float:
    """Return above which value this much of Student's t distribution lies, up to one half; NaN without a degree.

    Examples
    --------
    >>> round(t_quantile(0.025, 4), 10), round(t_quantile(0.025, 1e6), 6)
    (2.7764451052, 1.959966)
    """
    if not degrees >= 1:
        return math.nan
    if degrees > EXPANDED:
        return _expanded(-NormalDist().inv_cdf(share), degrees)
    low, high = 0.0, 1.0
    while _t_above(high, degrees) > share:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if _t_above(middle, degrees) <= share else (middle, high)
    return high


def _expanded(z: float, degrees: float) -> float:
    """Return Student's quantile where that of the normal distribution is z, by Fisher's expansion (Hill 1970)."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + (first + (second + third / degrees) / degrees) / degrees


def _t_above(t: float, degrees: float) -> float:
    """Return the share of Student's t above a positive number: I_x(degrees / 2, 1 / 2) / 2."""
    return _beta(degrees / 2, 0.5, degrees, t * t) / 2


def _beta(a: float, b: float, part: float, rest: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) at x = part / (part + rest).

    By the continued fraction of DLMF 8.17.22; where that converges slowly, as 1 - I_{1 - x}(b, a).
    """
    x = part / (part + rest)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, rest, part)
    if x == 0:
        return 0.0
    log_x = -math.log1p(rest / part)
    log_other = -math.log1p(part / rest)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * log_x + b * log_other - log_beta) / a
    value = below = 1 / (1 - (a + b) * x / (a + 1))
    fraction = 1.0
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            below = 1 / (1 + term * below)
            fraction = 1 + term / fraction
            value *= below * fraction
        if abs(below * fraction - 1) < 1e-16:
            break
    return front * value
