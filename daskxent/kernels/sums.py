"""Exact sums of float64 terms, of all or each at its place, as `ExactSum` and `tables` have them.

A term is split over grids that are 32 bits apart: adding 1.5 * 2**52 units of a grid to a number rounds it to the grid,
and its bits then count in units. Sums of those are vectorised, and the same in any order.
"""

from __future__ import annotations

from operator import lshift
from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.kernels.blocks import LANES
from daskxent.kernels.llvm.compiling import bits_of, borrowed, compiled, inlined, wide_vectors
from daskxent.kernels.slabs import along
from daskxent.numbers.exact import UNIT_BITS, ExactSum
from daskxent.numbers.grouping import Adders
from daskxent.numbers.status import COUNTED
from daskxent.numbers.tables import BELOW, GRID_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FINER = 204, 236  # two grids more, for sums that are not kept: four make one round of `_add_block`
_BITS = *GRID_BITS, *_FINER
_UNITS = tuple(UNIT_BITS - bits for bits in _BITS)
_ON_GRID = tuple(1.5 * 2.0 ** (52 - bits) for bits in _BITS)


@inlined
def _units(x, on_grid):
    """Round a number to a grid: how many units, on top of the bits of 0, and what is left."""
    on_top = x + on_grid
    return bits_of(on_top), x - (on_top - on_grid)


@inlined
def _add_block(terms, rest, grids, digits):
    """Add what lies on four grids of at most `LANES` terms to digits; return how many leave anything in `rest`."""
    wide_vectors()
    k0 = k1 = k2 = k3 = np.int64(0)  # of units on top of the bits of 0, which are taken away at the end, modulo 2**64
    left = 0
    for i in range(terms.size):
        n0, x = _units(terms[i], grids[0])
        n1, x = _units(x, grids[1])
        n2, x = _units(x, grids[2])
        n3, x = _units(x, grids[3])
        k0 += n0
        k1 += n1
        k2 += n2
        k3 += n3
        rest[i] = x
        left += x != 0.0
    digits[0] += k0 - terms.size * bits_of(grids[0])
    digits[1] += k1 - terms.size * bits_of(grids[1])
    digits[2] += k2 - terms.size * bits_of(grids[2])
    digits[3] += k3 - terms.size * bits_of(grids[3])
    return left


@inlined
def _without_rare(terms, usual, rare, count):
    """Copy a block of terms but for those that are too large for the grids, which are listed; return of how many."""
    for i in range(terms.size):
        fits = abs(terms[i]) < BELOW
        usual[i] = terms[i] if fits else 0.0
        rare[count] = terms[i]  # one that is not rare is overwritten
        count += not fits
    return count


@inlined
def _add_terms(terms, digits, rare, count, room):
    """Add a block of terms to eight digits; list what does not fit them, and return how many numbers that is by now."""
    usual, rest = room[0, : terms.size], room[1, : terms.size]
    unusual = 0
    for i in range(terms.size):
        unusual += not abs(terms[i]) < BELOW
    if unusual:
        count = _without_rare(terms, usual, rare, count)
        terms = usual
    if _add_block(terms, rest, _ON_GRID[:4], digits[:4]) and _add_block(rest, rest, _ON_GRID[4:], digits[4:]):
        for i in range(rest.size):
            rare[count] = rest[i]
            count += rest[i] != 0.0
    return count


@compiled
def _add_column(values, weights, status, digits, rare, counts, room):
    """Add the terms of `numbers.sums.exact_sums` to eight digits for each sum; list those that do not fit them."""
    values, weights, status = borrowed(values), borrowed(weights), borrowed(status)
    digits, rare, counts, room = borrowed(digits), borrowed(rare), borrowed(counts), borrowed(room)
    as_they_are = not weights.size and not status.size
    for at in range(0, values.size, LANES):
        some, given, shown = values[at : at + LANES], weights[at : at + LANES], status[at : at + LANES]
        terms, more = some if as_they_are else room[2, : some.size], room[3, : some.size]
        for i in range(0 if as_they_are else some.size):
            terms[i] = some[i]
        for i in range(shown.size):
            terms[i] = terms[i] if shown[i] & COUNTED else 0.0
        for i in range(given.size):
            terms[i] = terms[i] * given[i] if terms[i] != 0 else 0.0
        for k in range(counts.size):
            for i in range(some.size if k == 1 else 0):
                more[i] = terms[i] * terms[i]
            for i in range(given.size if k == 2 else 0):
                more[i] = terms[i] * given[i] if terms[i] != 0 else 0.0
            counts[k] = _add_terms(more if k else terms, digits[k], rare[k], counts[k], room)


