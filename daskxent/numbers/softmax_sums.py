"""Sums over the classes of a row that take its peak: for the entropy, the Brier score, and other temperatures.

Unlike those of `records`, they do not merge over blocks of classes: whole rows are needed. They are sums of float64 in
a fixed order: class j is added to lane j modulo `LANES`, in order of the classes, and then the lanes from left to
right. This is their definition; `kernels.softmax_sums` gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import elementary
from daskxent.numbers.records import clip, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

LANES = 8
LOWEST = -700.0  # what is so far below the peak, or further, has no weight in float64
# Inverse temperatures of the curve, 1/2 to 2 in steps of 1/8: exp(d / 8) and its powers give exp(b * d) at all of them.
STEP, FIRST, LAST = 0.125, 4, 16
BETAS = tuple(STEP * j for j in range(FIRST, LAST + 1))
BETWEEN = tuple(beta + STEP / 2 for beta in BETAS[:-1])
BLOCK = 1 << 17  # numbers that NumPy treats at a time


class Shape(NamedTuple):
    """Sums over the classes of n rows: of logits with d = x - peak, of probabilities with clipped ones q.

    Attributes
    ----------
    mass : (n,) float64
        Of exp(d), or of q.
    first : (n,) float64
        Of d * exp(d), or of q * log(q).
    square : (n,) float64
        Of exp(d)**2, or of q**2.
    """

    mass: NDArray[np.float64]
    first: NDArray[np.float64]
    square: NDArray[np.float64]

    def entropy(self) -> NDArray[np.float64]:
        """Return the entropy of each row, in nats."""
        return elementary.log(self.mass) - self.first / self.mass

    def sum_p2(self) -> NDArray[np.float64]:
        """Return the sum of the squared probabilities of each row."""
        found: NDArray[np.float64] = self.square / (self.mass * self.mass)
        return found


class Curve(NamedTuple):
    """What temperatures would make of n rows of logits, at each of `BETAS`.

    Attributes
    ----------
    loss : (betas, n) float64
        Crossentropy in nats.
    confidence : (betas, n) float64
        Probability of the prediction.
    """

    loss: NDArray[np.float64]
    confidence: NDArray[np.float64]

    def slope(self, place: int) -> NDArray[np.float64]:
        """Return how the loss of each row grows with the inverse temperature, between two of `BETAS`."""
        with np.errstate(invalid="ignore", over="ignore"):  # of losses that are infinite, or nearly
            found: NDArray[np.float64] = (self.loss[place + 1] - self.loss[place]) / STEP
        return found


def shape_of(values: NDArray[Any], peak: NDArray[np.float64], *, probabilities: bool) -> Shape:
    """Return the sums of whole rows.

    Parameters
    ----------
    values : (n, C) array
        Logits or probabilities of any floating point type.
    peak : (n,) float64
        The largest of each row; where it is not finite, so are the sums.
    probabilities : bool

    Returns
    -------
    Shape

    Examples
    --------
    >>> x = np.log([[0.5, 0.25, 0.25]])
    >>> found = shape_of(x, x.max(axis=1), probabilities=False)
    >>> found.entropy().round(6).tolist(), found.sum_p2().round(6).tolist()
    ([1.039721], [0.375])
    """
    found = np.full((3, len(values)), np.nan)
    for some in _blocks(values, peak):
        if probabilities:
            q = clip(widen(values[some])).astype(np.float64)
            terms = q, q * elementary.log(q), q * q
        else:
            d, e = _exponentials(values[some], peak[some], 1.0)
            terms = e, d * e, e * e
        for into, each in zip(found, terms, strict=True):
            into[some] = _added(each)
    return Shape(*found)


def curve_of(values: NDArray[Any], peak: NDArray[np.float64], target: NDArray[np.float64]) -> Curve:
    """Return what temperatures make of whole rows of logits.

    Parameters
    ----------
    values : (n, C) array
    peak, target : (n,) float64
        The largest logit and the label's.

    Returns
    -------
    Curve

    Examples
    --------
    >>> x = np.array([[2.0, 0.0]])
    >>> curve = curve_of(x, np.array([2.0]), np.array([2.0]))
    >>> curve.loss[BETAS.index(1.0)].round(6).tolist(), curve.loss[BETAS.index(0.5)].round(6).tolist()
    ([0.126928], [0.313262])
    """
    loss, confidence = np.full((2, len(BETAS), len(values)), np.nan)
    for some in _blocks(values, peak):
        _, u = _exponentials(values[some], peak[some], STEP)
        power = (u * u) * (u * u)
        for at, beta in enumerate(BETAS):
            power = power * u if at else power
            mass = _added(power)
            with np.errstate(invalid="ignore", over="ignore"):
                loss[at, some] = elementary.log(mass) + beta * (peak[some] - target[some])
            confidence[at, some] = 1.0 / mass
    return Curve(loss, confidence)


def probabilities_of(values: NDArray[Any], peak: NDArray[np.float64], *, probabilities: bool) -> NDArray[np.float64]:
    """Return the probabilities of whole rows, (n, C): of logits their softmax, of others the clipped ones to 1 in all.

    Examples
    --------
    >>> probabilities_of(np.array([[2.0, 2.0]]), np.array([2.0]), probabilities=False).tolist()
    [[0.5, 0.5]]
    """
    found = np.full(values.shape, np.nan)
    for some in _blocks(values, peak):
        if probabilities:
            each = clip(widen(values[some])).astype(np.float64)
        else:
            each = _exponentials(values[some], peak[some], 1.0)[1]
        found[some] = each / _added(each)[:, None]
    return found


def _blocks(values: NDArray[Any], peak: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Return the rows that have a finite peak, some at a time."""
    rows, some = np.flatnonzero(np.isfinite(peak)), max(1, BLOCK // max(1, values.shape[1]))
    return [rows[at : at + some] for at in range(0, rows.size, some)]


def _exponentials(
    values: NDArray[Any], peak: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return d = x - peak and exp(scale * d) of each class."""
    with np.errstate(over="ignore"):  # what is -inf then has no weight either
        d = widen(values).astype(np.float64) - peak[:, None]
    low = d <= LOWEST
    d = np.where(low, LOWEST, d)
    return d, np.where(low, 0.0, elementary.exp(d * scale))


def _added(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up the classes of each row: by lanes, then over these."""
    rows, classes = terms.shape
    lanes = min(LANES, classes)
    padded = np.zeros((rows, -(-classes // lanes) * lanes))
    padded[:, :classes] = terms
    by_lane = np.cumsum(padded.reshape(rows, -1, lanes), axis=1)[:, -1]
    total: NDArray[np.float64] = np.cumsum(by_lane, axis=1)[:, -1]
    return total
