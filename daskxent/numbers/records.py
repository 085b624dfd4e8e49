"""What is remembered of some classes of a row: a small record that merges with those of its other classes.

A *row* is one prediction (one image, one pixel, one token) over all classes. `scan` summarises the rows of a block of
classes; `merge` combines what two disjoint blocks say about the same rows; `scores.finish` turns the records of whole
rows into columns. This module is NumPy alone and is the definition of the numbers; the compiled scans of `kernels` give
the same bits.

Records merge in any order and grouping, to the same bits. The usual sum of exp(x - peak) does not: another block of
classes has another peak. So exp(x) is written as p * 2**n, where p and n depend on x alone (`elementary`), and counted
in whole *units*: integers add in any order. What a unit is worth follows from the *base* of the row, a position on a
grid that is the same for all numbers: at base b of `LOGITS` it is 2**(step * b - unit). The base is the position of the
second largest value, because crossentropy is log1p(sum of the other terms / exp(peak)): the peak's own term is left out
of the sum, and the small loss of a sure prediction is counted as finely as any.

When a block with larger values joins, the base rises. So each sum is kept at several *levels*: level l is the sum as
it would be counted at base + l. Raising the base by one drops the lowest level; after the last one every term rounds
to 0. Three logits as float32, where a step is 8 bits and a unit 2**-36 of the base:

>>> x = np.float32([[0.0, 3.0, 9.0]])
>>> whole = scan(x, np.array([2]))
>>> whole.peak.tolist(), whole.second.tolist(), whole.base.tolist()  # exp(3) = 1.25 * 2**4 lies at position 4 // 8
([9.0], [3.0], [0])
>>> round(int(whole.mass[0, 0]) * 2.0**-36, 6)  # exp(0) + exp(3), without the peak's exp(9)
21.085537

Cut before the last class, its two sides have bases of their own: exp(0) is the second largest of the first, and the
second has only its peak (counted from `REACH` positions below it, where there is nothing to count). Merged, the former
peak of the first side joins the sum, and the record is that of the whole row; so it is for the other cut.

>>> first, last = scan(x[:, :2], np.array([2])), scan(x[:, 2:], np.array([2]), first=2)
>>> first.base.tolist(), round(int(first.mass[0, 0]) * 2.0**-36, 6), last.mass[0].tolist()
([0], 1.0, [0])
>>> other = merge(scan(x[:, :1], np.array([2])), scan(x[:, 1:], np.array([2]), first=1))
>>> all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in zip(whole, merge(first, last), other))
True

What rounding loses is less than C * 2**-37 of the second largest term (2**-65 for float64, whose units have a second
integer for what the first one leaves).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import elementary

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPSILON = 1e-7  # Keras's: probabilities are clipped to [EPSILON, 1 - EPSILON]


class Grid(NamedTuple):
    """How the terms of a sum are counted.

    Attributes
    ----------
    dtype : str
        What the predictions were widened to: "float32" or "float64".
    step : int
        Neighbouring positions differ by a factor of 2**step; all terms but the peak's are below 2**step positions.
    unit : int
        A unit at a position is 2**-unit of it.
    levels : int
        Positions at which a sum is kept, from the base up.
    integers : int
        1, or 2 if a second integer counts what rounding to units leaves, in 2**-REST_BITS units.
    """

    dtype: str
    step: int
    unit: int
    levels: int
    integers: int

    @property
    def sums(self) -> int:
        """How many integers a sum is kept in."""
        return self.levels * self.integers


# A term is below 2**(step + unit) = 2**44 units, so that 2**19 of them fit an int64.
LOGITS = {
    "float32": Grid("float32", step=8, unit=36, levels=6, integers=1),
    "float64": Grid("float64", step=24, unit=20, levels=4, integers=2),
}
# Probabilities are at most 1, and are all counted at position 0.
PROBABILITIES = {
    "float32": Grid("float32", step=0, unit=44, levels=1, integers=1),
    "float64": Grid("float64", step=0, unit=44, levels=1, integers=2),
}
REST_BITS = 44
MOST_CLASSES = 1 << 19
# Adding this to a number below 2**51 rounds it to a whole number, ties to even, which then stands in the low bits.
MAGIC = 1.5 * 2.0**52
MAGIC_BITS = int(np.float64(MAGIC).view(np.int64))
# A row is counted no further than this many positions below its peak: what is lower has no weight in float64.
REACH = 9

# A peak of this magnitude or more has no position: neighbouring float32 numbers lie 64 nats apart, so that only classes
# tied with it count.
HUGE = 2.0**30

# Bits of `flags`.
HAS_NAN = 1
OUTSIDE_UNIT = 2  # a probability below 0 or above 1


class Records(NamedTuple):
    """Records of n rows over the classes seen so far, one array per field.

    Attributes
    ----------
    grid : Grid
        How `mass` counts: one of `LOGITS` or of `PROBABILITIES`.
    peak : (n,) float64
        Largest value, NaN left aside; -inf where there is none.
    best : (n,) int64
        Lowest class that holds the peak; -1 in a row without classes.
    second : (n,) float64
        Second largest value (the peak itself on a tie); -inf where there is none.
    base : (n,) int64
        Grid position at which level 0 of `mass` counts; 0 where the peak has none, and for probabilities.
    mass : (grid.sums, n) int64
        Sum of exp(logit) over all classes but one that holds the peak, or of all clipped probabilities, in units;
        first by level, then, for float64, by level what the units leave. (0, n) where no sums were asked for. 0 where
        the peak has no position.
    ties : (n,) int64
        How many classes but one hold a finite peak that has no position; 0 for other peaks.
    target : (n,) float64
        Value at the label; 0 while the label's class has not been seen.
    top : (n, k) float64
        The k largest values, descending, padded with -inf.
    flags : (n,) uint8
        `HAS_NAN`, `OUTSIDE_UNIT`.
    """

    grid: Grid
    peak: NDArray[np.float64]
    best: NDArray[np.int64]
    second: NDArray[np.float64]
    base: NDArray[np.int64]
    mass: NDArray[np.int64]
    ties: NDArray[np.int64]
    target: NDArray[np.float64]
    top: NDArray[np.float64]
    flags: NDArray[np.uint8]

    def some(self, rows: Any) -> Records:
        """Return the records of some rows, chosen as NumPy indexes them."""
        chosen = {name: getattr(self, name)[rows] for name in self._fields if name not in ("grid", "mass")}
        return self._replace(mass=self.mass[:, rows], **chosen)


def widen(values: NDArray[Any]) -> NDArray[Any]:
    """Return predictions as float32 or float64; half precision becomes float32, exactly."""
    wide = np.float64 if values.dtype == np.float64 else np.float32
    return np.ascontiguousarray(values, wide)


def empty(n: int, grid: Grid, top: int = 0, *, mass: bool = True) -> Records:
    """Return the records of `n` rows of which no class has been seen: the identity of `merge`."""
    return Records(
        grid=grid,
        peak=np.full(n, -np.inf),
        best=np.full(n, -1),
        second=np.full(n, -np.inf),
        base=np.zeros(n, np.int64),
        mass=np.zeros((grid.sums if mass else 0, n), np.int64),
        ties=np.zeros(n, np.int64),
        target=np.zeros(n),
        top=np.full((n, top), -np.inf),
        flags=np.zeros(n, np.uint8),
    )


def grid_for(dtype: np.dtype[Any], *, probabilities: bool = False) -> Grid:
    """Return how sums over widened predictions of a dtype are counted."""
    return (PROBABILITIES if probabilities else LOGITS)[np.dtype(dtype).name]


def scan(
    values: NDArray[Any],
    labels: NDArray[np.int64],
    first: int = 0,
    *,
    probabilities: bool = False,
    mass: bool = True,
    top: int = 0,
) -> Records:
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
    Records

    Examples
    --------
    >>> rows = scan(np.array([[0.0, 2.0, 1.0]]), np.array([2]))
    >>> rows.best.tolist(), rows.peak.tolist(), rows.target.tolist()
    ([1], [2.0], [1.0])
    """
    wide = widen(values)
    n, c = wide.shape
    rows = empty(n, grid_for(wide.dtype, probabilities=probabilities), top, mass=mass)
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
    with np.errstate(invalid="ignore"):  # of signalling NaN
        target = values[everyone[here], labels[here] - first].astype(np.float64)
    rows.target[here] = np.where(np.isnan(target), np.nan, target)
    if top:
        rows.top[:, : min(top, c)] = np.sort(x, axis=1)[:, ::-1][:, :top]
    if probabilities:
        rows.flags[((wide < 0) | (wide > 1)).any(axis=1)] |= OUTSIDE_UNIT
    if mass:
        _add_up(rows, x)
    return rows


