"""Sums of float64 terms that come out the same in any order.

Every finite float64 is a whole number of units of 2**-1074, so a sum of float64 terms is a whole number of
units too. `ExactSum` holds that whole number as a Python integer: adding is associative and commutative
because adding integers is, no term is ever rounded away, and two equal sums are equal objects. The only
rounding happens once, at the end, when `ratio` divides two sums: Python's division of integers is correctly
rounded, so a mean is the float64 nearest to the exact quotient.

NaN and infinities have no place on that grid; they are counted apart.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import reading

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

    from numpy.typing import ArrayLike

UNIT_BITS = 1074  # the smallest positive float64 is 2**-1074
_MANTISSA_BITS = 53
_MOST_BITS = UNIT_BITS + 1024 + 64  # of as many of the largest float64 as can be counted
_HALF_BITS = 26
# Sums of 27-bit halves over a block stay far below 2**53, where float64 additions of whole numbers are exact.
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class ExactSum:
    """The exact sum of float64 terms.

    Parameters
    ----------
    units : int
        Sum of the finite terms, in units of 2**-1074.
    nan, posinf, neginf : int
        How many terms were NaN, +inf and -inf.

    Examples
    --------
    >>> float(ExactSum.of([1e16, 1.0, -1e16]))
    1.0
    >>> ExactSum.of([0.1, 0.2]) + ExactSum.of([0.3]) == ExactSum.of([0.3, 0.2, 0.1])
    True
    """

    units: int = 0
    nan: int = 0
    posinf: int = 0
    neginf: int = 0

    @classmethod
    def of(cls, terms: ArrayLike) -> ExactSum:
        """Sum an array of float64 terms of any shape."""
        flat = np.asarray(terms, np.float64).ravel()
        finite = np.isfinite(flat)
        if finite.all():
            return cls(_units(flat))
        special = flat[~finite]
        posinf, neginf = int((special == np.inf).sum()), int((special == -np.inf).sum())
        return cls(_units(flat[finite]), special.size - posinf - neginf, posinf, neginf)

    @classmethod
    def whole(cls, number: int) -> ExactSum:
        """Return the sum of `number` ones."""
        return cls(number << UNIT_BITS)

    def __add__(self, other: ExactSum) -> ExactSum:
        """Return the sum of both sets of terms."""
        return ExactSum(
            self.units + other.units,
            self.nan + other.nan,
            self.posinf + other.posinf,
            self.neginf + other.neginf,
        )

    def __float__(self) -> float:
        """Return the float64 nearest to the exact sum."""
        return ratio(self, ExactSum.whole(1))

    @property
    def special(self) -> float | None:
        """What the terms that are not finite make of the sum: None (there are none), NaN or an infinity."""
        if self.nan or (self.posinf and self.neginf):
            return float("nan")
        if self.posinf or self.neginf:
            return float("inf") if self.posinf else float("-inf")
        return None

    def to_json(self) -> list[Any]:
        """Return ``[hexadecimal integer, exponent, nan, posinf, neginf]``; the first two are canonical."""
        shift = (self.units & -self.units).bit_length() - 1 if self.units else 0
        exponent = shift - UNIT_BITS if self.units else 0
        return [hex(self.units >> shift), exponent, self.nan, self.posinf, self.neginf]

    @classmethod
    def from_json(cls, data: Any, what: str = "sum") -> ExactSum:
        """Read what `to_json` wrote; a ValueError calls it by `what`."""
        digits, exponent, *counts = reading.several(data, what, 5)
        if not isinstance(digits, str) or not re.fullmatch(rf"-?0x[0-9a-f]{{1,{_MOST_BITS // 4}}}", digits):
            raise ValueError(f"{what}: expected a hexadecimal integer, got {reading.brief(digits)}")
        reading.whole(exponent, what, -UNIT_BITS, _MOST_BITS - UNIT_BITS)
        return cls(int(digits, 16) << (exponent + UNIT_BITS), *(reading.whole(count, what) for count in counts))


def ratio(total: ExactSum, count: ExactSum) -> float:
    """Divide two exact sums, rounding once.

    Parameters
    ----------
    total, count : ExactSum

    Returns
    -------
    float
        The float64 nearest to the exact quotient; NaN when `count` is zero, whatever the total.

    Examples
    --------
    >>> ratio(ExactSum.of([0.3, 0.7]), ExactSum.whole(2))
    0.5
    """
    if count.special is not None or count.units == 0:
        return float("nan")
    if total.special is not None:
        return total.special if count.units > 0 else -total.special
    return quotient(total.units, count.units)


def quotient(part: int, whole: int) -> float:
    """Divide two whole numbers, rounding once; what is beyond float64 is infinite.

    Examples
    --------
    >>> quotient(-1, 3), quotient(-(10**400), 3)
    (-0.3333333333333333, -inf)
    """
    try:
        return part / whole
    except OverflowError:
        return float("inf") if (part > 0) == (whole > 0) else float("-inf")


def nearest(number: Fraction) -> float:
    """Return the float64 nearest to a fraction; an infinity beyond the largest."""
    return quotient(number.numerator, number.denominator)


def added(numbers: Iterable[float]) -> float:
    """Return the sum of numbers, rounded once; of infinities, or of what is beyond float64, that of float64."""
    several = list(numbers)
    try:
        return math.fsum(several)
    except (OverflowError, ValueError):
        return sum(several)


def _units(terms: np.ndarray) -> int:
    """Sum finite terms exactly: integer mantissas are added up exponent by exponent."""
    units = 0
    for start in range(0, terms.size, _BLOCK):
        fraction, exponent = np.frexp(terms[start : start + _BLOCK])
        mantissa = np.ldexp(fraction, _MANTISSA_BITS).astype(np.int64)
        low = mantissa & ((1 << _HALF_BITS) - 1)
        lowest = int(exponent.min())
        for bins, half_shift in ((mantissa >> _HALF_BITS, _HALF_BITS), (low, 0)):
            sums = np.bincount(exponent - lowest, weights=bins.astype(np.float64))
            for at in np.flatnonzero(sums):
                shift = lowest + int(at) - _MANTISSA_BITS + UNIT_BITS + half_shift
                whole = int(sums[at])
                # Subnormal terms shift right, by zeros: their sum is whole in units only with both halves.
                units += whole << (shift + _MANTISSA_BITS)
    return units >> _MANTISSA_BITS
