"""What is remembered of one row of predictions: a small record from which every metric is made.

A *row* is one prediction (one image, one pixel, one token) over all classes. `scan` summarises the rows of a
block, or of some of their classes; `merge` combines what two disjoint sets of classes say about the same rows;
`losses` turns finished records into crossentropy in nats. This module is NumPy alone and is the definition of
the numbers; the compiled scans of `kernels` give the same bits.

The record is a commutative monoid, bit for bit. That needs a sum of exponentials that does not depend on the
order or the grouping of the classes, which the usual sum of exp(x - peak) is not: another block of classes has
another peak. So exp(x) is written as p * 2**n, where p and n depend on x alone (`elementary`), each term is rounded
to whole *units*, and integers add in any order. The unit belongs to a grid fixed once for all numbers. Which of its
positions a row is counted at follows from the second largest value: crossentropy is
log1p(sum of the other terms / exp(peak)), so the peak's own term is left out of the sum, and the small loss of a
sure prediction is counted as finely as any. When a block with larger values joins, the position rises; for that
the record keeps the sum at the positions above as well, as many *levels* as it takes until every term rounds to 0.
What rounding loses is less than C * 2**-37 of the second largest term (2**-65 for float64, whose units have a
second integer for what the first one leaves).

Probabilities are clipped to [1e-7, 1 - 1e-7] and counted in units of 2**-44, at one level, none left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import elementary

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPSILON = 1e-7  # Keras's: probabilities are clipped to [EPSILON, 1 - EPSILON]


class Grid(NamedTuple):
    """How terms of a dtype are counted.

    Attributes
    ----------
    step : int
        Neighbouring positions differ by a factor of 2**step; all terms but the peak's are below 2**step positions.
    unit : int
        A unit at a position is 2**-unit of it.
    levels : int
        Positions at which a sum is kept, from the lowest up.
    integers : int
        1, or 2 if a second integer counts what rounding to units leaves, in 2**-REST_BITS units.
    """

    step: int
    unit: int
    levels: int
    integers: int


# A term is below 2**(step + unit) = 2**44 units, so that 2**19 of them fit an int64.
GRIDS: dict[np.dtype[Any], Grid] = {
    np.dtype(np.float32): Grid(step=8, unit=36, levels=6, integers=1),
    np.dtype(np.float64): Grid(step=24, unit=20, levels=4, integers=2),
}
REST_BITS = 44
MOST_CLASSES = 1 << 19
# Adding this to a number below 2**51 rounds it to a whole number, ties to even, which then stands in the low bits.
MAGIC = 1.5 * 2.0**52
MAGIC_BITS = int(np.float64(MAGIC).view(np.int64))
# A row is counted no further than this many positions below its peak: what is lower has no weight in float64.
REACH = 9

# Beyond this magnitude neighbouring float32 numbers lie 64 nats apart: only classes tied with the peak count.
HUGE = 2.0**30
# Values of `base` that are no grid position: a row without a finite peak or without mass, rows whose peak is huge,
# and probabilities, whose one position is 1.
NO_BASE = -(2**41)
HUGE_BASE = 2**40
PROBABILITY_BASE = 2**41
PROBABILITY_BITS = 44

# Bits of `flags`.
HAS_NAN = 1
OUTSIDE_UNIT = 2  # a probability below 0 or above 1


class Rows(NamedTuple):
    """Records of n rows over the classes seen so far, one array per field.

    Attributes
    ----------
    peak : (n,) float64
        Largest value, NaN left aside; -inf where there is none.
    best : (n,) int64
        Lowest class that holds the peak; -1 in a row without classes.
    second : (n,) float64
        Second largest value (the peak itself on a tie); -inf where there is none.
    base : (n,) int64
        Grid position at which ``mass[0]`` counts.
    mass : (levels * integers, n) int64
        Sum of exp(logit) over all classes but one that holds the peak, or of all clipped probabilities, in units;
        first by level, then, for float64, by level what the units leave.
    target : (n,) float64
        Value at the label; 0 while the label's class has not been seen.
    top : (n, k) float64
        The k largest values, descending, padded with -inf.
    flags : (n,) uint8
        `HAS_NAN`, `OUTSIDE_UNIT`.
    """

    peak: NDArray[np.float64]
    best: NDArray[np.int64]
    second: NDArray[np.float64]
    base: NDArray[np.int64]
    mass: NDArray[np.int64]
    target: NDArray[np.float64]
    top: NDArray[np.float64]
    flags: NDArray[np.uint8]


def widen(values: NDArray[Any]) -> NDArray[Any]:
    """Return predictions as float32 or float64; half precision becomes float32, exactly."""
    wide = np.float64 if values.dtype == np.float64 else np.float32
    return np.ascontiguousarray(values, wide)


def empty(n: int, dtype: np.dtype[Any], top: int = 0) -> Rows:
    """Return the records of `n` rows of which no class has been seen: the identity of `merge`."""
    grid = GRIDS[np.dtype(dtype)]
    return Rows(
        peak=np.full(n, -np.inf),
        best=np.full(n, -1),
        second=np.full(n, -np.inf),
        base=np.full(n, NO_BASE),
        mass=np.zeros((grid.levels * grid.integers, n), np.int64),
        target=np.zeros(n),
        top=np.full((n, top), -np.inf),
        flags=np.zeros(n, np.uint8),
    )


def scan(
    values: NDArray[Any],
    labels: NDArray[np.int64],
    first: int = 0,
    *,
    probabilities: bool = False,
    mass: bool = True,
    top: int = 0,
) -> Rows:
    """Summarise rows over the classes ``first .. first + c - 1``.

    Parameters
    ----------
    values : (n, c) array
        Logits in nats, or probabilities; float16, bfloat16, float32 or float64.
    labels : (n,) int64
        Classes, counted over all blocks of classes; those outside this block leave `target` at 0.
    first : int
        Class of column 0.
    probabilities : bool
        Sum clipped probabilities instead of exponentials.
    mass : bool
        False leaves the sums out: accuracy alone needs none.
    top : int
        How many of the largest values to keep.

    Returns
    -------
    Rows

    Examples
    --------
    >>> rows = scan(np.array([[0.0, 2.0, 1.0]]), np.array([2]))
    >>> rows.best.tolist(), rows.peak.tolist(), rows.target.tolist()
    ([1], [2.0], [1.0])
    """
    wide = widen(values)
    n, c = wide.shape
    rows = empty(n, wide.dtype, top)
    if c == 0 or n == 0:
        return rows
    nan = np.isnan(wide)
    rows.flags[nan.any(axis=1)] |= HAS_NAN
    x = np.where(nan, -np.inf, wide).astype(wide.dtype, copy=False)
    best = x.argmax(axis=1)
    everyone = np.arange(n)
    rows.peak[:] = x[everyone, best]
    rows.best[:] = best + first
    if c > 1:
        rows.second[:] = np.partition(x, c - 2, axis=1)[:, c - 2]
    here = (labels >= first) & (labels < first + c)
    rows.target[here] = values[everyone[here], labels[here] - first].astype(np.float64)
    if top:
        rows.top[:, : min(top, c)] = -np.partition(-x, min(top, c) - 1, axis=1)[:, : min(top, c)]
        rows.top.sort(axis=1)
        rows.top[:] = rows.top[:, ::-1].copy()
    if probabilities:
        rows.flags[((wide < 0) | (wide > 1)).any(axis=1)] |= OUTSIDE_UNIT
    if mass and probabilities:
        rows.base[:] = PROBABILITY_BASE
        rows.mass[:] = _probability_units(_clip(x)).sum(axis=2)
    elif mass:
        rows.base[:] = _base(rows.peak, rows.second, wide.dtype)
        rows.mass[:] = _terms(x, rows.base[:, None], rows.peak[:, None], wide.dtype).sum(axis=2)
        rows.mass[:] -= _terms(rows.peak, rows.base, rows.peak, wide.dtype)
    return rows


def merge(a: Rows, b: Rows) -> Rows:
    """Combine what two disjoint sets of classes say about the same rows.

    Associative and commutative to the last bit; `empty` is its identity.

    Examples
    --------
    >>> x, y = np.array([[3.0, 1.0, 2.0, 5.0]]), np.array([1])
    >>> halves = merge(scan(x[:, :1], y), scan(x[:, 1:], y, first=1))
    >>> all(np.array_equal(u, v) for u, v in zip(halves, scan(x, y)))
    True
    """
    peak, lower = np.maximum(a.peak, b.peak), np.minimum(a.peak, b.peak)
    second = np.maximum(np.maximum(a.second, b.second), lower)
    unseen = np.iinfo(np.int64).max
    best_a = np.where((a.peak == peak) & (a.best >= 0), a.best, unseen)
    best_b = np.where((b.peak == peak) & (b.best >= 0), b.best, unseen)
    best = np.minimum(best_a, best_b)
    base = np.maximum(a.base, b.base)
    summed = (base != NO_BASE) & (base != PROBABILITY_BASE)
    base = np.where(summed, _base(peak, second, dtype_of(a)), base)
    mass = _moved(a, base, peak) + _moved(b, base, peak)
    mass += np.where(summed, _terms(lower, base, peak, dtype_of(a)), 0)
    k = a.top.shape[1]
    top = np.sort(np.concatenate([a.top, b.top], axis=1), axis=1)[:, ::-1][:, :k]
    return Rows(
        peak=peak,
        best=np.where(best == unseen, -1, best),
        second=second,
        base=base,
        mass=mass,
        target=a.target + b.target,
        top=np.ascontiguousarray(top),
        flags=a.flags | b.flags,
    )


def losses(rows: Rows, *, probabilities: bool = False) -> NDArray[np.float64]:
    """Return the crossentropy of finished rows with their labels, in nats.

    Logits: log(sum_j exp(x_j)) - x_y, computed as log1p((sum_j exp(x_j) - exp(peak)) / exp(peak)) + (peak - x_y),
    so that the small loss of a sure and right prediction keeps its digits. Probabilities: log(sum_j q_j / q_y)
    with q clipped to [1e-7, 1 - 1e-7], which is what tf.keras computes.

    Parameters
    ----------
    rows : Rows
        All classes merged, `mass` included.
    probabilities : bool
        As given to `scan`.

    Returns
    -------
    (n,) float64
        NaN for a row with NaN, with +inf or without any finite logit; +inf for a logit of -inf at the label.

    Examples
    --------
    >>> losses(scan(np.log([[0.25, 0.75]]), np.array([0]))).round(12).tolist()
    [1.38629436112]
    """
    broken = (rows.flags & HAS_NAN).astype(bool)
    if probabilities:
        target, own = clip_target(rows)
        rest = _counted(rows.mass - own) * 2.0**-PROBABILITY_BITS
        return np.where(broken, np.nan, elementary.log1p(rest / target))
    broken |= np.isinf(rows.peak)
    excess, gap = excesses(rows), np.where(broken, 0.0, rows.peak) - rows.target
    return np.where(broken | np.isnan(rows.target), np.nan, elementary.log1p(excess) + gap)


def dense_losses(
    values: NDArray[Any], labels: NDArray[Any], rows: Rows, *, probabilities: bool = False, smoothing: float = 0.0
) -> NDArray[np.float64]:
    """Return the crossentropy of rows with one-hot or soft labels, in nats.

    The labels y become ``y * (1 - smoothing) + smoothing / C``. Logits: sum_j y_j (log(sum_i exp(x_i)) - x_j), where
    a class with y_j = 0 adds nothing even if its logit is -inf. Probabilities: -sum_j y_j log(q_j), where q is
    p / sum(p) clipped to [1e-7, 1 - 1e-7]. That is Keras on every backend.

    Parameters
    ----------
    values, labels : (n, C) arrays
        Whole rows: unlike `scan` this cannot be told block by block.
    rows : Rows
        The records of `values`.
    probabilities : bool
    smoothing : float

    Returns
    -------
    (n,) float64

    Examples
    --------
    >>> x = np.log([[0.25, 0.75]])
    >>> bool(dense_losses(x, np.eye(2)[:1], scan(x, np.array([0])))[0] == losses(scan(x, np.array([0])))[0])
    True
    """
    x = widen(values).astype(np.float64)
    y = np.asarray(labels).astype(np.float64)
    if smoothing:
        y = y * (1.0 - smoothing) + smoothing / x.shape[1]
    broken = (rows.flags & HAS_NAN).astype(bool) | np.isinf(rows.peak)
    if probabilities:
        total = _from_left(np.where(broken[:, None], 1.0, x))
        broken |= total == 0
        q = np.where(broken[:, None], 1.0, x) / np.where(broken, 1.0, total)[:, None]
        each = -elementary.log(np.minimum(np.maximum(q, EPSILON), 1 - EPSILON))
    else:
        above = np.where(broken[:, None], 0.0, np.where(broken, 0.0, rows.peak)[:, None] - x)
        each = elementary.log1p(excesses(rows))[:, None] + above
    loss = _from_left(np.where(y == 0, 0.0, y * np.where(y == 0, 0.0, each)))
    return np.where(broken, np.nan, loss)


def _from_left(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum along the classes; cumsum adds from left to right in any block, so a row's sum never depends on its chunk."""
    total: NDArray[np.float64] = np.cumsum(terms, axis=1)[:, -1]
    return total