def _add_up(rows: Records, x: NDArray[Any]) -> None:
    """Fill in the sums of scanned rows."""
    if not rows.grid.step:
        rows.mass[:] = _units(clip(x).astype(np.float64) * 2.0**rows.grid.unit, rows.grid).sum(axis=2)
        return
    rows.base[:] = _base(rows.peak, rows.second, rows.grid)
    rows.mass[:] = _terms(x, rows.base[:, None], rows.grid).sum(axis=2) - _terms(rows.peak, rows.base, rows.grid)
    rows.mass[:, ~has_position(rows.peak)] = 0
    beyond = ~has_position(rows.peak) & np.isfinite(rows.peak)
    rows.ties[beyond] = (x[beyond] == rows.peak[beyond, None]).sum(axis=1) - 1


def merge(a: Records, b: Records) -> Records:
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
    best = np.minimum(*(np.where((r.peak == peak) & (r.best >= 0), r.best, unseen) for r in (a, b)))
    top = np.sort(np.concatenate([a.top, b.top], axis=1), axis=1)[:, ::-1][:, : a.top.shape[1]]
    base, mass, ties = _summed(a, b, peak, second, lower)
    return Records(
        grid=a.grid,
        peak=peak,
        best=np.where(best == unseen, -1, best),
        second=second,
        base=base,
        mass=mass,
        ties=ties,
        target=a.target + b.target,
        top=np.ascontiguousarray(top),
        flags=a.flags | b.flags,
    )


