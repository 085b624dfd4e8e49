"""The sums of `numbers.softmax_sums` over the classes of whole rows, to the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.kernels.arithmetic import clip, exp
from daskxent.kernels.crossentropy import log
from daskxent.kernels.llvm.compiling import borrowed, compiled, inlined, widen
from daskxent.kernels.llvm.softmax_sums import add_curve, add_shape
from daskxent.kernels.slabs import along, row_of, slabs
from daskxent.numbers.softmax_sums import BETAS, FIRST, LANES, LOWEST, STEP, Curve, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BETAS = len(BETAS)
SLAB_ROWS = 1 << 12
assert FIRST == 4  # the first power is made of two squarings


@inlined
def _distances(row, peak, d):
    """Fill in x - peak of all classes, no lower than the lowest."""
    for k in range(row.size):
        x = np.float64(widen(row[k])) - peak
        d[k] = x if x > LOWEST else LOWEST


@inlined
def _total(sums, lanes):
    """Add up the lanes of a sum, and leave them at 0."""
    total = sums[0]
    for k in range(1, lanes):
        total += sums[k]
    for k in range(lanes):
        sums[k] = 0.0
    return total


@inlined
def _add_rest(d, sums):
    """Add what fills no vector to the sums of logits."""
    for k in range(d.size):
        e = exp(d[k]) if d[k] > LOWEST else 0.0
        sums[k] += e
        sums[LANES + k] += d[k] * e
        sums[2 * LANES + k] += e * e


@inlined
def _add_rest_of_curve(d, sums):
    """Add what fills no vector to the sums at all inverse temperatures."""
    for k in range(d.size):
        u = exp(d[k] * STEP) if d[k] > LOWEST else 0.0
        power = (u * u) * (u * u)
        for j in range(_BETAS):
            power = power * u if j else power
            sums[j * LANES + k] += power


@inlined
def _add_probabilities(row, q, sums):
    for k in range(row.size):
        q[k] = np.float64(clip(widen(row[k])))
    for k in range(row.size):
        sums[k % LANES] += q[k]
        sums[LANES + k % LANES] += q[k] * log(q[k])
        sums[2 * LANES + k % LANES] += q[k] * q[k]


@compiled
def _shapes(rows, begin_at, peak, unit, found, d, sums):
    """Put the sums of the rows of a slab into (3, n)."""
    rows, peak, found, d, sums = borrowed(rows), borrowed(peak), borrowed(found), borrowed(d), borrowed(sums)
    lanes = min(LANES, d.size)
    for i in range(peak.size):
        if not abs(peak[i]) < np.inf:
            continue
        row = row_of(rows, begin_at + i)
        if unit:
            _add_probabilities(row, d, sums)
        else:
            _distances(row, peak[i], d)
            add_shape(d, d.size // LANES, sums)
            _add_rest(d[d.size // LANES * LANES :], sums)
        for j in range(3):
            found[j, i] = _total(sums[j * LANES : (j + 1) * LANES], lanes)


@compiled
def _curves(rows, begin_at, peak, target, loss, confidence, d, sums):
    """Put loss and confidence of the rows of a slab at each inverse temperature into (betas, n)."""
    rows, peak, target, loss = borrowed(rows), borrowed(peak), borrowed(target), borrowed(loss)
    confidence, d, sums, lanes = borrowed(confidence), borrowed(d), borrowed(sums), min(LANES, d.size)
    for i in range(peak.size):
        if not abs(peak[i]) < np.inf:
            continue
        _distances(row_of(rows, begin_at + i), peak[i], d)
        add_curve(d, d.size // LANES, sums)
        _add_rest_of_curve(d[d.size // LANES * LANES :], sums)
        for j in range(_BETAS):
            mass = _total(sums[j * LANES : (j + 1) * LANES], lanes)
            loss[j, i] = log(mass) + BETAS[j] * (peak[i] - target[i])
            confidence[j, i] = 1.0 / mass


def shape_of(values: NDArray[Any], peak: NDArray[np.float64], *, probabilities: bool) -> Shape:
    """Return the sums of whole rows, as `numbers.softmax_sums.shape_of` does.

    Parameters
    ----------
    values : (before, classes, after) array
        Of before * after rows.
    peak : (before * after,) float64
    probabilities : bool

    Returns
    -------
    Shape

    Examples
    --------
    >>> x = np.log([[[0.5], [0.25], [0.25]]])
    >>> shape_of(x, np.log([0.5]), probabilities=False).entropy().round(6).tolist()
    [1.039721]
    """
    found = np.full((3, values.shape[0] * values.shape[2]), np.nan)
    peak, room = along(peak, found.shape[1], np.float64, "peak"), (np.empty(values.shape[1]), np.zeros(3 * LANES))
    for some, rows, begin_at in slabs(values, SLAB_ROWS) if values.size else ():
        _shapes(rows, begin_at, peak[some], probabilities, found[:, some], *room)
    return Shape(*found)


def curve_of(values: NDArray[Any], peak: NDArray[np.float64], target: NDArray[np.float64]) -> Curve:
    """Return what temperatures make of whole rows of logits, as `numbers.softmax_sums.curve_of` does.

    Parameters
    ----------
    values : (before, classes, after) array
        Of before * after rows.
    peak, target : (before * after,) float64

    Returns
    -------
    Curve

    Examples
    --------
    >>> curve_of(np.array([[[2.0], [0.0]]]), np.array([2.0]), np.array([2.0])).loss[4].round(6).tolist()
    [0.126928]
    """
    loss, confidence = np.full((2, _BETAS, values.shape[0] * values.shape[2]), np.nan)
    peak, target = (along(each, loss.shape[1], np.float64, "peak and target") for each in (peak, target))
    room = np.empty(values.shape[1]), np.zeros(_BETAS * LANES)
    for some, rows, begin_at in slabs(values, SLAB_ROWS) if values.size else ():
        _curves(rows, begin_at, peak[some], target[some], loss[:, some], confidence[:, some], *room)
    return Curve(loss, confidence)
