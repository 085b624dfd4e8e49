"""Metrics of classes: functions of how much of each is true, how much is predicted, and how much is both.

These three vectors, and how much there is in all, are what precision, recall, F1, IoU, Dice, Matthews's coefficient and
the kappas need. They hold whole numbers, so that nothing is lost where products of counts pass 2**53. The conventions
are scikit-learn's: classes that are neither true nor predicted are left out, and a quotient by 0 counts as 0, as 1, or
is left out of means. A row without a label or a prediction counts in all: as wrong, and in no class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from daskxent.numbers.exact import added, quotient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Counts(NamedTuple):
    """Rows, or weights in some unit, of the classes that are true or predicted, as whole numbers.

    Attributes
    ----------
    classes : list of int
        Which these are, in order.
    true, predicted, both : list of int
        Of each class: where it is the label, where it is predicted, and where it is both.
    whole : int
        In all: more than `true` or `predicted` add up to where rows have no label, or no prediction, that is a class.
    undefined : float
        What precision and recall are of a class that is never predicted, or never true: 0, 1 or NaN.
    """

    classes: list[int]
    true: list[int]
    predicted: list[int]
    both: list[int]
    whole: int
    undefined: float = 0.0


def share(part: int, whole: int, undefined: float = 0.0) -> float:
    """Return part / whole, rounded once; something else if the whole is 0."""
    return quotient(part, whole) if whole else undefined


def precision(counts: Counts) -> list[float]:
    """Return the share of each class's predictions that are right."""
    return [share(b, p, counts.undefined) for b, p in zip(counts.both, counts.predicted, strict=True)]


def recall(counts: Counts) -> list[float]:
    """Return the share of each class that is predicted."""
    return [share(b, t, counts.undefined) for b, t in zip(counts.both, counts.true, strict=True)]


def f1(counts: Counts) -> list[float]:
    """Return 2 both / (true + predicted) of each class, which is Dice's coefficient too."""
    return [share(2 * b, t + p) for t, p, b in zip(counts.true, counts.predicted, counts.both, strict=True)]


def iou(counts: Counts) -> list[float]:
    """Return both / (true + predicted - both) of each class: Jaccard's index."""
    return [share(b, t + p - b) for t, p, b in zip(counts.true, counts.predicted, counts.both, strict=True)]


def _mean(values: Iterable[float]) -> float:
    several = [value for value in values if not math.isnan(value)]
    return added(several) / len(several) if several else math.nan


def _macro(of: Callable[[Counts], list[float]]) -> Callable[[Counts], float]:
    return lambda counts: _mean(of(counts))


def _weighted(of: Callable[[Counts], list[float]]) -> Callable[[Counts], float]:
    """Return the mean weighted by how much of each class is true; the plain one where that is nothing."""

    def metric(counts: Counts) -> float:
        counts = _with_rest(counts)
        pairs = [(t, v) for t, v in zip(counts.true, of(counts), strict=True) if not math.isnan(v)]
        total = sum(t for t, _ in pairs)
        return added(quotient(t, total) * value for t, value in pairs) if total else _mean(value for _, value in pairs)

    return metric


def _with_rest(counts: Counts) -> Counts:
    """Return counts with one more class for rows without a label, and one for those without a prediction."""
    lost = counts.whole - sum(counts.true), counts.whole - sum(counts.predicted)
    rest = [(true, predicted) for true, predicted in ((lost[0], 0), (0, lost[1])) if true or predicted]
    return counts._replace(
        classes=[*counts.classes, *[-1] * len(rest)],
        true=[*counts.true, *(true for true, _ in rest)],
        predicted=[*counts.predicted, *(predicted for _, predicted in rest)],
        both=[*counts.both, *[0] * len(rest)],
    )


def _micro(counts: Counts) -> float:
    return share(sum(counts.both), counts.whole, math.nan)


