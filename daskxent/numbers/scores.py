"""What is known of rows that are finished, as columns: one array per quantity, one entry per row.

Everything that is said about rows is made of these columns: statistics and their sums, groups, per-row output. `finish`
makes them of the records of whole rows and is their definition; the compiled scan of `kernels` gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daskxent.numbers import elementary
from daskxent.numbers.crossentropy import given_losses, row_losses
from daskxent.numbers.records import (
    EPSILON,
    HAS_NAN,
    LOGITS,
    OUTSIDE_UNIT,
    Records,
    excesses,
    probability,
    total_probability,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskxent.numbers.softmax_sums import Curve

# Bits of `flags`.
NAN = 1  # NaN among the predictions
INFINITE = 2  # +inf, or nothing but -inf, among the predictions
CLIPPED = 4  # the probability of the label is below EPSILON
UNNORMALISED = 8  # probabilities that do not sum to 1, or leave [0, 1]
LOST = 16  # a loss that is infinite, or has no value, though the predictions are neither `NAN` nor `INFINITE`
EQUAL = 32  # all predictions are equal, within rounding
COARSE = 64  # float64 logits of so large a magnitude that the loss has fewer digits

SUM_TOLERANCE = 1e-3
COARSE_FROM = 2.0**20  # up to here losses of float64 logits are right to 1e-14, at 1e7 to 2e-9
LEAST_EQUAL = 1 - 1e-6  # share of what the sum over equal predictions would be; exp(0) may be 1 - 1e-7
UNRANKED = np.iinfo(np.int32).max  # `above` of a row whose label has no rank
# Columns that need the sum over the classes, and those that need whole rows.
SUMMED = frozenset({"loss", "total", "confidence"})
SHAPED = frozenset({"entropy", "sum_p2", "curve", "probabilities"})


_ABSENT: Any = None


class Scores(NamedTuple):
    """Columns of n finished rows; those that were not asked for are None.

    Float columns are NaN in rows that hold NaN, `loss` and `target` also where the label is not a class.

    Attributes
    ----------
    flags : (n,) uint8
        `NAN`, `INFINITE`, `UNNORMALISED`, `CLIPPED`, `LOST`, `EQUAL`, `COARSE`; all but the first two only where the
        sum over the classes is asked for.
    loss : (n,) float64
        Crossentropy in nats. For logits NaN too in rows with +inf or without any finite logit, and +inf where the
        label's logit is -inf.
    hit : (n,) bool
        Whether the label is the lowest of the classes that hold the largest value.
    above : (n,) int32
        How many classes are larger than the label's, or the depth asked for if there are more; `UNRANKED` in rows with
        NaN or whose label is not a class.
    prediction : (n,) int64
        The lowest class that holds the largest value; -1 in rows with NaN.
    peak, second : (n,) float64
        The largest and the second largest value; equal on a tie.
    target : (n,) float64
        The value at the label.
    total : (n,) float64
        For logits the sum of exp(x - peak) over the classes, NaN in rows with +inf or without any finite logit; for
        probabilities the sum of the clipped ones.
    confidence : (n,) float64
        Probability of the prediction: 1 / total for logits, the clipped peak / total for probabilities.
    entropy : (n,) float64
        Of the probabilities, in nats; NaN where the peak is not finite.
    sum_p2 : (n,) float64
        Sum of the squared probabilities; NaN likewise.
    curve : Curve
        What other temperatures would make of the row; NaN likewise.
    probabilities : (n, C) float64
        Of all classes; NaN likewise.
    bytes, words : (n,) float64
        How many the label stands for, as users gave them.
    """

    flags: NDArray[np.uint8]
    loss: NDArray[np.float64] = _ABSENT
    hit: NDArray[np.bool_] = _ABSENT
    above: NDArray[np.int32] = _ABSENT
    prediction: NDArray[np.int64] = _ABSENT
    peak: NDArray[np.float64] = _ABSENT
    second: NDArray[np.float64] = _ABSENT
    target: NDArray[np.float64] = _ABSENT
    total: NDArray[np.float64] = _ABSENT
    confidence: NDArray[np.float64] = _ABSENT
    entropy: NDArray[np.float64] = _ABSENT
    sum_p2: NDArray[np.float64] = _ABSENT
    curve: Curve = _ABSENT
    probabilities: NDArray[np.float64] = _ABSENT
    bytes: NDArray[np.float64] = _ABSENT
    words: NDArray[np.float64] = _ABSENT


COLUMNS = frozenset(Scores._fields) - {"curve", "probabilities", "bytes", "words"}


def sum_tolerance(classes: int) -> float:
    """Return how far the sum of clipped probabilities may be from 1: clipping alone adds up to EPSILON a class."""
    return SUM_TOLERANCE + classes * EPSILON


def finish(
    records: Records,
    labels: NDArray[np.int64],
    classes: int,
    needs: frozenset[str],
    losses: NDArray[np.float64] | None = None,
    *,
    log_probabilities: bool = False,
    above: NDArray[np.int64] | None = None,
) -> Scores:
    """Make columns of records over all classes.

    Parameters
    ----------
    records : Records
        Of n rows, scanned with these labels.
    labels : (n,) int64
        What is outside [0, classes) is not a class.
    classes : int
    needs : frozenset of str
        Names of the columns to make.
    losses : (n,) float64, optional
        In nats, of dense or smoothed labels, which need more than the records; see `dense_losses`.
    log_probabilities : bool
        The loss is minus the value at the label, as it is; finite values above 0 are `UNNORMALISED`.
    above : (n,) integers, optional
        How many classes are larger than the label's, where that is not taken from the largest values in the records.

    Returns
    -------
    Scores

    Examples
    --------
    >>> from daskxent.numbers.records import scan
    >>> x, y = np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1])
    >>> scores = finish(scan(x, y), y, 2, frozenset({"loss", "hit", "confidence"}))
    >>> scores.loss.round(6).tolist(), scores.hit.tolist(), scores.confidence.round(6).tolist()
    ([1.386294, 0.693147], [False, False], [0.75, 0.5])
    """
    nan = (records.flags & HAS_NAN).astype(bool)
    known = (labels >= 0) & (labels < classes) & ~nan
    flags, found = _flags(records, nan, classes), dict[str, Any]()
    if needs & SUMMED:
        total = _total(records, nan)
        if losses is None and "loss" in needs:
            losses = given_losses(records) if log_probabilities else row_losses(records)
        found = {"total": total, "confidence": _confidence(records, total), "loss": losses}
        flags |= np.where(_are_equal(records, total, classes), EQUAL, 0).astype(np.uint8)
        if losses is not None:
            found["loss"] = np.where(known, losses, np.nan)
            lost = known & ~np.isfinite(losses) & ((flags & (NAN | INFINITE)) == 0)
            flags |= np.where(lost, LOST, 0).astype(np.uint8)
        if log_probabilities:
            above_zero = (records.peak > SUM_TOLERANCE) & np.isfinite(records.peak)
            flags |= np.where(~nan & above_zero, UNNORMALISED, 0).astype(np.uint8)
    if "above" in needs:
        above = (records.top > records.target[:, None]).sum(axis=1) if above is None else above
        found["above"] = np.where(known, above, UNRANKED).astype(np.int32)
    found |= {
        "hit": known & (records.best == labels),
        "prediction": np.where(nan, -1, records.best),
        "peak": np.where(nan, np.nan, records.peak),
        "second": np.where(nan, np.nan, records.second),
        "target": np.where(known, records.target, np.nan),
    }
    return Scores(flags, **{name: column for name, column in found.items() if name in needs})


def _flags(records: Records, nan: NDArray[np.bool_], classes: int) -> NDArray[np.uint8]:
    flags = np.where(nan, NAN, np.where(np.isinf(records.peak), INFINITE, 0))
    if records.grid == LOGITS["float64"] and len(records.mass):
        flags |= np.where((flags == 0) & (np.abs(records.peak) >= COARSE_FROM), COARSE, 0)
    if not records.grid.step and len(records.mass):
        far = np.abs(total_probability(records) - 1) > sum_tolerance(classes)
        outside = (records.flags & OUTSIDE_UNIT).astype(bool)
        flags |= np.where(~nan & (records.target < EPSILON), CLIPPED, 0)
        flags |= np.where(~nan & (far | outside), UNNORMALISED, 0)
    return flags.astype(np.uint8)


def _are_equal(records: Records, total: NDArray[np.float64], classes: int) -> NDArray[np.bool_]:
    """Find the rows whose predictions are all equal: their sum is as many times the peak as there are classes."""
    if classes == 1:
        return np.zeros(len(total), bool)
    if records.grid.step:
        return np.asarray(total >= classes * LEAST_EQUAL)
    inside = (records.flags & OUTSIDE_UNIT) == 0  # others may be equal only when they are clipped
    return np.asarray(inside & (total >= classes * probability(records.peak, records.grid)[0] * LEAST_EQUAL))


def _total(records: Records, nan: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not records.grid.step:
        return np.where(nan, np.nan, total_probability(records))
    return np.where(nan | np.isinf(records.peak), np.nan, 1.0 + excesses(records))


def _confidence(records: Records, total: NDArray[np.float64]) -> NDArray[np.float64]:
    if not records.grid.step:
        return probability(records.peak, records.grid)[0] / total
    return 1.0 / total


def like_probabilities(scores: Scores, classes: int) -> NDArray[np.bool_]:
    """Return which rows of logits may well be probabilities, by their peak and total.

    Of C numbers in [0, 1] that sum to 1, log(sum_j exp(p_j)) lies between log(C) + 1 / C, where all are equal, and
    log(C - 1 + e), where one of them is 1. Some row of logits lies there too, but not all of them do.

    Examples
    --------
    >>> like_probabilities(Scores(None, peak=np.array([0.75, 2.0]), total=np.array([1.6, 1.6])), 2).tolist()
    [True, False]
    """
    near = SUM_TOLERANCE / classes
    with np.errstate(invalid="ignore"):  # NaN lies nowhere
        logsumexp = elementary.log(scores.total) + scores.peak
        equal, sure = elementary.log(np.array([classes, classes - 1 + np.e]))
        around = (logsumexp > equal + 1 / classes - near) & (logsumexp < sure + near)
        return np.asarray(around & (scores.peak > 1 / classes - near) & (scores.peak < 1 + SUM_TOLERANCE))