def exact_sums(
    values: NDArray[Any], weights: NDArray[np.float64] | None = None, status: NDArray[np.uint16] | None = None
) -> list[ExactSum]:
    """Return the sums of a column of at most 2**31 rows, as `numbers.sums.exact_sums` does.

    Raises
    ------
    ValueError
        There is not one value, weight or status for each row.

    Examples
    --------
    >>> [float(total) for total in exact_sums(np.array([1e300, 0.5, -1e300]), np.array([1.0, 2.0, 1.0]))]
    [1.0, inf, 2.0]
    """
    rows, sums = len(values), 2 if weights is None else 3
    values, weights = along(values, rows, np.float64, "values"), along(weights, rows, np.float64, "weights")
    status = along(status, rows, np.uint16, "status")
    digits, counts = np.zeros((sums, len(_BITS)), np.int64), np.zeros(sums, np.int64)
    rare = np.empty((sums, rows + 1))  # a place more, for a number that turns out not to be rare
    _add_column(values, weights, status, digits, rare, counts, np.empty((4, LANES)))
    found = [ExactSum(sum(map(lshift, own, _UNITS))) for own in digits.tolist()]
    return [total + ExactSum.of(rare[k, :count]) if (count := counts[k]) else total for k, total in enumerate(found)]


@compiled
def _add_placed(digits, places, terms, rare):
    """Add terms to the digits at their places, as `tables.add_terms` does; say which are rare."""
    digits, places, terms, rare = borrowed(digits), borrowed(places), borrowed(terms), borrowed(rare)
    for i in range(terms.size):
        n0, x = _units(terms[i], _ON_GRID[0])
        n1, x = _units(x, _ON_GRID[1])
        n2, x = _units(x, _ON_GRID[2])
        n3, x = _units(x, _ON_GRID[3])
        n4, x = _units(x, _ON_GRID[4])
        n5, x = _units(x, _ON_GRID[5])
        rare[i] = not abs(terms[i]) < BELOW or x != 0.0
        if not rare[i]:
            at = digits[places[i]]
            at[0] += n0 - bits_of(_ON_GRID[0])
            at[1] += n1 - bits_of(_ON_GRID[1])
            at[2] += n2 - bits_of(_ON_GRID[2])
            at[3] += n3 - bits_of(_ON_GRID[3])
            at[4] += n4 - bits_of(_ON_GRID[4])
            at[5] += n5 - bits_of(_ON_GRID[5])


def add_placed(digits: NDArray[np.int64], places: NDArray[np.int64], terms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Add terms to sums, each at its place, as `tables.add_terms` does.

    Raises
    ------
    ValueError
        There is not one place for each term, or no sum at a place: compiled code would write elsewhere.

    Examples
    --------
    >>> digits = np.zeros((2, 6), np.int64)
    >>> add_placed(digits, np.array([0, 1]), np.array([0.5, np.nan])).tolist(), digits[0].tolist()
    ([False, True], [2048, 0, 0, 0, 0, 0])
    """
    places, terms = along(places, len(terms), np.int64, "places"), along(terms, len(terms), np.float64, "terms")
    _check_places(places, len(digits))
    rare = np.empty(terms.size, np.bool_)
    _add_placed(digits, places, terms, rare)
    return rare


@compiled
def _count_placed(counts, places, terms):
    counts, places, terms = borrowed(counts), borrowed(places), borrowed(terms)
    for i in range(0 if terms.size else places.size):
        counts[places[i]] += 1
    for i in range(terms.size):
        counts[places[i]] += terms[i]


def count_placed(counts: NDArray[np.int64], places: NDArray[np.int64], terms: NDArray[np.bool_] | None) -> None:
    """Count rows, each at its place, as `tables.count_rows` does.

    Raises
    ------
    ValueError
        There is not one place for each term, or no count at a place.

    Examples
    --------
    >>> counts = np.zeros(3, np.int64)
    >>> count_placed(counts, np.array([0, 2, 2]), None)
    >>> counts.tolist()
    [1, 0, 2]
    """
    rows = len(places) if terms is None else len(terms)
    places, terms = along(places, rows, np.int64, "places"), along(terms, rows, np.bool_, "terms")
    _check_places(places, len(counts))
    _count_placed(counts, places, terms)


def _check_places(places: NDArray[np.int64], sums: int) -> None:
    if places.size and not 0 <= int(places.min()) <= int(places.max()) < sums:
        raise ValueError(f"places: expected those of {sums} sums")


COMPILED = Adders(exact_sums, add_placed, count_placed)
