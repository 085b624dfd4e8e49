"""The crossentropy of a row, from its records: with a class for a label, given as it is, or with dense labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daskxent.numbers import elementary
from daskxent.numbers.records import EPSILON, HAS_NAN, counted, excesses, probability, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.numbers.records import Records


def row_losses(records: Records) -> NDArray[np.float64]:
    """Return the crossentropy of finished rows with their integer labels, in nats.

    Logits: log(sum_j exp(x_j)) - x_y, computed as log1p((sum_j exp(x_j) - exp(peak)) / exp(peak)) + (peak - x_y),
    so that the small loss of a sure and right prediction keeps its digits. Probabilities: log(sum_j q_j / q_y)
    with q clipped to [1e-7, 1 - 1e-7], which is what tf.keras computes.

    Parameters
    ----------
    records : Records
        All classes merged, sums included.

    Returns
    -------
    (n,) float64
        NaN for a row with NaN; for logits also with +inf or without any finite one. +inf for a logit of -inf at the
        label.

    Examples
    --------
    >>> from daskxent.numbers.records import scan
    >>> row_losses(scan(np.log([[0.25, 0.75]]), np.array([0]))).round(12).tolist()
    [1.38629436112]
    """
    broken = (records.flags & HAS_NAN).astype(bool)
    if not records.grid.step:
        target, own = probability(records.target, records.grid)
        rest = counted(records.mass - own, records.grid) * 2.0**-records.grid.unit
        return np.where(broken, np.nan, elementary.log1p(rest / target))
    broken |= np.isinf(records.peak)
    with np.errstate(over="ignore"):  # of float64 logits near the largest numbers: the loss is infinite
        gap = np.where(broken, 0.0, records.peak) - records.target
    return np.where(broken | np.isnan(records.target), np.nan, elementary.log1p(excesses(records)) + gap)


def given_losses(records: Records) -> NDArray[np.float64]:
    """Return the crossentropy of finished rows of log-probabilities, in nats: minus that of the label, as it is.

    Parameters
    ----------
    records : Records
        All classes merged.

    Returns
    -------
    (n,) float64
        NaN where `row_losses` is. +inf for a label of -inf.

    Examples
    --------
    >>> from daskxent.numbers.records import scan
    >>> given_losses(scan(np.array([[-0.5, -3.0, -np.inf]]), np.array([1]))).tolist()
    [3.0]
    """
    return np.where(without_loss(records), np.nan, 0.0 - records.target)  # no -0.0


def dense_losses(
    values: NDArray[Any],
    labels: NDArray[Any],
    records: Records,
    *,
    smoothing: float = 0.0,
    class_weight: tuple[float, ...] = (),
) -> NDArray[np.float64]:
    """Return the crossentropy of rows with one-hot or soft labels, in nats.

    The labels y become ``y * (1 - smoothing) + smoothing / C``. Logits: sum_j y_j (log(sum_i exp(x_i)) - x_j), where
    a class with y_j = 0 adds nothing even if its logit is -inf. Probabilities: -sum_j y_j log(q_j), where q is
    p / sum(p) clipped to [1e-7, 1 - 1e-7]. That is Keras on every backend. With weights of classes each label is
    multiplied by its own after it is smoothed, as in torch.

    Parameters
    ----------
    values, labels : (n, C) arrays
        Whole rows: this needs all classes at once.
    records : Records
        The records of `values`.
    smoothing : float
    class_weight : tuple of float
        One for each class, or none.

    Returns
    -------
    (n,) float64

    Examples
    --------
    >>> from daskxent.numbers.records import scan
    >>> x = np.log([[0.25, 0.75]])
    >>> records = scan(x, np.array([0]))
    >>> bool(dense_losses(x, np.eye(2)[:1], records)[0] == row_losses(records)[0])
    True
    """
    x = widen(values).astype(np.float64)
    y = np.asarray(labels).astype(np.float64)
    if smoothing:
        y = y * (1.0 - smoothing) + smoothing / x.shape[1]
    if class_weight:
        y = y * np.array(class_weight)
    broken = without_loss(records)
    if not records.grid.step:
        total = _from_left(np.where(broken[:, None], 1.0, x))
        broken |= total == 0
        q = np.where(broken[:, None], 1.0, x) / np.where(broken, 1.0, total)[:, None]
        each = -elementary.log(np.minimum(np.maximum(q, EPSILON), 1 - EPSILON))
    else:
        above = np.where(broken[:, None], 0.0, np.where(broken, 0.0, records.peak)[:, None] - x)
        each = elementary.log1p(excesses(records))[:, None] + above
    loss = _from_left(np.where(y == 0, 0.0, y * np.where(y == 0, 0.0, each)))
    return np.where(broken, np.nan, loss)


def without_loss(records: Records) -> NDArray[np.bool_]:
    """Return which rows have no loss but NaN, whatever their label: of NaN or infinity, or of nothing but -inf."""
    found: NDArray[np.bool_] = (records.flags & HAS_NAN).astype(bool) | np.isinf(records.peak)
    return found


def _from_left(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum along the classes; cumsum adds from left to right in any block, so a row's sum never depends on its chunk."""
    total: NDArray[np.float64] = np.cumsum(terms, axis=1)[:, -1]
    return total