def excesses(rows: Rows) -> NDArray[np.float64]:
    """Return sum_j exp(x_j - peak) - 1 over all classes of finished rows of logits: (n,) float64, 0 if broken."""
    grid = GRIDS[dtype_of(rows)]
    usual = np.abs(rows.base) < HUGE_BASE
    peak = np.where(usual, rows.peak, 0.0)
    bits = (grid.step * np.where(usual, rows.base, 0) - grid.unit).astype(np.float64)
    ln2_hi, ln2_mid, ln2_lo = elementary.LN2_F8
    scale = elementary.exp(((bits * ln2_hi - peak) + bits * ln2_mid) + bits * ln2_lo)
    return np.where(usual, _counted(rows.mass) * scale, rows.mass[0])


def clip_target(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the label's probability, clipped, as (n,) float64 and in units as in `Rows.mass`."""
    target = _clip(np.where(np.isnan(rows.target), 0.0, rows.target).astype(dtype_of(rows)))
    return target.astype(np.float64), _probability_units(target)


def total_probability(rows: Rows) -> NDArray[np.float64]:
    """Return the sum of the clipped probabilities of each row: (n,) float64."""
    return _counted(rows.mass) * 2.0**-PROBABILITY_BITS


def dtype_of(rows: Rows) -> np.dtype[Any]:
    """Return what the predictions of records were widened to: float32 or float64."""
    return next(dtype for dtype, grid in GRIDS.items() if grid.levels * grid.integers == len(rows.mass))


def _base(peak: NDArray[np.float64], second: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """Return the grid position at which rows with these largest values are counted."""
    usual = np.abs(peak) < HUGE
    high = _position(np.where(usual, peak, 0.0), dtype)
    low = _position(np.where(usual & (second > -HUGE), second, 0.0), dtype)
    base = np.where(second > -HUGE, np.maximum(low, high - REACH), high - REACH)
    odd = np.where(np.isneginf(peak), NO_BASE, np.where(peak > 0, HUGE_BASE, -HUGE_BASE))
    return np.where(usual, base, odd)


def _position(x: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.int64]:
    return elementary.power_of_two(x.astype(dtype))[0] // GRIDS[dtype].step


def _terms(
    x: NDArray[Any], base: NDArray[np.int64], peak: NDArray[np.float64], dtype: np.dtype[Any]
) -> NDArray[np.int64]:
    """Return exp(x) in units at each level from `base` up, as in `Rows.mass`; beside a huge peak, 1 for a tie."""
    grid = GRIDS[dtype]
    usual = np.abs(base) < HUGE_BASE
    seen = usual & (x > -HUGE)
    n, p = elementary.power_of_two(np.where(seen, x, 0.0).astype(dtype))
    shift = n - grid.step * np.where(usual, base, 0) + grid.unit
    # What lies below 2**-200 units counts for nothing anyhow.
    units = _units(np.ldexp(np.where(seen, p.astype(np.float64), 0.0), np.maximum(shift, -200)), grid)
    units[0] += ~usual & np.isfinite(peak) & (x == peak)
    return units


def _probability_units(q: NDArray[Any]) -> NDArray[np.int64]:
    """Count clipped probabilities, at the lowest level only."""
    grid = GRIDS[q.dtype]
    out = np.zeros((grid.levels * grid.integers, *q.shape), np.int64)
    out[:: grid.levels] = _units(q.astype(np.float64) * 2.0**PROBABILITY_BITS, grid._replace(levels=1))
    return out


def _units(terms: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    """Round terms to whole units at each level: (levels * integers, *terms.shape) int64."""
    out = np.empty((grid.integers, grid.levels, *terms.shape), np.int64)
    for level in range(grid.levels):
        here = np.ldexp(terms, -grid.step * level)
        rounded = here + MAGIC
        out[0, level] = rounded.view(np.int64) - MAGIC_BITS
        if grid.integers == 2:
            rest = (here - (rounded - MAGIC)) * 2.0**REST_BITS
            out[1, level] = (rest + MAGIC).view(np.int64) - MAGIC_BITS
    return out.reshape(grid.integers * grid.levels, *terms.shape)


def _clip(x: NDArray[Any]) -> NDArray[Any]:
    kind = x.dtype.type
    clipped: NDArray[Any] = np.minimum(np.maximum(x, kind(EPSILON)), kind(1 - EPSILON))
    return clipped


def _moved(rows: Rows, base: NDArray[np.int64], peak: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the mass of `rows` counted from a higher position up."""
    grid = GRIDS[dtype_of(rows)]
    up = base - rows.base
    outshone = (np.abs(rows.base) == HUGE_BASE) & (rows.peak != peak)
    moved = np.zeros_like(rows.mass)
    for by in range(grid.levels):
        at = (up == by) & ~outshone
        for first in range(0, len(moved), grid.levels):
            moved[first : first + grid.levels - by, at] = rows.mass[first + by : first + grid.levels, at]
    return moved


def _counted(mass: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the number that integers at the lowest level stand for, in units."""
    grid = next(grid for grid in GRIDS.values() if grid.levels * grid.integers == len(mass))
    counted: NDArray[np.float64] = mass[0].astype(np.float64)
    if grid.integers == 2:
        counted += mass[grid.levels] * 2.0**-REST_BITS
    return counted