def _balanced(counts: Counts) -> float:
    return _mean(value for value, t in zip(recall(counts), counts.true, strict=True) if t)


def _chance(counts: Counts) -> int:
    return sum(t * p for t, p in zip(counts.true, counts.predicted, strict=True))


def _matthews(counts: Counts) -> float:
    """Return Matthews's coefficient for several classes (Gorodkin 2004); 0 if labels or predictions are all alike.

    NaN where negative weights leave no root.
    """
    counts = _with_rest(counts)
    above = sum(counts.both) * counts.whole - _chance(counts)
    below = [counts.whole**2 - sum(n * n for n in several) for several in (counts.predicted, counts.true)]
    if not all(below):
        return 0.0 if counts.whole else math.nan
    if below[0] * below[1] < 0:  # of negative weights
        return math.nan
    root = math.sqrt(quotient(above * above, below[0] * below[1]))
    return -root if above < 0 else root


def _kappa(counts: Counts) -> float:
    """Return Cohen's kappa; NaN where labels and predictions are all of one class."""
    below = counts.whole**2 - _chance(counts)
    return share(sum(counts.both) * counts.whole - _chance(counts), below, math.nan)


# Cohen's kappas that weigh a confusion by how far apart the two classes are, with the statistic of that.
KAPPAS = {"cohen_kappa_linear": "class_distance", "cohen_kappa_quadratic": "squared_class_distance"}


def weighted_kappa(counts: Counts, distance: int, *, squared: bool) -> float:
    """Return Cohen's weighted kappa: 1 - observed / expected, of sums of distances between label and prediction.

    That which would be expected by chance is made of the counts alone, sum_ij |i - j| t_i p_j / sum_i t_i, so that no
    confusion matrix is needed.

    Parameters
    ----------
    counts : Counts
    distance : int
        The sum of the distances, or of their squares, of all rows, in the unit of the counts.
    squared : bool

    Returns
    -------
    float
        NaN where labels and predictions are all of one class.
    """
    expected = _squared_distances(counts) if squared else _distances(counts)
    return 1 - quotient(distance * counts.whole, expected) if expected else math.nan


def _squared_distances(counts: Counts) -> int:
    """Return sum_ij (i - j)**2 t_i p_j."""
    (t0, t1, t2), (p0, p1, p2) = (_powers(counts.classes, each) for each in (counts.true, counts.predicted))
    return t2 * p0 - 2 * t1 * p1 + t0 * p2


def _powers(classes: list[int], counts: list[int]) -> tuple[int, int, int]:
    """Return sum_c c**k n_c for k = 0, 1 and 2."""
    first = sum(c * n for c, n in zip(classes, counts, strict=True))
    return sum(counts), first, sum(c * c * n for c, n in zip(classes, counts, strict=True))


def _distances(counts: Counts) -> int:
    """Return sum_ij |i - j| t_i p_j: between two neighbouring classes, what lies below one and above the other."""
    found, true, predicted = 0, 0, 0
    t0, p0 = sum(counts.true), sum(counts.predicted)
    for at, each in enumerate(counts.classes[:-1]):
        true, predicted = true + counts.true[at], predicted + counts.predicted[at]
        found += (counts.classes[at + 1] - each) * (true * (p0 - predicted) + predicted * (t0 - true))
    return found


CLASS_METRICS: dict[str, Callable[[Counts], float]] = {
    "macro_precision": _macro(precision),
    "macro_recall": _macro(recall),
    "macro_f1": _macro(f1),
    "weighted_precision": _weighted(precision),
    "weighted_recall": _weighted(recall),
    "weighted_f1": _weighted(f1),
    "micro_f1": _micro,
    "balanced_accuracy": _balanced,
    "matthews": _matthews,
    "cohen_kappa": _kappa,
    "mean_iou": _macro(iou),
    "mean_dice": _macro(f1),
    "mean_class_accuracy": _balanced,
    "frequency_weighted_iou": _weighted(iou),
}
