"""Losses of rows with one-hot or soft labels, as `numbers.crossentropy.dense_losses` has them, to the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.kernels.crossentropy import log, log1p
from daskxent.kernels.llvm.compiling import borrowed, compiled, inlined, wide_vectors
from daskxent.kernels.slabs import WIDE, plain
from daskxent.numbers.crossentropy import without_loss
from daskxent.numbers.records import EPSILON, excesses, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.numbers.records import Records

ROWS = 4  # that are added up at a time: a sum from left to right waits for each addition, four together take no longer


@inlined
def _add_up(terms, sums):
    """Add up the terms of some rows, each from left to right."""
    a, b, c, d = terms[0, 0], terms[1, 0], terms[2, 0], terms[3, 0]
    for j in range(1, terms.shape[1]):
        a += terms[0, j]
        b += terms[1, j]
        c += terms[2, j]
        d += terms[3, j]
    sums[0], sums[1], sums[2], sums[3] = a, b, c, d


@inlined
def _logit_terms(x, y, peak, excess, smoothed, weights, terms):
    """Fill in label times loss of all classes of a row of logits."""
    wide_vectors()
    rest, keep, spread = log1p(excess), smoothed[0], smoothed[1]
    for j in range(x.size):
        label = (np.float64(y[j]) * keep + spread) * weights[j]
        terms[j] = label * (rest + (peak - np.float64(x[j]))) if label != 0.0 else 0.0


@inlined
def _probability_terms(y, total, smoothed, weights, terms):
    """Replace probabilities by label times loss."""
    wide_vectors()
    keep, spread = smoothed
    for j in range(y.size):
        label = (np.float64(y[j]) * keep + spread) * weights[j]
        q = min(max(terms[j] / total, EPSILON), 1 - EPSILON)
        terms[j] = label * -log(q) if label != 0.0 else 0.0


@compiled
def _of_logits(x, y, peak, excess, smoothed, weights, losses, terms, sums):
    x, y, peak, excess, weights = borrowed(x), borrowed(y), borrowed(peak), borrowed(excess), borrowed(weights)
    losses, terms, sums = borrowed(losses), borrowed(terms), borrowed(sums)
    for start in range(0, losses.size, ROWS):
        for k in range(ROWS):
            i = min(start + k, losses.size - 1)
            _logit_terms(x[i], y[i], peak[i], excess[i], smoothed, weights, terms[k])
        _add_up(terms, sums)
        for k in range(min(ROWS, losses.size - start)):
            losses[start + k] = sums[k]


@compiled
def _of_probabilities(x, y, smoothed, weights, losses, terms, sums):
    x, y, weights = borrowed(x), borrowed(y), borrowed(weights)
    losses, terms, sums = borrowed(losses), borrowed(terms), borrowed(sums)
    totals = np.empty(ROWS)
    for start in range(0, losses.size, ROWS):
        for k in range(ROWS):
            row, own = x[min(start + k, losses.size - 1)], terms[k]
            for j in range(row.size):
                own[j] = np.float64(row[j])
        _add_up(terms, totals)
        for k in range(ROWS):
            _probability_terms(y[min(start + k, losses.size - 1)], totals[k], smoothed, weights, terms[k])
        _add_up(terms, sums)
        for k in range(min(ROWS, losses.size - start)):
            losses[start + k] = sums[k] if totals[k] != 0.0 else np.nan


def dense_losses(
    values: NDArray[Any],
    labels: NDArray[Any],
    records: Records,
    *,
    smoothing: float = 0.0,
    class_weight: tuple[float, ...] = (),
) -> NDArray[np.float64]:
    """Return the crossentropy of rows with one-hot or soft labels, in nats.

    Parameters
    ----------
    values, labels : (n, C) arrays
    records : Records
        Of `values`.
    smoothing, class_weight
        As for `numbers.crossentropy.dense_losses`.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ValueError
        There is not one label for each number, a record for each row, or a weight for each class.

    Examples
    --------
    >>> from daskxent.numbers.records import scan
    >>> x = np.log([[0.25, 0.75]])
    >>> dense_losses(x, np.array([[0.5, 0.5]]), scan(x, np.array([0]))).round(6).tolist()
    [0.836988]
    """
    classes = values.shape[1]
    weights = np.array(class_weight) if class_weight else np.ones(classes)
    if labels.shape != values.shape or records.peak.shape != values.shape[:1] or weights.shape != (classes,):
        raise ValueError(f"labels: expected shape {values.shape}, records and weights to match, got {labels.shape}")
    x, y = _held(widen(values)), _held(labels if labels.dtype in WIDE else labels.astype(np.float64))
    smoothed = (1.0 - smoothing, smoothing / classes)
    losses, room = np.empty(len(x)), (np.empty((ROWS, classes)), np.empty(ROWS))
    if records.grid.step:
        peak = records.peak.astype(np.float64)
        _of_logits(x, y, peak, excesses(records), smoothed, weights, losses, *room)
    else:
        _of_probabilities(x, y, smoothed, weights, losses, *room)
    return np.where(without_loss(records), np.nan, losses)


def _held(array: NDArray[Any]) -> NDArray[Any]:
    return plain(np.ascontiguousarray(array))
