"""Exact sums of float64 terms, of all or by group, as `ExactSum` has them.

A sum is an array of whole numbers: digits of 32 bits, in units of 2**-1074, and how many terms were NaN, +inf, -inf.
Adding a term changes a digit by less than 2**32, so 2**31 terms may be added before `carry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.kernels.blocks import LANES
from daskxent.kernels.llvm.compiling import bits_of, borrowed, compiled, inner, wide_vectors
from daskxent.kernels.slabs import along, plain
from daskxent.numbers import tables
from daskxent.numbers.exact import UNIT_BITS, ExactSum
from daskxent.numbers.grouping import Groups, add_rows
from daskxent.numbers.state import State, tables_of
from daskxent.numbers.status import COUNTED, IS_CLIPPED
from daskxent.numbers.sums import Moments, Sums
from daskxent.numbers.tables import BELOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.numbers.question import Question
    from daskxent.numbers.status import Scored

DIGITS = 68
NAN_TERMS, POSINF_TERMS, NEGINF_TERMS = DIGITS, DIGITS + 1, DIGITS + 2
LIMBS = DIGITS + 3
# Four grids for the usual term: below 2**20 in magnitude, with no bits below 2**-108. Adding 1.5 * 2**52 units of a
# grid rounds to the grid, and the bits then count in units: sums of those are vectorised.
GRID_BITS = 12, 44, 76, 108
_ON_GRID = tuple(1.5 * 2.0 ** (52 - bits) for bits in GRID_BITS)
_ON_GRIDS = tuple(1.5 * 2.0 ** (52 - bits) for bits in tables.GRID_BITS)


@inner
def _add_units(limbs, magnitude, position, sign):
    """Add sign * magnitude * 2**position units."""
    at, by = position >> 5, position & 31
    low, high = magnitude & 0xFFFFFFFF, magnitude >> 32
    limbs[at] += sign * ((low << by) & 0xFFFFFFFF)
    limbs[at + 1] += sign * (((low >> (32 - by)) | (high << by)) & 0xFFFFFFFF)
    limbs[at + 2] += sign * (high >> (32 - by))


@inner
def _add_term(limbs, term):
    """Add one float64 term to a sum."""
    bits = bits_of(term)
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & 0xFFFFFFFFFFFFF
    if exponent == 0x7FF:
        limbs[NAN_TERMS if mantissa else POSINF_TERMS if bits > 0 else NEGINF_TERMS] += 1
    elif exponent:
        _add_units(limbs, mantissa | (1 << 52), exponent - 1, 1 if bits > 0 else -1)
    else:
        _add_units(limbs, mantissa, 0, 1 if bits > 0 else -1)


@inner
def add_block(limbs, terms, rest):
    """Add at most `LANES` terms to a sum; `rest` is for what of them lies below the grids."""
    wide_vectors()
    # The bits that units lie on top of are taken away once, modulo 2**64.
    k0, k1, k2, k3 = (
        -terms.size * bits_of(_ON_GRID[0]),
        -terms.size * bits_of(_ON_GRID[1]),
        -terms.size * bits_of(_ON_GRID[2]),
        -terms.size * bits_of(_ON_GRID[3]),
    )
    unusual = below = 0
    for i in range(terms.size):
        x = terms[i]
        unusual += not abs(x) < BELOW
        t = x + _ON_GRID[0]
        k0 += bits_of(t)
        x -= t - _ON_GRID[0]
        t = x + _ON_GRID[1]
        k1 += bits_of(t)
        x -= t - _ON_GRID[1]
        t = x + _ON_GRID[2]
        k2 += bits_of(t)
        x -= t - _ON_GRID[2]
        t = x + _ON_GRID[3]
        k3 += bits_of(t)
        rest[i] = x - (t - _ON_GRID[3])
        below += rest[i] != 0.0
    if unusual:
        for i in range(terms.size):
            _add_term(limbs, terms[i])
        return
    for i in range(terms.size if below else 0):
        if rest[i] != 0.0:
            _add_term(limbs, rest[i])
    _add_units(limbs, abs(k0), UNIT_BITS - GRID_BITS[0], 1 if k0 > 0 else -1)
    _add_units(limbs, abs(k1), UNIT_BITS - GRID_BITS[1], 1 if k1 > 0 else -1)
    _add_units(limbs, abs(k2), UNIT_BITS - GRID_BITS[2], 1 if k2 > 0 else -1)
    _add_units(limbs, abs(k3), UNIT_BITS - GRID_BITS[3], 1 if k3 > 0 else -1)


@inner
def carry(limbs):
    """Bring all digits but the highest between 0 and 2**32 - 1."""
    for at in range(DIGITS - 1):
        limbs[at + 1] += limbs[at] >> 32
        limbs[at] &= 0xFFFFFFFF


@compiled
def _add_values(limbs, values, status, bit, weights, everywhere, room):
    """Add weight times value of the rows whose status has a bit, or of all, its square and its product with the weight.

    `limbs` has a sum for each that is wanted, in this order; `room` is for three arrays of a block.
    """
    limbs, values, status, weights = borrowed(limbs), borrowed(values), borrowed(status), borrowed(weights)
    room, as_they_are = borrowed(room), everywhere and not weights.size
    for at in range(0, values.size, LANES):
        some, shown, given = values[at : at + LANES], status[at : at + LANES], weights[at : at + LANES]
        n = some.size
        more, rest = room[1, :n], room[2, :n]
        terms = some if as_they_are else room[0, :n]
        for i in range(0 if as_they_are else n):
            terms[i] = some[i]
        for i in range(0 if everywhere else n):
            terms[i] = terms[i] if shown[i] & bit else 0.0
        for i in range(given.size):
            terms[i] = terms[i] * given[i] if terms[i] != 0 else 0.0
        add_block(limbs[0], terms, rest)
        if limbs.shape[0] > 1:
            for i in range(n):
                more[i] = terms[i] * terms[i]
            add_block(limbs[1], more, rest)
        if limbs.shape[0] > 2:
            for i in range(n):
                more[i] = terms[i] * given[i] if terms[i] != 0 else 0.0
            add_block(limbs[2], more, rest)
    for k in range(limbs.shape[0]):
        carry(limbs[k])


@compiled
def _add_placed(digits, places, terms, rare):
    """Add terms to the digits at their places, as `tables.add_terms` does; say which are rare."""
    digits, places, terms, rare = borrowed(digits), borrowed(places), borrowed(terms), borrowed(rare)
    for i in range(terms.size):
        x = terms[i]
        fits = abs(x) < BELOW
        t0 = x + _ON_GRIDS[0]
        x -= t0 - _ON_GRIDS[0]
        t1 = x + _ON_GRIDS[1]
        x -= t1 - _ON_GRIDS[1]
        t2 = x + _ON_GRIDS[2]
        x -= t2 - _ON_GRIDS[2]
        t3 = x + _ON_GRIDS[3]
        x -= t3 - _ON_GRIDS[3]
        t4 = x + _ON_GRIDS[4]
        x -= t4 - _ON_GRIDS[4]
        t5 = x + _ON_GRIDS[5]
        rare[i] = not (fits and x == t5 - _ON_GRIDS[5])
        if not rare[i]:
            at = digits[places[i]]
            at[0] += bits_of(t0) - bits_of(_ON_GRIDS[0])
            at[1] += bits_of(t1) - bits_of(_ON_GRIDS[1])
            at[2] += bits_of(t2) - bits_of(_ON_GRIDS[2])
            at[3] += bits_of(t3) - bits_of(_ON_GRIDS[3])
            at[4] += bits_of(t4) - bits_of(_ON_GRIDS[4])
            at[5] += bits_of(t5) - bits_of(_ON_GRIDS[5])


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


def exact(limbs: NDArray[np.int64]) -> ExactSum:
    """Return the sum that an array of `LIMBS` whole numbers stands for, after `carry`."""
    below = int.from_bytes(limbs[: DIGITS - 1].astype("<u4").tobytes(), "little")
    highest = int(limbs[DIGITS - 1]) << 32 * (DIGITS - 1)
    return ExactSum(below + highest, *limbs[DIGITS:].tolist())


_NO_WEIGHTS = np.empty(0)


class Totals:
    """The running sums over all rows; one thread's own.

    Parameters
    ----------
    question : Question

    Examples
    --------
    >>> from daskxent.numbers.status import Scored
    >>> from daskxent.numbers.question import Question
    >>> from daskxent.numbers.scores import Scores
    >>> question = Question(("accuracy",), 2, from_logits=True)
    >>> totals = Totals(question)
    >>> scores = Scores(np.zeros(3, np.uint8), hit=np.array([True, False, True]))
    >>> totals.add(Scored.of(question, scores, np.array([0, 1, 1])))
    >>> totals.sums().counted, float(totals.sums().totals["accuracy"])
    (3, 2.0)
    """

    def __init__(self, question: Question) -> None:
        self.question, self._counted = question, 0
        self._weight, self._clipped = np.zeros((2, LIMBS), np.int64), np.zeros((1, LIMBS), np.int64)
        self._totals = np.zeros((len(question.statistics), 3, LIMBS), np.int64)
        self._hits = [0] * len(question.statistics)
        self._weighted, self._room = False, np.empty((3, LANES))
        self.groups = [Groups(question, slicing, add_placed, count_placed) for slicing in question.slicings]

    def add(self, rows: Scored) -> None:
        """Add rows; either all of them have weights or none has."""
        scores, status, exceptional = rows.scores, rows.status, rows.status[rows.exceptional]
        dropped = rows.exceptional[(exceptional & COUNTED) == 0]
        clipped = rows.exceptional[(exceptional & IS_CLIPPED) != 0]
        self._counted += len(status) - dropped.size
        self._weighted = rows.weights is not None
        weights = _NO_WEIGHTS if rows.weights is None else plain(np.ascontiguousarray(rows.weights, np.float64))
        for k, statistic in enumerate(self.question.statistics):
            values = statistic.value(scores, rows.labels)
            if values.dtype == bool and not self._weighted:
                self._hits[k] += int(np.count_nonzero(values)) - int(np.count_nonzero(values[dropped]))
            else:
                values, wanted = plain(np.ascontiguousarray(values, np.float64)), 3 if self._weighted else 2
                self._sum(self._totals[k, :wanted], values, status, COUNTED, weights, not dropped.size)
        if self._weighted:
            self._sum(self._weight, weights, status, COUNTED, _NO_WEIGHTS, not dropped.size)
        if clipped.size and scores.loss is not None:
            some = weights[clipped] if self._weighted else _NO_WEIGHTS
            self._sum(self._clipped, scores.loss[clipped], status, IS_CLIPPED, some, True)
        add_rows(self.groups, self.question, rows)

    def _sum(self, limbs: NDArray[np.int64], *columns: Any) -> None:
        _add_values(limbs, *columns, self._room)

    def sums(self) -> Sums:
        """Return the sums so far."""
        names = [statistic.name for statistic in self.question.statistics]
        totals, squares, products = (
            {
                name: exact(limbs[k]) + ExactSum.whole(hits)
                for name, limbs, hits in zip(names, self._totals, self._hits, strict=True)
            }
            for k in range(3)
        )
        weight, own = map(exact, self._weight) if self._weighted else [ExactSum.whole(self._counted)] * 2
        moments = Moments(self._counted, squares, products if self._weighted else totals, own)
        return Sums(totals, weight, self._counted, exact(self._clipped[0]), moments)

    def state(self) -> State:
        """Return the sums so far, those by key included."""
        return State(self.sums(), tables_of(self.groups))
