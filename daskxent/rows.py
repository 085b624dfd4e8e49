"""What is remembered of one row of predictions: a small record from which every metric is made.

A *row* is one prediction (one image, one pixel, one token) over all classes. `scan` summarises the rows of a
block, or of some of their classes; `merge` combines what two disjoint sets of classes say about the same rows;
`losses` turns finished records into crossentropy in nats. This module is NumPy alone and is the definition of
the numbers; the compiled scans of `kernels` give the same bits.

The record is a commutative monoid, bit for bit. That needs a sum of exponentials that does not depend on the
order or the grouping of the classes, which the usual sum of exp(x - peak) is not: another block of classes has
another peak. So exp(x) is written as p * 2**n, where p and n depend on x alone (`elementary`), and each term is
cut into *slices* of 24 bits on a grid fixed once for all numbers: slice b is worth 2**(24 b). The record keeps
the top three slices that occur in the row (four for float64), each an integer sum. Integers add in any order;
and when a block with a larger peak joins, the slices that fall below the grid are dropped whole, as they would
have been had all classes come at once. What is dropped is less than C * 2**-48 of the peak's term (2**-72 for
float64).

Probabilities use the same slices: clipped to [1e-7, 1 - 1e-7] they fit the grid exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent import elementary

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE_BITS = 24
SLICES: dict[np.dtype[Any], int] = {np.dtype(np.float32): 3, np.dtype(np.float64): 4}
EPSILON = 1e-7  # Keras's: probabilities are clipped to [EPSILON, 1 - EPSILON]

# Beyond this magnitude neighbouring float32 numbers lie 64 nats apart: only classes tied with the peak count.
HUGE = 2.0**30
# Values of `base` that are no grid position: a row without any class, and rows whose peak is huge.
NO_BASE = -(2**41)
HUGE_BASE = 2**40
PROBABILITY_BASE = -1  # the top slice of a probability is worth 2**-24

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
    base : (n,) int64
        Grid position of ``mass[0]``, which counts in units of 2**(24 * base).
    mass : (slices, n) int64
        Sum of exp(logit), or of clipped probabilities, as slices from the top down.
    target : (n,) float64
        Value at the label; 0 while the label's class has not been seen.
    top : (n, k) float64
        The k largest values, descending, padded with -inf.
    flags : (n,) uint8
        `HAS_NAN`, `OUTSIDE_UNIT`.
    """

    peak: NDArray[np.float64]
    best: NDArray[np.int64]
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
    return Rows(
        peak=np.full(n, -np.inf),
        best=np.full(n, -1),
        base=np.full(n, NO_BASE),
        mass=np.zeros((SLICES[np.dtype(dtype)], n), np.int64),
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
    here = (labels >= first) & (labels < first + c)
    rows.target[here] = values[everyone[here], labels[here] - first].astype(np.float64)
    if top:
        rows.top[:, : min(top, c)] = -np.partition(-x, min(top, c) - 1, axis=1)[:, : min(top, c)]
        rows.top.sort(axis=1)
        rows.top[:] = rows.top[:, ::-1].copy()
    if probabilities:
        rows.flags[((wide < 0) | (wide > 1)).any(axis=1)] |= OUTSIDE_UNIT
    if mass:
        base, slices = _probability_mass(x) if probabilities else _exponential_mass(x, rows.peak)
        rows.base[:] = base
        rows.mass[:] = slices
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
    peak = np.maximum(a.peak, b.peak)
    unseen = np.iinfo(np.int64).max
    best_a = np.where((a.peak == peak) & (a.best >= 0), a.best, unseen)
    best_b = np.where((b.peak == peak) & (b.best >= 0), b.best, unseen)
    best = np.minimum(best_a, best_b)
    base = np.maximum(a.base, b.base)
    k = a.top.shape[1]
    top = np.sort(np.concatenate([a.top, b.top], axis=1), axis=1)[:, ::-1][:, :k]
    return Rows(
        peak=peak,
        best=np.where(best == unseen, -1, best),
        base=base,
        mass=_moved(a, base, peak) + _moved(b, base, peak),
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
        rest = rows.mass - own
        return np.where(
            broken, np.nan, elementary.log1p(_value(rest) * 2.0 ** (SLICE_BITS * PROBABILITY_BASE) / target)
        )
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
    usual = np.isfinite(rows.peak) & (np.abs(rows.peak) < HUGE)
    peak = np.where(usual, rows.peak, 0.0)
    n, p = elementary.power_of_two(peak.astype(_dtype(rows)))
    base = np.where(usual, rows.base, n // SLICE_BITS)
    own = _slices(p, n, base, len(rows.mass))
    bits = (SLICE_BITS * base).astype(np.float64)
    ln2_hi, ln2_mid, ln2_lo = elementary.LN2_F8
    scale = elementary.exp(((bits * ln2_hi - peak) + bits * ln2_mid) + bits * ln2_lo)
    excess = _value(np.where(usual, rows.mass - own, 0)) * scale
    return np.where(usual | ~np.isfinite(rows.peak), excess, np.maximum(rows.mass[0] - 1, 0))


def clip_target(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the label's probability, clipped, as (n,) float64 and as (slices, n) slices."""
    dtype = _dtype(rows)
    target = _clip(np.where(np.isnan(rows.target), 0.0, rows.target).astype(dtype))
    return target.astype(np.float64), _probability_slices(target, len(rows.mass))


def total_probability(rows: Rows) -> NDArray[np.float64]:
    """Return the sum of the clipped probabilities of each row: (n,) float64."""
    return _value(rows.mass) * 2.0 ** (SLICE_BITS * PROBABILITY_BASE)


def _dtype(rows: Rows) -> np.dtype[Any]:
    return next(dtype for dtype, slices in SLICES.items() if slices == len(rows.mass))


def _exponential_mass(x: NDArray[Any], peak: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    huge = np.abs(peak) >= HUGE
    usual = ~huge
    slices = np.zeros((SLICES[x.dtype], len(x)), np.int64)
    slices[0, huge] = (x[huge] == peak[huge, None]).sum(axis=1)
    base = np.where(peak > 0, HUGE_BASE, -HUGE_BASE)
    base[np.isneginf(peak)] = NO_BASE
    slices[:, np.isinf(peak)] = 0
    if usual.any():
        # What is as low as -HUGE has no mass beside a usual peak, and must not overflow on the way.
        lowest = x.dtype.type(-HUGE)
        n, p = elementary.power_of_two(np.maximum(x[usual], lowest))
        p = np.where(x[usual] <= lowest, x.dtype.type(0), p)
        base[usual] = n.max(axis=1) // SLICE_BITS
        slices[:, usual] = _slices(p, n, base[usual, None], len(slices)).sum(axis=2)
    return base, slices


def _probability_mass(x: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    slices = _probability_slices(_clip(x), SLICES[x.dtype]).sum(axis=2)
    return np.full(len(x), PROBABILITY_BASE), slices


def _clip(x: NDArray[Any]) -> NDArray[Any]:
    kind = x.dtype.type
    clipped: NDArray[Any] = np.minimum(np.maximum(x, kind(EPSILON)), kind(1 - EPSILON))
    return clipped


def _probability_slices(q: NDArray[Any], slices: int) -> NDArray[np.int64]:
    return _cut(q * q.dtype.type(2.0**SLICE_BITS), slices)


def _slices(p: NDArray[Any], n: NDArray[np.int64], base: NDArray[np.int64], slices: int) -> NDArray[np.int64]:
    """Cut p * 2**n into slices below grid position `base`: (slices, *p.shape) int64."""
    shift = n - SLICE_BITS * base
    seen = shift > -SLICE_BITS * slices
    u = np.ldexp(np.where(seen, p, p.dtype.type(0)), np.where(seen, shift, 0))
    return _cut(u, slices)


def _cut(u: NDArray[Any], slices: int) -> NDArray[np.int64]:
    """Take 24 bits at a time from numbers below 2**24; every step is exact."""
    out = np.empty((slices, *u.shape), np.int64)
    for s in range(slices):
        whole = np.trunc(u)
        out[s] = whole
        u = (u - whole) * u.dtype.type(2.0**SLICE_BITS)
    return out


def _moved(rows: Rows, base: NDArray[np.int64], peak: NDArray[np.float64]) -> NDArray[np.int64]:
    """Slices of `rows` counted from a higher grid position; what falls below the last slice is dropped."""
    down = base - rows.base
    outshone = (np.abs(rows.base) == HUGE_BASE) & (rows.peak != peak)
    moved = np.zeros_like(rows.mass)
    for by in range(len(moved)):
        at = (down == by) & ~outshone
        moved[by:, at] = rows.mass[: len(moved) - by, at]
    return moved


def _value(slices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the number that slices stand for, in units of the top slice."""
    value: NDArray[np.float64] = slices[-1].astype(np.float64)
    for s in slices[-2::-1]:
        value = value * 2.0**-SLICE_BITS + s
    return value