def _summed(a: Records, b: Records, peak: Any, second: Any, lower: Any) -> tuple[Any, Any, Any]:
    """Return base, mass and ties of merged records."""
    if not (a.grid.step and len(a.mass)):
        return a.base, a.mass + b.mass, a.ties
    base = _base(peak, second, a.grid)
    counted = has_position(peak)
    # The lower of two peaks was left out on its own side, and belongs to the sum now.
    mass = _moved(a, base, counted) + _moved(b, base, counted) + np.where(counted, _terms(lower, base, a.grid), 0)
    ties = sum(np.where(r.peak == peak, r.ties, 0) for r in (a, b))
    return base, mass, ties + (~counted & (lower == peak) & np.isfinite(peak))


def excesses(rows: Records) -> NDArray[np.float64]:
    """Return sum_j exp(x_j - peak) - 1 over all classes of finished rows of logits: (n,) float64, 0 if infinite."""
    usual = has_position(rows.peak)
    peak = np.where(usual, rows.peak, 0.0)
    bits = (rows.grid.step * rows.base - rows.grid.unit).astype(np.float64)
    ln2_hi, ln2_mid, ln2_lo = elementary.LN2_F8
    scale = elementary.exp(((bits * ln2_hi - peak) + bits * ln2_mid) + bits * ln2_lo)
    return np.where(usual, counted(rows.mass, rows.grid) * scale, rows.ties)


def probability(values: NDArray[np.float64], grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return predictions as clipped probabilities, (n,) float64, NaN as the lowest, and in units as in `mass`."""
    clipped = clip(np.where(np.isnan(values), 0.0, values).astype(grid.dtype)).astype(np.float64)
    return clipped, _units(clipped * 2.0**grid.unit, grid)


def total_probability(rows: Records) -> NDArray[np.float64]:
    """Return the sum of the clipped probabilities of each row: (n,) float64."""
    return counted(rows.mass, rows.grid) * 2.0**-rows.grid.unit


def counted(mass: NDArray[np.int64], grid: Grid) -> NDArray[np.float64]:
    """Return the number that the integers at the lowest level stand for, in units."""
    found: NDArray[np.float64] = mass[0].astype(np.float64)
    if grid.integers == 2:
        found += mass[grid.levels] * 2.0**-REST_BITS
    return found


def has_position(peak: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which peaks have a position on the grid."""
    return np.abs(peak) < HUGE


def _base(peak: NDArray[np.float64], second: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    """Return the grid position at which rows with these largest values are counted."""
    usual = has_position(peak)
    high = _position(np.where(usual, peak, 0.0), grid)
    low = _position(np.where(usual & (second > -HUGE), second, 0.0), grid)
    return np.where(usual, np.where(second > -HUGE, np.maximum(low, high - REACH), high - REACH), 0)


def _position(x: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    return elementary.power_of_two(x.astype(grid.dtype))[0] // grid.step


def _terms(x: NDArray[Any], base: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """Return exp(x) in units at each level from `base` up, as in `Records.mass`."""
    seen = np.abs(x) < HUGE
    n, p = elementary.power_of_two(np.where(seen, x, 0.0).astype(grid.dtype))
    shift = n - grid.step * base + grid.unit
    # What lies below 2**-200 units counts for nothing anyhow; above 2**300 are only terms of rows without a position.
    return _units(np.ldexp(np.where(seen, p.astype(np.float64), 0.0), np.clip(shift, -200, 300)), grid)


def _units(terms: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    """Round terms to whole units at each level: (grid.sums, *terms.shape) int64."""
    out = np.empty((grid.integers, grid.levels, *terms.shape), np.int64)
    for level in range(grid.levels):
        here = np.ldexp(terms, -grid.step * level)
        rounded = here + MAGIC
        out[0, level] = rounded.view(np.int64) - MAGIC_BITS
        if grid.integers == 2:
            rest = (here - (rounded - MAGIC)) * 2.0**REST_BITS
            out[1, level] = (rest + MAGIC).view(np.int64) - MAGIC_BITS
    return out.reshape(grid.sums, *terms.shape)


def clip(x: NDArray[Any]) -> NDArray[Any]:
    """Clip probabilities in their own type."""
    kind = x.dtype.type
    clipped: NDArray[Any] = np.minimum(np.maximum(x, kind(EPSILON)), kind(1 - EPSILON))
    return clipped


def _moved(rows: Records, base: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the mass of `rows` counted from a higher position up, and nothing where the merged row has none."""
    grid, up = rows.grid, base - rows.base
    here = counted & has_position(rows.peak)
    moved = np.zeros_like(rows.mass)
    for by in range(grid.levels):
        at = (up == by) & here
        for first in range(0, grid.sums, grid.levels):
            moved[first : first + grid.levels - by, at] = rows.mass[first + by : first + grid.levels, at]
    return moved
